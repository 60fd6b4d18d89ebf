// What is logged: where it goes, what it says, and what children have of it.
#include "brood/log.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <fstream>
#include <mutex>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "brood/pool.hpp"
#include "brood/process.hpp"
#include "support/capture.hpp"
#include "support/host.hpp"
#include "support/ledger.hpp"
#include "support/pools.hpp"

namespace brood::test {
namespace {

class LogTest : public testing::Test {
 protected:
  ~LogTest() override {
    set_log_sink({});
    set_log_level(LogLevel::warning);
  }
  [[nodiscard]] std::string path(const std::string& name) const { return folder_.path(name); }

 private:
  TempFolder folder_;
};

// A sink that writes what it gets to a file, for children that have a copy of it.
LogSink to_file(const std::string& path) {
  return [path](const LogRecord& record) {
    std::ofstream(path, std::ios::app) << record.process << ": " << record.text << "\n";
  };
}
std::string text_of(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

TEST_F(LogTest, WarningsAndWorseGoToStderrAsPythonWritesThem) {
  Capture err(STDERR_FILENO, path("err"));
  log(LogLevel::debug, "one");
  log(LogLevel::info, "two");
  log(LogLevel::warning, "three");
  log(LogLevel::error, "");
  EXPECT_EQ(err.stop(), "[WARNING/MainProcess] three\n[ERROR/MainProcess] \n");
}

TEST_F(LogTest, TheLevelHoldsForStderrToo) {
  Capture err(STDERR_FILENO, path("err"));
  EXPECT_EQ(set_log_level(LogLevel::debug), LogLevel::warning);
  EXPECT_EQ(log_level(), LogLevel::debug);
  log(LogLevel::debug, "one");
  log(LogLevel::info, "two");
  EXPECT_EQ(set_log_level(LogLevel::error), LogLevel::debug);
  log(LogLevel::warning, "three");
  EXPECT_EQ(err.stop(), "[DEBUG/MainProcess] one\n[INFO/MainProcess] two\n");
}

TEST_F(LogTest, ASinkGetsWhatIsOfItsLevelAndWorse) {
  Capture err(STDERR_FILENO, path("err"));
  std::vector<std::string> got;
  set_log_sink([&](const LogRecord& record) { got.push_back(record.text); });
  set_log_level(LogLevel::info);
  log(LogLevel::debug, "nobody sees this");
  log(LogLevel::info, "this is seen");
  log(LogLevel::error, "and this");
  EXPECT_EQ(got, (std::vector<std::string>{"this is seen", "and this"}));
  EXPECT_EQ(err.stop(), "");
}

TEST_F(LogTest, ARecordTellsWhoWhenAndWhere) {
  LogRecord got;
  set_log_sink([&](const LogRecord& record) { got = record; });
  const auto before = std::chrono::system_clock::now();
  const int line = __LINE__ + 1;
  log(LogLevel::warning, "text");
  EXPECT_EQ(got.level, LogLevel::warning);
  EXPECT_EQ(got.pid, getpid());
  EXPECT_EQ(got.process, "MainProcess");
  EXPECT_EQ(got.text, "text");
  EXPECT_GE(got.time, before);
  EXPECT_LE(got.time, std::chrono::system_clock::now());
  EXPECT_TRUE(std::string(got.file).ends_with("log_test.cpp")) << got.file;
  EXPECT_EQ(got.line, line);
}

TEST_F(LogTest, SettingASinkReturnsTheFormerOne) {
  int first = 0;
  int second = 0;
  EXPECT_FALSE(set_log_sink([&](const LogRecord&) { ++first; }));
  const LogSink former = set_log_sink([&](const LogRecord&) { ++second; });
  ASSERT_TRUE(former);
  log(LogLevel::warning, "for the second");
  set_log_sink(former);
  log(LogLevel::warning, "for the first");
  EXPECT_EQ(first, 1);
  EXPECT_EQ(second, 1);
  EXPECT_TRUE(set_log_sink({}));
  EXPECT_FALSE(set_log_sink({}));
}

TEST_F(LogTest, ASinkIsDestroyedWhenAnotherHasTakenItsPlace) {
  auto held = std::make_shared<int>(1);
  set_log_sink([held](const LogRecord&) {});
  EXPECT_EQ(held.use_count(), 2);
  set_log_sink([](const LogRecord&) {});
  EXPECT_EQ(held.use_count(), 1);
  set_log_sink([held](const LogRecord&) { set_log_sink({}); });
  log(LogLevel::warning, "it replaces itself while it runs");
  EXPECT_EQ(held.use_count(), 1);
}

TEST_F(LogTest, WhatASinkThrowsOrLogsGoesToStderr) {
  Capture err(STDERR_FILENO, path("err"));
  set_log_sink([](const LogRecord&) { throw 42; });
  log(LogLevel::warning, "not lost");
  set_log_sink([](const LogRecord& record) { log(LogLevel::error, "about " + record.text); });
  log(LogLevel::warning, "this");
  set_log_sink([](const LogRecord&) { throw std::runtime_error("again"); });
  log(LogLevel::warning, "not lost either");
  EXPECT_EQ(err.stop(),
            "[WARNING/MainProcess] not lost\n[ERROR/MainProcess] about this\n"
            "[WARNING/MainProcess] not lost either\n");
}

TEST_F(LogTest, AClosedStderrCostsNothing) {
  const HostRun run = run_host([] {
    close(STDERR_FILENO);
    log(LogLevel::error, "to nobody");
    Process p(forked, [] { log(LogLevel::error, "to nobody"); });
    p.start();
    p.join();
    return p.exit_code().value_or(1);
  });
  EXPECT_EQ(run.end, "exit 0");
}

// ---- children

TEST_F(LogTest, ForkedChildrenInheritSinkAndLevel) {
  set_log_sink(to_file(path("log")));
  set_log_level(LogLevel::info);
  const auto tell = [] {
    log(LogLevel::debug, "hidden");
    log(LogLevel::info, log_level() == LogLevel::info ? "inherited" : "another level");
  };
  Process child(forked, {.name = "child"}, [&] {
    tell();
    Process grandchild(forked, tell);
    grandchild.start();
    grandchild.join();
    set_log_level(LogLevel::error);
  });
  child.start();
  child.join();
  EXPECT_EQ(text_of(path("log")), "child: inherited\nchild:1: inherited\n");
  EXPECT_EQ(log_level(), LogLevel::info) << "a child's level is its own";
}

TEST_F(LogTest, WorkersHaveTheNamesThatPsShows) {
  set_log_sink(to_file(path("log")));
  PoolOptions options;
  options.workers = 1;
  options.name = "parsers";
  options.start = StartMethod::fork;
  Pool pool(options);
  pool.apply([] { log(LogLevel::warning, "from a task"); });
  EXPECT_EQ(text_of(path("log")), "brood:parsers/0: from a task\n");
}

TEST_F(LogTest, ASinkMayStartAProcessThatLogs) {
  const std::string at = path("log");
  set_log_sink([at](const LogRecord& record) {
    to_file(at)(record);
    if (record.text != "first") return;
    Process p(forked, {.name = "child"}, [] { log(LogLevel::warning, "second"); });
    p.start();
    p.join();
  });
  log(LogLevel::warning, "first");
  EXPECT_EQ(text_of(at), "MainProcess: first\nchild: second\n");
}

TEST_F(LogTest, LinesOfSeveralProcessesDoNotMix) {
  Capture err(STDERR_FILENO, path("err"));
  constexpr int kProcesses = 4;
  constexpr int kLines = 200;
  const std::string text(500, 'x');
  std::vector<Process> all;
  for (int i = 0; i < kProcesses; ++i) {
    all.emplace_back(forked, ProcessOptions{.name = "p"}, [&] {
      for (int n = 0; n < kLines; ++n) log(LogLevel::warning, text);
    });
    all.back().start();
  }
  for (Process& p : all) p.join();
  std::istringstream lines(err.stop());
  int count = 0;
  for (std::string line; std::getline(lines, line); ++count) {
    EXPECT_EQ(line, "[WARNING/p] " + text);
  }
  EXPECT_EQ(count, kProcesses * kLines);
}

TEST_F(LogTest, ThreadsMayLogAndChangeSinksWhileChildrenAreForked) {
  std::atomic<bool> over{false};
  std::atomic<int> seen{0};
  std::vector<std::thread> storm;
  for (int t = 0; t < 2; ++t) {
    storm.emplace_back([&] {
      while (!over.load()) log(LogLevel::error, std::string(100, 'x'));
    });
    storm.emplace_back([&] {
      while (!over.load()) {
        set_log_sink([&, ballast = std::string(100, 'y')](const LogRecord& record) {
          if (record.text.size() == ballast.size()) ++seen;
        });
      }
    });
  }
  // Not before there is a sink: what it gets is not for stderr.
  wait_until([&] { return seen.load() > 0; });
  for (int i = 0; i < 100; ++i) {
    Process p(forked, [] {
      int got = 0;
      log(LogLevel::error, "to the inherited sink");
      set_log_sink([&](const LogRecord&) { ++got; });
      log(LogLevel::error, "to its own");
      return ExitCode{got};
    });
    p.start();
    EXPECT_TRUE(p.join_for(kHangGuard)) << "something was left locked";
    if (p.is_alive()) p.kill();
    EXPECT_EQ(p.exit_code(), 1);
  }
  over.store(true);
  for (std::thread& t : storm) t.join();
}

}  // namespace
}  // namespace brood::test
