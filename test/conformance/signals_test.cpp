// Signals: handlers inside waits, interrupts, waiting for signals, sending, names; and signals that
// nobody asked to be told of.
#include "brood/signals.hpp"

#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <fstream>
#include <functional>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "brood/pool.hpp"
#include "brood/process.hpp"
#include "brood/wait.hpp"
#include "support/host.hpp"
#include "support/ledger.hpp"
#include "support/pools.hpp"
#include "support/processes.hpp"

namespace brood::test {
namespace {

// Once for each start method. Everything happens in hosts: what is done with signals is a matter of
// the whole process.
class SignalsTest : public StartMethodTest {
 protected:
  [[nodiscard]] std::string path(const std::string& name) const { return folder_.path(name); }

 private:
  TempFolder folder_;
};
BROOD_FOR_EACH_START_METHOD(SignalsTest);

ProcessOptions by(StartMethod method) { return {.start = method}; }
PoolOptions pool_by(StartMethod method, std::size_t workers = 1) {
  PoolOptions options;
  options.workers = workers;
  options.start = method;
  return options;
}

// ---- what children run

void stay() {
  for (;;) ::pause();
}
void do_nothing() {}
int wait_at(const std::string& gate) {
  wait_at_gate(gate);
  return 7;
}
int twice(int n) { return 2 * n; }

// ---- what hosts do

template <class E, class Action>
bool throws(Action&& action) {
  try {
    action();
  } catch (const E&) {
    return true;
  }
  return false;
}

int error_number_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const SystemError& e) {
    return e.code().value();
  }
  return 0;
}

bool is_caught(int signal) {
  const std::uint64_t mask = std::stoull(field_of_status(getpid(), "SigCgt"), nullptr, 16);
  return (mask >> (signal - 1) & 1) != 0;
}
std::string dispositions() {
  return field_of_status(getpid(), "SigCgt") + " " + field_of_status(getpid(), "SigIgn");
}

// In the test: the host says that it is about to wait, and then sleeps.
bool is_asleep(Host& host) {
  if (host.read_line() != "waiting") return false;
  return wait_until([&] {
    const auto state = look_at(host.pid());
    return state && state->state == 'S';
  });
}

// Signals to the calling thread, which has no wish to see them, come from another one.
class Blocked {
 public:
  explicit Blocked(int signal) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, signal);
    pthread_sigmask(SIG_BLOCK, &set, &before_);
  }
  ~Blocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  Blocked(const Blocked&) = delete;
  Blocked& operator=(const Blocked&) = delete;

 private:
  sigset_t before_;
};

// ---- names, and numbers that are none

TEST(SignalNamesTest, NamesAndNumbersTranslate) {
  EXPECT_EQ(signals::name(SIGTERM), "SIGTERM");
  EXPECT_EQ(signals::name(SIGABRT), "SIGABRT");
  EXPECT_EQ(signals::name(SIGCHLD), "SIGCHLD");
  EXPECT_EQ(signals::name(SIGRTMIN), "SIGRTMIN");
  EXPECT_EQ(signals::name(SIGRTMIN + 3), "SIGRTMIN+3");
  EXPECT_EQ(signals::from_name("SIGTERM"), SIGTERM);
  EXPECT_EQ(signals::from_name("TERM"), SIGTERM);
  EXPECT_EQ(signals::from_name("IOT"), SIGABRT);
  EXPECT_EQ(signals::from_name("SIGRTMIN"), SIGRTMIN);
  EXPECT_EQ(signals::from_name("RTMIN+3"), SIGRTMIN + 3);
  EXPECT_EQ(signals::from_name("SIGRTMAX-1"), SIGRTMAX - 1);
  for (int signal = 1; signal <= SIGRTMAX; ++signal) {
    if (signal > SIGSYS && signal < SIGRTMIN) continue;
    EXPECT_EQ(signals::from_name(signals::name(signal)), signal);
  }
}

TEST(SignalNamesTest, WhatIsNoSignalHasNoName) {
  for (const int signal : {0, -1, 32, 33, SIGRTMAX + 1, 1000, INT32_MIN, INT32_MAX}) {
    EXPECT_THROW(static_cast<void>(signals::name(signal)), Error) << signal;
  }
  for (const char* name : {"", "SIG", "TERMINATE", "sigterm", "SIGSIGTERM", "SIGTERM+1", "15",
                           "RTMIN+99", "RTMIN-1", "RTMAX+1", "RTMIN+", "RTMIN+x", "RTMIN+-1", "+1",
                           "RTMIN+2147483647", "RTMAX-99999999999"}) {
    EXPECT_THROW(static_cast<void>(signals::from_name(name)), Error) << name;
  }
}

TEST(SignalsRefusalTest, WhatCanNotBeDoneIsRefusedAndNothingChanged) {
  const std::string before = dispositions();
  for (const int signal : {0, -3, 32, SIGRTMAX + 1, SIGKILL, SIGSTOP}) {
    EXPECT_THROW(signals::on(signal, [](int) {}), Error) << signal;
    EXPECT_THROW(signals::interrupt_on(signal), Error) << signal;
    EXPECT_THROW(signals::ignore(signal), Error) << signal;
    EXPECT_THROW(signals::wait({SIGUSR1, signal}), Error) << signal;
  }
  for (const int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL}) {
    EXPECT_THROW(signals::on(signal, [](int) {}), Error) << signal;
    EXPECT_THROW(signals::interrupt_on(signal), Error) << signal;
  }
  for (const int signal : {0, 32, 65}) EXPECT_THROW(signals::default_action(signal), Error);
  EXPECT_THROW(signals::on(SIGUSR1, nullptr), Error);
  EXPECT_THROW(signals::wait({}), Error);
  EXPECT_THROW(static_cast<void>(signals::wait_for({}, 1s)), Error);
  EXPECT_EQ(dispositions(), before);
}

TEST(SignalsRefusalTest, SignalsGoToOneProcessThatExists) {
  EXPECT_THROW(signals::kill(getpid(), 99), Error);
  EXPECT_THROW(signals::kill(getpid(), -1), Error);
  EXPECT_THROW(signals::kill(0, 0), Error) << "that would be the whole group";
  EXPECT_THROW(signals::kill(-1, SIGTERM), Error);
  signals::kill(getpid(), 0);
  const int gone = fork();
  if (gone == 0) _exit(0);
  waitpid(gone, nullptr, 0);
  EXPECT_EQ(error_number_of([&] { signals::kill(gone, SIGTERM); }), ESRCH);
}

// ---- handlers

TEST_P(SignalsTest, NothingIsInstalledUntilAFeatureIsAskedFor) {
  const StartMethod method = GetParam();
  const HostRun run = run_host([=] {
    const std::string before = dispositions();
    Process p(by(method), do_nothing);
    p.start();
    p.join();
    Pool pool(pool_by(method));
    HOST_CHECK(pool.apply(twice, 4) == 8);
    pool.close();
    pool.join();
    HOST_CHECK(wait({p}) == std::vector<std::size_t>{0});
    HOST_CHECK(!signals::dispatch());
    HOST_CHECK(dispositions() == before);
    const std::size_t files = open_files(getpid()).size();
    signals::ignore(SIGUSR1);
    signals::default_action(SIGUSR1);
    HOST_CHECK(dispositions() == before);
    HOST_CHECK(open_files(getpid()).size() == files);
    signals::on(SIGUSR1, [](int) {});
    HOST_CHECK(is_caught(SIGUSR1) && !is_caught(SIGUSR2) && !is_caught(SIGCHLD));
    HOST_CHECK(open_files(getpid()).size() == files + 1);
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
}

TEST_P(SignalsTest, AHandlerRunsInsideEveryKindOfWait) {
  const StartMethod method = GetParam();
  const std::string gate = path("gate");
  const HostRun run = run_host([=] {
    Process stays(by(method), stay);
    stays.start();
    Pool pool(pool_by(method));
    Future<int> future = pool.submit(wait_at, gate);
    std::string served;
    signals::on(SIGUSR1, [&](int signal) { served += std::to_string(signal) + " "; });
    const auto is_served_by = [&](const std::function<void()>& waits) {
      served.clear();
      raise(SIGUSR1);
      if (!served.empty()) return false;
      waits();
      return served == std::to_string(SIGUSR1) + " ";
    };
    HOST_CHECK(is_served_by([&] { static_cast<void>(stays.join_for(0s)); }));
    HOST_CHECK(is_served_by([&] { static_cast<void>(future.wait_for(0s)); }));
    HOST_CHECK(is_served_by([&] { static_cast<void>(future.get_for(1ms)); }));
    HOST_CHECK(is_served_by([&] { wait({stays}, 0s); }));
    HOST_CHECK(is_served_by([] { wait({}, 0s); }));
    HOST_CHECK(is_served_by([] { signals::pause(); }));
    HOST_CHECK(is_served_by([] { static_cast<void>(signals::wait_for({SIGUSR2}, 0s)); }));
    HOST_CHECK(is_served_by([] { HOST_CHECK(signals::dispatch()); }));
    HOST_CHECK(!signals::dispatch());
    open_gate(gate);
    HOST_CHECK(is_served_by([&] { HOST_CHECK(future.get() == 7); }));
    HOST_CHECK(is_served_by([&] { HOST_CHECK(pool.map(twice, {1, 2})[1] == 4); }));
    pool.close();
    HOST_CHECK(is_served_by([&] { pool.join(); }));
    HOST_CHECK(is_served_by([&] { pool.join(); }));
    stays.kill();
    HOST_CHECK(is_served_by([&] { stays.join(); }));
    HOST_CHECK(is_served_by([&] { stays.join(); }));
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
}

TEST_P(SignalsTest, AWaitInProgressServesAndGoesOn) {
  const StartMethod method = GetParam();
  const std::string gate = path("gate");
  Host host([=] {
    int served = 0;
    signals::on(SIGUSR1, [&](int) {
      // Everything an ordinary function may do.
      say("served " + std::to_string(++served) + std::string(1000, '.').substr(1000));
    });
    Process p(by(method), wait_at, gate);
    p.start();
    Pool pool(pool_by(method));
    say("waiting");
    p.join();
    Future<int> future = pool.submit(wait_at, gate + "2");
    say("waiting");
    HOST_CHECK(future.get() == 7);
    say("waiting");
    HOST_CHECK(signals::wait({SIGUSR2}) == SIGUSR2);
    return served;
  });
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(is_asleep(host));
    host.send(SIGUSR1);
    EXPECT_EQ(host.read_line(), "served " + std::to_string(i + 1));
    if (i == 0) open_gate(gate);
    if (i == 1) open_gate(gate + "2");
  }
  host.send(SIGUSR2);
  EXPECT_EQ(host.end(), "exit 3");
  EXPECT_TRUE(host.is_gone_within(kPromisedSecond)) << describe(host.family());
}

// The first wait that is found serves, whichever thread the kernel gave the signal to.
TEST_P(SignalsTest, ASignalToAThreadThatDoesNotWaitIsServedByOneThatDoes) {
  const StartMethod method = GetParam();
  const std::string gate = path("gate");
  const HostRun run = run_host([=] {
    Process p(by(method), wait_at, gate);
    p.start();
    Pool pool(pool_by(method));
    Future<int> future = pool.submit(wait_at, gate + "2");
    std::atomic<int> served{0};
    std::atomic<pthread_t> by_thread{};
    signals::on(SIGUSR1, [&](int) {
      by_thread = pthread_self();
      ++served;
    });
    struct Wait {
      std::function<void()> wait;
      std::function<void()> end;
    };
    const std::array<Wait, 3> waits = {{
        {[&] { p.join(); }, [&] { open_gate(gate); }},
        {[&] { HOST_CHECK(future.get() == 7); }, [&] { open_gate(gate + "2"); }},
        {[&] { HOST_CHECK(signals::wait({SIGUSR2}) == SIGUSR2); },
         [] { signals::kill(getpid(), SIGUSR2); }},
    }};
    const Blocked blocked(SIGUSR1);  // threads made now inherit it
    for (const Wait& each : waits) {
      const int before = served;
      std::thread waiter(each.wait);
      std::this_thread::sleep_for(20ms);
      std::thread receiver([] {
        sigset_t none;
        sigemptyset(&none);
        pthread_sigmask(SIG_SETMASK, &none, nullptr);
        raise(SIGUSR1);  // this thread never waits
      });
      receiver.join();
      HOST_CHECK(wait_until([&] { return served == before + 1; }));
      HOST_CHECK(pthread_equal(by_thread, waiter.native_handle()));
      each.end();
      waiter.join();
    }
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
}

TEST_P(SignalsTest, PauseEndsWhenAnotherThreadRanTheHandler) {
  const HostRun run = run_host([] {
    std::atomic<int> served{0};
    signals::on(SIGUSR1, [&](int) { ++served; });
    std::array<std::thread, 4> pausing;
    std::atomic<int> back{0};
    for (std::thread& thread : pausing) {
      thread = std::thread([&] {
        signals::pause();
        ++back;
      });
    }
    // One signal may come before some of them pause.
    HOST_CHECK(wait_until([&] {
      signals::kill(getpid(), SIGUSR1);
      return back == 4;
    }));
    for (std::thread& thread : pausing) thread.join();
    return served > 0 ? 0 : 1;
  });
  EXPECT_EQ(run.end, "exit 0");
}

TEST_P(SignalsTest, WhatAHandlerThrowsLeavesTheWaitWhichCanBeMadeAgain) {
  const StartMethod method = GetParam();
  const std::string gate = path("gate");
  const HostRun run = run_host([=] {
    struct Stop : std::runtime_error {
      using std::runtime_error::runtime_error;
    };
    signals::on(SIGUSR1, [](int) { throw Stop("enough"); });
    Process p(by(method), wait_at, gate);
    p.start();
    Pool pool(pool_by(method));
    Future<int> future = pool.submit(wait_at, gate);
    for (int i = 0; i < 3; ++i) {
      raise(SIGUSR1);
      HOST_CHECK(throws<Stop>([&] { p.join(); }));
      raise(SIGUSR1);
      HOST_CHECK(throws<Stop>([&] { future.get(); }));
      HOST_CHECK(future.valid());
      raise(SIGUSR1);
      HOST_CHECK(throws<Stop>([&] { wait({p}); }));
      raise(SIGUSR1);
      HOST_CHECK(throws<Stop>([] { signals::pause(); }));
    }
    open_gate(gate);
    p.join();
    HOST_CHECK(future.get() == 7);
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
}

TEST_P(SignalsTest, WhatAThrowingHandlerLeftIsServedByTheNextWait) {
  const HostRun run = run_host([] {
    int second = 0;
    signals::on(SIGUSR1, [](int) { throw std::runtime_error("first"); });  // the lower number
    signals::on(SIGUSR2, [&](int) { ++second; });
    raise(SIGUSR2);
    raise(SIGUSR1);
    HOST_CHECK(throws<std::runtime_error>([] { signals::dispatch(); }));
    HOST_CHECK(second == 0);
    signals::pause();
    return second == 1 ? 0 : 1;
  });
  EXPECT_EQ(run.end, "exit 0");
}

TEST_P(SignalsTest, AHandlerMayWaitReplaceItselfAndEndWhatItInterrupted) {
  const StartMethod method = GetParam();
  const HostRun run = run_host([=] {
    Process p(by(method), stay);
    p.start();
    int served = 0;
    signals::on(SIGUSR1, [&](int) {
      served += 1;
      p.kill();
      p.join();
      raise(SIGUSR2);
      signals::pause();
      signals::on(SIGUSR1, [&](int) { served += 100; });
      served += 1000;  // what was captured is still there
    });
    signals::on(SIGUSR2, [&](int) { served += 10; });
    raise(SIGUSR1);
    p.join();
    HOST_CHECK(served == 1011);
    HOST_CHECK(p.exit_code() == -SIGKILL);
    raise(SIGUSR1);
    HOST_CHECK(signals::dispatch());
    HOST_CHECK(served == 1111);
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
}

TEST_P(SignalsTest, AHandlerThatRaisesItsOwnSignalRunsOnceForEachLook) {
  const HostRun run = run_host([] {
    int served = 0;
    signals::on(SIGUSR1, [&](int) {
      ++served;
      raise(SIGUSR1);
    });
    raise(SIGUSR1);
    for (int i = 1; i <= 5; ++i) {
      HOST_CHECK(signals::dispatch());
      HOST_CHECK(served == i);
    }
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
}

TEST_P(SignalsTest, AHandlerThatRaisesItsOwnSignalDoesNotPutOffTheEndOfAWait) {
  const StartMethod method = GetParam();
  const std::string gate = path("gate");
  const HostRun run = run_host([=] {
    Process p(by(method), stay);
    p.start();
    Pool pool(pool_by(method));
    Future<int> future = pool.submit(wait_at, gate);
    signals::on(SIGUSR1, [&](int) { raise(SIGUSR1); });
    raise(SIGUSR1);
    HOST_CHECK(!p.join_for(20ms));
    HOST_CHECK(wait({p}, 20ms).empty());
    HOST_CHECK(!future.wait_for(20ms));
    HOST_CHECK(signals::wait_for({SIGUSR2}, 20ms) == std::nullopt);
    p.kill();
    open_gate(gate);
    p.join();
    HOST_CHECK(future.get() == 7);
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
}

TEST_P(SignalsTest, OtherEffectsReplaceAHandlerAndDropWhatItHadToDo) {
  Host host([] {
    bool ran = false;
    signals::on(SIGTERM, [&](int) { ran = true; });
    raise(SIGTERM);
    signals::ignore(SIGTERM);
    HOST_CHECK(!signals::dispatch() && !ran);
    raise(SIGTERM);
    signals::on(SIGTERM, [&](int) { ran = true; });
    HOST_CHECK(!signals::dispatch() && !ran);
    raise(SIGTERM);
    HOST_CHECK(signals::dispatch() && ran);
    signals::interrupt_on(SIGTERM);
    raise(SIGTERM);
    signals::default_action(SIGTERM);
    HOST_CHECK(!signals::dispatch());
    raise(SIGTERM);
    return 1;
  });
  EXPECT_EQ(host.end(), "signal 15");
}

// Each signal is sent when the one before has been served: a single lost one would hang it.
TEST_P(SignalsTest, NoSignalIsLostBetweenLookingAndSleeping) {
  const StartMethod method = GetParam();
  constexpr int kSignals = 1500;
  const std::string gate = path("gate");
  const HostRun run = run_host([=] {
    Process p(by(method), stay);
    p.start();
    Pool pool(pool_by(method));
    Future<int> future = pool.submit(wait_at, gate);
    std::atomic<int> served{0};
    signals::on(SIGUSR1, [&](int) { ++served; });
    std::atomic<bool> went_well{true};
    std::thread sender([&] {
      const Blocked blocked(SIGUSR1);
      for (int i = 1; i <= kSignals && went_well; ++i) {
        for (int spin = 0; spin < (i * 37) % 500; ++spin) asm volatile("");
        signals::kill(getpid(), SIGUSR1);
        went_well = wait_until([&] { return served == i; });
      }
      if (went_well) return;
      say("lost after " + std::to_string(served.load()));
      _exit(1);
    });
    for (int kind = 0; served < kSignals; ++kind) {
      const int before = served;
      switch (kind % 4) {
        case 0:
          static_cast<void>(p.join_for(5ms));
          break;
        case 1:
          wait({p}, 5ms);
          break;
        case 2:
          static_cast<void>(future.wait_for(5ms));
          break;
        default:
          if (before < kSignals) signals::pause();
      }
    }
    sender.join();
    p.kill();
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
  EXPECT_EQ(run.out, "");
}

TEST_P(SignalsTest, AHostThatClosesAllDescriptorsIsToldAllTheSame) {
  const HostRun run = run_host([] {
    int served = 0;
    signals::on(SIGALRM, [&](int) { ++served; });
    for (int fd = 3; fd < 1000; ++fd) close(fd);
    for (int i = 1; i <= 3; ++i) {
      signals::alarm(10ms);
      signals::pause();
      HOST_CHECK(served == i);
    }
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
}

// ---- children

void write_dispositions(const std::string& path) { std::ofstream(path) << dispositions(); }
ExitCode serve_in_child() {
  int served = 0;
  signals::on(SIGUSR2, [&](int) { ++served; });
  raise(SIGUSR2);
  signals::pause();
  return {signals::dispatch() ? 1 : 40 + served};
}

TEST_P(SignalsTest, ChildrenBeginWithDefaultsAndWithoutHandlers) {
  const StartMethod method = GetParam();
  const std::string file = path("dispositions");
  const HostRun run = run_host([=] {
    signals::on(SIGTERM, [](int) { say("in the wrong process"); });
    signals::interrupt_on(SIGUSR1);
    signals::ignore(SIGUSR2);
    raise(SIGTERM);  // owed by this process, not by its children
    raise(SIGUSR1);
    Process looks(by(method), write_dispositions, file);
    looks.start();
    Process serves(by(method), serve_in_child);
    serves.start();
    Process stays(by(method), stay);
    stays.start();
    stays.terminate();
    signals::on(SIGTERM, [](int) {});
    HOST_CHECK(throws<Interrupted>([&] { looks.join(); }));
    looks.join();
    serves.join();
    HOST_CHECK(serves.exit_code() == 41);
    stays.join();
    HOST_CHECK(stays.exit_code() == -SIGTERM);
    Pool pool(pool_by(method));
    HOST_CHECK(death_of([&] { pool.apply(raise, SIGUSR1); }).signal == SIGUSR1);
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
  EXPECT_EQ(run.out, "");
  std::istringstream text(read_file(file));
  for (std::string mask; text >> mask;) {
    // The C library's own two real-time signals are nobody's business.
    EXPECT_EQ(std::stoull(mask, nullptr, 16) & ~0x180000000ULL, 0U) << read_file(file);
  }
}

TEST_P(SignalsTest, InAChildThatTheHostForksSignalsDoWhatTheyDidBefore) {
  const HostRun run = run_host([] {
    std::signal(SIGUSR2, [](int) { _exit(23); });
    int served = 0;
    signals::on(SIGTERM, [&](int) { ++served; });
    signals::on(SIGUSR2, [&](int) { ++served; });
    signals::interrupt_on(SIGINT);
    const auto end_of_child = [](const std::function<void()>& program) {
      const int pid = fork();
      if (pid == 0) {
        program();
        _exit(0);
      }
      int status = 0;
      HOST_CHECK(waitpid(pid, &status, 0) == pid);
      return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
    };
    HOST_CHECK(end_of_child([] { raise(SIGTERM); }) == -SIGTERM);
    HOST_CHECK(end_of_child([] { raise(SIGINT); }) == -SIGINT);
    HOST_CHECK(end_of_child([] { raise(SIGUSR2); }) == 23);
    // Also if it has asked for signals of its own.
    HOST_CHECK(end_of_child([] {
                 bool ran = false;
                 signals::on(SIGUSR1, [&](int) { ran = true; });
                 raise(SIGUSR1);
                 signals::pause();
                 if (!ran) _exit(1);
                 raise(SIGTERM);
               }) == -SIGTERM);
    raise(SIGTERM);
    HOST_CHECK(end_of_child([] { _exit(signals::dispatch() ? 1 : 0); }) == 0);
    HOST_CHECK(signals::dispatch());
    return served;
  });
  EXPECT_EQ(run.end, "exit 1");
}

// ---- interrupts

TEST_P(SignalsTest, AnInterruptEndsTheWaitInProgressAndOnlyThat) {
  const StartMethod method = GetParam();
  const std::string gate = path("gate");
  Host host([=] {
    signals::interrupt_on(SIGINT);
    Process p(by(method), wait_at, gate);
    p.start();
    Pool pool(pool_by(method));
    Future<int> future = pool.submit(wait_at, gate);
    const std::array<std::function<void()>, 5> waits = {
        [&] { p.join(); }, [&] { future.get(); }, [&] { wait({p}); }, [] { signals::pause(); },
        [] { signals::wait({SIGUSR1}); }};
    for (const auto& wait : waits) {
      say("waiting");
      try {
        wait();
        return 1;
      } catch (const Interrupted& e) {
        HOST_CHECK(e.signal() == SIGINT);
        HOST_CHECK(std::string(e.what()).find("SIGINT") != std::string::npos);
      }
      HOST_CHECK(!p.join_for(1ms));
    }
    open_gate(gate);
    p.join();
    HOST_CHECK(p.exit_code() == 0);
    HOST_CHECK(future.get() == 7);
    return 0;
  });
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(is_asleep(host)) << i;
    host.send(SIGINT);
  }
  EXPECT_EQ(host.end(), "exit 0");
  EXPECT_TRUE(host.is_gone_within(kPromisedSecond)) << describe(host.family());
}

TEST_P(SignalsTest, AnInterruptThatComesWhileNobodyWaitsEndsTheNextWait) {
  const StartMethod method = GetParam();
  const HostRun run = run_host([=] {
    signals::interrupt_on(SIGINT);
    signals::interrupt_on(SIGTERM);
    Process p(by(method), do_nothing);
    p.start();
    raise(SIGINT);
    raise(SIGINT);
    HOST_CHECK(p.exit_code() == std::nullopt || p.exit_code() == 0);  // which is no wait
    HOST_CHECK(throws<Interrupted>([&] { p.join(); }));
    p.join();
    raise(SIGINT);
    raise(SIGTERM);
    HOST_CHECK(throws<Interrupted>([] { signals::dispatch(); }));
    HOST_CHECK(!signals::dispatch());
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
}

TEST_P(SignalsTest, AnInterruptIsToldOnceInEachThread) {
  const StartMethod method = GetParam();
  const std::string gate = path("gate");
  const HostRun run = run_host([=] {
    Process p(by(method), wait_at, gate);
    p.start();
    Pool pool(pool_by(method));
    signals::interrupt_on(SIGINT);
    std::atomic<int> ready{0};
    std::atomic<int> told{0};
    std::array<std::thread, 4> threads;
    for (std::size_t i = 0; i < threads.size(); ++i) {
      threads[i] = std::thread([&, i] {
        static_cast<void>(signals::dispatch());  // takes part from here on
        Future<int> future = pool.submit(wait_at, gate);
        ++ready;
        try {
          if (i == 0) std::this_thread::sleep_for(50ms);  // comes late
          i % 2 == 0 ? future.wait() : signals::pause();
        } catch (const Interrupted&) {
          ++told;
        }
        future.wait();
      });
    }
    HOST_CHECK(wait_until([&] { return ready == 4; }));
    signals::kill(getpid(), SIGINT);
    HOST_CHECK(wait_until([&] { return told == 4; }));
    // A thread that comes new, after others were told, is not.
    std::thread([] { HOST_CHECK(!signals::dispatch()); }).join();
    open_gate(gate);
    for (std::thread& thread : threads) thread.join();
    HOST_CHECK(throws<Interrupted>([&] { p.join(); }));
    p.join();
    // One that comes new before anybody was told, is.
    raise(SIGINT);
    std::thread([] { HOST_CHECK(throws<Interrupted>([] { signals::dispatch(); })); }).join();
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
}

TEST_P(SignalsTest, DestructorsWaitUninterrupted) {
  const StartMethod method = GetParam();
  const std::string ledger = path("ledger");
  const HostRun run = run_host([=] {
    signals::interrupt_on(SIGINT);
    {
      Process p(by(method), record, ledger, 1);
      p.start();
      Pool pool(pool_by(method));
      Future<int> future = pool.submit(twice, 3);
      raise(SIGINT);
    }
    HOST_CHECK(recorded(ledger).size() == 1);
    HOST_CHECK(throws<Interrupted>([] { signals::dispatch(); }));
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
}

TEST_P(SignalsTest, CtrlCEndsAProgramInOrder) {
  const StartMethod method = GetParam();
  const std::string gate = path("gate");
  Host host([=] {
    signals::interrupt_on(SIGINT);
    Pool pool(pool_by(method, 2));
    try {
      const std::vector<std::string> gates(100, gate);
      say("waiting");
      pool.map(wait_at, gates);
    } catch (const Interrupted& e) {
      pool.terminate();
      pool.join();
      return 128 + e.signal();
    }
    return 0;
  });
  ASSERT_TRUE(is_asleep(host));
  // As a terminal would: to the whole group.
  for (const ProcessInfo& process : host.family()) kill(process.pid, SIGINT);
  host.send(SIGINT);
  EXPECT_EQ(host.end(), "exit 130");
  EXPECT_TRUE(host.is_gone_within(kPromisedSecond)) << describe(host.family());
}

TEST_P(SignalsTest, HandlersRunBeforeAnInterruptLeaves) {
  const HostRun run = run_host([] {
    int served = 0;
    signals::on(SIGUSR2, [&](int) { ++served; });
    signals::interrupt_on(SIGINT);
    raise(SIGINT);
    raise(SIGUSR2);
    HOST_CHECK(throws<Interrupted>([] { signals::dispatch(); }));
    return served;
  });
  EXPECT_EQ(run.end, "exit 1");
}

// ---- waiting for signals

TEST_P(SignalsTest, WaitReturnsTheSignalThatComes) {
  Host host([] {
    say("waiting");
    HOST_CHECK(signals::wait({SIGTERM, SIGHUP}) == SIGHUP);
    say("waiting");
    const std::array<int, 2> again = {SIGTERM, SIGUSR1};
    HOST_CHECK(signals::wait(again) == SIGTERM);
    return 0;
  });
  ASSERT_TRUE(is_asleep(host));
  host.send(SIGHUP);
  ASSERT_TRUE(is_asleep(host));
  host.send(SIGTERM);
  EXPECT_EQ(host.end(), "exit 0");
}

TEST_P(SignalsTest, SignalsThatComeBetweenTwoWaitsAreKept) {
  const HostRun run = run_host([] {
    HOST_CHECK(signals::wait_for({SIGUSR1, SIGUSR2}, 1ms) == std::nullopt);
    HOST_CHECK(signals::wait_for({SIGUSR1, SIGUSR2}, -1s) == std::nullopt);
    raise(SIGUSR2);
    raise(SIGUSR1);
    raise(SIGUSR1);
    HOST_CHECK(!signals::dispatch());
    HOST_CHECK(signals::wait({SIGUSR1, SIGUSR2}) == SIGUSR1);
    HOST_CHECK(signals::wait_for({SIGUSR1}, 0s) == std::nullopt);
    HOST_CHECK(signals::wait_for({SIGUSR1, SIGUSR2}, 0s) == SIGUSR2);
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
}

TEST_P(SignalsTest, SignalsThatTheThreadBlocksCanBeWaitedFor) {
  const HostRun run = run_host([] {
    const Blocked first(SIGUSR1);
    const Blocked second(SIGUSR2);
    const std::string mask = field_of_status(getpid(), "SigBlk");
    raise(SIGUSR1);  // pending in the kernel: nobody is told
    HOST_CHECK(signals::wait_for({SIGUSR1}, 0s) == SIGUSR1);
    raise(SIGUSR1);
    HOST_CHECK(signals::wait({SIGUSR1}) == SIGUSR1);
    raise(SIGUSR2);
    HOST_CHECK(signals::wait_for({SIGUSR1}, 1ms) == std::nullopt);
    HOST_CHECK(field_of_status(getpid(), "SigBlk") == mask);
    HOST_CHECK(signals::wait({SIGUSR1, SIGUSR2}) == SIGUSR2);
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
}

TEST_P(SignalsTest, OneSignalEndsOneOfSeveralWaits) {
  const HostRun run = run_host([] {
    std::atomic<int> got{0};
    std::array<std::thread, 3> threads;
    std::atomic<int> ready{0};
    for (std::thread& thread : threads) {
      thread = std::thread([&] {
        static_cast<void>(signals::wait_for({SIGUSR1}, 0s));
        ++ready;
        HOST_CHECK(signals::wait({SIGUSR1}) == SIGUSR1);
        ++got;
      });
    }
    HOST_CHECK(wait_until([&] { return ready == 3; }));
    for (int i = 1; i <= 3; ++i) {
      signals::kill(getpid(), SIGUSR1);
      HOST_CHECK(wait_until([&] { return got == i; }));
      std::this_thread::sleep_for(2ms);
      HOST_CHECK(got == i);
    }
    for (std::thread& thread : threads) thread.join();
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
}

TEST_P(SignalsTest, ASignalIsEitherServedOrWaitedFor) {
  const HostRun run = run_host([] {
    signals::on(SIGUSR1, [](int) {});
    signals::interrupt_on(SIGUSR2);
    const std::string before = dispositions();
    HOST_CHECK(throws<Error>([] { signals::wait({SIGTERM, SIGUSR1}); }));
    HOST_CHECK(throws<Error>([] { signals::wait({SIGTERM, SIGUSR2}); }));
    HOST_CHECK(dispositions() == before);
    signals::default_action(SIGUSR1);
    HOST_CHECK(signals::wait_for({SIGUSR1}, 0s) == std::nullopt);
    raise(SIGUSR1);
    int served = 0;
    signals::on(SIGUSR1, [&](int) { ++served; });  // what is there goes to the handler
    HOST_CHECK(signals::dispatch());
    return served;
  });
  EXPECT_EQ(run.end, "exit 1");
}

// ---- effects, alarms

TEST_P(SignalsTest, AnIgnoredSignalHasNoEffectAndADefaultOneHasItsOwn) {
  Host host([] {
    signals::ignore(SIGTERM);
    raise(SIGTERM);
    signals::default_action(SIGKILL);  // it has no other
    signals::default_action(SIGTERM);
    raise(SIGTERM);
    return 1;
  });
  EXPECT_EQ(host.end(), "signal 15");
}

TEST_P(SignalsTest, AnAlarmRingsOnceAndTellsWhatWasLeft) {
  const HostRun run = run_host([] {
    int served = 0;
    signals::on(SIGALRM, [&](int) { ++served; });
    HOST_CHECK(throws<Error>([] { signals::alarm(-1ns); }));
    HOST_CHECK(signals::alarm(1h) == 0ns);
    const auto left = signals::alarm(std::chrono::seconds(0));
    HOST_CHECK(left > 30min && left <= 1h);
    HOST_CHECK(signals::alarm(0s) == 0ns);
    signals::alarm(1ns);
    signals::pause();
    HOST_CHECK(served == 1);
    HOST_CHECK(signals::alarm(0s) == 0ns);
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
}

TEST_P(SignalsTest, AnAlarmNobodyWantedEndsTheProgram) {
  Host host([] {
    signals::alarm(1ms);
    signals::pause();
    return 1;
  });
  EXPECT_EQ(host.end(), "signal 14");
}

// ---- signals that nobody asked brood to be told of (CPython: _TestPollEintr, TestIgnoreEINTR)

std::atomic<int> handled{0};

// By a handler of the host's own, again and again, without SA_RESTART.
void be_interrupted_often() {
  struct sigaction action{};
  action.sa_handler = [](int) { handled.fetch_add(1); };
  sigaction(SIGALRM, &action, nullptr);
  const itimerval often{{0, 1000}, {0, 1000}};
  HOST_CHECK(setitimer(ITIMER_REAL, &often, nullptr) == 0);
}

int waits_go_on(StartMethod method, const std::string& gate) {
  be_interrupted_often();
  Process p(by(method), wait_at, gate);
  p.start();
  HOST_CHECK(!p.join_for(30ms));
  HOST_CHECK(wait({p}, 30ms).empty());
  HOST_CHECK(wait({}, 30ms).empty());
  Pool pool(pool_by(method));
  Future<int> future = pool.submit(wait_at, gate);
  HOST_CHECK(!future.wait_for(30ms));
  HOST_CHECK(!future.get_for(30ms));
  HOST_CHECK(signals::wait_for({SIGUSR1}, 30ms) == std::nullopt);
  HOST_CHECK(handled > 50);
  open_gate(gate);
  p.join();
  HOST_CHECK(p.exit_code() == 0);
  HOST_CHECK(future.get() == 7);
  HOST_CHECK(pool.map(twice, {1, 2, 3}) == (std::vector<int>{2, 4, 6}));
  pool.close();
  pool.join();
  return 0;
}

TEST_P(SignalsTest, HandlersOfTheHostsOwnGoUnnoticedByWaits) {
  const StartMethod method = GetParam();
  const std::string gate = path("gate");
  EXPECT_EQ(run_host([=] { return waits_go_on(method, gate); }).end, "exit 0");
}

TEST_P(SignalsTest, HandlersOfTheHostsOwnGoUnnoticedBesideOurs) {
  const StartMethod method = GetParam();
  const std::string gate = path("gate");
  const HostRun run = run_host([=] {
    signals::on(SIGUSR2, [](int) {});
    signals::interrupt_on(SIGINT);
    return waits_go_on(method, gate);
  });
  EXPECT_EQ(run.end, "exit 0");
}

TEST_P(SignalsTest, JoinGoesOnWhenTheChildSignalsItsParent) {
  const StartMethod method = GetParam();
  const HostRun run = run_host([=] {
    std::signal(SIGUSR1, [](int) { handled.fetch_add(1); });
    Process p(
        by(method),
        [](int parent) {
          std::this_thread::sleep_for(20ms);
          kill(parent, SIGUSR1);
          std::this_thread::sleep_for(20ms);
        },
        getpid());
    p.start();
    p.join();
    HOST_CHECK(p.exit_code() == 0);
    return handled.load();
  });
  EXPECT_EQ(run.end, "exit 1");
}

}  // namespace
}  // namespace brood::test
