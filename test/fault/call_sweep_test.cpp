// What becomes of brood when the kernel refuses: each call that it makes, in each kind of process,
// fails once, in turn, with each error that it may give.
#include <gtest/gtest.h>

#include <filesystem>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "fault/scenarios.hpp"
#include "support/host.hpp"
#include "support/processes.hpp"
#include "warden/family.hpp"

namespace brood::test {
namespace {

struct Sweep {
  Scenario scenario;
  Role role;
  bool for_good = false;
};

class CallSweepTest : public testing::TestWithParam<Sweep> {};

TEST_P(CallSweepTest, CostsTypedErrorsAndLeavesNothing) {
  sweep_faults(GetParam().scenario, GetParam().role, GetParam().for_good);
}

std::vector<Sweep> lasting_sweeps() {
  std::vector<Sweep> sweeps;
  for (const Role role : {Role::host, Role::warden, Role::supervisor, Role::worker}) {
    sweeps.push_back({{"Work", work}, role, true});
  }
  for (const Role role : {Role::host, Role::warden, Role::process}) {
    sweeps.push_back({{"Process", use_a_process}, role, true});
  }
  return sweeps;
}

std::vector<Sweep> all_sweeps() {
  std::vector<Sweep> sweeps;
  const auto add = [&](const Scenario& scenario, std::initializer_list<Role> roles) {
    for (const Role role : roles) sweeps.push_back({scenario, role});
  };
  constexpr auto kHost = Role::host;
  constexpr auto kWarden = Role::warden;
  constexpr auto kSupervisor = Role::supervisor;
  constexpr auto kWorker = Role::worker;
  constexpr auto kProcess = Role::process;
  add({"Work", work}, {kHost, kWarden, kSupervisor, kWorker});
  add({"Map", map_strings}, {kHost, kSupervisor, kWorker});
  add({"SetUpAndRecycling", set_up_and_recycle}, {kHost, kWarden, kSupervisor, kWorker});
  add({"Preload", preload_a_pool}, {kHost, kSupervisor, kWorker});
  add({"Resizing", resize_and_shrink}, {kHost, kSupervisor, kWorker});
  add({"LargeValues", send_much}, {kHost, kSupervisor, kWorker});
  add({"Deaths", die_and_go_on}, {kHost, kWarden, kSupervisor, kWorker});
  add({"LastWords", say_last_words}, {kHost, kSupervisor, kWorker});
  add({"Keeping", keep_what_dies}, {kHost, kSupervisor, kWorker});
  add({"Terminate", terminate_at_work}, {kHost, kWarden, kSupervisor, kWorker});
  add({"Shutdown", shut_down}, {kHost, kSupervisor, kWorker});
  add({"Destructor", drop_everything}, {kHost, kSupervisor});
  add({"PoolBesideAThread", beside_a_thread<work>}, {kHost, kSupervisor});
  add({"PoolWithoutStreams", without_streams<work>}, {kHost, kWarden, kSupervisor});
  add({"Process", use_a_process}, {kHost, kWarden, kProcess});
  add({"EndedProcesses", end_processes}, {kHost, kWarden, kProcess});
  add({"DroppedDaemon", drop_a_daemon}, {kHost, kWarden, kProcess});
  add({"ForkserverProcess", use_a_born_process<StartMethod::forkserver>},
      {kHost, kWarden, kProcess});
  add({"SpawnedProcess", use_a_born_process<StartMethod::spawn>}, {kHost, kWarden, kProcess});
  add({"ForkserverPool", use_a_born_pool}, {kHost, kWarden, kSupervisor, kWorker});
  constexpr auto kIncarnation = Role::incarnation;
  add({"Restart", restart_a_forked_process}, {kHost, kWarden, kProcess, kIncarnation});
  add({"ForkserverRestart", restart_a_born_process}, {kHost, kWarden, kProcess, kIncarnation});
  add({"EndOfKept", end_a_kept_process}, {kHost, kWarden, kProcess, kIncarnation});
  add({"Names", use_names}, {kHost, kWarden, kProcess});
  add({"MappedFile", map_a_file}, {kHost});
  add({"Locks", share_locks}, {kHost, kWarden, kProcess});
  add({"Values", share_values}, {kHost, kWarden, kProcess});
  add({"MappedArray", map_an_array}, {kHost, kWarden});
  add({"Signals", serve_signals, ask_for_signals}, {kHost});
  add({"Telling", tell_things}, {kHost, kWarden, kProcess});
  add({"Queues", use_queues}, {kHost, kWarden, kProcess});
  add({"Messages", talk_to_a_child}, {kHost, kWarden, kProcess});
  add({"WaitForMessages", wait_for_a_message}, {kHost});
  add({"Descriptor", send_a_descriptor}, {kHost, kWarden});
  add({"ProcessBesideAThread", beside_a_thread<use_a_process>}, {kHost, kProcess});
  return sweeps;
}

std::string name_of_sweep(const testing::TestParamInfo<Sweep>& sweep) {
  return std::string(sweep.param.scenario.name) + "_" + name_of(sweep.param.role);
}

INSTANTIATE_TEST_SUITE_P(Once, CallSweepTest, testing::ValuesIn(all_sweeps()), name_of_sweep);
INSTANTIATE_TEST_SUITE_P(ForGood, CallSweepTest, testing::ValuesIn(lasting_sweeps()),
                         name_of_sweep);

// ---- the table itself

// "fcntl (seal)" is about fcntl.
std::string call_of(const CallKind& kind) {
  const std::string name = kind.name;
  return name.substr(0, name.find(' '));
}

TEST(CallTableTest, EveryCallThatTheDoorNamesIsInIt) {
  std::set<std::string> known;
  for (const CallKind& kind : call_kinds()) known.insert(call_of(kind));
  for (const ExemptCall& call : exempt_calls()) known.insert(call.name);
  std::set<std::string> named;
  for (const auto& file : std::filesystem::directory_iterator(BROOD_SOURCE_DIR "/src/sys")) {
    const std::string text = read_file(file.path().string());
    constexpr std::string_view kPrefix = "SYS_";
    for (auto at = text.find(kPrefix); at != std::string::npos; at = text.find(kPrefix, at)) {
      at += kPrefix.size();
      const auto end = text.find_first_not_of("abcdefghijklmnopqrstuvwxyz_0123456789", at);
      named.insert(text.substr(at, end - at));
    }
  }
  EXPECT_GT(named.size(), 30U);
  for (const std::string& name : named) {
    EXPECT_TRUE(known.contains(name)) << name << ": give it a line in support/kernel_faults.cpp";
  }
  for (const std::string& name : known) EXPECT_TRUE(named.contains(name)) << name << " is not made";
}

TEST(CallTableTest, EveryCallThatIsMadeIsInItAndEveryKindIsMade) {
  prepare_faults();
  FaultyKernel::forget_counts();
  const std::vector<Sweep> sweeps = all_sweeps();
  const HostRun run = run_host([&] {
    for (const Sweep& sweep : sweeps) {
      if (sweep.role != Role::host) continue;
      const FaultyKernel kernel;
      const std::string outcome = outcome_of_scenario(sweep.scenario.run);
      if (outcome != "success") say(outcome);
      warden::Family::disband();
    }
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
  EXPECT_EQ(run.out, "");
  std::set<long> known;
  for (const CallKind& kind : call_kinds()) known.insert(kind.number);
  for (const ExemptCall& call : exempt_calls()) known.insert(call.number);
  for (long number = 0; number < 1024; ++number) {
    EXPECT_TRUE(!FaultyKernel::was_seen(number) || known.contains(number)) << "call " << number;
  }
  for (std::size_t kind = 0; kind < call_kinds().size(); ++kind) {
    int made = 0;
    for (std::size_t role = 0; role < kRoles; ++role) {
      made += FaultyKernel::counted(static_cast<Role>(role), kind);
    }
    const bool is_rare = call_kinds()[kind].rare;
    EXPECT_TRUE(made > 0 || is_rare) << call_kinds()[kind].name << " happens in no scenario";
  }
}

}  // namespace
}  // namespace brood::test
