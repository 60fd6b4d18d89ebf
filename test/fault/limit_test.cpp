// The system's limits for real: at each number of free descriptors and processes, and at each step
// of the limits on memory and file sizes, from too little up to enough.
#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "fault/scenarios.hpp"
#include "support/host.hpp"
#include "support/ledger.hpp"
#include "sys/memory.hpp"
#include "sys/syscall.hpp"

namespace brood::test {
namespace {

const std::vector<Scenario>& scenarios() {
  static const std::vector<Scenario> all = {{"Work", work},
                                            {"LargeValues", send_much},
                                            {"Process", use_a_process},
                                            {"DroppedDaemon", drop_a_daemon},
                                            {"PoolBesideAThread", work},
                                            {"ProcessBesideAThread", use_a_process}};
  return all;
}

// The thread is there before the limit is.
int with_thread_if_named(const Scenario& scenario, const std::function<int(const Scenario&)>& run) {
  if (std::string(scenario.name).find("Thread") == std::string::npos) return run(scenario);
  // The supervisor of a process with threads is nobody's child: here it is to be reaped by us,
  // since zombies that init has not reaped yet count, too.
  HOST_CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
  int status = 0;
  beside_a_thread([&] { status = run(scenario); });
  return status;
}

void set_soft(__rlimit_resource_t what, rlim_t value) {
  rlimit limit{};
  HOST_CHECK(getrlimit(what, &limit) == 0);
  limit.rlim_cur = std::min(value, limit.rlim_max);
  HOST_CHECK(setrlimit(what, &limit) == 0);
}

// In a host: raises what `set` sets step by step, from nothing on, until the scenario has succeeded
// twice. Each time it fails with a type, leaves nothing, and succeeds once there is enough.
struct Steps {
  std::function<rlim_t(int step)> value;
  std::function<void(rlim_t value)> set;
  std::function<void()> unset;
  int most;
};
int climb(const Scenario& scenario, const Steps& steps) {
  int failed = 0;
  int worked = 0;
  std::string seen;
  for (int step = 0; step < steps.most && worked < 2; ++step) {
    const std::string before = take_stock();
    const std::string where =
        std::string(scenario.name) + " with " + std::to_string(steps.value(step)) + ": ";
    steps.set(steps.value(step));
    const std::string outcome = outcome_of_scenario(scenario.run);
    steps.unset();
    if (outcome.starts_with("PROBLEM")) say(where + outcome);
    worked = outcome == "success" ? worked + 1 : 0;
    failed += outcome == "success" ? 0 : 1;
    if (outcome != "success" && seen.find(outcome) == std::string::npos) seen += " " + outcome;
    const std::string owners = owners_left();
    if (!owners.empty()) say(where + outcome + "; " + owners);
    const std::string again = outcome_of_scenario(scenario.run);
    if (again != "success") say(where + outcome + "; without the limit: " + again);
    const std::string left = left_since(before);
    if (!left.empty()) say(where + outcome + "; left behind:" + left);
  }
  if (worked < 2) say(std::string(scenario.name) + ": never worked");
  std::fprintf(stderr, "FIGURE %s, %d limits too low:%s\n", scenario.name, failed, seen.c_str());
  return 0;
}

void expect_typed_errors(const char* what, const std::function<int(const Scenario&)>& program) {
  std::fprintf(stderr, "%s\n", what);
  for (const Scenario& scenario : scenarios()) {
    const HostRun run = run_host([&] { return with_thread_if_named(scenario, program); });
    EXPECT_EQ(run.end, "exit 0") << scenario.name;
    EXPECT_EQ(run.out, "") << scenario.name;
  }
}

TEST(LimitTest, AtEachNumberOfFreeDescriptors) {
  expect_typed_errors("free descriptors", [](const Scenario& scenario) {
    constexpr rlim_t kSoft = 64;
    std::vector<int> taken;
    Steps steps;
    steps.most = 32;
    steps.value = [](int step) { return static_cast<rlim_t>(step); };
    steps.set = [&](rlim_t free) {
      set_soft(RLIMIT_NOFILE, kSoft);
      for (int fd = dup(0); fd >= 0; fd = dup(0)) taken.push_back(fd);
      for (rlim_t i = 0; i < free; ++i) {
        close(taken.back());
        taken.pop_back();
      }
    };
    steps.unset = [&] {
      for (const int fd : taken) close(fd);
      taken.clear();
      set_soft(RLIMIT_NOFILE, 1024);
    };
    return climb(scenario, steps);
  });
}

TEST(LimitTest, AtEachNumberOfProcesses) {
  if (getuid() != 0) GTEST_SKIP() << "needs users that have no processes of their own";
  uid_t user = 2'000'000 + static_cast<uid_t>(getpid()) * 8;
  expect_typed_errors("processes", [&](const Scenario& scenario) {
    HOST_CHECK(setuid(user + static_cast<uid_t>(&scenario - scenarios().data())) == 0);
    // What /proc tells of a process that changed its user is root's otherwise.
    HOST_CHECK(prctl(PR_SET_DUMPABLE, 1) == 0);
    Steps steps;
    steps.most = 16;
    steps.value = [](int step) { return static_cast<rlim_t>(step + 1); };
    steps.set = [](rlim_t count) { set_soft(RLIMIT_NPROC, count); };
    steps.unset = [] { set_soft(RLIMIT_NPROC, 4096); };
    return climb(scenario, steps);
  });
}

#ifndef BROOD_SANITIZED
// The field of /proc/self/statm, in bytes.
rlim_t memory_now(int field) {
  std::ifstream in("/proc/self/statm");
  rlim_t pages = 0;
  for (int i = 0; i <= field; ++i) in >> pages;
  return pages * static_cast<rlim_t>(sysconf(_SC_PAGESIZE));
}

int climb_in_memory(const Scenario& scenario, __rlimit_resource_t what, int field) {
  Steps steps;
  steps.most = 48;
  // 64 KiB, 128 KiB, ... in halves: more than it has now.
  steps.value = [](int step) {
    const rlim_t power = rlim_t{65536} << (step / 2);
    return step % 2 == 0 ? power : power + power / 2;
  };
  steps.set = [=](rlim_t more) { set_soft(what, memory_now(field) + more); };
  steps.unset = [=] { set_soft(what, RLIM_INFINITY); };
  return climb(scenario, steps);
}

TEST(LimitTest, AtEachStepOfAddressSpace) {
  expect_typed_errors("address space", [](const Scenario& scenario) {
    return climb_in_memory(scenario, RLIMIT_AS, 0);
  });
}

TEST(LimitTest, AtEachStepOfPrivateMemory) {
  expect_typed_errors("private memory", [](const Scenario& scenario) {
    return climb_in_memory(scenario, RLIMIT_DATA, 5);
  });
}
#endif

TEST(LimitTest, AtEachStepOfFileSizes) {
  expect_typed_errors("file sizes", [](const Scenario& scenario) {
    Steps steps;
    steps.most = 48;
    steps.value = [](int step) { return step == 0 ? rlim_t{0} : rlim_t{1} << (step + 9); };
    steps.set = [](rlim_t bytes) { set_soft(RLIMIT_FSIZE, bytes); };
    steps.unset = [] { set_soft(RLIMIT_FSIZE, RLIM_INFINITY); };
    return climb(scenario, steps);
  });
}

// ---- shared memory that is full

// As a memory cgroup does: no more than so much for a file.
std::atomic<long>* the_budget = nullptr;

long refuse_beyond_budget(long nr, long a, long b, long c, long d, long e, long f) noexcept {
  constexpr long kReserve = 1;  // FALLOC_FL_KEEP_SIZE alone
  if (nr == SYS_fallocate && b == kReserve) {
    struct stat info{};
    const long told = sys::kernel(SYS_fstat, a, reinterpret_cast<long>(&info), 0, 0, 0, 0);
    if (told == 0 && info.st_blocks * 512 + d > the_budget->load()) return -ENOMEM;
  }
  return sys::kernel(nr, a, b, c, d, e, f);
}

std::string echo_behind_gate(const std::string& gate, std::string text) {
  wait_at_gate(gate);
  return text;
}

void echo_much(Pool& pool) {
  const std::string text(std::size_t{4} << 20, 'x');
  REQUIRE_RIGHT(pool.apply(echo, text) == text);
}

TEST(LimitTest, APoolWhoseSharedMemoryIsFullGoesOnOnceThereIsRoom) {
  the_budget = new (mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0))
      std::atomic<long>(std::int64_t{1} << 40);
  const HostRun run = run_host([] {
    sys::replace_kernel(refuse_beyond_budget);
    const TempFolder folder;
    Pool pool(forked_pool(2));
    HOST_CHECK(pool.apply(twice, 1) == 2);
    the_budget->store(16 << 20);
    int values = 0;
    int refused = 0;
    for (int round = 0; round < 5; ++round) {
      const std::string gate = folder.path("gate" + std::to_string(round));
      const std::string text(1 << 20, static_cast<char>('a' + round));
      std::vector<Future<std::string>> futures;
      bool full = false;
      while (!full) {
        try {
          futures.push_back(pool.submit(echo_behind_gate, gate, text));
        } catch (const ArenaFull&) {
          full = true;
        }
        HOST_CHECK(futures.size() < 32);
      }
      HOST_CHECK(futures.size() > 4);
      open_gate(gate);
      for (Future<std::string>& future : futures) {
        try {
          HOST_CHECK(future.get() == text);
          ++values;
        } catch (const ArenaFull&) {
          ++refused;  // a result that found no room
        }
      }
      futures.clear();
      // What one arena keeps for the next task is given back when it has been idle for a while:
      // until then the other may be refused it.
      HOST_CHECK(wait_until([&] { return outcome_of([&] { echo_much(pool); }) == "value"; }));
    }
    check_accounts(2);
    std::fprintf(stderr, "FIGURE FullArena: 5 times full, %d values, %d results without room\n",
                 values, refused);
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
  munmap(static_cast<void*>(the_budget), 4096);
}

}  // namespace
}  // namespace brood::test
