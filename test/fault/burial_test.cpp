// The host is killed while a call fails in one of those who have to end with it: all the same,
// nothing is left.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "fault/scenarios.hpp"
#include "support/host.hpp"

namespace brood::test {
namespace {

// A family with a member of each kind, until it is killed.
int live_until_killed() {
  try {
    Process daemon = forked_process(true, 60);
    daemon.start();
    FaultyKernel::next_child_is(Role::supervisor);
    Pool pool(forked_pool(2));
    if (pool.apply(twice, 1) != 2) return 1;
    const Future<int> busy = pool.submit(sleep_long, 1);
    say("lives");
    sleep(60);
  } catch (const Error& e) {
    say("error");
    sleep(60);
  }
  return 1;
}

struct Figures {
  int happened = 0;
  int tried = 0;
};

void kill_host_under(const PlannedFault* fault, Figures& figures) {
  Host host([&] {
    const FaultyKernel kernel;
    if (fault != nullptr) FaultyKernel::plan(*fault);
    return live_until_killed();
  });
  const std::string line = host.read_line();
  const std::string what = fault != nullptr ? describe(*fault) : "no fault";
  EXPECT_TRUE(line == "lives" || line == "error") << what << ": " << line;
  // A worker that is just starting is to be ended too.
  host.send(SIGKILL);
  EXPECT_EQ(host.end(), "signal 9") << what;
  EXPECT_TRUE(host.is_gone_within(kPromisedSecond)) << what << " left " << describe(host.family());
  for (const ProcessInfo& left : host.family()) kill(left.pid, SIGKILL);
  ++figures.tried;
  figures.happened += FaultyKernel::happened() > 0 ? 1 : 0;
  FaultyKernel::heal();
}

class BurialTest : public testing::TestWithParam<Role> {};

TEST_P(BurialTest, NothingIsLeftOfAKilledHostWhateverFailed) {
  prepare_faults();
  FaultyKernel::forget_counts();
  Figures figures;
  kill_host_under(nullptr, figures);
  const std::vector<PlannedFault> faults = faults_to_try(GetParam(), false);
  const Deadline deadline(sweeps_are_full() ? std::chrono::hours(1)
                                            : std::chrono::nanoseconds(1500ms * kSlowness));
  for (const PlannedFault& fault : faults) {
    if (deadline.passed()) break;
    kill_host_under(&fault, figures);
  }
  std::printf("FIGURE KilledHost, %s: %d calls failed (%d tried, of %zu); seed %llu\n",
              name_of(GetParam()), figures.happened, figures.tried - 1, faults.size(),
              static_cast<unsigned long long>(sweep_seed()));
  EXPECT_GT(figures.happened, 0);
}

INSTANTIATE_TEST_SUITE_P(
    , BurialTest, testing::Values(Role::warden, Role::supervisor, Role::worker, Role::process),
    [](const testing::TestParamInfo<Role>& role) { return std::string(name_of(role.param)); });

}  // namespace
}  // namespace brood::test
