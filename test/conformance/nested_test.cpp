// Workers that start processes and pools of their own: all are of one family.
#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "brood/brood.hpp"
#include "support/host.hpp"
#include "support/ledger.hpp"
#include "support/pools.hpp"
#include "support/processes.hpp"

namespace brood::test {
namespace {

class NestedTest : public PoolConformance {
 protected:
  [[nodiscard]] std::string path(const std::string& name) const { return folder_.path(name); }

 private:
  TempFolder folder_;
};
BROOD_FOR_EACH_START_METHOD(NestedTest);

int start_a_process(StartMethod method) {
  Process p(ProcessOptions{.start = method}, [] { return ExitCode{3}; });
  p.start();
  p.join();
  return p.exit_code().value_or(-1);
}

int start_a_pool(StartMethod method) {
  Pool pool({.workers = 1, .start = method});
  return pool.apply([](int n) { return n + 1; }, 4);
}

int twice(int n) { return 2 * n; }

std::vector<StartMethod> methods_beside(StartMethod method) {
  if (method == StartMethod::fork) return {StartMethod::fork};
  if (method == StartMethod::forkserver) return {StartMethod::fork, StartMethod::forkserver};
  return {StartMethod::fork, StartMethod::forkserver, StartMethod::spawn};
}

TEST_P(NestedTest, AWorkerStartsProcessesAndPoolsByEachMethodThatItsPoolMayUse) {
  Pool pool(with(1));
  for (const StartMethod method : methods_beside(GetParam())) {
    EXPECT_EQ(pool.apply(start_a_process, method), 3);
    EXPECT_EQ(pool.apply(start_a_pool, method), 5);
  }
  EXPECT_EQ(pool.apply([] { return start_method(); }), start_method());
}

// ---- pools of the program

int answer() { return 42; }

std::string what_of(auto&& action) {
  try {
    action();
    return "nothing was thrown";
  } catch (const std::exception& e) {
    return e.what();
  }
}

TEST_P(NestedTest, ATaskThatUsesAPoolOfItsProgramIsToldToMakeItsOwn) {
  const HostRun run = run_host([] {
    // Its workers are made before it is.
    static Pool pool(with(1));
    const auto use_itself = [] { return pool.apply(answer); };
    say(what_of([&] { pool.apply(use_itself); }));
    say(what_of([&] { pool.apply([] { return pool.map(twice, std::vector<int>{1}).size(); }); }));
    say(what_of(
        [&] { pool.apply([] { return pool.map_async(twice, std::vector<int>{1}).get(); }); }));
    static std::unique_ptr<Pool> later;
    const auto use_later = [] { return later->apply(answer); };
    if (!kSanitized) say(what_of([&] { pool.apply(use_later); }));
    later = std::make_unique<Pool>(with(1));
    // By fork its workers have a copy; others have none.
    Pool last(with(1));
    if (!kSanitized || GetParam() == StartMethod::fork) {
      say(what_of([&] { last.apply(use_later); }));
    }
    return pool.apply(answer) == 42 ? 0 : 1;
  });
  EXPECT_EQ(run.end, "exit 0");
  std::istringstream lines(run.out);
  int count = 0;
  for (std::string line; std::getline(lines, line); ++count) {
    EXPECT_NE(line.find("a task can't use the pools of its program: make one of its own inside"),
              std::string::npos)
        << line;
    EXPECT_EQ(line.find("brood: this pool was moved from"), std::string::npos) << line;
  }
  EXPECT_EQ(count, !kSanitized ? 5 : GetParam() == StartMethod::fork ? 4 : 3);
}

TEST_P(NestedTest, OutsideOfTasksAMovedPoolIsSaidToBeMoved) {
  Pool pool(with(1));
  const Pool moved = std::move(pool);
  EXPECT_EQ(what_of([&] { static_cast<void>(pool.submit(answer)); }),
            "brood: this pool was moved from");
}

TEST_P(NestedTest, WhatItStartsChangesNothingAboutTheObjectsOfTheFamily) {
  std::vector<Queue<int>> queues(8);
  for (int i = 0; i < 8; ++i) queues[static_cast<std::size_t>(i)].put(1000 + i);
  Pool pool(with(1));
  EXPECT_EQ(pool.apply(start_a_process, GetParam()), 3);
  EXPECT_EQ(pool.apply(start_a_pool, GetParam()), 5);
  std::vector<Queue<int>> made;
  for (int i = 0; i < 8; ++i) {
    made.push_back(pool.apply(
        [](int n) {
          Queue<int> queue;
          queue.put(n);
          return queue;
        },
        i));
  }
  for (int i = 0; i < 8; ++i) {
    const auto at = static_cast<std::size_t>(i);
    EXPECT_EQ(pool.apply([](Queue<int> q) { return q.get(); }, queues[at]), 1000 + i);
    EXPECT_EQ(made[at].get(), i);
  }
}

void put(Queue<int> queue, int number) { queue.put(number); }

void pass_on(Queue<int> queue, StartMethod method) {
  Process p(ProcessOptions{.start = method}, put, queue, 1);
  p.start();
  p.join();
  Pool pool({.workers = 1, .start = method});
  pool.apply(put, queue, 2);
}

TEST_P(NestedTest, HandlesGoOnFromAWorkerToWhatItStarts) {
  Pool pool(with(1));
  Queue<int> queue;
  pool.apply(pass_on, queue, GetParam());
  EXPECT_EQ(queue.get(), 1);
  EXPECT_EQ(queue.get(), 2);
}

void start_some_and_die(const std::string& pids, StartMethod method) {
  const auto wait_for_ever = [](const std::string& to) {
    record(to, getpid());
    for (;;) pause();
  };
  std::vector<Process> all;
  for (int i = 0; i < 3; ++i) {
    all.emplace_back(ProcessOptions{.start = method}, wait_for_ever, pids);
    all.back().start();
  }
  wait_until([&] { return recorded(pids).size() == 3; });
  kill(getpid(), SIGKILL);
}

TEST_P(NestedTest, AWorkerTakesWhatItStartedAlong) {
  Pool pool(with(1));
  EXPECT_THROW(pool.apply(start_some_and_die, path("pids"), GetParam()), WorkerDied);
  const auto pids = recorded(path("pids"));
  ASSERT_EQ(pids.size(), 3U);
  for (const std::int64_t pid : pids) {
    EXPECT_TRUE(wait_until([&] { return !look_at(static_cast<int>(pid)).has_value(); })) << pid;
  }
}

TEST_P(NestedTest, NamesGivenByAWorkerAreRemovedAtTheEnd) {
  const std::string name = "brood-nested-" + std::to_string(getpid());
  const HostRun run = run_host([&] {
    Pool pool(with(1));
    HOST_CHECK(pool.apply(start_a_process, GetParam()) == 3);
    pool.apply(
        [](const std::string& called) {
          static auto* const kept = new SharedMemory(SharedMemory::create(called, 10));
          return kept->size();
        },
        name);
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0") << run.out;
  EXPECT_TRUE(wait_until([&] { return access(("/dev/shm/" + name).c_str(), F_OK) != 0; }));
}

}  // namespace
}  // namespace brood::test
