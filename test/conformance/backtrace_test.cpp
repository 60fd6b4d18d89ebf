// Where an exception of a task was thrown, by name and by line.
#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <random>
#include <ranges>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "brood/backtrace.hpp"
#include "brood/pool.hpp"
#include "brood/process.hpp"
#include "brood/thread_pool.hpp"
#include "support/capture.hpp"
#include "support/pools.hpp"

namespace brood::test {
namespace {

class BacktraceTest : public PoolConformance {};
BROOD_FOR_EACH_START_METHOD(BacktraceTest);

struct Odd {
  int number;
};

// Not inlined, and more to do after the call: each has a frame of its own.
[[gnu::noinline]] int throw_below(int n) {
  if (n >= 0) throw std::runtime_error("number " + std::to_string(n));
  return n;
}
[[gnu::noinline]] int caller_of_the_thrower(int n) { return throw_below(n) + 1; }
[[gnu::noinline]] int throw_an_odd_one(int n) {
  if (n >= 0) throw Odd{n};
  return n;
}
[[gnu::noinline]] int throw_it_again(int n) {
  try {
    return caller_of_the_thrower(n) + 1;
  } catch (const std::exception&) {
    if (n % 2 == 0) throw;
    throw std::logic_error("another");
  }
}
[[gnu::noinline]] int throw_a_kept_one(int n) {
  std::exception_ptr kept;
  try {
    return caller_of_the_thrower(n) + 1;
  } catch (...) {
    kept = std::current_exception();
  }
  std::rethrow_exception(kept);
}
[[gnu::noinline]] int throw_at_the_bottom(int n) {
  volatile int depth = n;
  if (depth == 0) throw std::length_error("deep");
  return throw_at_the_bottom(n - 1) + depth;
}
// What it catches itself is nobody else's.
[[gnu::noinline]] int catch_many_and_throw(int n) {
  for (int i = 0; i < n; ++i) {
    try {
      caller_of_the_thrower(i);
    } catch (const std::exception&) {
      continue;
    }
  }
  return throw_an_odd_one(n) + 1;
}
[[gnu::noinline]] int throw_at_seven(int n) {
  return n == 7 ? caller_of_the_thrower(n) + 1 : 2 * n;
}
int twice(int n) { return 2 * n; }

// Throws while it is encoded.
struct Unwilling {
  int number = 0;
  template <class Archive>
  [[gnu::noinline]] void serialize(Archive& archive) {
    if (number == 1) caller_of_the_thrower(1);
    archive(number);
  }
};

template <class F>
RemoteInfo info_of(F&& run) {
  try {
    run();
  } catch (const std::exception& e) {
    const RemoteInfo* info = remote_info(e);
    if (info != nullptr) return *info;
    ADD_FAILURE() << "not of a task: " << e.what();
    return {};
  }
  ADD_FAILURE() << "nothing was thrown";
  return {};
}

template <class F>
std::string backtrace_of(F&& run) {
  return info_of(run).backtrace.text();
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

// Frame `number` is in that function.
void expect_frame(const std::string& backtrace, std::size_t number, const std::string& function) {
  const auto lines = lines_of(backtrace);
  ASSERT_GT(lines.size(), number) << backtrace;
  EXPECT_TRUE(lines[number].starts_with("#" + std::to_string(number) + " ")) << backtrace;
  EXPECT_NE(lines[number].find(function + "("), std::string::npos) << backtrace;
}

// It begins with the thrower and its caller, and nothing of the library or the runtime is in it.
void expect_throw_below(const std::string& backtrace) {
  expect_frame(backtrace, 0, "throw_below");
  expect_frame(backtrace, 1, "caller_of_the_thrower");
  for (const char* name : {"worker", "run_task", "Unwind", "__cxa", "NoException"}) {
    EXPECT_EQ(backtrace.find(name), std::string::npos) << backtrace;
  }
}

TEST_P(BacktraceTest, AStandardExceptionTellsWhereItWasThrown) {
  Pool pool(with(1));
  for (int i = 0; i < 3; ++i) {
    const RemoteInfo info = info_of([&] { pool.apply(caller_of_the_thrower, i); });
    expect_throw_below(info.backtrace);
    EXPECT_FALSE(info.backtrace.empty());
    std::ostringstream printed;
    printed << info.backtrace;
    EXPECT_EQ(printed.str(), info.backtrace.text());
  }
  EXPECT_EQ(pool.apply(twice, 2), 4);
}

TEST_P(BacktraceTest, ATypeOfTheUsersTellsToo) {
  Pool pool(with(1));
  try {
    pool.apply(throw_an_odd_one, 1);
    ADD_FAILURE() << "nothing was thrown";
  } catch (const RemoteError& e) {
    expect_frame(e.backtrace, 0, "throw_an_odd_one");
  }
  expect_frame(backtrace_of([&] { pool.apply(catch_many_and_throw, 20); }), 1,
               "catch_many_and_throw");
}

TEST_P(BacktraceTest, ItIsOfTheLastThrow) {
  Pool pool(with(1));
  expect_frame(backtrace_of([&] { pool.apply(throw_it_again, 2); }), 0, "throw_it_again");
  expect_frame(backtrace_of([&] { pool.apply(throw_it_again, 3); }), 0, "throw_it_again");
  expect_frame(backtrace_of([&] { pool.apply(throw_a_kept_one, 2); }), 0, "throw_a_kept_one");
}

TEST_P(BacktraceTest, AThrowInTheStandardLibraryNamesItsCaller) {
  Pool pool(with(1));
  const std::string backtrace = backtrace_of(
      [&] { pool.apply(+[](std::vector<int> v) { return v.at(5) + 1; }, std::vector<int>()); });
  EXPECT_NE(backtrace, "");
  EXPECT_EQ(backtrace.find("Unwind"), std::string::npos) << backtrace;
}

TEST_P(BacktraceTest, ADeepStackIsCutOff) {
  Pool pool(with(1));
  const std::string backtrace = backtrace_of([&] { pool.apply(throw_at_the_bottom, 5000); });
  expect_frame(backtrace, 0, "throw_at_the_bottom");
  expect_frame(backtrace, 31, "throw_at_the_bottom");
  EXPECT_EQ(std::ranges::count(backtrace, '\n'), 32);
}

TEST_P(BacktraceTest, EachElementOfMapHasItsOwn) {
  Pool pool(with(2));
  const auto results = pool.map_results(throw_at_seven, std::views::iota(0, 20));
  for (std::size_t i = 0; i < 20; ++i) {
    if (i != 7) {
      EXPECT_EQ(results[i].value(), 2 * static_cast<int>(i));
      continue;
    }
    const std::string backtrace = backtrace_of([&] { static_cast<void>(results[i].value()); });
    expect_throw_below(backtrace);
    expect_frame(backtrace, 2, "throw_at_seven");
  }
}

TEST_P(BacktraceTest, WhatAResultThrowsWhileItIsEncodedTells) {
  Pool pool(with(1));
  expect_throw_below(backtrace_of([&] {
    pool.apply([] {
      Unwilling result;
      result.number = 1;
      return result;
    });
  }));
}

TEST_P(BacktraceTest, OfSeveralAttemptsItIsTheLast) {
  PoolOptions options = with(1);
  options.retries = 2;
  options.retry_exceptions = true;
  Pool pool(options);
  const RemoteInfo info = info_of([&] {
    pool.apply([] {
      static int attempts = 0;
      ++attempts;
      return attempts < 3 ? throw_an_odd_one(1) : caller_of_the_thrower(attempts) + 1;
    });
  });
  EXPECT_EQ(info.attempts, 3);
  expect_throw_below(info.backtrace);
}

TEST_P(BacktraceTest, AThrowInALibraryThatWasLoadedLaterTells) {
  if (kSanitized) GTEST_SKIP() << "the tool refuses calls of functions it was not built into";
  Pool pool(with(1));
  const std::string backtrace = backtrace_of([&] {
    pool.apply(
        [](std::string library) {
          void* handle = dlopen(library.c_str(), RTLD_NOW);
          if (handle == nullptr) _exit(1);
          reinterpret_cast<void (*)(int)>(dlsym(handle, "throw_in_a_library"))(1);
        },
        std::string(BROOD_CRASHING_LIBRARY));
  });
  expect_frame(backtrace, 0, "static_throw");
  EXPECT_NE(lines_of(backtrace)[0].find(BROOD_CRASHING_LIBRARY), std::string::npos) << backtrace;
}

TEST_P(BacktraceTest, ATaskOfATaskTellsWhatItTold) {
  Pool pool(with(1));
  const std::string inner = pool.apply(
      [](StartMethod method) {
        PoolOptions options;
        options.workers = 1;
        options.start = method;
        Pool nested(options);
        return backtrace_of([&] { nested.apply(caller_of_the_thrower, 1); });
      },
      GetParam());
  expect_throw_below(inner);
}

TEST_P(BacktraceTest, WhatFailsBeforeTheFirstTaskTells) {
  for (const bool preload : {false, true}) {
    PoolOptions options = with(1);
    (preload ? options.preload : options.initializer) = Initializer(caller_of_the_thrower, 1);
    Pool pool(options);
    try {
      pool.apply(twice, 1);
      ADD_FAILURE() << "nothing was thrown";
    } catch (const InitializerFailed& e) {
      expect_throw_below(backtrace_of([&] { std::rethrow_exception(e.cause()); }));
    }
  }
}

TEST_P(BacktraceTest, AProcessPrintsItsOwn) {
  Capture capture(STDERR_FILENO, "/tmp/brood-backtrace-" + std::to_string(getpid()));
  {
    ProcessOptions options;
    options.start = GetParam();
    Process process(options, caller_of_the_thrower, 1);
    process.start();
    process.join();
  }
  const std::string printed = capture.stop();
  const std::size_t end = printed.find('\n');
  ASSERT_NE(end, std::string::npos);
  EXPECT_NE(printed.substr(0, end).find("std::runtime_error: number 1"), std::string::npos);
  expect_throw_below(printed.substr(end + 1));
}

TEST_P(BacktraceTest, SourceLinesAreAddedWhereThereIsATool) {
  Pool pool(with(1));
  const std::string backtrace = backtrace_of([&] { pool.apply(caller_of_the_thrower, 1); });
  const std::string with_lines = with_source_lines(backtrace);
  if (with_lines == backtrace) GTEST_SKIP() << "no tool, or no debug information";
  const auto plain = lines_of(backtrace);
  const auto lined = lines_of(with_lines);
  ASSERT_EQ(lined.size(), plain.size());
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_TRUE(lined[i].starts_with(plain[i])) << lined[i];
    EXPECT_NE(lined[i].find("backtrace_test.cpp:"), std::string::npos) << lined[i];
  }
}

// One variable of the environment for a while.
class Variable {
 public:
  Variable(const char* name, const std::string& value)
      : name_(name), before_(std::getenv(name) != nullptr ? std::getenv(name) : "") {
    setenv(name, value.c_str(), 1);
  }
  ~Variable() { setenv(name_, before_.c_str(), 1); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  const char* name_;
  std::string before_;
};

TEST(SourceLinesTest, WithoutAToolTheTextStaysAsItIs) {
  const std::string text = "#0 main + 0x1 at /proc/self/exe[0x1000]\n#1 ? at ?[0x0]";
  const Variable path("PATH", ":.:/nowhere");
  EXPECT_EQ(with_source_lines(text), text);
}

int children_told_of = 0;

// A host that is told of its children, or does not want to be, sees nothing of the tool.
TEST(SourceLinesTest, TheHostHearsNothingOfTheTool) {
  struct sigaction old{};
  struct sigaction handler{};
  for (const bool ignored : {false, true}) {
    handler.sa_handler = ignored ? SIG_IGN : +[](int) { ++children_told_of; };
    sigaction(SIGCHLD, &handler, &old);
    const std::string text = with_source_lines("#0 main + 0x1 at /bin/sh[0x1000]\n");
    EXPECT_TRUE(text.starts_with("#0 main + 0x1 at /bin/sh[0x1000]"));
    sigaction(SIGCHLD, &old, nullptr);
    EXPECT_EQ(children_told_of, 0);
    EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1);
  }
}

TEST(SourceLinesTest, WhatIsNoBacktraceStaysAsItIs) {
  for (const std::string text :
       {"", "\n", "hello", "#0 x at /[0x]\n", "#0 x at /nowhere[0x12]\n\n", "#0 at /x[0xzz]",
        "#0 x at /dev/zero[0x1]", "#0 x at ?[0x10]\n", "# at /]"}) {
    EXPECT_EQ(with_source_lines(text), text);
  }
}

TEST(SourceLinesTest, AToolThatFailsIsAsNone) {
  const std::string text = "#0 main + 0x1 at /bin/sh[0x1000]\n";
  const std::string directory = "/tmp/brood-tools-" + std::to_string(getpid());
  std::filesystem::create_directory(directory);
  for (const char* program : {"/bin/true", "/bin/false", "/bin/echo"}) {
    std::filesystem::create_symlink(program, directory + "/addr2line");
    {
      const Variable path("PATH", directory);
      EXPECT_EQ(with_source_lines(text), text) << program;
    }
    std::filesystem::remove(directory + "/addr2line");
  }
  std::filesystem::remove(directory);
}

// Whatever bytes come for one, its text is one, or empty.
TEST(BacktraceBytesTest, AnyBytesAreABacktrace) {
  std::mt19937 random(7);
  for (int round = 0; round < 3000; ++round) {
    std::vector<std::byte> bytes(random() % 400);
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
    for (std::size_t at = 0; at < bytes.size(); at += 1 + random() % 20) {
      bytes[at] = static_cast<std::byte>(1 + random() % 2);
    }
    const std::string text = Backtrace(bytes).text();
    for (const char c : text) EXPECT_TRUE(c == '\n' || (c >= ' ' && c != 0x7f));
    EXPECT_LE(std::ranges::count(text, '\n'), 32);
  }
  EXPECT_TRUE(Backtrace().empty());
  EXPECT_EQ(Backtrace().text(), "");
}

TEST(BacktraceThreadTest, AThreadPoolsExceptionsArriveUnchanged) {
  ThreadPool pool(2);
  EXPECT_THROW(pool.apply(throw_an_odd_one, 1), Odd);
  EXPECT_THROW(static_cast<void>(pool.map(throw_at_seven, std::views::iota(0, 20))),
               std::runtime_error);
}

}  // namespace
}  // namespace brood::test
