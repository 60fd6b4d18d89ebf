// Programs that use brood and live as programs do: they fork, ignore signals, close their streams,
// reap everything, run into limits, are killed (P4, P5).
#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "brood/pool.hpp"
#include "support/host.hpp"
#include "support/ledger.hpp"
#include "support/pools.hpp"
#include "support/processes.hpp"
#include "warden/family.hpp"

namespace brood::test {
namespace {

int twice(int n) { return 2 * n; }

PoolOptions workers(std::size_t count) {
  PoolOptions options;
  options.workers = count;
  return options;
}

// A task that only SIGKILL ends.
void spin_for_ever() {
  signal(SIGTERM, SIG_IGN);
  for (std::atomic<int> n{0};;) n.fetch_add(1);
}

void use(Pool& pool) {
  for (int i = 0; i < 100; ++i) HOST_CHECK(pool.apply(twice, i) == 2 * i);
  HOST_CHECK(outcome_of([&] { pool.apply([] { kill(getpid(), SIGKILL); }); }) == "WorkerDied");
  HOST_CHECK(pool.apply(twice, 1) == 2);
}

void expect_fine(const std::function<int()>& program) {
  EXPECT_EQ(run_host(program).end, "exit 0");
}

std::atomic<int> child_signals{0};

// ---- P5: what a host may do to itself

TEST(HostTest, WaitingForAllChildrenEndsWhileAPoolLives) {
  expect_fine([] {
    Pool pool(workers(2));
    pool.apply(twice, 1);
    while (::wait(nullptr) > 0) {
    }
    HOST_CHECK(errno == ECHILD);
    const pid_t own = fork();
    if (own == 0) _exit(7);
    int status = 0;
    HOST_CHECK(::wait(&status) == own && WEXITSTATUS(status) == 7);
    HOST_CHECK(::wait(nullptr) == -1 && errno == ECHILD);
    use(pool);
    return 0;
  });
}

TEST(HostTest, IgnoringSigchldChangesNothing) {
  expect_fine([] {
    signal(SIGCHLD, SIG_IGN);
    Pool pool(workers(2));
    use(pool);
    pool.close();
    pool.join();
    return 0;
  });
}

TEST(HostTest, NorDoesTheNoChildWaitFlag) {
  expect_fine([] {
    struct sigaction action{};
    action.sa_handler = SIG_DFL;
    action.sa_flags = SA_NOCLDWAIT;
    sigaction(SIGCHLD, &action, nullptr);
    Pool pool(workers(2));
    use(pool);
    HOST_CHECK(pool.shutdown(10s));
    return 0;
  });
}

TEST(HostTest, ItsSigchldHandlerIsNeverCalledForOurProcesses) {
  expect_fine([] {
    signal(SIGCHLD, [](int) { ++child_signals; });
    {
      Pool pool(workers(2));
      use(pool);
    }
    warden::Family::disband();
    HOST_CHECK(child_signals.load() == 0);
    if (fork() == 0) _exit(0);
    HOST_CHECK(wait_until([] { return child_signals.load() == 1; }));
    return 0;
  });
}

TEST(HostTest, SignalDispositionsAndMaskStayAsTheyWere) {
  expect_fine([] {
    std::array<struct sigaction, 65> before{};
    for (int s = 1; s < 65; ++s) sigaction(s, nullptr, &before[static_cast<std::size_t>(s)]);
    const std::string mask = field_of_status(getpid(), "SigBlk");
    Pool pool(workers(2));
    use(pool);
    for (int s = 1; s < 65; ++s) {
      struct sigaction now{};
      sigaction(s, nullptr, &now);
      HOST_CHECK(now.sa_handler == before[static_cast<std::size_t>(s)].sa_handler);
    }
    HOST_CHECK(field_of_status(getpid(), "SigBlk") == mask);
    HOST_CHECK(field_of_status(getpid(), "Threads") == "1" || kSanitized);
    return 0;
  });
}

TEST(HostTest, BlockedAndIgnoredSignalsDoNotReachWorkers) {
  expect_fine([] {
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, nullptr);
    signal(SIGTERM, SIG_IGN);
    signal(SIGUSR1, [](int) {});
    Pool pool(workers(1));
    use(pool);
    const std::string mask = pool.apply([] { return field_of_status(getpid(), "SigBlk"); });
    HOST_CHECK(mask == "0000000000000000");
    const std::string ignored = pool.apply([] { return field_of_status(getpid(), "SigIgn"); });
    HOST_CHECK((std::stoull(ignored, nullptr, 16) & (1ULL << (SIGTERM - 1))) == 0);
    HOST_CHECK((std::stoull(ignored, nullptr, 16) & (1ULL << (SIGCHLD - 1))) == 0);
    HOST_CHECK(death_of([&] { pool.apply([] { raise(SIGTERM); }); }).signal == SIGTERM);
    HOST_CHECK(death_of([&] { pool.apply([] { raise(SIGUSR1); }); }).signal == SIGUSR1);
    auto future = pool.submit([] {
      for (;;) pause();
    });
    pool.terminate();
    pool.join();
    return 0;
  });
}

TEST(HostTest, AForkedChildsExitLeavesTheParentsPoolAlone) {
  expect_fine([] {
    Pool pool(workers(2));
    TempFolder folder;
    auto pending = pool.submit(
        [](std::string p) {
          wait_at_gate(p);
          return 5;
        },
        folder.path("gate"));
    auto done = pool.submit(twice, 4);
    done.wait();
    const int worker = pool.apply(getpid);
    std::fflush(nullptr);
    const pid_t child = fork();
    if (child == 0) {
      HOST_CHECK(outcome_of([&] { pool.apply(twice, 1); }).starts_with("Error"));
      HOST_CHECK(outcome_of([&] { done.get(); }).starts_with("Error"));
      HOST_CHECK(
          outcome_of([&] { static_cast<void>(pending.wait_for(1ms)); }).starts_with("Error"));
      HOST_CHECK(outcome_of([&] { pool.join(); }).starts_with("Error"));
      HOST_CHECK(outcome_of([&] { static_cast<void>(pool.stats()); }).starts_with("Error"));
      HOST_CHECK(!pending.ready());
      pool.close();
      pool.terminate();
      {
        const Pool dies_here = std::move(pool);
        const Future<int> too = std::move(pending);
      }
      // A pool of its own is no problem.
      Pool own(workers(1));
      HOST_CHECK(own.apply(twice, 8) == 16);
      HOST_CHECK(own.apply(getppid) != getppid());
      std::exit(0);
    }
    int status = 0;
    HOST_CHECK(waitpid(child, &status, 0) == child && status == 0);
    HOST_CHECK(runs(worker));
    open_gate(folder.path("gate"));
    HOST_CHECK(pending.get() == 5);
    HOST_CHECK(done.get() == 8);
    use(pool);
    return 0;
  });
}

TEST(HostTest, AForkedChildsExitLeavesAStaticPoolAlone) {
  expect_fine([] {
    static std::unique_ptr<Pool> pool;
    pool = std::make_unique<Pool>(workers(2));
    use(*pool);
    for (int i = 0; i < 5; ++i) {
      std::fflush(nullptr);
      const pid_t child = fork();
      if (child == 0) std::exit(0);
      int status = 0;
      HOST_CHECK(waitpid(child, &status, 0) == child && status == 0);
    }
    use(*pool);
    return 0;
  });
}

TEST(HostTest, AForkedChildMayOutliveTheHost) {
  TempFolder folder;
  Host host([&] {
    Pool pool(workers(2));
    use(pool);
    std::fflush(nullptr);
    if (fork() == 0) {
      wait_at_gate(folder.path("gate"));
      _exit(0);
    }
    return 0;
  });
  EXPECT_EQ(host.end(), "exit 0");
  EXPECT_TRUE(wait_until([&] { return named(host.family(), "brood:").empty(); }, kPromisedSecond))
      << describe(host.family());
  open_gate(folder.path("gate"));
  EXPECT_TRUE(host.is_gone_within(kHangGuard));
}

TEST(HostTest, ClosedStreamsAreNoObstacle) {
  expect_fine([] {
    for (const int stream : {0, 1, 2}) close(stream);
    Pool pool(workers(2));
    for (int i = 0; i < 100; ++i) {
      if (pool.apply(twice, i) != 2 * i) return 1;
    }
    // What tasks print goes nowhere, not into our sockets.
    pool.apply([] {
      std::printf("nobody reads this\n");
      std::fflush(stdout);
    });
    if (outcome_of([&] { pool.apply([] { std::abort(); }); }) != "WorkerDied") return 2;
    return pool.shutdown(10s) ? 0 : 3;
  });
}

TEST(HostTest, ASubreaperHostHasNoStrayChildren) {
  expect_fine([] {
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    {
      Pool pool(workers(2));
      use(pool);
      pool.apply([] {
        if (fork() == 0) pause();
      });
    }
    warden::Family::disband();
    HOST_CHECK(wait_until([] { return children_of(getpid()).empty(); }, kPromisedSecond));
    return 0;
  });
}

TEST(HostTest, ASubreaperHostWithThreadsToo) {
  expect_fine([] {
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    std::atomic<bool> over{false};
    std::jthread other([&] { over.wait(false); });
    {
      PoolOptions options = workers(2);
      options.start = StartMethod::fork;
      Pool pool(options);
      use(pool);
    }
    over.store(true);
    over.notify_all();
    warden::Family::disband();
    HOST_CHECK(wait_until([] { return children_of(getpid()).empty(); }, kPromisedSecond));
    return 0;
  });
}

// ---- limits

void limit(__rlimit_resource_t what, rlim_t value) {
  const rlimit wanted{value, value};
  HOST_CHECK(setrlimit(what, &wanted) == 0);
}

TEST(HostTest, ThirtyTwoDescriptorsAreEnough) {
  expect_fine([] {
    limit(RLIMIT_NOFILE, 32);
    Pool pool(workers(8));
    use(pool);
    return 0;
  });
}

// Under a limit there is an error with a type, or it works: nothing else.
std::string work_or_say_why() {
  return outcome_of([] {
    Pool pool(workers(2));
    use(pool);
    std::vector<std::string> parts(40, std::string(500'000, 'x'));
    const auto results = pool.map([](std::string s) { return s; }, parts);
    HOST_CHECK(results == parts);
  });
}

bool is_typed(const std::string& outcome) {
  return outcome == "value" || outcome.starts_with("Error: ");
}

TEST(HostTest, SoFewDescriptorsThatNothingCanStartIsATypedError) {
  for (const rlim_t count : {4U, 6U, 8U, 9U, 10U, 11U, 12U, 14U}) {
    const HostRun run = run_host([&] {
      limit(RLIMIT_NOFILE, count);
      say(work_or_say_why());
      return 0;
    });
    EXPECT_EQ(run.end, "exit 0") << count;
    EXPECT_TRUE(run.out == "value\n" || run.out.starts_with("Error: ") ||
                run.out.starts_with("BrokenPool"))
        << count << ": " << run.out;
  }
}

#ifndef BROOD_SANITIZED
TEST(HostTest, AGibibyteOfAddressSpaceIsEnough) {
  expect_fine([] {
    limit(RLIMIT_AS, rlim_t{1} << 30);
    HOST_CHECK(work_or_say_why() == "value");
    return 0;
  });
}
#endif

TEST(HostTest, AFileSizeLimitIsAnErrorAndNoSignal) {
  for (const rlim_t bytes : {rlim_t{0}, rlim_t{4096}, rlim_t{1} << 20, rlim_t{1} << 28}) {
    const HostRun run = run_host([&] {
      limit(RLIMIT_FSIZE, bytes);
      const std::string outcome = work_or_say_why();
      if (!is_typed(outcome)) say(outcome);
      return is_typed(outcome) ? 0 : 1;
    });
    EXPECT_EQ(run.end, "exit 0") << bytes << ": " << run.out;
  }
}

TEST(HostTest, TooFewProcessesIsATypedError) {
  // Root is exempt from this limit, and others have processes of their own: so users that have
  // none. One for each round, since zombies that init has not reaped yet count too.
  const uid_t first_user = 1'000'000 + static_cast<uid_t>(getpid()) * 8;
  for (const unsigned count : {1U, 2U, 3U, 4U}) {
    const HostRun run = run_host([&] {
      if (getuid() == 0) HOST_CHECK(setuid(first_user + count) == 0);
      limit(RLIMIT_NPROC, count);
      try {
        Pool pool(workers(2));
        // Host, warden and supervisor are there, but no worker may be.
        const auto outcome = outcome_of([&] { HOST_CHECK(pool.apply(twice, 4) == 8); });
        HOST_CHECK(outcome == "value" || outcome == "BrokenPool");
      } catch (const StartError& e) {
        say("StartError");
      } catch (const SystemError& e) {
        say(std::string("SystemError: ") + e.what());
      }
      return 0;
    });
    EXPECT_EQ(run.end, "exit 0") << count;
    if (count < 3) {
      EXPECT_EQ(run.out, "StartError\n") << count;
    }
  }
}

// ---- service processes killed

int pid_of(const std::vector<ProcessInfo>& family, const std::string& name) {
  for (const ProcessInfo& process : family) {
    if (process.name == name) return process.pid;
  }
  return 0;
}

// In a host: the processes of its family that run. (A zombie may wait for its Pool to reap it.)
std::vector<ProcessInfo> own_family() {
  std::vector<ProcessInfo> family;
  for (ProcessInfo& process : processes_in_session(getpid())) {
    if (process.pid != getpid() && process.runs()) family.push_back(process);
  }
  return family;
}

TEST(HostTest, AKilledSupervisorBreaksThePoolAndTakesTheWorkersAlong) {
  expect_fine([] {
    Pool pool(workers(2));
    const int worker = pool.apply(getpid);
    auto running = pool.submit(spin_for_ever);
    auto pending = pool.submit(spin_for_ever);
    auto waiting = pool.submit(twice, 1);
    HOST_CHECK(wait_until([&] { return pool.stats().running == 2; }));
    const int supervisor = look_at(worker)->parent;
    std::jthread killer([&] { kill(supervisor, SIGKILL); });
    const Deadline soon(kPromisedSecond);
    HOST_CHECK(outcome_of([&] { running.get(); }) == "BrokenPool");
    HOST_CHECK(outcome_of([&] { waiting.get(); }) == "BrokenPool");
    HOST_CHECK(outcome_of([&] { pending.get(); }) == "BrokenPool");
    HOST_CHECK(outcome_of([&] { pool.apply(twice, 1); }) == "BrokenPool");
    pool.join();
    HOST_CHECK(!soon.passed());
    HOST_CHECK(
        wait_until([&] { return named(own_family(), "brood:pool").empty(); }, kPromisedSecond));
    Pool other(workers(2));
    killer.join();
    return 0;
  });
}

TEST(HostTest, AKilledWardenIsFamilyBrokenForAllWhoWait) {
  expect_fine([] {
    Pool pool(workers(2));
    Pool idle(workers(1));
    auto running = pool.submit(spin_for_ever);
    auto also = pool.submit(spin_for_ever);
    auto waiting = pool.submit(twice, 1);
    HOST_CHECK(wait_until([&] { return pool.stats().running == 2; }));
    const int warden = pid_of(own_family(), "brood:warden");
    HOST_CHECK(warden != 0);
    kill(warden, SIGKILL);
    const Deadline soon(kPromisedSecond);
    HOST_CHECK(outcome_of([&] { running.get(); }) == "FamilyBroken");
    HOST_CHECK(outcome_of([&] { waiting.get(); }) == "FamilyBroken");
    HOST_CHECK(outcome_of([&] { pool.apply(twice, 1); }) == "FamilyBroken");
    HOST_CHECK(
        wait_until([&] { return outcome_of([&] { idle.apply(twice, 1); }) == "FamilyBroken"; },
                   kPromisedSecond));
    HOST_CHECK(outcome_of([] { const Pool another(workers(1)); }) == "FamilyBroken");
    HOST_CHECK(!soon.passed());
    HOST_CHECK(
        wait_until([] { return named(own_family(), "brood:pool").empty(); }, kPromisedSecond));
    return 0;
  });
}

// ---- P4: the host is killed

void expect_nothing_left_of(const std::function<void(Pool&)>& busy_with) {
  Host host([&] {
    Pool pool(workers(3));
    pool.apply(twice, 1);
    busy_with(pool);
    say("ready");
    for (;;) pause();
    return 0;
  });
  ASSERT_EQ(host.read_line(), "ready");
  // One worker answers before the others have begun.
  ASSERT_TRUE(wait_until([&] { return host.family().size() >= 4; })) << describe(host.family());
  host.send(SIGKILL);
  EXPECT_EQ(host.end(), "signal 9");
  EXPECT_TRUE(host.is_gone_within(kPromisedSecond)) << describe(host.family());
}

TEST(HostTest, NothingIsLeftOfAKilledHostWithAnIdlePool) {
  expect_nothing_left_of([](Pool&) {});
}

TEST(HostTest, NothingIsLeftOfAKilledHostWhoseTasksIgnoreSigterm) {
  expect_nothing_left_of([](Pool& pool) {
    static std::vector<Future<void>> futures;
    for (int i = 0; i < 5; ++i) futures.push_back(pool.submit(spin_for_ever));
    wait_until([&] { return pool.stats().running == 3; });
  });
}

TEST(HostTest, NothingIsLeftOfAKilledHostWhoseTasksHaveChildren) {
  TempFolder folder;
  const std::string list = folder.path("list");
  expect_nothing_left_of([&](Pool& pool) {
    static std::vector<Future<void>> futures;
    for (int i = 0; i < 3; ++i) {
      futures.push_back(pool.submit(
          [](std::string path) {
            signal(SIGTERM, SIG_IGN);
            for (int child = 0; child < 3; ++child) {
              if (fork() != 0) continue;
              if (fork() == 0) setsid();
              record(path, getpid());
              for (;;) pause();
            }
            for (;;) pause();
          },
          list));
    }
    wait_until([&] { return recorded(list).size() == 18; });
  });
  // Sessions of their own hide them from the look at the host's session.
  for (const std::int64_t pid : recorded(list)) {
    EXPECT_TRUE(wait_until([&] { return !runs(static_cast<int>(pid)); }, kPromisedSecond)) << pid;
    if (runs(static_cast<int>(pid))) kill(static_cast<int>(pid), SIGKILL);
  }
}

TEST(HostTest, NothingIsLeftOfAKilledHostWithThreads) {
  Host host([] {
    std::atomic<bool> over{false};
    std::jthread other([&] { over.wait(false); });
    PoolOptions options = workers(3);
    options.start = StartMethod::fork;
    Pool pool(options);
    auto future = pool.submit(spin_for_ever);
    wait_until([&] { return pool.stats().running == 1; });
    say("ready");
    for (;;) pause();
    return 0;
  });
  ASSERT_EQ(host.read_line(), "ready");
  host.send(SIGKILL);
  EXPECT_EQ(host.end(), "signal 9");
  EXPECT_TRUE(host.is_gone_within(kPromisedSecond)) << describe(host.family());
}

TEST(HostTest, NothingIsLeftOfAHostKilledAtAnyMomentOfItsStart) {
  for (int round = 0; round < 100; ++round) {
    Host host([] {
      say("ready");
      for (;;) {
        Pool pool(workers(2));
        pool.apply(twice, 1);
      }
      return 0;
    });
    ASSERT_EQ(host.read_line(), "ready");
    // Not to wait for anything, but to strike at another moment each time.
    std::this_thread::sleep_for(std::chrono::microseconds(round * 137));
    host.send(SIGKILL);
    EXPECT_EQ(host.end(), "signal 9");
    ASSERT_TRUE(host.is_gone_within(kPromisedSecond)) << describe(host.family());
  }
}

TEST(HostTest, NothingIsLeftOfAHostThatExits) {
  const auto expect_end = [](const std::string& end, const std::function<int()>& program) {
    EXPECT_EQ(run_host(program).end, end);
  };
  expect_end("exit 3", [] {
    Pool pool(workers(2));
    use(pool);
    std::exit(3);
    return 0;
  });
  expect_end("exit 4", [] {
    Pool pool(workers(2));
    auto future = pool.submit(spin_for_ever);
    _exit(4);
    return 0;
  });
  expect_end("exit 99", []() -> int {
    Pool pool(workers(2));
    auto future = pool.submit(spin_for_ever);
    throw std::runtime_error("out of main (on purpose)");
  });
  expect_end("signal 6", []() -> int {
    Pool pool(workers(2));
    auto future = pool.submit(spin_for_ever);
    std::abort();
  });
  expect_end("exit 0", [] {
    auto* never_destroyed = new Pool(workers(2));
    auto* nor_this = new Future<void>(never_destroyed->submit(spin_for_ever));
    static_cast<void>(nor_this);
    return 0;
  });
}

TEST(HostTest, AStaticPoolMayBeDestroyedAtExit) {
  expect_fine([] {
    static Pool pool(workers(2));
    static Future<void> running = pool.submit(spin_for_ever);
    use(pool);
    return 0;
  });
}

TEST(HostTest, AParentThatWaitsForEndOfFileSeesItWhenTheHostIsGone) {
  // A service process that kept the host's stdout open would make `host | cat` hang.
  Host host([] {
    Pool pool(workers(2));
    auto future = pool.submit(spin_for_ever);
    wait_until([&] { return pool.stats().running == 1; });
    std::fflush(nullptr);
    _exit(0);
    return 0;
  });
  EXPECT_EQ(host.end(), "exit 0");
  EXPECT_EQ(host.rest_of_output(), "");
}

// ---- an idle pool costs nothing

TEST(HostTest, AnIdlePoolUsesNoProcessorTime) {
  Host host([] {
    Pool pool(workers(4));
    for (int i = 0; i < 100; ++i) pool.apply(twice, i);
    say("ready");
    for (;;) pause();
    return 0;
  });
  ASSERT_EQ(host.read_line(), "ready");
  const auto ticks = [&] {
    std::uint64_t sum = 0;
    for (const ProcessInfo& process : processes_in_session(host.pid())) sum += process.cpu_ticks;
    return sum;
  };
  // The last returns of memory and spinning are over once a second shows no tick.
  std::uint64_t last = ticks();
  EXPECT_TRUE(wait_until([&] {
    std::this_thread::sleep_for(1s);
    return last == std::exchange(last, ticks());
  }));
  std::this_thread::sleep_for(2s);
  EXPECT_EQ(ticks(), last);
}

// Shadow memory would count as the worker's.
#ifndef BROOD_SANITIZED
TEST(HostTest, AnIdleWorkerHasLessThanAMebibyteOfItsOwn) {
  Host host([] {
    const std::vector<char> loaded_before(std::size_t{64} << 20, 'x');
    Pool pool(workers(2));
    pool.map(twice, std::vector<int>(100));
    say(std::to_string(loaded_before.size()));
    for (;;) pause();
    return 0;
  });
  ASSERT_FALSE(host.read_line().empty());
  int seen = 0;
  for (const ProcessInfo& process : named(host.family(), "brood:pool/")) {
    const std::string rollup = read_file("/proc/" + std::to_string(process.pid) + "/smaps_rollup");
    const std::size_t at = rollup.find("Private_Dirty:");
    ASSERT_NE(at, std::string::npos);
    EXPECT_LT(std::stol(rollup.substr(at + 14)), 1024) << "KiB";
    ++seen;
  }
  EXPECT_GE(seen, 1);
}
#endif

}  // namespace
}  // namespace brood::test
