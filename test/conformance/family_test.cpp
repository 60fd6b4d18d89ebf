// Who is who among processes: the calling one, its parent, its children, and what a kill takes.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <barrier>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <filesystem>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "brood/brood.hpp"
#include "support/host.hpp"
#include "support/ledger.hpp"
#include "support/pools.hpp"
#include "support/processes.hpp"

namespace brood::test {
namespace {

class FamilyTest : public StartMethodTest {
 protected:
  [[nodiscard]] static ProcessOptions options(std::string name = {}, bool daemon = false) {
    return {.name = std::move(name), .daemon = daemon, .start = GetParam()};
  }
  [[nodiscard]] std::string path(const std::string& name) const { return folder_.path(name); }

 private:
  TempFolder folder_;
};
BROOD_FOR_EACH_START_METHOD(FamilyTest);

void record_and_wait(const std::string& path, const std::string& gate) {
  record(path, getpid());
  wait_at_gate(gate);
}

bool has_recorded(const std::string& path, std::size_t count = 1) {
  return wait_until([&] { return recorded(path).size() >= count; });
}

TEST_P(FamilyTest, TheFirstProcessHasNoParentHere) {
  EXPECT_EQ(current_process().pid(), getpid());
  EXPECT_EQ(current_process().name(), "MainProcess");
  EXPECT_TRUE(current_process().is_alive());
  EXPECT_THROW(current_process().join(), Error);
  EXPECT_FALSE(current_process().join_for(1ms));
  EXPECT_FALSE(parent_process().has_value());
  EXPECT_TRUE(active_children().empty());
}

ExitCode knows_itself(int parent) {
  const auto by = parent_process();
  const bool right = current_process().name() == "the child" &&
                     current_process().pid() == getpid() && by && by->pid() == parent &&
                     by->name() == "MainProcess" && by->is_alive() && !by->join_for(0ns);
  return {right && active_children().empty() ? 0 : 1};
}

TEST_P(FamilyTest, AChildKnowsItselfAndItsParent) {
  Process p(options("the child"), knows_itself, getpid());
  p.start();
  p.join();
  EXPECT_EQ(p.exit_code(), 0);
}

void start_a_grandchild(const std::string& pid, const std::string& seen, StartMethod method) {
  Process grandchild(
      {.name = "grandchild", .start = method},
      [](const std::string& pid_file, const std::string& seen_file) {
        const auto parent = parent_process();
        record(seen_file, parent->is_alive() ? 1 : 0);
        record(pid_file, getpid());
        parent->join();
        record(seen_file, parent->is_alive() ? 1 : 0);
      },
      pid, seen);
  grandchild.start();
  grandchild.join();
}

TEST_P(FamilyTest, AGrandchildSeesItsParentAliveAndThenDead) {
  Process p(options(), start_a_grandchild, path("pid"), path("seen"), GetParam());
  p.start();
  ASSERT_TRUE(has_recorded(path("pid")));
  p.terminate();
  p.join();
  EXPECT_EQ(p.exit_code(), -SIGTERM);
  ASSERT_TRUE(has_recorded(path("seen"), 2));
  EXPECT_EQ(recorded(path("seen")), (std::vector<std::int64_t>{1, 0}));
}

TEST_P(FamilyTest, ActiveChildrenAreThoseThatHaveNotEnded) {
  Process first(options("first"), record_and_wait, path("pids"), path("gate"));
  Process second(options("second", true), record_and_wait, path("pids"), path("never"));
  EXPECT_TRUE(active_children().empty());
  first.start();
  second.start();
  std::vector<ProcessRef> children = active_children();
  ASSERT_EQ(children.size(), 2U);
  const auto it = std::ranges::find(children, first.pid(), &ProcessRef::pid);
  ASSERT_NE(it, children.end());
  EXPECT_EQ(it->name(), "first");
  EXPECT_FALSE(it->daemon());
  EXPECT_TRUE(it->is_alive());
  open_gate(path("gate"));
  it->join();
  EXPECT_EQ(first.exit_code(), 0) << "the status is not taken away from it";
  children = active_children();
  ASSERT_EQ(children.size(), 1U);
  EXPECT_EQ(children[0].name(), "second");
  EXPECT_TRUE(children[0].daemon());
  children[0].terminate();
  EXPECT_TRUE(children[0].join_for(kHangGuard));
  EXPECT_EQ(second.exit_code(), -SIGTERM);
  EXPECT_TRUE(active_children().empty());
  children[0].terminate();
  children[0].kill();
}

// In hosts of their own, since only the first of a program make the list.
TEST_P(FamilyTest, ThreadsThatStartTheirFirstChildrenAtOnceShareOneList) {
  constexpr int kThreads = 4;
  for (int round = 0; round < 20; ++round) {
    const HostRun run = run_host([this] {
      std::barrier together(kThreads);
      std::atomic<int> started{0};
      std::vector<std::jthread> threads;
      for (int t = 0; t < kThreads; ++t) {
        threads.emplace_back([&] {
          Process p(options(), wait_at_gate, path("gate"));
          together.arrive_and_wait();
          p.start();
          ++started;
          p.join();
        });
      }
      wait_until([&] { return started == kThreads; });
      const std::size_t found = active_children().size();
      open_gate(path("gate"));
      threads.clear();
      HOST_CHECK(found == kThreads);
      return 0;
    });
    ASSERT_EQ(run.end, "exit 0") << run.out;
    std::filesystem::remove(path("gate"));
  }
}

TEST_P(FamilyTest, AtTheNextCallThereAreNoZombiesThoughNobodyJoins) {
  std::vector<Process> all;
  for (int i = 0; i < 30; ++i) {
    all.emplace_back(options(), [] {});
    all.back().start();
  }
  EXPECT_TRUE(wait_until([&] {
    static_cast<void>(active_children());
    return std::ranges::none_of(all, [](const Process& p) { return look_at(p.pid()).has_value(); });
  }));
  for (Process& p : all) EXPECT_EQ(p.exit_code(), 0);
}

// ---- a kill takes the subtree

void have_descendants(const std::string& pids, const std::string& never, StartMethod method) {
  const pid_t raw = fork();
  if (raw == 0) {
    if (fork() == 0) record(pids, getpid());
    record(pids, getpid());
    for (;;) pause();
  }
  Process inner(
      {.start = method},
      [](const std::string& pid_file, const std::string& gate, StartMethod how) {
        Process innermost({.start = how}, record_and_wait, pid_file, gate);
        innermost.start();
        record_and_wait(pid_file, gate);
      },
      pids, never, method);
  inner.start();
  inner.join();
}

TEST_P(FamilyTest, AKillTakesAllThatCameFromTheProcess) {
  Process p(options(), have_descendants, path("pids"), path("never"), GetParam());
  Process other(options(), record_and_wait, path("other"), path("gate"));
  p.start();
  other.start();
  ASSERT_TRUE(has_recorded(path("pids"), 4) && has_recorded(path("other")));
  p.kill();
  p.join();
  EXPECT_EQ(p.exit_code(), -SIGKILL);
  for (const std::int64_t pid : recorded(path("pids"))) {
    EXPECT_TRUE(wait_until([&] { return !runs(static_cast<int>(pid)); })) << pid;
  }
  EXPECT_TRUE(other.is_alive());
  open_gate(path("gate"));
  other.join();
  EXPECT_EQ(other.exit_code(), 0);
}

// ---- looking at one, and letting go of it

void use_much(const std::string& pid, const std::string& gate) {
  std::vector<char> memory(std::size_t{64} << 20, 'x');
  const auto until = std::chrono::steady_clock::now() + 60ms;
  std::uint64_t sum = 0;
  while (std::chrono::steady_clock::now() < until)
    sum += static_cast<unsigned char>(memory[sum % memory.size()]);
  record_and_wait(pid, gate);
}

TEST_P(FamilyTest, WhatItUsesIsToldWhileItRunsAndAfterwards) {
  Process p(options(), use_much, path("pid"), path("gate"));
  EXPECT_FALSE(p.usage().has_value());
  p.start();
  ASSERT_TRUE(has_recorded(path("pid")));
  const auto during = p.usage();
  ASSERT_TRUE(during.has_value());
  EXPECT_GE(during->rss_bytes, std::size_t{64} << 20);
  EXPECT_GE(during->peak_rss_bytes, during->rss_bytes / 2);
  open_gate(path("gate"));
  p.join();
  const auto after = p.usage();
  ASSERT_TRUE(after.has_value());
  EXPECT_GE(after->user_cpu + after->system_cpu, 10ms);
  EXPECT_GE(after->peak_rss_bytes, std::size_t{64} << 20);
  EXPECT_EQ(after->rss_bytes, 0U);
}

TEST_P(FamilyTest, InterruptSendsSigint) {
  Process p(options(), record_and_wait, path("pid"), path("gate"));
  EXPECT_THROW(p.interrupt(), Error);
  p.start();
  ASSERT_TRUE(has_recorded(path("pid")));
  p.interrupt();
  p.join();
  EXPECT_EQ(p.exit_code(), -SIGINT);
}

TEST_P(FamilyTest, WhatRunsIsNotClosedAndClosedIsLikeMovedFrom) {
  Process p(options(), record_and_wait, path("pid"), path("gate"));
  p.start();
  EXPECT_THROW(p.close(), Error);
  EXPECT_TRUE(p.is_alive());
  open_gate(path("gate"));
  p.join();
  p.close();
  p.close();
  EXPECT_EQ(p.pid(), 0);
  EXPECT_FALSE(p.is_alive());
  EXPECT_FALSE(p.exit_code().has_value());
  EXPECT_THROW(p.join(), Error);
  Process never(options(), [] {});
  never.close();
  EXPECT_THROW(never.start(), Error);
}

std::string printed(Process& p) {
  std::ostringstream out;
  out << p;
  return out.str();
}

TEST_P(FamilyTest, PrintingSaysWhatStateItIsIn) {
  const std::string parent = " parent=" + std::to_string(getpid());
  Process p(options("x", true), record_and_wait, path("pid"), path("gate"));
  EXPECT_EQ(printed(p), "<Process name='x'" + parent + " initial daemon>");
  p.start();
  const std::string who = "<Process name='x' pid=" + std::to_string(p.pid()) + parent;
  EXPECT_EQ(printed(p), who + " started daemon>");
  p.kill();
  p.join();
  EXPECT_EQ(printed(p), who + " stopped exitcode=-SIGKILL daemon>");
  p.close();
  EXPECT_EQ(printed(p), "<Process closed>");
  Process quiet(options("y"), [] { return ExitCode{3}; });
  quiet.start();
  quiet.join();
  EXPECT_NE(printed(quiet).find(" stopped exitcode=3>"), std::string::npos) << printed(quiet);
}

}  // namespace
}  // namespace brood::test
