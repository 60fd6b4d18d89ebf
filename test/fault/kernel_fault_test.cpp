// What a kernel's refusals cost in particular cases: a pool that lives on, the check of closures,
// members that the warden must not lose, kernels and containers that lack a call altogether.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "fault/scenarios.hpp"
#include "support/host.hpp"
#include "support/processes.hpp"
#include "sys/syscall.hpp"
#include "warden/family.hpp"

namespace brood::test {
namespace {

PlannedFault in_host(const char* kind, int error, int nth, bool for_good = false) {
  return {Role::host, kind_named(kind), error, nth, for_good};
}

// ---- a pool that lives on

TEST(KernelTest, ATaskThatFindsNoMemoryIsArenaFullAndThePoolGoesOn) {
  Pool pool(forked_pool(1));
  REQUIRE_RIGHT(pool.apply(twice, 1) == 2);
  int refused = 0;
  std::size_t bytes = std::size_t{1} << 20;
  for (const int error : {ENOSPC, ENOMEM}) {
    for (int nth = 1; nth < 50; ++nth) {
      bytes += std::size_t{1} << 20;  // never served from what an earlier task left
      bool happened = false;
      {
        const FaultyKernel kernel;
        FaultyKernel::plan(in_host("fallocate", error, nth, true));
        try {
          EXPECT_EQ(pool.apply(length, std::string(bytes, 'x')), bytes);
        } catch (const ArenaFull&) {
          ++refused;
        }
        happened = FaultyKernel::happened() > 0;
      }
      EXPECT_EQ(pool.apply(length, std::string(bytes, 'x')), bytes) << "right after it";
      if (!happened) break;
    }
  }
  EXPECT_GT(refused, 1);
}

TEST(KernelTest, RecordsThatFindNoMemoryAreArenaFullAndThePoolGoesOn) {
  Pool pool(forked_pool(1));
  int refusals = 0;
  for (int nth = 1; nth < 20; ++nth) {
    std::vector<Future<int>> futures;
    bool refused = false;
    bool happened = false;
    const int goal = 3000 << nth;
    if (goal > 200'000) break;
    {
      const FaultyKernel kernel;
      FaultyKernel::plan(in_host("fallocate", ENOSPC, nth, true));
      for (int i = 0; i < goal && !refused; ++i) {
        try {
          futures.push_back(pool.submit(twice, i));
        } catch (const ArenaFull&) {
          refused = true;
        }
      }
      happened = FaultyKernel::happened() > 0;
    }
    EXPECT_EQ(refused, happened);
    refusals += refused ? 1 : 0;
    futures.push_back(pool.submit(twice, static_cast<int>(futures.size())));
    for (std::size_t i = 0; i < futures.size(); ++i) {
      ASSERT_EQ(futures[i].get(), 2 * static_cast<int>(i));
    }
  }
  EXPECT_GT(refusals, 1);
}

// ---- what the check of closures needs from the kernel

TEST(KernelTest, APointerIsNotAcceptedBecauseTheMapOfMemoryCannotBeRead) {
  // Of a fresh program each, which has no map from before.
  for (const auto& [call, error] : {std::pair("openat", EMFILE), std::pair("openat", EACCES),
                                    std::pair("read", EIO), std::pair("read", ENOMEM)}) {
    const HostRun run = run_host([call, error] {
      int local = 1;
      Pool pool(forked_pool(1));
      const FaultyKernel kernel;
      FaultyKernel::plan(in_host(call, error, 1));
      const std::string outcome =
          outcome_of([&] { pool.submit([&local] { return ++local; }).get(); });
      HOST_CHECK(FaultyKernel::happened() > 0);
      say(outcome);
      return 0;
    });
    EXPECT_EQ(run.end, "exit 0");
    EXPECT_TRUE(run.out.starts_with("Error")) << run.out;
  }
}

// ---- kernels and containers that lack something altogether

long the_missing_call = -1;
int the_missing_error = ENOSYS;
long one_call_is_missing(long nr, long a, long b, long c, long d, long e, long f) noexcept {
  if (nr == the_missing_call) return -the_missing_error;
  return sys::kernel(nr, a, b, c, d, e, f);
}

int use_everything_without(long call, int error) {
  the_missing_call = call;
  the_missing_error = error;
  sys::replace_kernel(one_call_is_missing);
  const Death death = [] {
    Pool pool(forked_pool(2));
    REQUIRE_RIGHT(pool.apply(twice, 1) == 2);
    try {
      pool.apply(die_by_kill);
    } catch (const WorkerDied& e) {
      REQUIRE_RIGHT(pool.apply(twice, 2) == 4);
      return Death(e);
    }
    return Death{};
  }();
  HOST_CHECK(death.signal == SIGKILL);
  map_strings();
  {
    Process p({.daemon = true, .start = StartMethod::fork}, return_code, 7);
    p.start();
    p.join();
    HOST_CHECK(p.exit_code() == 7);
  }
  return 0;
}

TEST(KernelTest, WhatIsOnlyAnImprovementMayBeMissing) {
  for (const auto& [call, error] :
       {std::pair(SYS_futex_waitv, ENOSYS), std::pair(SYS_close_range, ENOSYS),
        std::pair(SYS_get_robust_list, EPERM), std::pair(SYS_madvise, EINVAL),
        std::pair(SYS_mincore, ENOSYS), std::pair(SYS_sched_getaffinity, EPERM),
        std::pair(SYS_prlimit64, EPERM), std::pair(SYS_sched_yield, EPERM)}) {
    const HostRun run = run_host([call, error] { return use_everything_without(call, error); });
    EXPECT_EQ(run.end, "exit 0") << "without call number " << call;
  }
}

TEST(KernelTest, WhatIsNeededAndMissingIsATypedError) {
  for (const auto& [call, error] :
       {std::pair(SYS_clone3, ENOSYS), std::pair(SYS_clone3, EPERM),
        std::pair(SYS_pidfd_open, ENOSYS), std::pair(SYS_memfd_create, ENOSYS),
        std::pair(SYS_socketpair, EPERM), std::pair(SYS_epoll_create1, EMFILE),
        std::pair(SYS_fallocate, EOPNOTSUPP)}) {
    const HostRun run = run_host([call, error] {
      the_missing_call = call;
      the_missing_error = error;
      sys::replace_kernel(one_call_is_missing);
      for (const auto scenario : {work, use_a_process}) {
        const std::string outcome = outcome_of_scenario(scenario);
        if (outcome == "success" || outcome.starts_with("PROBLEM")) say(outcome);
      }
      return 0;
    });
    EXPECT_EQ(run.end, "exit 0") << "without call number " << call;
    EXPECT_EQ(run.out, "") << "without call number " << call;
  }
}

TEST(KernelTest, SignalsThatNothingCouldWakeWaitsForAreNotCaught) {
  const HostRun run = run_host([] {
    the_missing_call = SYS_eventfd2;
    the_missing_error = EMFILE;
    sys::replace_kernel(one_call_is_missing);
    const std::string before = field_of_status(getpid(), "SigCgt");
    for (int i = 0; i < 2; ++i) {
      HOST_CHECK(outcome_of_scenario([] { signals::on(SIGUSR1, [](int) {}); }) == "SystemError");
      HOST_CHECK(outcome_of_scenario([] { signals::interrupt_on(SIGINT); }) == "SystemError");
      HOST_CHECK(outcome_of_scenario([] { signals::wait({SIGUSR2}); }) == "SystemError");
    }
    HOST_CHECK(field_of_status(getpid(), "SigCgt") == before);
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
}

// A thread that gets no descriptor of its own looks up by itself.
TEST(KernelTest, WaitsOfFurtherThreadsAreServedAlsoWithoutDescriptors) {
  const HostRun run = run_host([] {
    std::atomic<int> told{0};
    signals::interrupt_on(SIGINT);
    the_missing_call = SYS_eventfd2;
    the_missing_error = EMFILE;
    sys::replace_kernel(one_call_is_missing);
    std::array<std::thread, 3> threads;
    std::atomic<int> ready{0};
    for (std::thread& thread : threads) {
      thread = std::thread([&] {
        static_cast<void>(signals::dispatch());
        ++ready;
        try {
          wait({}, kHangGuard / 2);
        } catch (const Interrupted&) {
          ++told;
        }
      });
    }
    HOST_CHECK(wait_until([&] { return ready == 3; }));
    signals::kill(getpid(), SIGINT);
    for (std::thread& thread : threads) thread.join();
    HOST_CHECK(told == 3);
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
}

// Of each call in turn: without it, in no process at all, brood works or says why it does not.
TEST(KernelTest, EachCallMissingAltogetherIsATypedErrorOrNoLoss) {
  prepare_faults();
  int tried = 0;
  std::string works;
  for (const CallKind& kind : call_kinds()) {
    // Every kernel that we run on has these, and without them nothing ends.
    const bool is_wait = kind.number == SYS_futex || kind.number == SYS_waitid ||
                         kind.number == SYS_ppoll || kind.number == SYS_epoll_pwait;
    if (is_wait || kind.done_all_the_same) continue;
    for (const int error : {ENOSYS, EPERM}) {
      const HostRun run = run_host([&kind, error] {
        the_missing_call = kind.number;
        the_missing_error = error;
        sys::replace_kernel(one_call_is_missing);
        std::string outcomes;
        for (const auto scenario : {work, use_a_process, drop_a_daemon}) {
          outcomes += " " + outcome_of_scenario(scenario);
        }
        say(outcomes);
        return 0;
      });
      ++tried;
      EXPECT_EQ(run.end, "exit 0") << "without " << kind.name;
      EXPECT_EQ(run.out.find("PROBLEM"), std::string::npos) << kind.name << run.out;
      if (run.out == " success success success\n") works += std::string(" ") + kind.name;
    }
  }
  std::printf("FIGURE missing altogether: %d calls and errors; all works without%s\n", tried,
              works.c_str());
}

// ---- deaths that the kernel does not announce

// Without robust lists (a sandbox may forbid to ask for them) no life word tells of a death.
int kill_a_service(const std::string& name) {
  the_missing_call = SYS_get_robust_list;
  the_missing_error = EPERM;
  sys::replace_kernel(one_call_is_missing);
  Pool pool(forked_pool(1));
  REQUIRE_RIGHT(pool.apply(twice, 1) == 2);
  Future<int> future = pool.submit(sleep_long, 1);
  for (const ProcessInfo& process : children_of(getpid())) {
    if (process.name == name) kill(process.pid, SIGKILL);
  }
  say(outcome_of([&] { future.get(); }));
  return 0;
}

TEST(KernelTest, AKilledSupervisorIsNoticedWithoutLifeWords) {
  const HostRun run = run_host([] { return kill_a_service("brood:pool"); });
  EXPECT_EQ(run.end, "exit 0");
  EXPECT_EQ(run.out, "BrokenPool\n");
}

TEST(KernelTest, AKilledWardenIsNoticedWithoutLifeWords) {
  const HostRun run = run_host([] { return kill_a_service("brood:warden"); });
  EXPECT_EQ(run.end, "exit 0");
  EXPECT_EQ(run.out, "FamilyBroken\n");
}

// ---- members of the family

TEST(KernelTest, AProcessThatEndsBeforeItAnnouncesItselfKeepsNoSlot) {
  const HostRun run = run_host([] {
    for (int i = 0; i < 20; ++i) {
      Process p = forked_process(false, 60);
      p.start();
      p.kill();
      p.join();
    }
    const std::string left = owners_left();
    if (!left.empty()) say(left);
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
  EXPECT_EQ(run.out, "");
}

TEST(KernelTest, AMemberThatTheWardenCannotWatchEndsWithTheHostAllTheSame) {
  prepare_faults();
  // The first two are the socket and the host.
  for (const int error : {ENOSPC, ENOMEM}) {
    Host host([error] {
      const FaultyKernel kernel;
      FaultyKernel::plan({Role::warden, kind_named("epoll_ctl"), error, 3, true});
      Process daemon = forked_process(true, 60);
      daemon.start();
      wait_until([] { return FaultyKernel::happened() > 0; });
      say("lives");
      sleep(60);
      return 0;
    });
    EXPECT_EQ(host.read_line(), "lives");
    host.send(SIGKILL);
    EXPECT_EQ(host.end(), "signal 9");
    EXPECT_TRUE(host.is_gone_within(kPromisedSecond)) << describe(host.family());
  }
}

// ---- memory that can't be looked at

std::string outcome_of_map(Pool& pool, const std::vector<std::string>& texts) {
  try {
    for (const std::string& result : pool.map(longer, texts)) REQUIRE_RIGHT(result.size() == 4000);
    return "value";
  } catch (const ArenaFull&) {
    return "ArenaFull";
  } catch (const std::exception& e) {
    return e.what();
  }
}

// A worker that can't make sure that the records of its arguments' pages have memory.
TEST(KernelTest, AMapWhoseArgumentsAreOutOfReachFailsElementByElement) {
  prepare_faults();
  for (const char* kind : {"fallocate", "fcntl (read seals)"}) {
    const HostRun run = run_host([kind] {
      const std::vector<std::string> texts(8, std::string(3000, 'x'));
      const FaultyKernel kernel;
      FaultyKernel::next_child_is(Role::supervisor);
      FaultyKernel::plan({Role::worker, kind_named(kind), ENOMEM, 1, true});
      Pool pool(forked_pool(1));
      say(outcome_of_map(pool, texts));
      HOST_CHECK(FaultyKernel::happened() > 0);
      FaultyKernel::heal();
      say(outcome_of_map(pool, texts));
      check_accounts(1);
      return 0;
    });
    EXPECT_EQ(run.end, "exit 0");
    EXPECT_EQ(run.out, "ArenaFull\nvalue\n") << kind;
  }
}

}  // namespace
}  // namespace brood::test
