// How pools end: close, join, terminate, shutdown, the destructor.
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "brood/pool.hpp"
#include "support/host.hpp"
#include "support/ledger.hpp"
#include "support/pools.hpp"
#include "support/processes.hpp"

namespace brood::test {
namespace {

class PoolEndTest : public PoolConformance {};
BROOD_FOR_EACH_START_METHOD(PoolEndTest);

int twice(int n) { return 2 * n; }

std::vector<int> pids_of(const Pool& pool) {
  std::vector<int> pids;
  for (const PoolStats::Worker& worker : pool.stats().workers) {
    if (worker.pid > 0) pids.push_back(worker.pid);
  }
  return pids;
}

void expect_gone(const std::vector<int>& pids) {
  for (const int pid : pids) EXPECT_FALSE(runs(pid)) << pid;
}

TEST_P(PoolEndTest, JoinWithoutCloseIsAnError) {
  Pool pool(with(1));
  EXPECT_THROW(pool.join(), Error);
  EXPECT_THROW(static_cast<void>(pool.join_for(1ms)), Error);
  EXPECT_EQ(pool.apply(twice, 1), 2);
}

TEST_P(PoolEndTest, CloseTakesNothingMoreAndRunsAllThatWasTaken) {
  Pool pool(with(2));
  TempFolder folder;
  const std::string list = folder.path("list");
  std::vector<Future<void>> futures;
  for (int i = 0; i < 500; ++i) futures.push_back(pool.submit(record, list, i));
  pool.close();
  pool.close();
  EXPECT_THROW(static_cast<void>(pool.submit(twice, 1)), PoolClosed);
  EXPECT_THROW(pool.apply(twice, 1), PoolClosed);
  pool.join();
  pool.join();
  EXPECT_EQ(counted(list).size(), 500U);
  EXPECT_EQ(recorded(list).size(), 500U);
  for (auto& future : futures) future.get();
}

TEST_P(PoolEndTest, JoinLeavesNoProcessOfThePool) {
  Pool pool(with(3));
  pool.map(twice, std::vector<int>(100));
  const std::vector<int> pids = pids_of(pool);
  pool.close();
  pool.join();
  expect_gone(pids);
}

TEST_P(PoolEndTest, JoinForTellsWhetherItEnded) {
  Pool pool(with(1));
  TempFolder folder;
  auto future = pool.submit(wait_at_gate, folder.path("gate"));
  pool.close();
  EXPECT_FALSE(pool.join_for(0s));
  EXPECT_FALSE(pool.join_for(20ms));
  open_gate(folder.path("gate"));
  EXPECT_TRUE(pool.join_for(kHangGuard));
  EXPECT_TRUE(pool.join_for(0s));
  future.get();
}

TEST_P(PoolEndTest, CloseOfABusyPoolWithRetriesStillRunsWhatDies) {
  PoolOptions options = with(2);
  options.retries = 1;
  Pool pool(options);
  TempFolder folder;
  std::vector<Future<int>> futures;
  for (int i = 0; i < 50; ++i) {
    futures.push_back(pool.submit(
        [](std::string path, int n) {
          const bool first = !gate_is_open(path);
          open_gate(path);
          if (first) kill(getpid(), SIGKILL);
          return n;
        },
        folder.path(std::to_string(i)), i));
  }
  pool.close();
  pool.join();
  for (int i = 0; i < 50; ++i) EXPECT_EQ(futures[static_cast<std::size_t>(i)].get(), i);
}

TEST_P(PoolEndTest, TerminateGivesPendingTasksPoolClosed) {
  Pool pool(with(1));
  TempFolder folder;
  auto done = pool.submit(twice, 4);
  done.wait();
  auto running = pool.submit(wait_at_gate, folder.path("gate"));
  std::vector<Future<int>> pending;
  for (int i = 0; i < 100; ++i) pending.push_back(pool.submit(twice, i));
  ASSERT_TRUE(wait_until([&] { return pool.stats().running == 1; }));
  const std::vector<int> pids = pids_of(pool);
  pool.terminate();
  EXPECT_THROW(static_cast<void>(pool.submit(twice, 1)), PoolClosed);
  EXPECT_THROW(running.get(), PoolClosed);
  for (auto& future : pending) EXPECT_THROW(future.get(), PoolClosed);
  EXPECT_EQ(done.get(), 8);
  EXPECT_TRUE(pool.join_for(kHangGuard));
  expect_gone(pids);
}

TEST_P(PoolEndTest, TerminateEndsEvenTasksThatIgnoreSigterm) {
  Pool pool(with(2));
  auto future = pool.submit([] {
    signal(SIGTERM, SIG_IGN);
    for (;;) pause();
  });
  ASSERT_TRUE(wait_until([&] { return pool.stats().running == 1; }));
  pool.terminate();
  EXPECT_TRUE(pool.join_for(kPromisedSecond));
  EXPECT_THROW(future.get(), PoolClosed);
}

TEST_P(PoolEndTest, AWaitingThreadIsWokenByTerminate) {
  Pool pool(with(1));
  auto future = pool.submit([] {
    for (;;) pause();
  });
  std::string outcome;
  std::thread waiter([&] { outcome = outcome_of([&] { future.get(); }); });
  ASSERT_TRUE(wait_until([&] { return pool.stats().running == 1; }));
  pool.terminate();
  waiter.join();
  EXPECT_EQ(outcome, "PoolClosed");
}

TEST_P(PoolEndTest, ShutdownIsTrueIfEveryTaskEndedByItself) {
  Pool pool(with(2));
  TempFolder folder;
  auto future = pool.submit(wait_at_gate, folder.path("gate"));
  std::thread opener([&] { open_gate(folder.path("gate")); });
  EXPECT_TRUE(pool.shutdown(kHangGuard));
  opener.join();
  future.get();
  EXPECT_TRUE(pool.shutdown(0s)) << "once ended, it stays so";
}

TEST_P(PoolEndTest, ShutdownIsFalseIfTasksHadToBeEnded) {
  Pool pool(with(1));
  TempFolder folder;
  const std::string list = folder.path("list");
  static std::string told;
  auto polite = pool.submit(
      [](std::string path) {
        told = path;
        signal(SIGTERM, [](int) {
          record(told, 15);
          _exit(0);
        });
        record(path, 1);
        for (;;) pause();
      },
      list);
  ASSERT_TRUE(wait_until([&] { return recorded(list).size() == 1; }));
  EXPECT_FALSE(pool.shutdown(10ms, kHangGuard));
  EXPECT_EQ(recorded(list), (std::vector<std::int64_t>{1, 15})) << "it was asked before";
  EXPECT_THROW(polite.get(), PoolClosed);
}

TEST_P(PoolEndTest, ShutdownKillsTheStubbornAtItsDeadline) {
  Pool pool(with(2));
  auto stubborn = pool.submit([] {
    signal(SIGTERM, SIG_IGN);
    for (;;) pause();
  });
  ASSERT_TRUE(wait_until([&] { return pool.stats().running == 1; }));
  const std::vector<int> pids = pids_of(pool);
  const Deadline deadline(kPromisedSecond);
  EXPECT_FALSE(pool.shutdown(0s, 50ms));
  EXPECT_FALSE(deadline.passed());
  expect_gone(pids);
  EXPECT_THROW(stubborn.get(), PoolClosed);
}

TEST_P(PoolEndTest, StoppedWorkersEndToo) {
  Pool pool(with(2));
  pool.map(twice, std::vector<int>(10));
  const std::vector<int> pids = pids_of(pool);
  for (const int pid : pids) ASSERT_TRUE(stop_and_see(pid));
  EXPECT_FALSE(pool.shutdown(10ms, 10ms));
  expect_gone(pids);
}

TEST_P(PoolEndTest, TheDestructorEndsRunningTasks) {
  std::vector<int> pids;
  {
    Pool pool(with(2));
    static_cast<void>(pool.submit([] {
      signal(SIGTERM, SIG_IGN);
      for (;;) pause();
    }));
    ASSERT_TRUE(wait_until([&] { return pool.stats().running == 1; }));
    pids = pids_of(pool);
  }
  expect_gone(pids);
}

TEST_P(PoolEndTest, AHundredPoolsInARowLeaveNothing) {
  for (int i = 0; i < (kSanitized ? 15 : 100); ++i) {
    Pool pool(with(2));
    ASSERT_EQ(pool.apply(twice, i), 2 * i);
    if (i % 3 == 0) pool.close();
    if (i % 3 == 0) pool.join();
  }
}

TEST_P(PoolEndTest, APoolThatWasNeverUsedEndsAtOnce) {
  const Deadline deadline(kPromisedSecond);
  {
    Pool pool(with(8));
  }
  {
    Pool pool(with(8));
    pool.close();
    pool.join();
  }
  EXPECT_FALSE(deadline.passed());
}

// ---- starts that fail

TEST_P(PoolEndTest, WorkersThatCannotStartBreakThePool) {
  // The workers need processes of their own, and this user may have no more than those that are
  // there before them: host, supervisor, and the warden unless the user changed after its start.
  const rlim_t before = GetParam() == StartMethod::fork ? 3 : 2;
  const HostRun run = run_host([before] {
    if (getuid() == 0) HOST_CHECK(setuid(2'000'000 + static_cast<uid_t>(getpid())) == 0);
    rlimit usual{};
    HOST_CHECK(getrlimit(RLIMIT_NPROC, &usual) == 0);
    const rlimit few{before, usual.rlim_max};
    HOST_CHECK(setrlimit(RLIMIT_NPROC, &few) == 0);
    PoolOptions options;
    options.workers = 2;
    options.restart_limit = 4;
    Pool pool(options);
    auto future = pool.submit(twice, 1);
    HOST_CHECK(outcome_of([&] { future.get(); }) == "BrokenPool");
    HOST_CHECK(outcome_of([&] { pool.apply(twice, 1); }) == "BrokenPool");
    pool.join();
    // LeakSanitizer needs a process, too.
    HOST_CHECK(setrlimit(RLIMIT_NPROC, &usual) == 0);
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0") << run.out;
}

// ---- threads

TEST(ThreadsTest, APoolInAProcessWithThreadsMustBeAskedFor) {
  std::atomic<bool> over{false};
  std::jthread other([&] { over.wait(false); });
  EXPECT_THROW(Pool(1), StartError);
  PoolOptions options;
  options.workers = 2;
  options.start = StartMethod::fork;
  Pool pool(options);
  EXPECT_EQ(pool.apply(twice, 4), 8);
  over.store(true);
  over.notify_all();
}

TEST(ThreadsTest, PoolsStartWhileOtherThreadsUseTheHeapAndTheStreams) {
  const HostRun run = run_host([] {
    std::atomic<bool> over{false};
    std::vector<std::jthread> threads;
    for (int t = 0; t < 8; ++t) {
      threads.emplace_back([&over] {
        std::FILE* sink = std::fopen("/dev/null", "w");
        while (!over.load()) {
          const std::string text(static_cast<std::size_t>(std::rand() % 5000), 'x');
          std::fprintf(sink, "%s %p", text.c_str(), static_cast<void*>(&over));
          std::free(std::malloc(static_cast<std::size_t>(std::rand() % 100'000)));
          setenv("BROOD_TEST_NOISE", text.substr(0, 10).c_str(), 1);
        }
        std::fclose(sink);
      });
    }
    const int pools = kSanitized ? 10 : 100;
    for (int i = 0; i < pools; ++i) {
      PoolOptions options;
      options.workers = 2;
      options.start = StartMethod::fork;
      Pool pool(options);
      const std::string answer = pool.apply(
          [](std::string s) { return s + std::to_string(getpid()); }, std::string("from "));
      HOST_CHECK(answer.starts_with("from "));
    }
    over.store(true);
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
}

}  // namespace
}  // namespace brood::test
