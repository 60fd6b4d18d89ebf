#include "support/fault_sweep.hpp"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <new>
#include <random>
#include <set>
#include <sstream>
#include <vector>

#include "brood/error.hpp"
#include "support/host.hpp"
#include "support/named_memory.hpp"
#include "support/processes.hpp"
#include "support/time.hpp"
#include "sys/syscall.hpp"
#include "warden/family.hpp"

namespace brood::test {

namespace {

using namespace std::chrono_literals;

// Of calls that go on for ever, such as waits.
constexpr int kMostPerKind = kSanitized ? 8 : 40;
constexpr std::size_t kFaultsPerHost = 8;
// Of a sample. Where faults cost time (an order to die that is lost, a start that is put off), it
// ends sooner.
constexpr std::size_t kSample = kSanitized ? 40 : 120;
constexpr std::chrono::nanoseconds kSampleTime = 800ms * kSlowness;

// Told by the hosts to the test that watches them.
struct Tally {
  static constexpr std::array<const char*, 11> kOutcomes = {
      "success",     "WorkerDied", "PoolClosed",  "BrokenPool", "FamilyBroken", "StartError",
      "SystemError", "ArenaFull",  "NotSendable", "bad_alloc",  "Error"};
  std::atomic<int> rounds;
  std::atomic<int> happened;
  std::atomic<bool> untouched;
  std::array<std::atomic<int>, kOutcomes.size()> outcomes;
  std::array<char, 200> doing;

  void note(const std::string& outcome) {
    for (std::size_t i = 0; i < kOutcomes.size(); ++i) {
      if (outcome == kOutcomes[i]) ++outcomes[i];
    }
  }
  void now(const std::string& text) {
    std::snprintf(doing.data(), doing.size(), "%s", text.c_str());
  }
};

Tally& tally() {
  static auto* const shared =
      new (mmap(nullptr, sizeof(Tally), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0))
          Tally;
  return *shared;
}

std::set<std::string> lines_of(const std::string& text) {
  std::set<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.insert(line);
  return lines;
}

// ---- in a host

// Says a line for each thing that is not as it should be.
void run_round(const Scenario& scenario, const PlannedFault& fault) {
  if (scenario.prepare != nullptr) scenario.prepare();
  const std::string before = take_stock();
  const std::string where = std::string(scenario.name) + ", " + describe(fault) + ": ";
  tally().now(where);
  bool happened = false;
  std::string outcome;
  std::string owners;
  {
    const FaultyKernel kernel;
    FaultyKernel::plan(fault);
    outcome = outcome_of_scenario(scenario.run);
    // The dead are buried after that.
    owners = owners_left();
    happened = FaultyKernel::happened() > 0;
  }
  ++tally().rounds;
  if (happened) ++tally().happened;
  if (happened) tally().note(outcome);
  tally().untouched = !happened;
  // Nobody's refused call kills a worker but those of its own and of those who start it.
  const bool may_kill = fault.role == Role::worker || fault.role == Role::supervisor;
  if (outcome == "WorkerDied" && !may_kill) say(where + outcome);
  if (outcome.starts_with("PROBLEM")) say(where + outcome);
  if (!happened && outcome != "success") say(where + "did not happen, but " + outcome);
  if (!owners.empty()) say(where + outcome + "; " + owners);
  tally().now(where + outcome + "; and once more");
  const std::string again = outcome_of_scenario(scenario.run);
  if (again != "success") say(where + outcome + "; and once more: " + again);
  const std::string left = left_since(before);
  if (!left.empty()) say(where + outcome + "; left behind:" + left);
}

int count_calls(const Scenario& scenario) {
  for (int round = 0; round < 2; ++round) {
    tally().now(std::string(scenario.name) + " without a fault");
    const FaultyKernel kernel;
    const std::string outcome = outcome_of_scenario(scenario.run);
    if (outcome != "success") say(std::string(scenario.name) + " without a fault: " + outcome);
    owners_left();
    warden::Family::disband();
  }
  return 0;
}

// ---- in the test

bool run_watched(const std::function<int()>& program) {
  const HostRun run = run_host(program);
  EXPECT_EQ(run.end, "exit 0") << tally().doing.data();
  EXPECT_EQ(run.out, "");
  return run.end == "exit 0" && run.out.empty();
}

// Nothing gets anywhere where every wait ends at once.
bool can_fail_for_good(const CallKind& kind, int error) {
  if (error == EINTR || error == EAGAIN) return false;
  const bool is_wait = kind.number == SYS_futex || kind.number == SYS_ppoll ||
                       kind.number == SYS_epoll_pwait || kind.number == SYS_futex_waitv;
  return !is_wait || error == ENOSYS;
}

std::vector<PlannedFault> all_faults(Role role, bool for_good) {
  std::vector<PlannedFault> faults;
  for (std::size_t kind = 0; kind < call_kinds().size(); ++kind) {
    const int most = std::min(FaultyKernel::counted(role, kind), kMostPerKind);
    for (const int error : call_kinds()[kind].errors) {
      if (for_good && !can_fail_for_good(call_kinds()[kind], error)) continue;
      for (int nth = 1; nth <= most; ++nth) faults.push_back({role, kind, error, nth, for_good});
    }
  }
  return faults;
}

// Hosts end sooner than a test is given up, and what one has learnt (a map of memory, say) another
// has not.
void run_faults(const Scenario& scenario, const std::vector<PlannedFault>& faults,
                const Deadline& deadline) {
  for (std::size_t first = 0; first < faults.size(); first += kFaultsPerHost) {
    if (deadline.passed()) break;
    const std::size_t end = std::min(first + kFaultsPerHost, faults.size());
    run_watched([&] {
      for (std::size_t i = first; i < end; ++i) run_round(scenario, faults[i]);
      return 0;
    });
  }
}

// Goes on where the count ended, until the scenario passes untouched.
void run_beyond(const Scenario& scenario, Role role) {
  for (std::size_t kind = 0; kind < call_kinds().size(); ++kind) {
    const int counted = FaultyKernel::counted(role, kind);
    if (counted == 0 || counted >= kMostPerKind) continue;
    for (int nth = counted + 1; nth <= kMostPerKind; ++nth) {
      const PlannedFault fault{role, kind, call_kinds()[kind].errors.front(), nth};
      tally().untouched = true;
      run_watched([&] {
        run_round(scenario, fault);
        return 0;
      });
      if (tally().untouched) break;
    }
  }
}

void print_figures(const Scenario& scenario, Role role, bool for_good, std::size_t planned) {
  std::string outcomes;
  for (std::size_t i = 0; i < Tally::kOutcomes.size(); ++i) {
    const int count = tally().outcomes[i];
    if (count > 0) outcomes += ", " + std::to_string(count) + " " + Tally::kOutcomes[i];
  }
  std::printf("FIGURE %s, %s%s: %d calls failed (%d tried, of %zu)%s; seed %llu\n", scenario.name,
              name_of(role), for_good ? ", for good" : "", tally().happened.load(),
              tally().rounds.load(), planned, outcomes.c_str(),
              static_cast<unsigned long long>(sweep_seed()));
}

}  // namespace

std::string outcome_of_scenario(void (*scenario)()) {
  try {
    scenario();
    return "success";
  } catch (const WorkerDied&) {
    return "WorkerDied";
  } catch (const PoolClosed&) {
    return "PoolClosed";
  } catch (const BrokenPool&) {
    return "BrokenPool";
  } catch (const FamilyBroken&) {
    return "FamilyBroken";
  } catch (const StartError&) {
    return "StartError";
  } catch (const SystemError&) {
    return "SystemError";
  } catch (const ArenaFull&) {
    return "ArenaFull";
  } catch (const NotSendable&) {
    return "NotSendable";
  } catch (const Error& e) {
    return std::string("PROBLEM: an error without a type of its own: ") + e.what();
  } catch (const std::bad_alloc&) {
    return "bad_alloc";
  } catch (const std::exception& e) {
    return std::string("PROBLEM: ") + e.what();
  } catch (...) {
    return "PROBLEM: an exception of no type";
  }
}

std::string take_stock() {
  std::string stock;
  for (const std::string& file : open_files(getpid())) stock += "descriptor " + file + "\n";
  for (const ProcessInfo& child : children_of(getpid())) {
    stock += "process " + describe({child}) + "\n";
  }
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    if (line.find("memfd:") != std::string::npos || line.find("/dev/shm") != std::string::npos) {
      stock += "mapping " + line + "\n";
    }
  }
  for (const std::string& name : names_in_shm()) stock += "name " + name + "\n";
  return stock;
}

std::string left_since(const std::string& before) {
  warden::Family::disband();
  const std::set<std::string> then = lines_of(before);
  std::string left;
  wait_until(
      [&] {
        left.clear();
        for (const std::string& line : lines_of(take_stock())) {
          if (!then.contains(line)) left += " [" + line + "]";
        }
        return left.empty();
      },
      2s * kSlowness);
  return left;
}

std::string owners_left() {
  warden::Family* family = warden::Family::current();
  if (family == nullptr || family->warden_lost()) return {};
  constexpr std::size_t kHostAndWarden = 2;
  const auto count = [&](shm::OwnerState state) { return family->owners().count(state); };
  const bool settled = wait_until(
      [&] {
        return count(shm::OwnerState::live) == kHostAndWarden &&
               count(shm::OwnerState::claimed) + count(shm::OwnerState::dead) == 0;
      },
      2s * kSlowness);
  if (settled) return {};
  return "owner table: " + std::to_string(count(shm::OwnerState::claimed)) + " claimed, " +
         std::to_string(count(shm::OwnerState::live)) + " live, " +
         std::to_string(count(shm::OwnerState::dead)) + " dead";
}

bool sweeps_are_full() {
  const char* wanted = std::getenv("BROOD_SWEEP");
  return wanted != nullptr && std::strcmp(wanted, "full") == 0;
}

std::uint64_t sweep_seed() {
  static const std::uint64_t seed = [] {
    if (const char* given = std::getenv("BROOD_SEED")) return std::strtoull(given, nullptr, 10);
    return static_cast<unsigned long long>(seed_of_the_day());
  }();
  return seed;
}

std::vector<PlannedFault> faults_to_try(Role role, bool for_good) {
  std::vector<PlannedFault> faults = all_faults(role, for_good);
  if (sweeps_are_full()) return faults;
  std::mt19937_64 random(sweep_seed());
  std::shuffle(faults.begin(), faults.end(), random);
  faults.resize(std::min(faults.size(), kSample));
  return faults;
}

void sweep_faults(const Scenario& scenario, Role role, bool for_good) {
  prepare_faults();
  tally();
  FaultyKernel::forget_counts();
  ASSERT_TRUE(run_watched([&] { return count_calls(scenario); }));
  const std::size_t planned = all_faults(role, for_good).size();
  const std::vector<PlannedFault> faults = faults_to_try(role, for_good);
  run_faults(scenario, faults, Deadline(sweeps_are_full() ? std::chrono::hours(1) : kSampleTime));
  if (sweeps_are_full() && !for_good) run_beyond(scenario, role);
  print_figures(scenario, role, for_good, planned);
  EXPECT_GT(tally().happened.load(), 0);
}

}  // namespace brood::test
