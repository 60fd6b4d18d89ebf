// Processes of one's own: what they are started with, what is seen of them, how they end.
#include "brood/process.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "brood/pool.hpp"
#include "support/capture.hpp"
#include "support/host.hpp"
#include "support/ledger.hpp"
#include "support/pools.hpp"
#include "support/processes.hpp"

namespace brood::test {
namespace {

ProcessOptions by(StartMethod method, std::string name = {}, bool daemon = false) {
  return {.name = std::move(name), .daemon = daemon, .start = method};
}

class ProcessTest : public StartMethodTest {
 protected:
  static ProcessOptions options(std::string name = {}, bool daemon = false) {
    return by(GetParam(), std::move(name), daemon);
  }
  [[nodiscard]] std::string path(const std::string& name) const { return folder_.path(name); }

  // What the child wrote to a file of this name.
  [[nodiscard]] std::string text_of(const std::string& name) const {
    std::ifstream in(path(name));
    std::ostringstream text;
    text << in.rdbuf();
    return text.str();
  }

 private:
  TempFolder folder_;
};
BROOD_FOR_EACH_START_METHOD(ProcessTest);

// ---- what the children run

void do_nothing() {}
void write_text(const std::string& path, const std::string& text) { std::ofstream(path) << text; }
void record_own_pid(const std::string& path) { record(path, getpid()); }
void record_and_wait(const std::string& path, const std::string& gate) {
  record(path, getpid());
  wait_at_gate(gate);
}
ExitCode return_code(int code) { return {code}; }
int return_number(int number) { return number; }
void leave_by_exit(int code) { std::exit(code); }
void leave_by_underscore_exit(int code) { _exit(code); }
void die_of(int signal) {
  std::signal(signal, SIG_DFL);
  raise(signal);
}
void ignore_sigterm_and_wait(const std::string& path, const std::string& gate) {
  std::signal(SIGTERM, SIG_IGN);
  record_and_wait(path, gate);
}

struct OwnError : std::runtime_error {
  using std::runtime_error::runtime_error;
};
void throw_runtime_error() { throw std::runtime_error("the tank is empty"); }
void throw_own_error() { throw OwnError("of my own"); }
void throw_number() { throw 42; }

bool has_recorded(const std::string& path, std::size_t count = 1) {
  return wait_until([&] { return recorded(path).size() >= count; });
}

// ---- one process, from start to end

TEST_P(ProcessTest, BeforeItsStartThereIsNothingToTell) {
  Process p(options(), do_nothing);
  EXPECT_EQ(p.pid(), 0);
  EXPECT_FALSE(p.is_alive());
  EXPECT_FALSE(p.exit_code().has_value());
  EXPECT_FALSE(p.death().has_value());
  EXPECT_THROW(p.join(), Error);
  EXPECT_THROW((void)p.join_for(1ms), Error);
  EXPECT_THROW((void)p.sentinel(), Error);
  EXPECT_THROW(p.terminate(), Error);
  EXPECT_THROW(p.kill(), Error);
  EXPECT_THROW(p.send_signal(SIGUSR1), Error);
}

TEST_P(ProcessTest, ItRunsInAProcessOfItsOwnUntilItsFunctionReturns) {
  Process p(options(), record_and_wait, path("pid"), path("gate"));
  p.start();
  ASSERT_TRUE(has_recorded(path("pid")));
  EXPECT_EQ(recorded(path("pid")).front(), p.pid());
  EXPECT_NE(p.pid(), getpid());
  EXPECT_TRUE(p.is_alive());
  EXPECT_FALSE(p.join_for(1ms));
  EXPECT_FALSE(p.exit_code().has_value());
  EXPECT_FALSE(p.death().has_value());

  open_gate(path("gate"));
  p.join();
  EXPECT_FALSE(p.is_alive());
  EXPECT_EQ(p.exit_code(), 0);
  EXPECT_FALSE(p.death().has_value());
  p.join();
  EXPECT_TRUE(p.join_for(0ms)) << "joined again, it answers at once";
}

TEST_P(ProcessTest, ItIsStartedOnce) {
  Process p(options(), do_nothing);
  p.start();
  EXPECT_THROW(p.start(), Error);
  p.join();
  EXPECT_THROW(p.start(), Error);
  EXPECT_EQ(p.exit_code(), 0);
}

TEST_P(ProcessTest, OnlyAnExitCodeOfItsFunctionBecomesItsStatus) {
  for (const int code : {0, 1, 3, 255}) {
    Process p(options(), return_code, code);
    p.start();
    p.join();
    EXPECT_EQ(p.exit_code(), code);
    EXPECT_FALSE(p.death().has_value());
  }
  Process number(options(), return_number, 7);
  number.start();
  number.join();
  EXPECT_EQ(number.exit_code(), 0) << "a number that is returned means nothing";
}

TEST_P(ProcessTest, AnExitCodeMayComeFromALambdaOrAForkedCall) {
  Process lambda(options(), [n = 5] { return ExitCode{n}; });
  Process copied(forked, [] { return ExitCode{6}; });
  for (Process* p : {&lambda, &copied}) {
    p->start();
    p->join();
  }
  EXPECT_EQ(lambda.exit_code(), 5);
  EXPECT_EQ(copied.exit_code(), 6);
}

TEST_P(ProcessTest, TheChildMayLeaveByExit) {
  for (const int code : {0, 3, 255}) {
    Process by_exit(options(), leave_by_exit, code);
    Process by_underscore_exit(options(), leave_by_underscore_exit, code);
    by_exit.start();
    by_underscore_exit.start();
    by_exit.join();
    by_underscore_exit.join();
    EXPECT_EQ(by_exit.exit_code(), code);
    EXPECT_EQ(by_underscore_exit.exit_code(), code);
  }
}

TEST_P(ProcessTest, ASignalThatKillsItIsItsNegativeStatus) {
  for (const int signal : {SIGKILL, SIGTERM, SIGINT, SIGSEGV, SIGABRT, SIGUSR1, SIGRTMIN + 3}) {
    Process p(options(), die_of, signal);
    p.start();
    p.join();
    EXPECT_EQ(p.exit_code(), -signal);
    const std::optional<WorkerDied> death = p.death();
    ASSERT_TRUE(death.has_value());
    EXPECT_EQ(death->signal, signal);
    EXPECT_EQ(death->exit_code, 0);
    EXPECT_EQ(death->pid, p.pid());
    EXPECT_NE(std::string(death->what()).find(std::to_string(signal)), std::string::npos)
        << death->what();
  }
}

TEST_P(ProcessTest, AnExceptionThatLeavesItIsPrintedAndIsStatusOne) {
  struct Case {
    void (*function)();
    std::vector<std::string> words;
  };
  const std::vector<Case> cases = {
      {throw_runtime_error, {"'s name", "std::runtime_error", "the tank is empty"}},
      {throw_own_error, {"'s name", "OwnError", "of my own"}},
      {throw_number, {"'s name", "int"}}};
  for (const Case& one : cases) {
    Capture err(STDERR_FILENO, path("err"));
    Process p(options("this one's name"), one.function);
    p.start();
    p.join();
    const std::string text = err.stop();
    EXPECT_EQ(p.exit_code(), 1);
    EXPECT_FALSE(p.death().has_value());
    for (const std::string& word : one.words) {
      EXPECT_NE(text.find(word), std::string::npos) << word << " is missing in: " << text;
    }
  }
}

TEST_P(ProcessTest, TerminateKillAndSendSignalDoWhatTheySay) {
  Process first(options(), record_and_wait, path("pids"), path("gate"));
  Process second(options(), record_and_wait, path("pids"), path("gate"));
  Process third(options(), record_and_wait, path("pids"), path("gate"));
  for (Process* p : {&first, &second, &third}) p->start();
  first.terminate();
  second.kill();
  third.send_signal(SIGUSR2);
  for (Process* p : {&first, &second, &third}) p->join();
  EXPECT_EQ(first.exit_code(), -SIGTERM);
  EXPECT_EQ(second.exit_code(), -SIGKILL);
  EXPECT_EQ(third.exit_code(), -SIGUSR2);
  first.kill();
  EXPECT_EQ(first.exit_code(), -SIGTERM) << "what has ended is not disturbed";
}

TEST_P(ProcessTest, TheSentinelIsReadableOnceTheStatusIsKnown) {
  Process p(options(), record_and_wait, path("pid"), path("gate"));
  p.start();
  ASSERT_TRUE(has_recorded(path("pid")));
  pollfd entry{p.sentinel(), POLLIN, 0};
  EXPECT_EQ(poll(&entry, 1, 0), 0);
  open_gate(path("gate"));
  ASSERT_EQ(poll(&entry, 1, static_cast<int>(kHangGuard / 1ms)), 1);
  EXPECT_EQ(p.exit_code(), 0) << "without a join";
  EXPECT_FALSE(p.is_alive());
}

TEST_P(ProcessTest, JoinForReturnsWhenTheProcessEndsAndNotAtItsLimit) {
  Process p(options(), record_and_wait, path("pid"), path("gate"));
  p.start();
  std::thread opener([&] {
    has_recorded(path("pid"));
    open_gate(path("gate"));
  });
  EXPECT_TRUE(p.join_for(std::chrono::hours(10)));
  opener.join();
  EXPECT_EQ(p.exit_code(), 0);
}

// ---- names and daemons

TEST_P(ProcessTest, NamesAreGivenOrCountedInTheOrderOfConstruction) {
  Process given(options("parser"), record_and_wait, path("pid"), path("gate"));
  EXPECT_EQ(given.name(), "parser");
  Process first(options(), do_nothing);
  Process second(options(), do_nothing);
  Process third(forked, do_nothing);
  const std::string prefix = "Process-";
  ASSERT_TRUE(first.name().starts_with(prefix)) << first.name();
  const int number = std::stoi(first.name().substr(prefix.size()));
  EXPECT_EQ(second.name(), prefix + std::to_string(number + 1));
  EXPECT_EQ(third.name(), prefix + std::to_string(number + 2));

  given.start();
  ASSERT_TRUE(has_recorded(path("pid")));
  ASSERT_TRUE(look_at(given.pid()).has_value());
  EXPECT_EQ(look_at(given.pid())->name, "parser") << "as ps shows it";
  open_gate(path("gate"));
  given.join();
}

void write_names_of_children(const std::string& path, StartMethod method) {
  const Process first(by(method), do_nothing);
  const Process second(by(method), do_nothing);
  write_text(path, first.name() + " " + second.name());
}

TEST_P(ProcessTest, ChildrenOfAChildAreCountedBelowIt) {
  Process p(
      options(), [](const std::string& to) { write_names_of_children(to, StartMethod::fork); },
      path("default"));
  Process named(
      options("parser"),
      [](const std::string& to) { write_names_of_children(to, StartMethod::fork); }, path("named"));
  p.start();
  named.start();
  p.join();
  named.join();
  EXPECT_EQ(text_of("default"), p.name() + ":1 " + p.name() + ":2");
  EXPECT_EQ(text_of("named"), "parser:1 parser:2");
}

TEST_P(ProcessTest, WhetherItIsADaemonIsSetBeforeItStarts) {
  Process p(options(), record_and_wait, path("pid"), path("gate"));
  EXPECT_FALSE(p.daemon());
  p.set_daemon(true);
  EXPECT_TRUE(p.daemon());
  p.start();
  EXPECT_THROW(p.set_daemon(false), Error);
  EXPECT_TRUE(p.daemon());
  p.kill();
  p.join();
  EXPECT_THROW(p.set_daemon(false), Error);
  EXPECT_TRUE(Process(options("d", true), do_nothing).daemon());
}

// ---- arguments

void write_sum(const std::string& path, std::span<const double> numbers) {
  write_text(path, std::to_string(std::accumulate(numbers.begin(), numbers.end(), 0.0)));
}
void write_view(const std::string& path, std::string_view text) {
  write_text(path, std::string(text));
}
void write_owned(const std::string& path, std::unique_ptr<std::string> text) {
  write_text(path, *text);
}
struct Order {
  int number = 0;
  std::vector<std::string> items;
};
void write_many(const std::string& path, const Order& order,
                const std::map<std::string, std::optional<int>>& table, double factor, char sign) {
  std::ostringstream text;
  text << order.number << order.items.at(1) << table.at("a").value() << factor << sign;
  write_text(path, text.str());
}

TEST_P(ProcessTest, SendableArgumentsOfAllKindsArrive) {
  Process p(options(), write_many, path("out"), Order{7, {"x", "y"}},
            std::map<std::string, std::optional<int>>{{"a", 5}}, 2, 'c');
  p.start();
  p.join();
  EXPECT_EQ(p.exit_code(), 0);
  EXPECT_EQ(text_of("out"), "7y52c");
}

TEST_P(ProcessTest, ViewsOfTemporariesAreKeptUntilTheStart) {
  Process text(options(), write_view, path("text"), std::string(1000, 'x') + "end");
  Process literal(options(), write_view, path("literal"), "four");
  Process numbers(options(), write_sum, path("sum"), std::vector<double>(100, 0.5));
  Process fixed(options(), write_sum, path("fixed"), std::array<double, 2>{1.5, 2.5});
  // Memory that was only borrowed would be somebody else's by now.
  const std::vector<std::string> other(100, std::string(1003, '!'));
  for (Process* p : {&text, &literal, &numbers, &fixed}) p->start();
  for (Process* p : {&text, &literal, &numbers, &fixed}) p->join();
  EXPECT_EQ(text_of("text"), std::string(1000, 'x') + "end");
  EXPECT_EQ(text_of("literal"), "four");
  EXPECT_EQ(text_of("sum"), "50.000000");
  EXPECT_EQ(text_of("fixed"), "4.000000");
}

TEST_P(ProcessTest, ArgumentsThatOnlyMoveAreMovedIn) {
  auto text = std::make_unique<std::string>("moved");
  Process p(options(), write_owned, path("out"), std::move(text));
  EXPECT_EQ(text, nullptr);
  p.start();
  p.join();
  EXPECT_EQ(text_of("out"), "moved");
}

TEST_P(ProcessTest, ArgumentsAreTakenWhenItIsMadeNotWhenItStarts) {
  std::string text = "before";
  Process p(options(), write_text, path("out"), text);
  text = "after";
  p.start();
  p.join();
  EXPECT_EQ(text_of("out"), "before");
}

TEST_P(ProcessTest, GenericAndBoundCallablesAreTaken) {
  Process generic(
      options(), [](auto to, auto text) { write_text(to, text + "!"); }, path("generic"), "text");
  Process bound(options(), brood::bind_front(write_text, path("bound")), "bound text");
  generic.start();
  bound.start();
  generic.join();
  bound.join();
  EXPECT_EQ(text_of("generic"), "text!");
  EXPECT_EQ(text_of("bound"), "bound text");
}

TEST_P(ProcessTest, AClosureThatPointsIntoThisProcessIsRefusedAtTheStart) {
  int on_stack = 1;
  const auto on_heap = std::make_unique<int>(2);
  Process stack(options(), [&on_stack] { ++on_stack; });
  Process heap(options(), [pointer = on_heap.get()] { ++*pointer; });
  Process self(options(), [this] { write_text(path("x"), "x"); });
  const std::size_t children = children_of(getpid()).size();
  for (Process* p : {&stack, &heap, &self}) {
    EXPECT_THROW(p->start(), NotSendable);
    EXPECT_THROW(p->start(), NotSendable) << "it was not started the first time";
    EXPECT_EQ(p->pid(), 0);
    EXPECT_FALSE(p->is_alive());
    EXPECT_THROW(p->join(), Error);
  }
  EXPECT_LE(children_of(getpid()).size(), children + 1) << "a warden at most";
}

TEST_P(ProcessTest, AClosureOfNumbersMayLookAnyWayItLikes) {
  struct Padded {
    char c;
    double d;
  };
  const Padded padded{'c', 0.25};
  const double number = 1e300;
  const std::uint64_t odd = 0x00007fffffffffffU;
  Process p(options(),
            [padded, number, odd] { return ExitCode{padded.d + number > 0 && odd > 0 ? 9 : 0}; });
  p.start();
  p.join();
  EXPECT_EQ(p.exit_code(), 9);
}

// ---- forked takes anything

TEST_P(ProcessTest, ForkedTakesReferencesPointersAndWhatCannotBeCopied) {
  std::string text = "captured";
  int number = 5;
  int* const pointer = &number;
  auto owned = std::make_unique<int>(6);
  Process p(
      forked,
      [&, moved = std::move(owned)](std::unique_ptr<int> argument, const int* raw) {
        number = 50;  // its own copy
        const bool right = text == "captured" && *moved == 6 && *argument == 7 && *raw == 50;
        return ExitCode{right ? 11 : 1};
      },
      std::make_unique<int>(7), pointer);
  p.start();
  p.join();
  EXPECT_EQ(p.exit_code(), 11);
  EXPECT_EQ(number, 5);
}

TEST_P(ProcessTest, ForkedCopiesTheProcessAsItIsAtTheStart) {
  int number = 1;
  Process p(forked, {.name = "copy"}, [&number] { return ExitCode{number}; });
  EXPECT_EQ(p.name(), "copy");
  number = 2;
  p.start();
  number = 3;
  p.join();
  EXPECT_EQ(p.exit_code(), 2);
}

class Counter : public ProcessBase {
 public:
  Counter(std::string path, int upto)
      : ProcessBase({.name = "counter"}), path_(std::move(path)), upto_(upto) {}
  ~Counter() override = default;
  int seen_by_parent = 0;

 protected:
  void run() override {
    for (int i = 1; i <= upto_; ++i) record(path_, i);
    seen_by_parent = 1;
    if (upto_ == 0) throw std::runtime_error("nothing to count");
  }

 private:
  std::string path_;
  int upto_;
};

TEST_P(ProcessTest, AProcessClassOfOnesOwnRunsOnItsCopyOfTheObject) {
  Counter counter(path("numbers"), 3);
  EXPECT_EQ(counter.name(), "counter");
  counter.start();
  counter.join();
  EXPECT_EQ(counter.exit_code(), 0);
  EXPECT_EQ(recorded(path("numbers")), (std::vector<std::int64_t>{1, 2, 3}));
  EXPECT_EQ(counter.seen_by_parent, 0);

  Capture err(STDERR_FILENO, path("err"));
  Counter failing(path("none"), 0);
  failing.start();
  failing.join();
  EXPECT_EQ(failing.exit_code(), 1);
  EXPECT_NE(err.stop().find("nothing to count"), std::string::npos);
  static_assert(!std::is_move_constructible_v<Counter>);
}

// ---- ownership

TEST_P(ProcessTest, ARunningProcessMayBeMovedAround) {
  std::vector<Process> all;
  for (int i = 0; i < 20; ++i) {
    all.emplace_back(options(), record_and_wait, path("pids"), path("gate"));
    all.back().start();
  }
  Process moved = std::move(all.front());
  all.erase(all.begin());
  EXPECT_TRUE(moved.is_alive());
  all.push_back(std::move(moved));
  open_gate(path("gate"));
  for (Process& p : all) p.join();
  for (Process& p : all) EXPECT_EQ(p.exit_code(), 0);
  EXPECT_EQ(recorded(path("pids")).size(), 20U);
}

TEST_P(ProcessTest, AProcessMovedBeforeItsStartKeepsItsFunctionAndArguments) {
  Process p(options("first"), write_text, path("out"), "text");
  Process moved(std::move(p));
  moved.start();
  moved.join();
  EXPECT_EQ(moved.name(), "first");
  EXPECT_EQ(text_of("out"), "text");
}

TEST_P(ProcessTest, AssigningOverARunningProcessWaitsForIt) {
  Process p(options(), record_and_wait, path("pid"), path("gate"));
  p.start();
  std::thread opener([&] {
    has_recorded(path("pid"));
    open_gate(path("gate"));
  });
  const int old_pid = p.pid();
  p = Process(options(), return_code, 4);
  EXPECT_FALSE(look_at(old_pid).has_value()) << "ended and reaped";
  opener.join();
  EXPECT_EQ(p.pid(), 0);
  p.start();
  p.join();
  EXPECT_EQ(p.exit_code(), 4);
}

TEST_P(ProcessTest, AMovedFromProcessSaysThatThereIsNothing) {
  const StartMethod method = GetParam();
  const HostRun run = run_host([method] {
    Process p(by(method), do_nothing);
    const Process moved(std::move(p));
    HOST_CHECK(p.pid() == 0);
    HOST_CHECK(!p.is_alive());
    HOST_CHECK(!p.exit_code());
    HOST_CHECK(outcome_of([&] { p.join(); }).starts_with("Error"));
    HOST_CHECK(outcome_of([&] { p.start(); }).starts_with("Error"));
    HOST_CHECK(outcome_of([&] { p.terminate(); }).starts_with("Error"));
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
}

TEST_P(ProcessTest, TheDestructorJoinsAProcess) {
  {
    Process p(options(), write_text, path("out"), std::string(1 << 20, 'x'));
    p.start();
  }
  EXPECT_EQ(text_of("out").size(), std::size_t{1} << 20);
}

TEST_P(ProcessTest, TheDestructorEndsADaemon) {
  int pid = 0;
  {
    Process p(options({}, true), record_and_wait, path("pid"), path("gate"));
    p.start();
    pid = p.pid();
    ASSERT_TRUE(has_recorded(path("pid")));
  }
  EXPECT_FALSE(look_at(pid).has_value()) << "ended and reaped";
}

TEST_P(ProcessTest, TheDestructorEndsADaemonThatIgnoresSigterm) {
  int pid = 0;
  const auto begin = std::chrono::steady_clock::now();
  {
    Process p(options({}, true), ignore_sigterm_and_wait, path("pid"), path("gate"));
    p.start();
    pid = p.pid();
    ASSERT_TRUE(has_recorded(path("pid")));
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, kPromisedSecond);
  EXPECT_FALSE(look_at(pid).has_value()) << "ended and reaped";
}

TEST_P(ProcessTest, AnExceptionThatUnwindsEndsTheProcess) {
  int pid = 0;
  try {
    Process p(options(), record_and_wait, path("pid"), path("gate"));
    p.start();
    pid = p.pid();
    has_recorded(path("pid"));
    throw OwnError("unwinding");
  } catch (const OwnError&) {
  }
  EXPECT_FALSE(look_at(pid).has_value()) << "ended and reaped";
}

// ---- what a child is born with

struct SaysItsEnd {
  const char* who;
  ~SaysItsEnd() { say(who); }
};
void register_handler_and_leave(bool by_exit) {
  std::atexit([] { say("handler of the child"); });
  static const SaysItsEnd of_child{"static object of the child"};
  if (by_exit) std::exit(3);
}

std::size_t times(const std::string& text, const std::string& word) {
  std::size_t count = 0;
  for (std::size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) {
    ++count;
  }
  return count;
}

TEST_P(ProcessTest, ExitHandlersRunInTheProcessThatRegisteredThem) {
  for (const bool by_exit : {false, true}) {
    const StartMethod method = GetParam();
    const HostRun run = run_host([method, by_exit] {
      std::atexit([] { say("handler of the parent"); });
      static const SaysItsEnd of_parent{"static object of the parent"};
      Process p(by(method), register_handler_and_leave, by_exit);
      p.start();
      p.join();
      HOST_CHECK(p.exit_code() == (by_exit ? 3 : 0));
      say("joined");
      return 0;
    });
    EXPECT_EQ(run.end, "exit 0");
    EXPECT_EQ(times(run.out, "handler of the parent"), 1U) << run.out;
    EXPECT_EQ(times(run.out, "static object of the parent"), 1U) << run.out;
    EXPECT_EQ(times(run.out, "handler of the child"), 1U) << run.out;
    EXPECT_EQ(times(run.out, "static object of the child"), 1U) << run.out;
    EXPECT_LT(run.out.find("handler of the child"), run.out.find("joined"));
    EXPECT_LT(run.out.find("joined"), run.out.find("handler of the parent"));
  }
}

void print_in_every_way(bool by_exit) {
  std::printf("<printf of the child>");
  std::cout << "<cout of the child>";
  std::clog << "<clog of the child>";
  if (by_exit) std::exit(0);
}

TEST_P(ProcessTest, WhatStreamsHoldIsWrittenOnceAndCompletely) {
  for (const bool by_exit : {false, true}) {
    const StartMethod method = GetParam();
    const HostRun run = run_host([method, by_exit] {
      std::ios::sync_with_stdio(false);
      std::clog.rdbuf(std::cout.rdbuf());
      std::printf("<printf of the parent>");
      std::cout << "<cout of the parent>";
      for (int i = 0; i < 3; ++i) {
        Process p(by(method), print_in_every_way, by_exit);
        p.start();
        p.join();
        HOST_CHECK(p.exit_code() == 0);
      }
      return 0;
    });
    EXPECT_EQ(run.end, "exit 0");
    EXPECT_EQ(times(run.out, "<printf of the parent>"), 1U) << run.out;
    EXPECT_EQ(times(run.out, "<cout of the parent>"), 1U) << run.out;
    for (const char* word :
         {"<printf of the child>", "<cout of the child>", "<clog of the child>"}) {
      // Where clog is to go was said after init().
      if (method != StartMethod::fork && word == std::string_view("<clog of the child>")) continue;
      EXPECT_EQ(times(run.out, word), 3U) << run.out;
    }
    EXPECT_LT(run.out.find("of the parent"), run.out.find("of the child"));
  }
}

void write_what_stdin_is(const std::string& path) {
  std::array<char, 100> target{};
  if (readlink("/proc/self/fd/0", target.data(), target.size() - 1) < 0) _exit(1);
  char byte = 0;
  write_text(path, target.data() + std::string(read(0, &byte, 1) == 0 ? " at its end" : " open"));
}

TEST_P(ProcessTest, ItsInputIsEmpty) {
  Process p(options(), write_what_stdin_is, path("out"));
  p.start();
  p.join();
  EXPECT_EQ(text_of("out"), "/dev/null at its end");
}

void write_signal_state(const std::string& path) {
  std::ofstream out(path);
  out << field_of_status(getpid(), "SigBlk") << " " << field_of_status(getpid(), "SigIgn") << " "
      << field_of_status(getpid(), "SigCgt");
}

TEST_P(ProcessTest, SignalsAreAtTheirDefaultsWhateverTheHostDid) {
  const StartMethod method = GetParam();
  const std::string out = path("signals");
  const std::string pid = path("pid");
  const std::string gate = path("gate");
  const HostRun run = run_host([=] {
    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGTERM);
    sigaddset(&blocked, SIGCHLD);
    sigprocmask(SIG_BLOCK, &blocked, nullptr);
    std::signal(SIGUSR1, SIG_IGN);
    std::signal(SIGPIPE, SIG_IGN);
    std::signal(SIGUSR2, [](int) {});
    Process looks(by(method), write_signal_state, out);
    looks.start();
    looks.join();
    Process waits(by(method), record_and_wait, pid, gate);
    waits.start();
    waits.terminate();
    HOST_CHECK(waits.join_for(kHangGuard));
    HOST_CHECK(waits.exit_code() == -SIGTERM);
    HOST_CHECK(field_of_status(getpid(), "SigBlk") == "0000000000014000");
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
  std::istringstream text(text_of("signals"));
  for (std::string mask; text >> mask;) {
    // The C library's own two real-time signals are nobody's business.
    EXPECT_EQ(std::stoull(mask, nullptr, 16) & ~0x180000000ULL, 0U) << text_of("signals");
  }
}

TEST_P(ProcessTest, SignalsAreAtTheirDefaultsBesideAHostThatIgnoresSigterm) {
  const StartMethod method = GetParam();
  const std::string pid = path("pid");
  const std::string gate = path("gate");
  const HostRun run = run_host([=] {
    std::signal(SIGTERM, SIG_IGN);
    Process p(by(method), record_and_wait, pid, gate);
    p.start();
    p.terminate();
    HOST_CHECK(p.join_for(kHangGuard));
    HOST_CHECK(p.exit_code() == -SIGTERM);
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
}

// ---- many

TEST_P(ProcessTest, TwoHundredAtOnceAreAllAccountedFor) {
  std::vector<Process> all;
  for (int i = 0; i < 200; ++i) {
    all.emplace_back(options(), record_and_wait, path("pids"), path("gate"));
    all.back().start();
  }
  std::mt19937 random(20260111);
  std::vector<bool> killed(all.size());
  for (int i = 0; i < 100; ++i) {
    const std::size_t victim = random() % all.size();
    killed[victim] = true;
    all[victim].kill();
  }
  open_gate(path("gate"));
  for (std::size_t i = 0; i < all.size(); ++i) {
    all[i].join();
    EXPECT_EQ(all[i].exit_code(), killed[i] ? -SIGKILL : 0) << i;
  }
  for (const ProcessInfo& left : children_of(getpid())) {
    EXPECT_EQ(left.name, "brood:warden") << describe({left});
  }
}

TEST_P(ProcessTest, MoreThanFitAtOnceMayFollowEachOther) {
  constexpr int kMoreThanSlots = 2200;
  int ended_well = 0;
  for (int i = 0; i < kMoreThanSlots; ++i) {
    Process p(options(), do_nothing);
    p.start();
    p.join();
    ended_well += p.exit_code() == 0 ? 1 : 0;
  }
  EXPECT_EQ(ended_well, kMoreThanSlots);
}

// ---- processes that use brood themselves

int square(int n) { return n * n; }
ExitCode use_process_and_pool(const std::string& path, StartMethod method) {
  Process inner(by(method), record_own_pid, path);
  inner.start();
  inner.join();
  PoolOptions pool_options;
  pool_options.workers = 2;
  pool_options.start = method;
  Pool pool(pool_options);
  const std::vector<int> squares = pool.map(square, std::vector<int>{1, 2, 3});
  const Death death = [&] {
    try {
      pool.apply(die_of, SIGKILL);
    } catch (const WorkerDied& e) {
      return Death(e);
    }
    return Death{};
  }();
  const bool right = inner.exit_code() == 0 && squares == std::vector<int>{1, 4, 9} &&
                     death.signal == SIGKILL && pool.apply(square, 4) == 16;
  return {right ? 12 : 1};
}

TEST_P(ProcessTest, AChildMayUseProcessesAndPoolsItself) {
  Process p(options(), use_process_and_pool, path("pid"), GetParam());
  p.start();
  p.join();
  EXPECT_EQ(p.exit_code(), 12);
  ASSERT_EQ(recorded(path("pid")).size(), 1U);
  EXPECT_NE(recorded(path("pid")).front(), p.pid());
}

// ---- the death of the host

struct HostFiles {
  std::string daemon_pid, pid, gate, never, sum;
};

// In a process that has survived its host.
void use_a_pool_afterwards(const std::string& pid, const std::string& gate, const std::string& sum,
                           StartMethod method) {
  record_and_wait(pid, gate);
  PoolOptions pool_options;
  pool_options.workers = 2;
  pool_options.start = method;
  Pool pool(pool_options);
  std::int64_t total = 0;
  for (const int n : pool.map(square, std::vector<int>(100, 2))) total += n;
  Process inner(by(method), do_nothing);
  inner.start();
  inner.join();
  record(sum, inner.exit_code() == 0 ? total : -1);
}

int host_that_waits_to_be_killed(const HostFiles& files, StartMethod method) {
  Process daemon(by(method, "daemon", true), record_and_wait, files.daemon_pid, files.never);
  Process independent(by(method, "independent"), use_a_pool_afterwards, files.pid, files.gate,
                      files.sum, method);
  daemon.start();
  independent.start();
  HOST_CHECK(has_recorded(files.daemon_pid) && has_recorded(files.pid));
  say("ready");
  for (;;) pause();
}

TEST_P(ProcessTest, WhenTheHostIsKilledDaemonsGoAndOthersFinish) {
  for (int round = 0; round < 5; ++round) {
    const std::string r = std::to_string(round);
    const HostFiles files{path("daemon" + r), path("pid" + r), path("gate" + r), path("never" + r),
                          path("sum" + r)};
    const StartMethod method = GetParam();
    Host host([&files, method] { return host_that_waits_to_be_killed(files, method); });
    ASSERT_EQ(host.read_line(), "ready");
    const int daemon = static_cast<int>(recorded(files.daemon_pid).front());
    const int independent = static_cast<int>(recorded(files.pid).front());
    host.send(SIGKILL);
    EXPECT_EQ(host.end(), "signal 9");
    const auto killed = std::chrono::steady_clock::now();
    EXPECT_TRUE(wait_until([&] { return !runs(daemon); }, kPromisedSecond));
    EXPECT_LT(std::chrono::steady_clock::now() - killed, 1s * kSlowness);
    EXPECT_TRUE(runs(independent));

    open_gate(files.gate);
    ASSERT_TRUE(has_recorded(files.sum));
    EXPECT_EQ(recorded(files.sum).front(), 400);
    EXPECT_TRUE(host.is_gone_within(kPromisedSecond))
        << "the warden included: " << describe(host.family());
  }
}

TEST_P(ProcessTest, DaemonsOfAProcessGoWithIt) {
  const StartMethod method = GetParam();
  Process parent(
      options(),
      [](const std::string& pid, const std::string& never, StartMethod how) {
        Process daemon(by(how, "daemon", true), record_and_wait, pid, never);
        daemon.start();
        has_recorded(pid);
        raise(SIGKILL);
      },
      path("pid"), path("never"), method);
  parent.start();
  parent.join();
  EXPECT_EQ(parent.exit_code(), -SIGKILL);
  const int daemon = static_cast<int>(recorded(path("pid")).at(0));
  EXPECT_TRUE(wait_until([&] { return !runs(daemon); }, kPromisedSecond));
}

// ---- hosts that fork, have threads, or wait for children of their own

TEST_P(ProcessTest, InAChildThatTheHostForksCopiesAreInert) {
  const StartMethod method = GetParam();
  const std::string pid = path("pid");
  const std::string gate = path("gate");
  const HostRun run = run_host([=] {
    static Process p(by(method, {}, true), record_and_wait, pid, gate);
    p.start();
    const pid_t copy = fork();
    if (copy == 0) {
      HOST_CHECK(outcome_of([] { p.join(); }).starts_with("Error"));
      HOST_CHECK(outcome_of([] { (void)p.is_alive(); }).starts_with("Error"));
      HOST_CHECK(outcome_of([] { (void)p.exit_code(); }).starts_with("Error"));
      HOST_CHECK(outcome_of([] { p.kill(); }).starts_with("Error"));
      HOST_CHECK(outcome_of([] { (void)p.sentinel(); }).starts_with("Error"));
      {
        const Process moved(std::move(p));
      }
      prepare_for(method);
      Process own(by(method), return_code, 8);
      own.start();
      own.join();
      std::exit(own.exit_code() == 8 ? 0 : 72);
    }
    int status = -1;
    HOST_CHECK(waitpid(copy, &status, 0) == copy && status == 0);
    // Once more with nothing moved: its static destructors run.
    const pid_t leaves = fork();
    if (leaves == 0) std::exit(0);
    HOST_CHECK(waitpid(leaves, &status, 0) == leaves && status == 0);
    HOST_CHECK(p.is_alive());
    open_gate(gate);
    p.join();
    HOST_CHECK(p.exit_code() == 0);
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
}

TEST_P(ProcessTest, BesideOtherThreadsOnlyAnExplicitForkIsDone) {
  std::atomic<bool> over{false};
  std::thread other([&] {
    while (!over.load()) std::this_thread::yield();
  });
  Process p({.start = std::nullopt}, do_nothing);
  if (GetParam() != StartMethod::fork) {
    p.start();
    p.join();
    over.store(true);
    other.join();
    EXPECT_EQ(p.exit_code(), 0) << "after init() the default is safe beside threads";
    return;
  }
  try {
    p.start();
    ADD_FAILURE() << "it was started";
  } catch (const StartError& e) {
    EXPECT_NE(std::string(e.what()).find("2 threads"), std::string::npos) << e.what();
  }
  EXPECT_EQ(p.pid(), 0);
  Process explicitly({.start = StartMethod::fork}, return_code, 3);
  Process anything(forked, [] { return ExitCode{4}; });
  explicitly.start();
  anything.start();
  explicitly.join();
  anything.join();
  EXPECT_EQ(explicitly.exit_code(), 3);
  EXPECT_EQ(anything.exit_code(), 4);
  over.store(true);
  other.join();
  p.start();
  p.join();
  EXPECT_EQ(p.exit_code(), 0) << "alone again, it may";
}

void allocate_much(const std::string& path) {
  std::map<int, std::string> all;
  for (int i = 0; i < 1000; ++i) all[i] = std::string(static_cast<std::size_t>(i), 'x');
  std::ofstream(path, std::ios::app) << all.size() << "\n";
}

TEST_P(ProcessTest, AnExplicitForkWorksWhileThreadsAreInTheHeap) {
  std::atomic<bool> over{false};
  std::vector<std::thread> storm;
  for (unsigned t = 0; t < 8; ++t) {
    storm.emplace_back([&over, t] {
      std::mt19937 random(t);
      std::vector<std::unique_ptr<std::string>> kept(64);
      while (!over.load(std::memory_order_relaxed)) {
        kept[random() % kept.size()] = std::make_unique<std::string>(random() % 50'000, 'x');
      }
    });
  }
  constexpr int kRounds = 50;
  for (int i = 0; i < kRounds; ++i) {
    Process p({.start = StartMethod::fork}, allocate_much, path("out"));
    p.start();
    EXPECT_TRUE(p.join_for(kHangGuard));
    EXPECT_EQ(p.exit_code(), 0);
    if (p.is_alive()) p.kill();
  }
  over.store(true);
  for (std::thread& t : storm) t.join();
  EXPECT_EQ(times(text_of("out"), "1000\n"), std::size_t{kRounds});
}

TEST_P(ProcessTest, AHostThatIgnoresItsChildrensEndStillGetsTheirStatus) {
  const StartMethod method = GetParam();
  const HostRun run = run_host([method] {
    std::signal(SIGCHLD, SIG_IGN);
    for (int code = 0; code < 20; ++code) {
      Process p(by(method), return_code, code);
      p.start();
      p.join();
      HOST_CHECK(p.exit_code() == code);
    }
    Process killed(by(method), die_of, SIGKILL);
    killed.start();
    killed.join();
    HOST_CHECK(killed.exit_code() == -SIGKILL);
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
}

TEST_P(ProcessTest, JoinEndsAlsoIfTheSystemReapedTheChildOfAThreadedHost) {
  const HostRun run = run_host([] {
    std::signal(SIGCHLD, SIG_IGN);
    std::atomic<bool> over{false};
    std::thread other([&] {
      while (!over.load()) std::this_thread::yield();
    });
    for (int i = 0; i < 10; ++i) {
      Process p({.start = StartMethod::fork}, return_code, 5);
      p.start();
      HOST_CHECK(p.join_for(kHangGuard));
      HOST_CHECK(!p.is_alive());
      HOST_CHECK(!p.exit_code() || *p.exit_code() == 5);
    }
    over.store(true);
    other.join();
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
}

TEST_P(ProcessTest, AHostThatWaitsForAnyChildIsNotDisturbed) {
  const StartMethod method = GetParam();
  const std::string pids = path("pids");
  const std::string gate = path("gate");
  const HostRun run = run_host([=] {
    static std::atomic<int> signals{0};
    std::signal(SIGCHLD, [](int) { ++signals; });
    std::vector<Process> all;
    for (int i = 0; i < 20; ++i) {
      all.emplace_back(by(method), record_and_wait, pids, gate);
      all.back().start();
    }
    all[3].kill();
    all[3].join();
    const pid_t own = fork();
    if (own == 0) _exit(5);
    int status = 0;
    int ended = 0;
    while (::wait(&status) > 0) ++ended;
    HOST_CHECK(ended == 1 && WEXITSTATUS(status) == 5);
    open_gate(gate);
    for (std::size_t i = 0; i < all.size(); ++i) {
      all[i].join();
      HOST_CHECK(all[i].exit_code() == (i == 3 ? -SIGKILL : 0));
    }
    HOST_CHECK(::wait(&status) == -1);
    HOST_CHECK(signals == 1);
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
}

TEST_P(ProcessTest, WhenTheHostEndsWithoutAJoinStaticProcessesAreJoined) {
  const StartMethod method = GetParam();
  const std::string out = path("out");
  const HostRun run = run_host([=] {
    static Process p(by(method), write_text, out, std::string(1 << 20, 'y'));
    p.start();
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
  EXPECT_EQ(text_of("out").size(), std::size_t{1} << 20);
}

}  // namespace
}  // namespace brood::test
