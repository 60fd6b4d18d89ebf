// Waiting for whichever of several things comes first (CPython: TestWait).
#include "brood/wait.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <functional>
#include <limits>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "brood/process.hpp"
#include "brood/signals.hpp"
#include "support/host.hpp"
#include "support/ledger.hpp"
#include "support/pools.hpp"
#include "support/processes.hpp"

namespace brood::test {
namespace {

using Places = std::vector<std::size_t>;
using Clock = std::chrono::steady_clock;

class WaitTest : public StartMethodTest {
 protected:
  static ProcessOptions options() { return {.start = GetParam()}; }
  [[nodiscard]] std::string path(const std::string& name) const { return folder_.path(name); }

 private:
  TempFolder folder_;
};
BROOD_FOR_EACH_START_METHOD(WaitTest);

// Two connected ends.
class Ends {
 public:
  static Ends pipe() {
    Ends ends;
    EXPECT_EQ(::pipe2(ends.fds_.data(), O_CLOEXEC), 0);
    return ends;
  }
  static Ends socket() {
    Ends ends;
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.fds_.data()), 0);
    return ends;
  }
  Ends(Ends&& other) noexcept : fds_(std::exchange(other.fds_, {-1, -1})) {}
  ~Ends() {
    close_reader();
    close_writer();
  }
  Ends(const Ends&) = delete;
  Ends& operator=(const Ends&) = delete;
  Ends& operator=(Ends&&) = delete;

  [[nodiscard]] int fileno() const { return fds_[0]; }  // so it is something to wait for
  void put(char byte = 'x') const { EXPECT_EQ(::write(fds_[1], &byte, 1), 1); }
  [[nodiscard]] char take() const {
    char byte = 0;
    EXPECT_EQ(::read(fds_[0], &byte, 1), 1);
    return byte;
  }
  [[nodiscard]] int writer() const { return fds_[1]; }
  void close_reader() { close_end(fds_[0]); }
  void close_writer() { close_end(fds_[1]); }

 private:
  Ends() = default;
  static void close_end(int& fd) {
    if (fd >= 0) ::close(fd);
    fd = -1;
  }
  std::array<int, 2> fds_{-1, -1};
};

void do_nothing() {}
void write_later(int fd, std::chrono::milliseconds after, char byte) {
  std::this_thread::sleep_for(after);
  static_cast<void>(::write(fd, &byte, 1) == 1);
}

int error_number_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const SystemError& e) {
    return e.code().value();
  }
  return 0;
}

// ---- what is ready

TEST_P(WaitTest, AllThatAreReadyAreNamedInTheirOrder) {
  const Ends a = Ends::pipe();
  const Ends b = Ends::socket();
  const Ends c = Ends::pipe();
  EXPECT_EQ(wait({a, b, c}, 0s), Places{});
  b.put();
  EXPECT_EQ(wait({a, b, c}), Places{1});
  a.put();
  c.put();
  EXPECT_EQ(wait({c, b, a}), (Places{0, 1, 2}));
  EXPECT_EQ(wait({a.fileno(), c}), (Places{0, 1}));
  static_cast<void>(c.take());
  EXPECT_EQ(wait({c, b, a}), (Places{1, 2}));
  const std::vector<Waitable> list{c, a};
  EXPECT_EQ(wait(list), Places{1});
  const std::array<Waitable, 1> one{b};
  EXPECT_EQ(wait(one, 1h), Places{0});
}

TEST_P(WaitTest, AnObjectMayBeThereSeveralTimes) {
  const Ends a = Ends::pipe();
  const Ends b = Ends::pipe();
  a.put();
  EXPECT_EQ(wait({a, b, a, a.fileno()}), (Places{0, 2, 3}));
}

TEST_P(WaitTest, WhatNobodyWillWriteToAnyMoreIsReady) {
  Ends a = Ends::pipe();
  Ends b = Ends::socket();
  a.close_writer();
  EXPECT_EQ(wait({a, b}), Places{0});
  b.close_writer();
  EXPECT_EQ(wait({a, b}), (Places{0, 1}));
}

TEST_P(WaitTest, NothingIsTakenFromWhatIsReady) {
  const Ends a = Ends::pipe();
  a.put('q');
  EXPECT_EQ(wait({a}), Places{0});
  EXPECT_EQ(wait({a}), Places{0});
  EXPECT_EQ(a.take(), 'q');
}

// Children write to pipes, each a few times, at its own pace (test_wait, test_wait_slow).
TEST_P(WaitTest, WhatChildrenWriteIsSeenAsItComesUntilTheyAreGone) {
  constexpr int kChildren = 4;
  constexpr int kBytes = 10;
  std::vector<Ends> pipes;
  std::vector<Process> writers;
  for (int i = 0; i < kChildren; ++i) {
    pipes.push_back(Ends::pipe());
    // Descriptors are inherited by number only by a copy of this process.
    writers.emplace_back(
        ProcessOptions{.start = StartMethod::fork},
        [](int fd, int which) {
          for (int n = 0; n < kBytes; ++n) {
            write_later(fd, std::chrono::milliseconds((n * 7 + which * 3) % 5),
                        static_cast<char>('0' + n));
          }
        },
        pipes.back().writer(), i);
  }
  for (Process& writer : writers) writer.start();
  for (Ends& ends : pipes) ends.close_writer();
  std::array<std::string, kChildren> read_from;
  // A child holds the ends of those that were made before it: all go together in the end.
  std::vector<std::size_t> open{0, 1, 2, 3};
  const Deadline guard(kHangGuard);
  while (!open.empty() && !guard.passed()) {
    std::vector<Waitable> waiting;
    for (const std::size_t i : open) waiting.emplace_back(pipes[i]);
    std::vector<std::size_t> left = open;
    for (const std::size_t place : wait(waiting, kHangGuard)) {
      char byte = 0;
      const std::size_t which = open[place];
      if (::read(pipes[which].fileno(), &byte, 1) == 1) {
        read_from[which] += byte;
      } else {
        std::erase(left, which);
      }
    }
    open = left;
  }
  for (const std::string& text : read_from) EXPECT_EQ(text, "0123456789");
}

// ---- processes

TEST_P(WaitTest, AProcessIsReadyWhenItHasEndedAndStillHasToBeJoined) {
  const std::string gate = path("gate");
  Process first(options(), wait_at_gate, gate);
  Process second(options(), wait_at_gate, gate + "2");
  first.start();
  second.start();
  EXPECT_EQ(wait({first, second}, 20ms), Places{});
  open_gate(gate + "2");
  EXPECT_EQ(wait({first, second}), Places{1});
  EXPECT_EQ(second.exit_code(), 0);
  second.join();
  EXPECT_EQ(wait({first, second}), Places{1}) << "and remains so";
  first.kill();
  EXPECT_EQ(wait({first, first.sentinel()}, kHangGuard), (Places{0, 1}));
  first.join();
  EXPECT_EQ(first.exit_code(), -SIGKILL);
}

// test_wait_integer
TEST_P(WaitTest, ProcessesAndDescriptorsMix) {
  const std::string gate = path("gate");
  const Ends a = Ends::pipe();
  const Ends b = Ends::socket();
  Process p(options(), wait_at_gate, gate);
  p.start();
  EXPECT_EQ(wait({a, p.sentinel(), b}, 0s), Places{});
  b.put();
  EXPECT_EQ(wait({a, p, b}), Places{2});
  open_gate(gate);
  EXPECT_EQ(wait({p.sentinel()}), Places{0});
  a.put();
  EXPECT_EQ(wait({a, p, b}), (Places{0, 1, 2}));
  p.join();
}

TEST_P(WaitTest, ConnectionsQueuesAndEventsMix) {
  auto [ours, theirs] = Pipe();
  Queue<int> queue;
  const Event event;
  EXPECT_EQ(wait({ours, queue, event}, 0s), Places{});
  Process p(ProcessOptions{.start = GetParam()}, [](Event e) { e.set(); }, event);
  p.start();
  EXPECT_EQ(wait({ours, queue, event}), Places{2});
  p.join();
  queue.put(1);
  theirs.send(2);
  EXPECT_EQ(wait({ours, queue, event, p}), (Places{0, 1, 2, 3}));
  event.clear();
  static_cast<void>(queue.get());
  EXPECT_EQ(wait({queue, event, ours}), Places{2});
}

// Who received on the word of a death would wait for ever.
TEST_P(WaitTest, ADeathMakesNothingElseReady) {
  auto [ours, theirs] = Pipe();
  Queue<int> queue;
  const Event event;
  const std::array<pollfd, 3> doors{
      {{ours.fileno(), POLLIN, 0}, {queue.fileno(), POLLIN, 0}, {event.fileno(), POLLIN, 0}}};
  for (int round = 0; round < 10; ++round) {
    Process p(
        options(), [](const Connection&, const Queue<int>&, const Event&) { raise(SIGKILL); },
        theirs.share(), queue, event);
    p.start();
    p.join();
    // By then the warden has buried it in all that it held.
    std::array<pollfd, 3> seen = doors;
    EXPECT_EQ(::poll(seen.data(), seen.size(), 20), 0);
  }
  theirs.send(1);
  queue.put(2);
  Process setter(options(), [](Event e) { e.set(); }, event);
  setter.start();
  setter.join();
  EXPECT_EQ(wait({ours, queue, event}), (Places{0, 1, 2}));
}

// Readable once too often.
class ToldLate {
 public:
  [[nodiscard]] int fileno() const {
    ++asked;
    return ends_.fileno();
  }
  [[nodiscard]] bool still_ready() const { return asked > gone_until; }

  mutable int asked = 0;
  int gone_until = 0;

 private:
  Ends ends_ = [] {
    Ends ends = Ends::pipe();
    ends.put();
    return ends;
  }();
};

TEST_P(WaitTest, WhoIsToldOfWhatHasGoneAsksAgain) {
  ToldLate object;
  object.gone_until = 3;
  EXPECT_EQ(wait({object}), Places{0});
  EXPECT_EQ(object.asked, 4);
  object.gone_until = std::numeric_limits<int>::max();
  EXPECT_EQ(wait({object}, 10ms), Places{});
  const Event event;
  event.set();
  EXPECT_EQ(wait({object, event}), Places{1}) << "the others are told of at once";
}

// Rings may come when the event has been cleared again.
TEST_P(WaitTest, AnEventThatIsToldOfIsSet) {
  const Event event;
  const Event stop;
  Process p(
      options(),
      [](const Event& e, const Event& end) {
        while (!end.is_set()) e.set();
      },
      event, stop);
  p.start();
  for (int round = 0; round < 2000; ++round) {
    ASSERT_EQ(wait({event, p}), Places{0});
    event.clear();
  }
  stop.set();
  p.join();
  event.clear();
  for (int round = 0; round < 10; ++round) {
    EXPECT_EQ(wait({event}, 1ms), Places{}) << "the warden has rung for the dead";
  }
}

TEST_P(WaitTest, AnEventIsReadyWhileItIsSet) {
  const Event event;
  event.set();
  EXPECT_EQ(wait({event}), Places{0}) << "set before anybody asked for a descriptor";
  EXPECT_EQ(wait({event}), Places{0}) << "and still";
  event.clear();
  EXPECT_EQ(wait({event}, 10ms), Places{});
  const Event same = event;
  for (int round = 0; round < 100; ++round) {
    std::thread setter([&same] { same.set(); });
    EXPECT_EQ(wait({event}), Places{0});
    setter.join();
    same.clear();
    EXPECT_EQ(wait({event}, 0s), Places{});
  }
  // Who cleared it is another process.
  event.set();
  Process p(ProcessOptions{.start = GetParam()}, [](Event e) { e.clear(); }, event);
  p.start();
  p.join();
  EXPECT_EQ(wait({event}, 10ms), Places{});
}

TEST_P(WaitTest, AProcessClassOfOnesOwnCanBeWaitedFor) {
  struct Own : ProcessBase {
    using ProcessBase::ProcessBase;
    void run() override {}
  };
  Own own(options());
  own.start();
  EXPECT_EQ(wait({own}), Places{0});
  own.join();
}

TEST_P(WaitTest, AnyOfManyProcessesIsSeen) {
  constexpr std::size_t kMany = 100;
  std::vector<Process> all;
  for (std::size_t i = 0; i < kMany; ++i) {
    all.emplace_back(options(), wait_at_gate, path("gate" + std::to_string(i)));
    all.back().start();
  }
  std::vector<Waitable> list(all.begin(), all.end());
  EXPECT_EQ(wait(list, 0s), Places{});
  for (const std::size_t i : {std::size_t{99}, std::size_t{0}, std::size_t{42}}) {
    open_gate(path("gate" + std::to_string(i)));
    const Places ready = wait(list, kHangGuard);
    EXPECT_EQ(ready, Places{i});
    list[i] = list[1];  // one that lives
  }
  for (Process& p : all) p.kill();
}

TEST_P(WaitTest, AProcessThatWasNotStartedIsAnError) {
  Process p(options(), do_nothing);
  EXPECT_THROW(wait({p}, 0s), Error);
  p.start();
  EXPECT_EQ(wait({p}, kHangGuard), Places{0});
  Process moved = std::move(p);
  EXPECT_THROW(wait({p}, 0s), Error);  // NOLINT(bugprone-use-after-move): says so
}

// ---- limits

// test_wait_timeout, test_neg_timeout
TEST_P(WaitTest, ALimitEndsItAndNotBefore) {
  const Ends a = Ends::pipe();
  const auto start = Clock::now();
  EXPECT_EQ(wait({a}, 30ms), Places{});
  EXPECT_GE(Clock::now() - start, 30ms);
  EXPECT_EQ(wait({a}, 0s), Places{});
  EXPECT_EQ(wait({a}, -1s), Places{});
  EXPECT_EQ(wait({a}, std::chrono::nanoseconds::min()), Places{});
  a.put();
  EXPECT_EQ(wait({a}, -1s), Places{0});
  EXPECT_EQ(wait({a}, 1h), Places{0});
  EXPECT_EQ(wait({a}, std::chrono::nanoseconds::max()), Places{0});
}

TEST_P(WaitTest, NothingToWaitForTakesItsTime) {
  const auto start = Clock::now();
  EXPECT_EQ(wait({}, 30ms), Places{});
  EXPECT_GE(Clock::now() - start, 30ms);
  EXPECT_EQ(wait({}, -1s), Places{});
  EXPECT_EQ(wait(std::vector<Waitable>{}, 1ms), Places{});
  EXPECT_THROW(wait({}), Error) << "that would never end";
  EXPECT_THROW(wait(std::vector<Waitable>{}), Error);
}

TEST_P(WaitTest, WhatBecomesReadyMeanwhileEndsIt) {
  const Ends a = Ends::pipe();
  const Ends b = Ends::pipe();
  std::thread writer([&] {
    std::this_thread::sleep_for(20ms);
    b.put();
  });
  EXPECT_EQ(wait({a, b}), Places{1});
  writer.join();
}

TEST_P(WaitTest, SeveralThreadsMayWaitForTheSame) {
  const Ends a = Ends::pipe();
  std::atomic<int> seen{0};
  std::array<std::thread, 4> threads;
  for (std::thread& thread : threads) {
    thread = std::thread([&] {
      if (wait({a}) == Places{0}) ++seen;
    });
  }
  a.put();
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(seen, 4);
}

// ---- errors

TEST_P(WaitTest, ADescriptorThatIsNotOpenIsAnErrorThatNamesItsPlace) {
  const Ends a = Ends::pipe();
  Ends b = Ends::pipe();
  const int number = b.fileno();
  b.close_reader();
  a.put();
  for (const int closed : {number, -1, INT32_MIN, INT32_MAX}) {
    EXPECT_EQ(error_number_of([&] { wait({a, closed}); }), EBADF) << closed;
    EXPECT_EQ(error_number_of([&] { wait({closed}, 0s); }), EBADF) << closed;
  }
  try {
    wait({a, a, number});
    ADD_FAILURE() << "no error";
  } catch (const SystemError& e) {
    EXPECT_NE(std::string(e.what()).find("object 2"), std::string::npos) << e.what();
  }
}

TEST_P(WaitTest, WhatAnObjectThrowsLeaves) {
  struct Broken {
    [[nodiscard]] int fileno() const { throw Closed("no descriptor any more"); }
  };
  const Ends a = Ends::pipe();
  const Broken broken;
  a.put();
  EXPECT_THROW(wait({a, broken}), Closed);
}

// ---- signals

TEST_P(WaitTest, AnInterruptEndsItAndWhatIsReadyIsStillThereAfterwards) {
  const HostRun run = run_host([] {
    const Ends a = Ends::pipe();
    a.put();
    signals::interrupt_on(SIGINT);
    raise(SIGINT);
    try {
      wait({a});
      return 1;
    } catch (const Interrupted&) {
    }
    HOST_CHECK(wait({a}) == Places{0});
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
}

TEST_P(WaitTest, AHandlerMayMakeReadyWhatIsWaitedFor) {
  const HostRun run = run_host([] {
    const Ends a = Ends::pipe();
    signals::on(SIGALRM, [&](int) { a.put(); });
    signals::alarm(10ms);
    HOST_CHECK(wait({a}) == Places{0});
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
}

}  // namespace
}  // namespace brood::test
