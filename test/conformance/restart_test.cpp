// Processes that are started again when they fail, and killed when they hang.
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "brood/brood.hpp"
#include "support/capture.hpp"
#include "support/host.hpp"
#include "support/ledger.hpp"
#include "support/pools.hpp"
#include "support/processes.hpp"
#include "warden/family.hpp"

namespace brood::test {
namespace {

// Ways to end.
enum class Way {
  returns,
  exits_0,
  throws,
  exits_3,
  returns_4,
  segv,
  abrt,
  kill,
  term,
  interrupt,
  hup
};

ExitCode end_by(Way way) {
  switch (way) {
    case Way::returns:
      return {0};
    case Way::exits_0:
      std::exit(0);
    case Way::throws:
      throw std::runtime_error("on purpose");
    case Way::exits_3:
      std::exit(3);
    case Way::returns_4:
      return {4};
    case Way::segv:
      raise(SIGSEGV);
      break;
    case Way::abrt:
      std::abort();
    case Way::kill:
      raise(SIGKILL);
      break;
    case Way::term:
      raise(SIGTERM);
      break;
    case Way::interrupt:
      raise(SIGINT);
      break;
    case Way::hup:
      raise(SIGHUP);
      break;
  }
  return {99};
}

// Writes down its number; the first `times` runs end so, the next succeeds.
ExitCode fail(const std::string& path, Way way, int times) {
  record(path, getpid());
  return static_cast<int>(recorded(path).size()) <= times ? end_by(way) : ExitCode{0};
}

void stay(const std::string& path) {
  record(path, getpid());
  for (;;) pause();
}

ExitCode without_core(Way way, const std::string& path, int times) {
  const rlimit none{};
  setrlimit(RLIMIT_CORE, &none);
  return fail(path, way, times);
}

std::int64_t monotonic_ns() {
  return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
}

class RestartTest : public StartMethodTest {
 protected:
  [[nodiscard]] static ProcessOptions options(unsigned most,
                                              std::chrono::nanoseconds backoff = 1ms) {
    return {.start = GetParam(), .err = Output::null, .restart = {.max = most, .backoff = backoff}};
  }
  [[nodiscard]] std::string path(const std::string& name = "runs") const {
    return folder_.path(name);
  }
  [[nodiscard]] std::size_t runs_so_far() const { return recorded(path()).size(); }
  // The run of that number, from 1 on, has begun.
  [[nodiscard]] bool begins(std::size_t run) const {
    return wait_until([&] { return runs_so_far() >= run; });
  }
  // The host knows of it.
  [[nodiscard]] bool is_known(const Process& process, std::size_t run) const {
    return begins(run) && wait_until([&] { return process.pid() == recorded(path()).back(); });
  }

 private:
  TempFolder folder_;
};
BROOD_FOR_EACH_START_METHOD(RestartTest);

// ---- when it is started again

TEST_P(RestartTest, EveryKindOfFailureIsStartedAgain) {
  for (const Way way :
       {Way::throws, Way::exits_3, Way::returns_4, Way::segv, Way::abrt, Way::kill}) {
    const std::string here = path(std::to_string(static_cast<int>(way)));
    Process p(options(5), without_core, way, here, 2);
    EXPECT_EQ(p.restarts(), 0U);
    p.start();
    EXPECT_TRUE(p.join_for(kHangGuard));
    EXPECT_EQ(p.exit_code(), 0);
    EXPECT_EQ(p.restarts(), 2U);
    EXPECT_FALSE(p.death());
    const std::vector<std::int64_t> pids = recorded(here);
    ASSERT_EQ(pids.size(), 3U);
    EXPECT_NE(pids[0], pids[1]);
    EXPECT_EQ(p.pid(), pids[2]);
  }
}

TEST_P(RestartTest, SuccessIsTheEnd) {
  for (const Way way : {Way::returns, Way::exits_0}) {
    Process p(options(5), fail, path(), way, 100);
    p.start();
    p.join();
    EXPECT_EQ(p.exit_code(), 0);
    EXPECT_EQ(p.restarts(), 0U);
  }
  EXPECT_EQ(runs_so_far(), 2U);
}

TEST_P(RestartTest, RequestsToEndAreTheEnd) {
  for (const auto& [way, signal] :
       {std::pair{Way::term, SIGTERM}, std::pair{Way::interrupt, SIGINT},
        std::pair{Way::hup, SIGHUP}}) {
    Process p(options(5), fail, path(), way, 100);
    p.start();
    p.join();
    EXPECT_EQ(p.exit_code(), -signal);
    EXPECT_EQ(p.restarts(), 0U);
  }
}

TEST_P(RestartTest, WithoutRestartsNothingIsStartedAgain) {
  ProcessOptions once = options(0);
  once.hang_timeout = 1h;
  Process p(once, without_core, Way::segv, path(), 100);
  p.start();
  p.join();
  EXPECT_EQ(p.exit_code(), -SIGSEGV);
  EXPECT_EQ(runs_so_far(), 1U);
}

TEST_P(RestartTest, TheLastFailureIsHowItEnded) {
  for (const auto& [way, code] : {std::pair{Way::segv, -SIGSEGV}, std::pair{Way::kill, -SIGKILL},
                                  std::pair{Way::throws, 1}, std::pair{Way::exits_3, 3}}) {
    const std::string here = path(std::to_string(code));
    Process p(options(3), without_core, way, here, 100);
    p.start();
    p.join();
    EXPECT_EQ(p.exit_code(), code);
    EXPECT_EQ(p.restarts(), 3U);
    EXPECT_EQ(recorded(here).size(), 4U);
    if (code >= 0) continue;
    ASSERT_TRUE(p.death());
    EXPECT_EQ(p.death()->attempts, 4);
    EXPECT_EQ(p.death()->signal, -code);
    EXPECT_EQ(p.death()->pid, recorded(here).back());
    EXPECT_FALSE(p.death()->hung);
    EXPECT_FALSE(p.death()->core_dumped);
  }
}

TEST_P(RestartTest, OnlyThoseWithinTheTimeCount) {
  ProcessOptions rarely = options(2);
  rarely.restart.per = 1h;
  Process gives_up(rarely, fail, path("a"), Way::exits_3, 100);
  gives_up.start();
  gives_up.join();
  EXPECT_EQ(recorded(path("a")).size(), 3U);
  // Each restart is forgotten by the time of the next.
  rarely.restart = {.max = 1, .per = 10ms, .backoff = 30ms};
  Process goes_on(rarely, fail, path("b"), Way::exits_3, 4);
  goes_on.start();
  EXPECT_TRUE(goes_on.join_for(kHangGuard));
  EXPECT_EQ(goes_on.exit_code(), 0);
  EXPECT_EQ(goes_on.restarts(), 4U);
}

TEST_P(RestartTest, DelaysGrowAndBeginAgainAfterAQuietRun) {
  ProcessOptions patient = options(6, 20ms);
  patient.err = Output::capture;
  const auto quiet_at_fourth = [](const std::string& path) {
    record(path, monotonic_ns());
    if (recorded(path).size() == 4) std::this_thread::sleep_for(1s);
    return ExitCode{3};
  };
  Process p(patient, quiet_at_fourth, path());
  p.start();
  p.join();
  const std::vector<std::int64_t> begun = recorded(path());
  ASSERT_EQ(begun.size(), 7U);
  for (const auto& [run, least] :
       {std::pair{1U, 20ms}, std::pair{2U, 40ms}, std::pair{3U, 80ms}, std::pair{4U, 20ms}}) {
    EXPECT_GE(std::chrono::nanoseconds(begun[run] - begun[run - 1]), least) << run;
  }
  const std::string said = p.captured_err();
  const std::string name = "[WARNING/" + p.name() + "] brood: process " + p.name();
  const std::string failed = name + " ended with status 3; restart ";
  EXPECT_NE(said.find(failed + "1 after 20 ms\n"), std::string::npos) << said;
  EXPECT_NE(said.find(failed + "3 after 80 ms\n"), std::string::npos) << said;
  EXPECT_NE(said.find(failed + "4 after 20 ms\n"), std::string::npos) << said;
  EXPECT_NE(said.find(failed + "5 after 40 ms\n"), std::string::npos) << said;
  EXPECT_NE(said.find(name + " ended with status 3 and has failed too often and is not started "
                             "again (6 restarts)\n"),
            std::string::npos)
      << said;
}

TEST_P(RestartTest, ManyRestartsThatNobodyLooksAt) {
  Process p(options(1000, 0ns), fail, path(), Way::exits_3, 300);
  p.start();
  EXPECT_TRUE(p.join_for(kHangGuard));
  EXPECT_EQ(p.exit_code(), 0);
  EXPECT_EQ(p.restarts(), 300U);
  EXPECT_EQ(p.pid(), recorded(path()).back());
}

// ---- hangs

TEST_P(RestartTest, OneThatHangsIsKilledAndStartedAgain) {
  ProcessOptions watched = options(2);
  watched.hang_timeout = 200ms;
  Process p(watched, stay, path());
  p.start();
  EXPECT_TRUE(p.join_for(kHangGuard));
  EXPECT_EQ(p.exit_code(), -SIGKILL);
  EXPECT_EQ(runs_so_far(), 3U);
  ASSERT_TRUE(p.death());
  EXPECT_TRUE(p.death()->hung);
  EXPECT_EQ(p.death()->attempts, 3);
  EXPECT_NE(std::string(p.death()->what()).find("no sign of life"), std::string::npos);
}

TEST_P(RestartTest, OneThatStopsBeatingHangs) {
  ProcessOptions watched = options(0);
  watched.hang_timeout = 300ms * kSlowness;
  const auto beat_for_a_while = [](const std::string& path) {
    for (int i = 0; i < 100; ++i) {
      heartbeat();
      std::this_thread::sleep_for(10ms);
    }
    record(path, 1);
    for (;;) pause();
  };
  Process p(watched, beat_for_a_while, path());
  p.start();
  EXPECT_TRUE(p.join_for(kHangGuard));
  EXPECT_EQ(p.exit_code(), -SIGKILL);
  EXPECT_TRUE(p.death() && p.death()->hung);
}

TEST_P(RestartTest, OneThatBeatsIsLeftAlone) {
  ProcessOptions watched = options(2);
  watched.hang_timeout = 1s * kSlowness;
  const auto beat = [](int slowness) {
    for (int i = 0; i < 250 * slowness; ++i) {
      heartbeat();
      std::this_thread::sleep_for(10ms);
    }
  };
  const auto beat_in_a_thread = [](int slowness) {
    std::atomic<bool> done{false};
    std::thread beats([&] {
      while (!done) {
        heartbeat();
        std::this_thread::sleep_for(10ms);
      }
    });
    std::this_thread::sleep_for(2500ms * slowness);
    done = true;
    beats.join();
  };
  Process p(watched, beat, kSlowness);
  Process q(watched, beat_in_a_thread, kSlowness);
  p.start();
  q.start();
  for (Process* process : {&p, &q}) {
    process->join();
    EXPECT_EQ(process->exit_code(), 0);
    EXPECT_EQ(process->restarts(), 0U);
  }
}

TEST_P(RestartTest, OneThatIsStoppedHangs) {
  ProcessOptions watched = options(0);
  watched.hang_timeout = 200ms;
  Process p(watched, [] { raise(SIGSTOP); });
  p.start();
  EXPECT_TRUE(p.join_for(kHangGuard));
  EXPECT_TRUE(p.death() && p.death()->hung);
}

TEST_P(RestartTest, TheBeatsOfOthersDoNotCount) {
  heartbeat();
  Process plain({.start = GetParam()}, heartbeat);
  plain.start();
  plain.join();
  EXPECT_EQ(plain.exit_code(), 0);

  ProcessOptions watched = options(0);
  watched.hang_timeout = 300ms;
  const auto let_a_child_beat = [] {
    if (fork() == 0) {
      for (;;) {
        heartbeat();
        usleep(1000);
      }
    }
    for (;;) pause();
  };
  Process p(watched, let_a_child_beat);
  p.start();
  EXPECT_TRUE(p.join_for(kHangGuard));
  EXPECT_TRUE(p.death() && p.death()->hung);
  // Its child is gone as well, or the checker would tell.
}

// ---- its owner's wishes

TEST_P(RestartTest, EndingItIsForGood) {
  using End = std::function<void(Process&)>;
  const std::vector<std::pair<int, End>> ends = {
      {SIGTERM, [](Process& p) { p.terminate(); }},
      {SIGINT, [](Process& p) { p.interrupt(); }},
      {SIGKILL, [](Process& p) { p.kill(); }},
      {SIGKILL, [](Process& /*p*/) { active_children().front().kill(); }},
      {SIGTERM, [](Process& /*p*/) { active_children().front().terminate(); }},
  };
  std::size_t runs = 0;
  for (const auto& [signal, end] : ends) {
    Process p(options(5), stay, path());
    p.start();
    ASSERT_TRUE(is_known(p, ++runs));
    end(p);
    EXPECT_TRUE(p.join_for(kHangGuard));
    EXPECT_EQ(p.exit_code(), -signal);
    EXPECT_EQ(p.restarts(), 0U);
  }
  EXPECT_EQ(runs_so_far(), ends.size());
}

TEST_P(RestartTest, OneThatFailsWhenAskedToEndHasEnded) {
  const auto end_badly = [](const std::string& path) {
    std::signal(SIGTERM, [](int) { _exit(7); });
    stay(path);
  };
  Process p(options(5), end_badly, path());
  p.start();
  ASSERT_TRUE(begins(1));
  p.terminate();
  p.join();
  EXPECT_EQ(p.exit_code(), 7);
  EXPECT_EQ(p.restarts(), 0U);
}

TEST_P(RestartTest, EndingItWhileItWaitsToBeStartedAgain) {
  for (int i = 0; i < 3; ++i) {
    Process p(options(5, 1h), fail, path(), Way::exits_3, 100);
    p.start();
    ASSERT_TRUE(begins(static_cast<std::size_t>(i) + 1));
    ASSERT_TRUE(wait_until([&] { return !runs(p.pid()); }));
    EXPECT_TRUE(p.is_alive());
    EXPECT_FALSE(p.exit_code());
    EXPECT_TRUE(p.usage());
    p.send_signal(SIGKILL);  // there is nobody to get it
    EXPECT_FALSE(p.join_for(50ms));
    if (i == 0) p.terminate();
    if (i == 1) p.kill();
    if (i == 2) p.interrupt();
    EXPECT_TRUE(p.join_for(kHangGuard));
    EXPECT_EQ(p.exit_code(), 3);
    EXPECT_EQ(p.restarts(), 0U);
  }
}

TEST_P(RestartTest, SignalsGoToTheOneThatRuns) {
  Process p(options(5), stay, path());
  p.start();
  for (std::size_t run = 1; run <= 4; ++run) {
    ASSERT_TRUE(is_known(p, run));
    EXPECT_EQ(p.restarts(), run - 1);
    EXPECT_TRUE(p.is_alive());
    p.send_signal(run % 2 == 0 ? SIGKILL : SIGUSR1);
  }
  ASSERT_TRUE(is_known(p, 5));
  p.kill();
  p.join();
  EXPECT_EQ(p.exit_code(), -SIGKILL);
}

TEST_P(RestartTest, KillTakesWhatComesFromIt) {
  Process p(
      options(5),
      [](const std::string& path) {
        if (fork() == 0) stay(path);
        stay(path);
      },
      path());
  p.start();
  ASSERT_TRUE(begins(2));
  p.kill();
  p.join();
  for (const std::int64_t pid : recorded(path())) {
    EXPECT_TRUE(wait_until([&] { return !test::runs(static_cast<int>(pid)); }));
  }
}

TEST_P(RestartTest, DaemonsAndWhatIsLetGoOfEnd) {
  ProcessOptions daemon = options(1000, 0ns);
  daemon.daemon = true;
  {
    Process stays(daemon, stay, path());
    Process fails(daemon, fail, path("fails"), Way::exits_3, 1'000'000);
    stays.start();
    fails.start();
    ASSERT_TRUE(begins(1));
    ASSERT_TRUE(wait_until([&] { return fails.restarts() > 0; }));
  }
  EXPECT_TRUE(active_children().empty());
}

// ---- what it is

TEST_P(RestartTest, TheKeeperIsNotSeen) {
  ProcessOptions named = options(3);
  named.name = "camera";
  const auto look_around = [](int host, const std::string& path) {
    const auto parent = parent_process();
    Process child([] {});
    const bool right = parent && parent->pid() == host && parent->name() == "MainProcess" &&
                       parent->is_alive() && current_process().name() == "camera" &&
                       current_process().pid() == getpid() && child.name() == "camera:1" &&
                       active_children().empty();
    child.start();
    child.join();
    if (!right || child.exit_code() != 0) return ExitCode{0};
    record(path, 1);
    return ExitCode{5};
  };
  Process p(named, look_around, getpid(), path());
  p.start();
  EXPECT_EQ(active_children().size(), 1U);
  p.join();
  EXPECT_EQ(runs_so_far(), 4U);
  EXPECT_EQ(p.exit_code(), 5);
}

TEST_P(RestartTest, OptionsHoldForEachOfThem) {
  ProcessOptions with = options(1);
  with.nice = 7;
  with.env = {{{"ONLY", "this one"}}};
  with.cwd = std::filesystem::path(path()).parent_path();
  with.rlimits = {{Resource::open_files, 32, 32}, {Resource::processes, 0}};
  with.out = Output::capture;
  const auto look = [](const std::string& path, const std::string& folder) {
    record(path, 1);
    rlimit files{};
    rlimit processes{};
    getrlimit(RLIMIT_NOFILE, &files);
    getrlimit(RLIMIT_NPROC, &processes);
    const char* only = std::getenv("ONLY");
    const bool right = getpriority(PRIO_PROCESS, 0) == 7 && files.rlim_max == 32 &&
                       processes.rlim_max == 0 && only != nullptr &&
                       std::getenv("PATH") == nullptr && std::filesystem::current_path() == folder;
    std::printf("%s %zu\n", right ? "right" : "wrong", recorded(path).size());
    return ExitCode{1};
  };
  Process p(with, look, path(), with.cwd);
  p.start();
  p.join();
  EXPECT_EQ(p.captured_out(), "right 1\nright 2\n");
}

TEST_P(RestartTest, WhatCannotBeIsRefused) {
  const auto refusal_of = [](const ProcessOptions& with) -> std::string {
    Process p(with, [] {});
    try {
      p.start();
    } catch (const StartError& e) {
      EXPECT_EQ(p.pid(), 0);
      EXPECT_TRUE(active_children().empty());
      return e.what();
    }
    p.join();
    return "it was started";
  };
  ProcessOptions with = options(1);
  with.restart.backoff = -1ns;
  EXPECT_NE(refusal_of(with).find("restart.backoff is negative"), std::string::npos);
  with = options(1);
  with.restart.per = 0s;
  EXPECT_NE(refusal_of(with).find("restart.per is not positive"), std::string::npos);
  with = options(1);
  with.hang_timeout = 0s;
  EXPECT_NE(refusal_of(with).find("hang_timeout is not positive"), std::string::npos);
  // Only the kernel knows that it can't be.
  with = options(1);
  with.rlimits = {{Resource::open_files, std::uint64_t{1} << 40U}};
  EXPECT_NE(refusal_of(with).find("rlimits: resource 7"), std::string::npos) << refusal_of(with);
}

TEST_P(RestartTest, MemoryIsAsItWasAtTheStart) {
  static int counter = 0;
  Process p(
      options(3),
      [](const std::string& path) {
        record(path, ++counter);
        return ExitCode{2};
      },
      path());
  p.start();
  p.join();
  EXPECT_EQ(recorded(path()), (std::vector<std::int64_t>{1, 1, 1, 1}));
}

TEST_P(RestartTest, UsageIsThatOfAll) {
  const auto burn = [](const std::string& path, int last) {
    const auto used = [] {
      timespec t{};
      clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
      return std::chrono::seconds(t.tv_sec) + std::chrono::nanoseconds(t.tv_nsec);
    };
    while (used() < 60ms) {
    }
    record(path, getpid());
    if (static_cast<int>(recorded(path).size()) == last) pause();
    return ExitCode{1};
  };
  Process p(options(2), burn, path(), 3);
  p.start();
  ASSERT_TRUE(is_known(p, 3));
  const auto running = p.usage();
  ASSERT_TRUE(running);
  EXPECT_GE(running->user_cpu + running->system_cpu, 110ms);
  EXPECT_GT(running->rss_bytes, 0U);
  p.kill();
  p.join();
  const auto ended = p.usage();
  ASSERT_TRUE(ended);
  EXPECT_GE(ended->user_cpu + ended->system_cpu, 175ms);
  EXPECT_GT(ended->peak_rss_bytes, 0U);
}

TEST_P(RestartTest, TheSentinelTellsTheLastEnd) {
  Process p(options(3), stay, path());
  p.start();
  for (std::size_t run = 1; run <= 3; ++run) {
    ASSERT_TRUE(is_known(p, run));
    p.send_signal(SIGKILL);
  }
  ASSERT_TRUE(is_known(p, 4));
  EXPECT_TRUE(wait({p}, 0ns).empty());
  p.send_signal(SIGKILL);
  EXPECT_EQ(wait({p}, kHangGuard), std::vector<std::size_t>{0});
  p.join();
  EXPECT_EQ(p.restarts(), 3U);
}

TEST_P(RestartTest, PrintedItIsOneProcess) {
  Process p(options(3), stay, path());
  p.start();
  ASSERT_TRUE(is_known(p, 1));
  p.send_signal(SIGKILL);
  ASSERT_TRUE(is_known(p, 2));
  std::ostringstream text;
  text << p;
  EXPECT_NE(text.str().find("pid=" + std::to_string(recorded(path()).back())), std::string::npos);
  EXPECT_NE(text.str().find(" started"), std::string::npos);
  p.kill();
  p.join();
}

// ---- deaths of others

TEST_P(RestartTest, WithItsKeeperItDies) {
  Process p(options(5), stay, path());
  p.start();
  ASSERT_TRUE(is_known(p, 1));
  const int pid = p.pid();
  const auto process = look_at(pid);
  ASSERT_TRUE(process);
  EXPECT_EQ(look_at(process->parent)->name, "brood:keeper");
  kill(process->parent, SIGTERM);  // is nothing to it
  EXPECT_FALSE(p.join_for(50ms));
  kill(process->parent, SIGKILL);
  EXPECT_TRUE(p.join_for(kHangGuard));
  EXPECT_EQ(p.exit_code(), -SIGKILL);
  EXPECT_TRUE(wait_until([&] { return !test::runs(pid); }, kPromisedSecond));
  EXPECT_EQ(runs_so_far(), 1U);
}

TEST_P(RestartTest, NothingIsLeftOfAKilledHost) {
  for (const bool fails : {false, true}) {
    const std::string here = path(fails ? "fails" : "stays");
    Host host([&] {
      ProcessOptions daemon = options(1'000'000, 0ns);
      daemon.daemon = true;
      Process p = fails ? Process(daemon, fail, here, Way::exits_3, 1'000'000)
                        : Process(daemon, stay, here);
      p.start();
      say("started");
      for (;;) pause();
      return 0;
    });
    ASSERT_EQ(host.read_line(), "started");
    ASSERT_TRUE(wait_until([&] { return !recorded(here).empty(); }));
    host.send(SIGKILL);
    EXPECT_EQ(host.end(), "signal 9");
    EXPECT_TRUE(host.is_gone_within(kPromisedSecond)) << describe(host.family());
  }
}

// One that is no daemon goes on, but nobody starts it again.
TEST_P(RestartTest, WithoutItsHostItRunsToItsEnd) {
  const std::string opened = path("gate");
  Host host([&] {
    const auto fail_later = [](const std::string& path, const std::string& gate) {
      record(path, getpid());
      wait_at_gate(gate);
      record(path, getppid());
      return ExitCode{1};
    };
    Process p(options(1000, 0ns), fail_later, path(), opened);
    p.start();
    say("started");
    for (;;) pause();
    return 0;
  });
  ASSERT_EQ(host.read_line(), "started");
  ASSERT_TRUE(begins(1));
  host.send(SIGKILL);
  EXPECT_EQ(host.end(), "signal 9");
  std::this_thread::sleep_for(50ms);
  open_gate(opened);
  EXPECT_TRUE(host.is_gone_within(kHangGuard)) << describe(host.family());
  EXPECT_EQ(runs_so_far(), 2U);
}

TEST_P(RestartTest, AtTheEndOfTheProgramDaemonsEndAndOthersAreAwaited) {
  const HostRun run = run_host([&] {
    static std::vector<std::unique_ptr<Process>> processes;
    ProcessOptions with = options(5);
    processes.push_back(std::make_unique<Process>(with, fail, path(), Way::exits_3, 2));
    with.daemon = true;
    processes.push_back(std::make_unique<Process>(with, stay, path("daemon")));
    for (const auto& process : processes) process->start();
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
  EXPECT_EQ(runs_so_far(), 3U);
}

TEST_P(RestartTest, ManyThatAreKilledAtRandomLeaveNothing) {
  const int count = kSanitized ? 10 : 50;
  std::mt19937_64 random(seed_of_the_day());
  ProcessOptions daemon = options(1'000'000, 0ns);
  daemon.daemon = true;
  {
    std::vector<Process> processes;
    for (int i = 0; i < count; ++i) {
      processes.emplace_back(daemon, stay, path());
      processes.back().start();
    }
    for (int i = 0; i < 10 * count; ++i) {
      Process& process = processes[random() % processes.size()];
      if (random() % 20 == 0) {
        const auto info = look_at(process.pid());
        if (info && info->parent > 1 && look_at(info->parent) &&
            look_at(info->parent)->name == "brood:keeper") {
          kill(info->parent, SIGKILL);
        }
      } else if (random() % 20 == 0) {
        process.terminate();
      } else {
        process.send_signal(SIGKILL);
      }
    }
  }
  EXPECT_TRUE(active_children().empty());
}

TEST_P(RestartTest, PlacesInTheFamilyAreGivenBack) {
  const shm::OwnerTable& owners = warden::Family::join().owners();
  const std::size_t live = owners.count(shm::OwnerState::live);
  Process p(options(100, 0ns), fail, path(), Way::exits_3, 20);
  p.start();
  EXPECT_TRUE(p.join_for(kHangGuard));
  EXPECT_EQ(p.restarts(), 20U);
  EXPECT_TRUE(wait_until([&] {
    return owners.count(shm::OwnerState::live) == live &&
           owners.count(shm::OwnerState::claimed) == 0 && owners.count(shm::OwnerState::dead) == 0;
  }));
}

// ---- what always forks

class ForkedRestartTest : public testing::Test {
 protected:
  [[nodiscard]] std::string path() const { return folder_.path("runs"); }

 private:
  TempFolder folder_;
};

TEST_F(ForkedRestartTest, AnyCallableIsStartedAgain) {
  const std::string runs = path();
  int own = 1;
  Process p(forked, {.err = Output::null, .restart = {.max = 5, .backoff = 0ns}}, [&] {
    record(runs, ++own);
    if (recorded(runs).size() < 3) throw std::runtime_error("once more");
  });
  p.start();
  p.join();
  EXPECT_EQ(p.exit_code(), 0);
  EXPECT_EQ(recorded(runs), (std::vector<std::int64_t>{2, 2, 2}));
}

class Counting : public ProcessBase {
 public:
  Counting(const ProcessOptions& options, std::string path)
      : ProcessBase(options), path_(std::move(path)) {}

 private:
  void run() override {
    record(path_, 1);
    if (recorded(path_).size() < 3) std::exit(9);
  }
  std::string path_;
};

TEST_F(ForkedRestartTest, AClassOfOnesOwn) {
  Counting p({.restart = {.max = 5, .backoff = 0ns}, .hang_timeout = 1h}, path());
  p.start();
  p.join();
  EXPECT_EQ(p.exit_code(), 0);
  EXPECT_EQ(p.restarts(), 2U);
}

TEST_F(ForkedRestartTest, BesideThreadsWhileTheyUseTheHeapWhileThreadsAreInTheHeap) {
  std::atomic<bool> done{false};
  std::thread busy([&] {
    while (!done) std::string(5000, 'x').append("y");
  });
  for (int i = 0; i < 5; ++i) {
    const std::string runs = path() + std::to_string(i);
    Process p({.start = StartMethod::fork, .restart = {.max = 3, .backoff = 0ns}}, fail, runs,
              Way::exits_3, 3);
    p.start();
    p.join();
    EXPECT_EQ(p.exit_code(), 0);
    EXPECT_EQ(p.restarts(), 3U);
  }
  done = true;
  busy.join();
}

// While it may be started again, its keeper keeps what it begins with; otherwise nothing.
TEST_F(ForkedRestartTest, AKeeperOfOneRunHoldsNoPipeOpen) {
  std::array<int, 2> ends{};
  ASSERT_EQ(pipe2(ends.data(), O_CLOEXEC), 0);
  Process p(forked, {.hang_timeout = 1h}, [&] {
    close(ends[0]);
    close(ends[1]);
    pause();
  });
  p.start();
  close(ends[1]);
  char byte = 0;
  EXPECT_EQ(read(ends[0], &byte, 1), 0) << "somebody holds it";
  close(ends[0]);
  p.kill();
  p.join();
}

}  // namespace
}  // namespace brood::test
