// What follows a task: then(), callbacks, coroutines, and the results of map_async().
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <coroutine>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
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

std::ptrdiff_t count_threads() {
  return std::ranges::distance(std::filesystem::directory_iterator("/proc/self/task"));
}

// The completion thread is there only while something waits.
class WithoutThreads : public PoolConformance {
 protected:
  void TearDown() override {
    EXPECT_TRUE(wait_until([] { return count_threads() == 1; }));
  }
};

class ContinuationTest : public WithoutThreads {};
BROOD_FOR_EACH_START_METHOD(ContinuationTest);
class MapFutureTest : public WithoutThreads {};
BROOD_FOR_EACH_START_METHOD(MapFutureTest);
class CoroutineTest : public WithoutThreads {};
BROOD_FOR_EACH_START_METHOD(CoroutineTest);

int twice(int n) { return 2 * n; }
int fail(int n) { throw std::runtime_error("no " + std::to_string(n)); }
int after(const Event& gate, int value) {
  gate.wait();
  return value;
}

// An executor as users have them: a thread of its own.
class OneThread {
 public:
  OneThread() : thread_([this] { loop(); }) {}
  ~OneThread() {
    ending_.store(true);
    thread_.join();
  }
  void post(Posted job) {
    const std::lock_guard lock(mutex_);
    jobs_.push_back(std::move(job));
  }
  [[nodiscard]] std::thread::id id() const { return thread_.get_id(); }

 private:
  void loop() {
    while (!ending_.load()) {
      std::vector<Posted> now;
      {
        const std::lock_guard lock(mutex_);
        now.swap(jobs_);
      }
      for (Posted& job : now) job();
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
  }
  std::mutex mutex_;
  std::vector<Posted> jobs_;
  std::atomic<bool> ending_{false};
  std::thread thread_;
};
static_assert(Executor<OneThread> && Executor<Loop> && Executor<const InlineExecutor>);

// What was logged meanwhile.
class LogCatcher {
 public:
  LogCatcher()
      : before_(set_log_sink([this](const LogRecord& record) {
          const std::lock_guard lock(mutex_);
          texts_ += record.text + "\n";
        })) {}
  ~LogCatcher() { set_log_sink(before_); }
  [[nodiscard]] bool has(const std::string& text) {
    const std::lock_guard lock(mutex_);
    return texts_.find(text) != std::string::npos;
  }

 private:
  std::mutex mutex_;
  std::string texts_;
  LogSink before_;
};

// ---- then()

TEST_P(ContinuationTest, RunsInTheThreadThatWaitsUnlessToldOtherwise) {
  Pool pool(with(1));
  std::thread::id ran;
  auto text = pool.submit(twice, 21).then([&](int n) {
    ran = std::this_thread::get_id();
    return std::to_string(n);
  });
  EXPECT_TRUE(text.valid());
  EXPECT_EQ(text.get(), "42");
  EXPECT_EQ(ran, std::this_thread::get_id());
  EXPECT_FALSE(text.valid());
  EXPECT_THROW(text.get(), Error);
  int calls = 0;
  {
    auto never = pool.submit(twice, 1).then([&](int) { ++calls; });
  }
  EXPECT_EQ(calls, 0) << "nobody waited";
}

TEST_P(ContinuationTest, TakesTheFutureAndGivesWaitsWithALimit) {
  Pool pool(with(1));
  Event gate;
  auto future = pool.submit(after, gate, 1);
  auto next = future.then([](int n) { return n + 1; });
  EXPECT_FALSE(future.valid());
  EXPECT_THROW(static_cast<void>(future.then([](int) {})), Error);
  EXPECT_FALSE(next.ready());
  EXPECT_EQ(next.get_for(2ms), std::nullopt);
  EXPECT_FALSE(next.wait_for(0ms));
  gate.set();
  EXPECT_EQ(next.get_for(kHangGuard), 2);
  auto none = pool.submit(twice, 1).then([](int) {});
  EXPECT_TRUE(none.get_for(kHangGuard));
}

TEST_P(ContinuationTest, ErrorsPassByAndItsOwnAreTheNewFutures) {
  Pool pool(with(1));
  int calls = 0;
  auto passed = pool.submit(fail, 3).then([&](int n) { return ++calls + n; });
  EXPECT_THROW(passed.get(), std::runtime_error);
  EXPECT_EQ(calls, 0);
  auto seen = pool.submit(fail, 3).then([](Result<int> r) { return r ? 1 : -1; });
  EXPECT_EQ(seen.get(), -1);
  auto own = pool.submit(twice, 3).then([](int) -> int { throw std::domain_error("mine"); });
  EXPECT_THROW(own.get(), std::domain_error);
  auto chain = pool.submit(twice, 1)
                   .then([](int n) { return n + 1; })
                   .then([](int n) { return std::make_unique<int>(n); })
                   .then([](std::unique_ptr<int> p) { return *p * 10; });
  EXPECT_EQ(chain.get(), 30);
  auto dead = pool.submit([] { kill(getpid(), SIGKILL); }).then([] { return 1; });
  EXPECT_THROW(dead.get(), WorkerDied);
}

TEST_P(ContinuationTest, OnAnExecutorItRunsByItself) {
  Pool pool(with(2));
  OneThread executor;
  std::atomic<int> sum{0};
  std::vector<Continued<void>> futures;
  for (int i = 0; i < 100; ++i) {
    futures.push_back(pool.submit(twice, i).then(executor, [&](int n) {
      EXPECT_EQ(std::this_thread::get_id(), executor.id());
      sum += n;
    }));
  }
  EXPECT_TRUE(wait_until([&] { return sum.load() == 9900; }));
  for (auto& future : futures) future.get();
  auto failed = pool.submit(twice, 1).then(executor, [](int) { throw std::domain_error("mine"); });
  EXPECT_THROW(failed.get(), std::domain_error);
  auto chained = pool.submit(twice, 1)
                     .then([](int n) { return n + 1; })
                     .then(executor, [](int n) { return n + 1; })
                     .then(executor, [](int n) { return n + 1; })
                     .then([](int n) { return n + 1; });
  EXPECT_EQ(chained.get(), 6);
}

TEST_P(ContinuationTest, DroppedFuturesOnAnExecutorRunAllTheSame) {
  Pool pool(with(1));
  OneThread executor;
  Event gate;
  std::atomic<int> got{0};
  {
    auto dropped = pool.submit(after, gate, 5).then(executor, [&](int n) { got.store(n); });
  }
  gate.set();
  EXPECT_TRUE(wait_until([&] { return got.load() == 5; }));
}

TEST_P(ContinuationTest, ALoopNeedsNoOtherThread) {
  Pool pool(with(2));
  const auto threads_before = count_threads();
  Loop loop;
  int sum = 0;
  std::vector<Continued<void>> kept;
  for (int i = 0; i < 50; ++i) {
    kept.push_back(pool.submit(twice, i).then(loop, [&](int n) {
      sum += n;
      if (n == 0) loop.post([&] { sum += 1000; });
    }));
  }
  EXPECT_GE(loop.run(), 51U);
  EXPECT_EQ(sum, 2450 + 1000);
  EXPECT_EQ(loop.run(), 0U);
  EXPECT_EQ(count_threads(), threads_before);
  Event gate;
  auto late = pool.submit(after, gate, 1).then(loop, [](int n) { return n; });
  EXPECT_EQ(loop.run_for(2ms), 0U);
  EXPECT_FALSE(late.ready());
  pollfd entry{loop.fileno(), POLLIN, 0};
  EXPECT_EQ(::poll(&entry, 1, 0), 0);
  gate.set();
  while (!late.ready()) {
    ASSERT_EQ(::poll(&entry, 1, 20'000), 1);
    loop.poll();
  }
  EXPECT_EQ(late.get(), 1);
}

TEST_P(ContinuationTest, ALoopIsStoppedAndFedFromOtherThreads) {
  Loop loop;
  Pool pool(with(1));
  auto never = pool.submit([] { pause(); }).then(loop, [] {});
  std::thread other([&] {
    loop.post([] {});
    loop.stop();
  });
  loop.run();
  other.join();
  LogCatcher log;
  loop.post([] { throw std::runtime_error("thrown into the loop"); });
  loop.stop();
  loop.run();
  EXPECT_TRUE(log.has("thrown into the loop"));
}

// ---- callbacks

TEST_P(ContinuationTest, CallbacksAreCalledWithTheValueOrTheError) {
  Pool pool(with(2));
  Loop loop;
  int value = 0;
  std::string error;
  const auto on_error = [&](const std::exception_ptr& e) {
    try {
      std::rethrow_exception(e);
    } catch (const std::exception& what) {
      error = what.what();
    }
  };
  auto right = pool.apply_async(twice, 4).notify(loop, [&](int n) { value = n; }, on_error);
  auto wrong = pool.apply_async(fail, 7).notify(loop, nullptr, on_error);
  auto nothing = pool.apply_async(twice, 5).notify(loop, nullptr, on_error);
  loop.run();
  EXPECT_EQ(value, 8);
  EXPECT_EQ(error, "no 7");
  EXPECT_EQ(nothing.get(), 10);
  EXPECT_EQ(right.get(), 8);
  EXPECT_THROW(wrong.get(), std::runtime_error);
}

TEST_P(ContinuationTest, AThrowingCallbackHurtsNobody) {
  Pool pool(with(2));
  OneThread executor;
  LogCatcher log;
  auto future = pool.apply_async(twice, 4).notify(
      executor, [](int) { throw std::runtime_error("the callback's own"); });
  EXPECT_EQ(future.get(), 8);
  EXPECT_TRUE(log.has("the callback's own"));
  auto next = pool.apply_async(twice, 5).notify(executor, [](int) {});
  EXPECT_EQ(next.get(), 10);
}

TEST_P(ContinuationTest, WorkersAreKilledWhileContinuationsWait) {
  Pool pool(with(2));
  OneThread executor;
  std::atomic<int> values{0};
  std::atomic<int> deaths{0};
  constexpr int kTasks = 500;
  for (int i = 0; i < kTasks; ++i) {
    auto dropped = pool.submit(
                           [](int n) {
                             if (n % 50 == 0) kill(getpid(), SIGKILL);
                             return n;
                           },
                           i)
                       .then(executor, [&](const Result<int>& r) { (r ? values : deaths) += 1; });
  }
  EXPECT_TRUE(wait_until([&] { return values + deaths == kTasks; }));
  EXPECT_EQ(deaths.load(), 10);
}

TEST_P(ContinuationTest, APoolThatEndsRunsThemWithItsError) {
  Loop loop;
  std::optional<Continued<bool>> seen;
  {
    Pool pool(with(1));
    seen = pool.submit([] { pause(); }).then(loop, [](const Result<void>& r) {
      try {
        std::rethrow_exception(r.error());
      } catch (const PoolClosed&) {
        return true;
      }
    });
  }
  loop.run();
  EXPECT_TRUE(seen->get());
}

// ---- map_async()

TEST_P(MapFutureTest, GivesAllValuesInOrder) {
  Pool pool(with(2));
  auto future = pool.map_async(twice, std::views::iota(0, 1000));
  EXPECT_EQ(future.total(), 1000U);
  future.wait();
  EXPECT_TRUE(future.ready());
  EXPECT_EQ(future.done(), 1000U);
  EXPECT_EQ(future.failed(), 0U);
  const std::vector<int> values = future.get();
  ASSERT_EQ(values.size(), 1000U);
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(values[static_cast<std::size_t>(i)], 2 * i);
  EXPECT_FALSE(future.valid());
  EXPECT_THROW(static_cast<void>(future.get()), Error);
  EXPECT_THROW(static_cast<void>(future.done()), Error);
  EXPECT_TRUE(pool.map_async(twice, std::vector<int>{}).get().empty());
}

TEST_P(MapFutureTest, TellsHowManyHaveEnded) {
  Pool pool(with(2));
  Event gate;
  std::vector<std::pair<Event, int>> work;
  for (int i = 0; i < 10; ++i) work.emplace_back(gate, i);
  auto future = pool.map_async(
      [](const std::pair<Event, int>& element) {
        if (element.second == 9) element.first.wait();
        if (element.second < 4) throw std::runtime_error("low");
        return element.second;
      },
      work, {.chunk_size = 1});
  EXPECT_TRUE(wait_until([&] { return future.done() == 9; }));
  EXPECT_EQ(future.failed(), 4U);
  EXPECT_FALSE(future.ready());
  EXPECT_FALSE(future.wait_for(1ms));
  EXPECT_EQ(future.get_for(1ms), std::nullopt);
  gate.set();
  const auto results = future.results();
  for (std::size_t i = 0; i < 10; ++i) EXPECT_EQ(results[i].has_value(), i >= 4);
}

TEST_P(MapFutureTest, ThrowsTheFirstErrorAfterAllHaveEnded) {
  Pool pool(with(2));
  auto future = pool.map_async(
      [](int n) {
        if (n % 2 == 1) throw std::out_of_range(std::to_string(n));
      },
      std::views::iota(0, 100), {.chunk_size = 7});
  try {
    future.get();
    FAIL();
  } catch (const std::out_of_range& e) {
    EXPECT_STREQ(e.what(), "1");
  }
  auto dies = pool.map_async(
      [](int n) {
        if (n == 5) kill(getpid(), SIGKILL);
        return n;
      },
      std::views::iota(0, 20));
  auto results = dies.results();
  EXPECT_THROW(static_cast<void>(results[5].value()), WorkerDied);
  EXPECT_EQ(std::ranges::count_if(results, [](const auto& r) { return r.has_value(); }), 19);
}

using Element = std::pair<Event, int>;
std::vector<Element> elements(const Event& event, int count) {
  std::vector<Element> all;
  for (int i = 0; i < count; ++i) all.emplace_back(event, i);
  return all;
}

int stay_at_six(const Element& element) {
  if (element.second != 6) return 2 * element.second;
  element.first.set();
  while (!stop_requested()) std::this_thread::yield();
  return -1;
}

// Besides the chunk that is in the midst, some have ended or wait.
void expect_cancelled_in_parts(Pool& pool) {
  for (const bool by_results : {true, false}) {
    Event reached;
    auto future = pool.map_async(stay_at_six, elements(reached, 12), {.chunk_size = 4});
    reached.wait();
    EXPECT_TRUE(future.cancel());
    EXPECT_TRUE(future.cancel());
    EXPECT_TRUE(future.ready());
    const std::size_t done = future.done();
    EXPECT_EQ(future.failed(), 12 - done);
    if (by_results) {
      const auto results = future.results();
      std::size_t values = 0;
      for (std::size_t i = 0; i < 12; ++i) {
        if (results[i]) {
          EXPECT_EQ(results[i].value(), 2 * static_cast<int>(i));
          ++values;
        } else {
          EXPECT_THROW(static_cast<void>(results[i].value()), Cancelled) << i;
        }
      }
      EXPECT_EQ(values, done);
      // Of the chunk in the midst, exactly what had ended.
      for (std::size_t i = 4; i < 8; ++i) EXPECT_EQ(results[i].has_value(), i < 6) << i;
    } else {
      EXPECT_THROW(future.get(), Cancelled);
    }
    EXPECT_FALSE(future.cancel());
    EXPECT_EQ(pool.apply(twice, 2), 4);
  }
  auto ended = pool.map_async(twice, std::views::iota(0, 100));
  ended.wait();
  EXPECT_FALSE(ended.cancel());
  EXPECT_EQ(ended.get()[99], 198);
  EXPECT_FALSE((MapFuture<int>().cancel()));
}

TEST_P(MapFutureTest, CancelEndsTheElementsWithoutAnOutcome) {
  Pool pool(with(1));
  expect_cancelled_in_parts(pool);
}

TEST_P(MapFutureTest, AnElementThatDoesNotStopIsKilledAfterItsGrace) {
  PoolOptions options = with(1);
  options.grace = 20ms;
  Pool pool(options);
  Event reached;
  auto future = pool.map_async(
      [](const Element& element) {
        element.first.set();
        for (;;) pause();
        return 0;
      },
      elements(reached, 4));
  reached.wait();
  EXPECT_TRUE(future.cancel());
  EXPECT_THROW(future.get(), Cancelled);
  EXPECT_EQ(pool.apply(twice, 2), 4);
}

TEST(MapFutureThreadTest, CancelEndsTheElementsWithoutAnOutcome) {
  ThreadPool pool(1);
  expect_cancelled_in_parts(pool);
}

TEST_P(MapFutureTest, ATimeoutIsThatOfGet) {
  Pool pool(with(1));
  Event gate;
  auto future =
      pool.map_async([](const Event& e) { e.wait(); }, std::vector{gate}, {.timeout = 5ms});
  EXPECT_THROW(future.get(), TimeoutError);
  gate.set();
  EXPECT_TRUE(future.wait_for(kHangGuard));
}

TEST_P(MapFutureTest, StarmapAsyncAndContinuations) {
  Pool pool(with(2));
  Loop loop;
  const std::vector<std::pair<int, int>> pairs = {{1, 2}, {3, 4}};
  std::vector<int> seen;
  auto sum = pool.starmap_async([](int a, int b) { return a * b; }, pairs)
                 .notify(loop, [&](const std::vector<int>& values) { seen = values; })
                 .then([](const std::vector<int>& values) { return values[0] + values[1]; });
  loop.run();
  EXPECT_EQ(seen, (std::vector{2, 12}));
  EXPECT_EQ(sum.get(), 14);
  auto empty =
      pool.map_async(twice, std::vector<int>{}).then(loop, [](auto v) { return v.size(); });
  loop.run();
  EXPECT_EQ(empty.get(), 0U);
  std::string error;
  auto failed = pool.map_async(fail, std::vector{1, 2, 3})
                    .notify(
                        loop, [](const std::vector<int>&) {},
                        [&](const std::exception_ptr& e) { error = e ? "error" : ""; });
  loop.run();
  EXPECT_EQ(error, "error");
  EXPECT_THROW(failed.get(), std::runtime_error);
}

TEST_P(MapFutureTest, APoolThatEndsEndsIt) {
  Pool pool(with(1));
  auto future = pool.map_async([](int n) { return pause() + n; }, std::vector{1, 2});
  pool.terminate();
  future.wait();
  EXPECT_TRUE(future.ready());
  EXPECT_THROW(static_cast<void>(future.get()), PoolClosed);
  EXPECT_THROW(static_cast<void>(pool.map_async(twice, std::vector{1})), PoolClosed);
}

// ---- coroutines

// The smallest task type: starts at once, tells when it is over.
struct Coroutine {
  struct promise_type {
    Coroutine get_return_object() { return {over}; }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void return_void() { over->store(true); }
    void unhandled_exception() { over->store(true); }
    std::shared_ptr<std::atomic<bool>> over = std::make_shared<std::atomic<bool>>(false);
  };
  std::shared_ptr<std::atomic<bool>> over;
};

Coroutine add_up(Pool& pool, Loop& loop, std::vector<int>& seen) {
  for (int i = 1; i <= 3; ++i) seen.push_back(co_await pool.submit(twice, i).on(loop));
  try {
    co_await pool.submit(fail, 1).on(loop);
  } catch (const std::runtime_error&) {
    seen.push_back(-1);
  }
  const std::vector<int> mapped = co_await pool.map_async(twice, std::views::iota(0, 10)).on(loop);
  seen.push_back(mapped.back());
  auto dies = pool.submit([] { kill(getpid(), SIGKILL); });
  try {
    co_await dies.on(loop);
  } catch (const WorkerDied&) {
    seen.push_back(-2);
  }
  seen.push_back(co_await pool.submit(twice, 1).then([](int n) { return n + 1; }).on(loop));
}

TEST_P(CoroutineTest, GoesOnInTheThreadThatRunsTheLoop) {
  Pool pool(with(2));
  Loop loop;
  std::vector<int> seen;
  const Coroutine coroutine = add_up(pool, loop, seen);
  loop.run();
  EXPECT_TRUE(coroutine.over->load());
  EXPECT_EQ(seen, (std::vector{2, 4, 6, -1, 18, -2, 3}));
}

Coroutine hop(Pool& pool, OneThread& executor, Event gate, std::atomic<int>& result) {
  const int value = co_await pool.submit(after, gate, 7).on(executor);
  EXPECT_EQ(std::this_thread::get_id(), executor.id());
  const int other = co_await pool.submit(after, gate, 8);
  result.store(value + other);
}

TEST_P(CoroutineTest, GoesOnWhereverTheExecutorRunsIt) {
  Pool pool(with(2));
  OneThread executor;
  Event gate;
  std::atomic<int> result{0};
  std::vector<Coroutine> coroutines;
  for (int i = 0; i < 5; ++i) coroutines.push_back(hop(pool, executor, gate, result));
  gate.set();
  for (const Coroutine& coroutine : coroutines) {
    EXPECT_TRUE(wait_until([&] { return coroutine.over->load(); }));
  }
  EXPECT_EQ(result.load(), 15);
}

TEST_P(CoroutineTest, ManyAtOnceWhileWorkersDie) {
  Pool pool(with(2));
  Loop loop;
  int values = 0;
  int deaths = 0;
  const auto one = [&](int n) -> Coroutine {
    try {
      values += co_await pool
                    .submit(
                        [](int i) {
                          if (i % 40 == 0) kill(getpid(), SIGKILL);
                          return 1;
                        },
                        n)
                    .on(loop);
    } catch (const WorkerDied&) {
      ++deaths;
    }
  };
  for (int i = 0; i < 400; ++i) one(i);
  loop.run();
  EXPECT_EQ(deaths, 10);
  EXPECT_EQ(values, 390);
}

}  // namespace
}  // namespace brood::test
