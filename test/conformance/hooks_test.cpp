// Actions at the end of a process and at the beginning of its children.
#include "brood/hooks.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
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

class ExitActionsTest : public StartMethodTest {};
BROOD_FOR_EACH_START_METHOD(ExitActionsTest);

ProcessOptions by(StartMethod method) { return {.start = method}; }
void at_exit_say(const std::string& text) {
  at_exit([text] { say(text); });
}

enum class Leaves { by_return, by_exit, by_throw, by_underscore_exit, by_death };

void register_and_leave(Leaves how) {
  for (const char* text : {"1", "2", "3"}) at_exit_say(text);
  if (how == Leaves::by_exit) std::exit(0);
  if (how == Leaves::by_throw) throw std::runtime_error("expected");
  if (how == Leaves::by_underscore_exit) _exit(0);
  if (how == Leaves::by_death) raise(SIGKILL);
}

// ---- at_exit

TEST_P(ExitActionsTest, AChildRunsItsOwnLastFirstIfItEndsInOrder) {
  const StartMethod method = GetParam();
  const auto said = [method](Leaves how) {
    const HostRun run = run_host([method, how] {
      if (how == Leaves::by_throw) close(STDERR_FILENO);
      at_exit_say("host");
      Process p(by(method), register_and_leave, how);
      p.start();
      p.join();
      say("joined");
      return 0;
    });
    EXPECT_EQ(run.end, "exit 0");
    return run.out;
  };
  EXPECT_EQ(said(Leaves::by_return), "3\n2\n1\njoined\nhost\n");
  EXPECT_EQ(said(Leaves::by_exit), "3\n2\n1\njoined\nhost\n");
  EXPECT_EQ(said(Leaves::by_throw), "3\n2\n1\njoined\nhost\n");
  EXPECT_EQ(said(Leaves::by_underscore_exit), "joined\nhost\n");
  EXPECT_EQ(said(Leaves::by_death), "joined\nhost\n");
}

TEST_P(ExitActionsTest, AWorkerRunsItsOwnWhenItsPoolIsClosed) {
  const StartMethod method = GetParam();
  const HostRun run = run_host([method] {
    at_exit_say("host");
    PoolOptions options;
    options.workers = 1;
    options.start = method;
    Pool pool(options);
    pool.apply(at_exit_say, std::string("1"));
    pool.apply(at_exit_say, std::string("2"));
    pool.close();
    pool.join();
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
  EXPECT_EQ(run.out, "2\n1\nhost\n");
}

TEST(ExitActionsHostTest, TheyRunAtTheEndOfTheHostHoweverItIsWritten) {
  for (const bool by_exit : {false, true}) {
    const HostRun run = run_host([by_exit] {
      for (const char* text : {"1", "2", "3"}) at_exit_say(text);
      if (by_exit) std::exit(0);
      return 0;
    });
    EXPECT_EQ(run.end, "exit 0");
    EXPECT_EQ(run.out, "3\n2\n1\n");
  }
}

struct SaysItsEnd {
  const char* who;
  ~SaysItsEnd() { say(who); }
};

TEST(ExitActionsHostTest, TheyAreOfOneOrderWithHandlersAndStaticObjects) {
  const HostRun run = run_host([] {
    at_exit_say("1");
    std::atexit([] { say("handler 2"); });
    at_exit_say("3");
    static const SaysItsEnd object{"object 4"};
    at_exit_say("5");
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
  EXPECT_EQ(run.out, "5\nobject 4\n3\nhandler 2\n1\n");
}

TEST(ExitActionsHostTest, AnExceptionIsPrintedAndTheOthersRun) {
  const TempFolder folder;
  Capture err(STDERR_FILENO, folder.path("err"));
  const HostRun run = run_host([] {
    at_exit_say("1");
    at_exit([] { throw 42; });
    at_exit_say("2");
    at_exit([] { throw std::runtime_error("out of paper"); });
    at_exit_say("3");
    return 0;
  });
  const std::string text = err.stop();
  EXPECT_EQ(run.end, "exit 0");
  EXPECT_EQ(run.out, "3\n2\n1\n");
  EXPECT_NE(text.find("[ERROR/MainProcess]"), std::string::npos) << text;
  EXPECT_NE(text.find("std::runtime_error: out of paper"), std::string::npos) << text;
  EXPECT_NE(text.find("int"), std::string::npos) << text;
}

TEST(ExitActionsHostTest, AnActionMayRegisterAnother) {
  const HostRun run = run_host([] {
    at_exit_say("1");
    at_exit([] {
      at_exit_say("3");
      say("2");
    });
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
  EXPECT_EQ(run.out, "2\n3\n1\n");
}

TEST(ExitActionsHostTest, AChildThatTheHostForksRunsItsOwnOnly) {
  const HostRun run = run_host([] {
    at_exit_say("host");
    const pid_t child = fork();
    if (child == 0) {
      at_exit_say("child");
      std::exit(0);
    }
    int status = -1;
    HOST_CHECK(waitpid(child, &status, 0) == child && status == 0);
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
  EXPECT_EQ(run.out, "child\nhost\n");
}

TEST(ExitActionsHostTest, NothingToCallIsRefused) {
  EXPECT_THROW(at_exit({}), Error);
  EXPECT_THROW(after_fork(nullptr), Error);
}

TEST(ExitActionsHostTest, ThreadsMayRegisterWhileChildrenAreForked) {
  constexpr int kThreads = 4;
  constexpr int kEach = 2000;
  const HostRun run = run_host([] {
    static std::atomic<int> ran{0};
    at_exit([] { HOST_CHECK(ran.load() == kThreads * kEach); });
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([] {
        for (int i = 0; i < kEach; ++i) at_exit([] { ++ran; });
      });
    }
    for (int i = 0; i < 30; ++i) {
      Process p(forked, [] {
        at_exit([] { HOST_CHECK(ran.fetch_add(1) == 0); });
        return ExitCode{3};
      });
      p.start();
      HOST_CHECK(p.join_for(kHangGuard));
      HOST_CHECK(p.exit_code() == 3);
    }
    for (std::thread& t : threads) t.join();
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
}

// ---- after_fork

void after_fork_say(const std::string& text) {
  after_fork([text] { say(text); });
}

TEST(ForkActionsTest, TheyRunInOrderInTheChildBeforeItsFunction) {
  const HostRun run = run_host([] {
    static const int host = getpid();
    after_fork([] { HOST_CHECK(getpid() != host); });
    for (const char* text : {"1", "2", "2"}) after_fork_say(text);
    Process p(forked, [] { say("function"); });
    p.start();
    p.join();
    return p.exit_code().value_or(1);
  });
  EXPECT_EQ(run.end, "exit 0");
  EXPECT_EQ(run.out, "1\n2\n2\nfunction\n");
}

TEST(ForkActionsTest, TheyRunOncePerWorkerBeforeItsTasks) {
  const HostRun run = run_host([] {
    static int actions = 0;
    after_fork([] { ++actions; });
    PoolOptions options;
    options.workers = 2;
    options.start = StartMethod::fork;
    Pool pool(options);
    for (const int seen : pool.map([](int) { return actions; }, std::vector<int>(100))) {
      HOST_CHECK(seen == 1);
    }
    HOST_CHECK(actions == 0);
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
}

TEST(ForkActionsTest, AnExceptionIsPrintedAndTheChildGoesOn) {
  const TempFolder folder;
  Capture err(STDERR_FILENO, folder.path("err"));
  const HostRun run = run_host([] {
    after_fork([] { throw std::runtime_error("out of paper"); });
    after_fork_say("the next one");
    Process p(forked, {.name = "child"}, [] { say("function"); });
    p.start();
    p.join();
    return p.exit_code().value_or(1);
  });
  EXPECT_EQ(run.end, "exit 0");
  EXPECT_EQ(run.out, "the next one\nfunction\n");
  EXPECT_NE(err.stop().find("[ERROR/child]"), std::string::npos);
}

TEST(ForkActionsTest, AChildThatTheHostForksDoesNotRunThem) {
  const HostRun run = run_host([] {
    after_fork_say("action");
    const pid_t child = fork();
    if (child == 0) _exit(0);
    HOST_CHECK(waitpid(child, nullptr, 0) == child);
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
  EXPECT_EQ(run.out, "");
}

int actions_in_this_process = 0;
int generations(int left) {
  const int here = actions_in_this_process;
  actions_in_this_process = 0;
  if (left == 0) return here;
  Process p(forked, [left] { return ExitCode{generations(left - 1)}; });
  p.start();
  p.join();
  return p.exit_code() == here ? here : 99;
}

TEST(ForkActionsTest, TheirNumberIsTheSameInEachGeneration) {
  const HostRun run = run_host([] {
    for (int i = 0; i < 3; ++i) after_fork([] { ++actions_in_this_process; });
    Process p(forked, [] { return ExitCode{generations(5)}; });
    p.start();
    p.join();
    return p.exit_code().value_or(98);
  });
  EXPECT_EQ(run.end, "exit 3");
}

TEST(ForkActionsTest, WhatAChildRegistersIsForItsOwnChildren) {
  const HostRun run = run_host([] {
    after_fork_say("host's");
    Process p(forked, [] {
      after_fork_say("child's");
      Process inner(forked, [] { say("grandchild"); });
      inner.start();
      inner.join();
    });
    p.start();
    p.join();
    Process sibling(forked, [] { say("sibling"); });
    sibling.start();
    sibling.join();
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
  EXPECT_EQ(run.out, "host's\nhost's\nchild's\ngrandchild\nhost's\nsibling\n");
}

TEST(ForkActionsTest, AnActionThatRegistersOneDoesNotRunForEver) {
  const HostRun run = run_host([] {
    after_fork([] { after_fork_say("added"); });
    Process p(forked, [] {
      say("child");
      Process inner(forked, [] { say("grandchild"); });
      inner.start();
      inner.join();
    });
    p.start();
    p.join();
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
  EXPECT_EQ(run.out, "child\nadded\ngrandchild\n");
}

}  // namespace
}  // namespace brood::test
