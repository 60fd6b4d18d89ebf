// The interface of Pool on threads, and the pool that is always there.
#include "brood/thread_pool.hpp"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <ranges>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "brood/brood.hpp"
#include "support/pools.hpp"

namespace brood::test {
namespace {

int twice(int n) { return 2 * n; }
int fail(int n) { throw std::runtime_error("no " + std::to_string(n)); }

struct OwnError {
  int number;
};

TEST(ThreadPoolTest, RunsTasksInThreadsOfThisProcess) {
  ThreadPool pool(2);
  EXPECT_EQ(pool.apply(twice, 21), 42);
  EXPECT_EQ(pool.submit([] { return getpid(); }).get(), getpid());
  EXPECT_NE(pool.submit([] { return gettid(); }).get(), gettid());
  EXPECT_EQ(pool.submit([](std::string s) { return s + "!"; }, "text").get(), "text!");
  pool.submit([] {}).get();
  const int bound = 5;
  EXPECT_EQ(
      pool.submit(brood::bind_front([](const std::string& s,
                                       int n) { return s.size() + static_cast<std::size_t>(n); },
                                    std::string("abc")),
                  bound)
          .get(),
      8U);
  EXPECT_EQ(pool.stats().workers.size(), 2U);
}

TEST(ThreadPoolTest, ExceptionsArriveUnchanged) {
  ThreadPool pool(1);
  try {
    pool.apply([] { throw OwnError{7}; });
    FAIL();
  } catch (const OwnError& e) {
    EXPECT_EQ(e.number, 7);
  }
  EXPECT_THROW(pool.apply(fail, 1), std::runtime_error);
  auto future = pool.submit(fail, 2);
  EXPECT_NE(future.exception(), nullptr);
  EXPECT_FALSE(future.result().has_value());
  EXPECT_THROW(pool.apply([] { throw Empty("brood's own"); }), Empty);
}

TEST(ThreadPoolTest, HasTheMapFamily) {
  ThreadPool pool(3);
  EXPECT_EQ(pool.map(twice, std::vector{1, 2, 3}), (std::vector{2, 4, 6}));
  const auto many = pool.map(twice, std::views::iota(0, 10'000));
  EXPECT_EQ(many[9999], 19'998);
  const std::vector<std::pair<int, int>> pairs = {{1, 2}, {3, 4}};
  EXPECT_EQ(pool.starmap([](int a, int b) { return a * b; }, pairs), (std::vector{2, 12}));
  EXPECT_EQ(pool.map([](int n) { return std::string(static_cast<std::size_t>(n), 'x'); },
                     std::vector{1, 100})[1]
                .size(),
            100U);
  const auto results =
      pool.map_results([](int n) { return n == 1 ? fail(n) : n; }, std::vector{0, 1, 2});
  EXPECT_TRUE(results[0] && !results[1] && results[2]);
  EXPECT_THROW(pool.map(fail, std::vector{1}), std::runtime_error);
  int expected = 0;
  for (const int n : pool.imap(twice, std::views::iota(0))) {
    EXPECT_EQ(n, 2 * expected++);
    if (expected == 1000) break;
  }
  int sum = 0;
  for (const int n : pool.imap_unordered(twice, std::views::iota(0, 100))) sum += n;
  EXPECT_EQ(sum, 9900);
  auto later = pool.map_async(twice, std::views::iota(0, 100));
  later.wait();
  EXPECT_EQ(later.done(), 100U);
  EXPECT_EQ(later.get()[99], 198);
  std::vector<int> numbers(10, 1);
  pool.for_each([](int) {}, numbers);
}

TEST(ThreadPoolTest, ItsFuturesCanBeWaitedForTogetherAndContinued) {
  ThreadPool pool(2);
  Event gate;
  auto slow = pool.submit([](const Event& e) { return e.wait(), 1; }, gate);
  auto quick = pool.submit(twice, 1);
  EXPECT_EQ(wait({slow, quick}, first_completed).done, std::vector<std::size_t>{1});
  EXPECT_TRUE(wait({slow}, 1ms).empty());
  CompletionQueue queue;
  queue.add(slow, 3);
  EXPECT_EQ(queue.try_next(), std::nullopt);
  const int fd = queue.fileno();
  EXPECT_TRUE(wait({fd}, 1ms).empty());
  gate.set();
  EXPECT_EQ(wait({fd}).size(), 1U);
  EXPECT_EQ(queue.next(), 3U);
  EXPECT_EQ(wait({slow}).size(), 1U);
  EXPECT_EQ(slow.get(), 1);
  Loop loop;
  auto text = pool.submit(twice, 3).then(loop, [](int n) { return std::to_string(n); });
  loop.run();
  EXPECT_EQ(text.get(), "6");
  EXPECT_EQ(pool.submit(twice, 3).then([](int n) { return n + 1; }).get(), 7);
}

TEST(ThreadPoolTest, IsAnExecutor) {
  ThreadPool pool(2);
  std::atomic<int> ran{0};
  pool.post([&] { ran += 1; });
  pool.post([] { throw std::runtime_error("goes to the log"); });
  const std::thread::id here = std::this_thread::get_id();
  auto next = pool.submit(twice, 4).then(pool, [&](int n) {
    EXPECT_NE(std::this_thread::get_id(), here);
    return n + 1;
  });
  EXPECT_EQ(next.get(), 9);
  EXPECT_TRUE(wait_until([&] { return ran.load() == 1; }));
}

TEST(ThreadPoolTest, EndsAsAPoolDoes) {
  ThreadPool pool(2);
  EXPECT_THROW(pool.join(), Error);
  auto future = pool.submit(twice, 1);
  pool.close();
  EXPECT_THROW(static_cast<void>(pool.submit(twice, 1)), PoolClosed);
  pool.join();
  EXPECT_EQ(future.get(), 2);
  ThreadPool other(1);
  Event started;
  Event gate;
  auto runs = other.submit(
      [](const Event& s, const Event& g) {
        s.set();
        g.wait();
        return 1;
      },
      started, gate);
  auto waits = other.submit(twice, 1);
  started.wait();
  other.terminate();
  EXPECT_THROW(waits.get(), PoolClosed);
  EXPECT_FALSE(other.join_for(1ms));
  gate.set();
  other.join();
  EXPECT_EQ(runs.get(), 1);
  ThreadPool drained(1);
  EXPECT_TRUE(drained.shutdown(kHangGuard));
}

TEST(ThreadPoolTest, MayTakeThePlaceOfAPool) {
  const auto sum_of = [](Pool& pool) {
    int sum = 0;
    for (const int n : pool.map(twice, std::views::iota(0, 10))) sum += n;
    return sum;
  };
  ThreadPool threads(2);
  EXPECT_EQ(sum_of(threads), 90);
  Pool moved = std::move(threads);
  EXPECT_EQ(sum_of(moved), 90);
  EXPECT_THROW(ThreadPool(0), StartError);
}

TEST(ThreadPoolTest, InAForkedChildItIsInert) {
  ThreadPool pool(1);
  pool.apply(twice, 1);
  const pid_t child = fork();
  if (child == 0) {
    try {
      pool.apply(twice, 1);
      _exit(1);
    } catch (const Error&) {
    }
    {
      const ThreadPool dropped = std::move(pool);
    }
    _exit(0);
  }
  int status = -1;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

// ---- default_pool()

class DefaultPoolTest : public PoolConformance {};
BROOD_FOR_EACH_START_METHOD(DefaultPoolTest);

TEST_P(DefaultPoolTest, IsMadeOnceAndEndsWithTheProgram) {
  const HostRun run = run_host([] {
    Pool& pool = default_pool();
    HOST_CHECK(&pool == &default_pool());
    HOST_CHECK(pool.apply(twice, 4) == 8);
    std::vector<std::thread> threads;
    std::atomic<int> sum{0};
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&, i] { sum += default_pool().apply(twice, i); });
    }
    for (std::thread& thread : threads) thread.join();
    HOST_CHECK(sum.load() == 12);
    const pid_t child = fork();
    if (child == 0) {
      // What it inherited is not touched; with fork it may have its own.
      std::exit(0);
    }
    int status = -1;
    HOST_CHECK(waitpid(child, &status, 0) == child && status == 0);
    HOST_CHECK(default_pool().apply(twice, 1) == 2);
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0") << run.out;
}

TEST(ThreadPoolTest, WaitingTasksAreCancelledAndRunningOnesAreAskedToStop) {
  ThreadPool pool(1);
  std::atomic<bool> begun{false};
  static std::atomic<bool>* flag = nullptr;
  flag = &begun;
  auto runs = pool.submit([] {
    pollfd door{stop_fd(), POLLIN, 0};
    flag->store(true);
    EXPECT_EQ(poll(&door, 1, -1), 1);
    EXPECT_TRUE(stop_requested());
    return 1;
  });
  std::stop_source source;
  auto waits = pool.submit({.stop = source.get_token()}, [] { return 2; });
  EXPECT_TRUE(wait_until([&] { return begun.load(); }));
  EXPECT_TRUE(runs.running());
  source.request_stop();
  EXPECT_THROW(waits.get(), Cancelled);
  EXPECT_TRUE(runs.cancel());
  EXPECT_TRUE(runs.cancelled());
  EXPECT_THROW(runs.get(), Cancelled);
  auto ended = pool.submit([] { return 3; });
  ended.wait();
  EXPECT_FALSE(ended.cancel());
  EXPECT_EQ(ended.get(), 3);
  EXPECT_FALSE(stop_requested());
}

}  // namespace
}  // namespace brood::test
