// Time limits, deadlines, cancelling, retries, priorities, and the limit on what waits.
#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <exception>
#include <set>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "brood/brood.hpp"
#include "support/pools.hpp"

namespace brood::test {
namespace {

class StopTaskTest : public PoolConformance {
 protected:
  [[nodiscard]] static PoolOptions impatient(std::size_t workers) {
    PoolOptions options = with(workers);
    options.grace = 20ms;
    return options;
  }
};
BROOD_FOR_EACH_START_METHOD(StopTaskTest);

int pid() { return getpid(); }
int answer() { return 42; }

// Hears of nothing.
int hang() {
  for (;;) pause();
}

int attempts_of(const std::exception_ptr& timeout) {
  try {
    if (timeout != nullptr) std::rethrow_exception(timeout);
  } catch (const TaskTimeout& e) {
    return e.attempts();
  }
  return -1;
}

std::string text_of(const std::exception_ptr& thrown) {
  try {
    std::rethrow_exception(thrown);
  } catch (const std::exception& e) {
    return e.what();
  }
}

// Until it is asked to stop; then what it returns is of no value.
int obey() {
  while (!stop_requested()) std::this_thread::yield();
  return -1;
}

// Says that it has begun, then waits to be let go.
int hold(Event begun, Event let_go) {
  begun.set();
  let_go.wait();
  return getpid();
}

// ---- time limits

TEST_P(StopTaskTest, ATaskThatRunsTooLongIsTaskTimeoutAndItsWorkerIsReplaced) {
  Pool pool(impatient(1));
  const int before = pool.apply(pid);
  auto future = pool.submit(TaskOptions{.timeout = 50ms, .name = "decode #7"}, hang);
  try {
    future.get();
    FAIL();
  } catch (const TaskTimeout& e) {
    EXPECT_EQ(e.attempts(), 1);
    EXPECT_NE(std::string(e.what()).find("decode #7"), std::string::npos) << e.what();
  }
  EXPECT_NE(pool.apply(pid), before);
  const PoolStats stats = pool.stats();
  EXPECT_EQ(stats.timed_out, 1U);
  EXPECT_EQ(stats.died, 0U) << "it was killed on purpose";
}

TEST_P(StopTaskTest, ATaskThatStopsWhenAskedKeepsItsWorker) {
  PoolOptions options = with(1);
  options.task_timeout = 50ms;
  options.grace = kHangGuard;
  Pool pool(options);
  const int before = pool.apply(pid);
  EXPECT_THROW(pool.submit(obey).get(), TaskTimeout);
  EXPECT_EQ(pool.apply(pid), before);
  EXPECT_EQ(pool.stats().timed_out, 1U);
}

TEST_P(StopTaskTest, ATaskWithinItsLimitIsLeftAlone) {
  PoolOptions options = impatient(2);
  options.task_timeout = kHangGuard;
  Pool pool(options);
  std::vector<Future<int>> futures;
  for (int i = 0; i < 1000; ++i) futures.push_back(pool.submit(answer));
  for (auto& future : futures) EXPECT_EQ(future.get(), 42);
  EXPECT_EQ(pool.stats().timed_out, 0U);
}

TEST_P(StopTaskTest, InMapTheElementIsWhatMayTakeSoLong) {
  PoolOptions options = impatient(2);
  options.task_timeout = 500ms * kSlowness;
  Pool pool(options);
  const auto work = [](int i) {
    if (i == 5) hang();
    if (i == 7) static_cast<void>(obey());
    return i * i;
  };
  const auto results = pool.map_results(work, std::views::iota(0, 12), {.chunk_size = 4});
  for (int i = 0; i < 12; ++i) {
    const auto& result = results[static_cast<std::size_t>(i)];
    if (i == 5 || i == 7) {
      EXPECT_THROW(static_cast<void>(result.value()), TaskTimeout) << i;
    } else {
      ASSERT_TRUE(result.has_value()) << i;
      EXPECT_EQ(*result, i * i);
    }
  }
  EXPECT_EQ(pool.stats().timed_out, 2U);
}

// A limit that each of many elements meets, while all of them together do not.
TEST_P(StopTaskTest, ElementsOfAChunkHaveALimitEach) {
  PoolOptions options = impatient(1);
  options.task_timeout = 1s * kSlowness;
  Pool pool(options);
  const auto nap = [](int i) {
    std::this_thread::sleep_for(10ms);
    return i;
  };
  const int count = 110 * kSlowness;
  const auto all = pool.map(nap, std::views::iota(0, count), {.chunk_size = 1000});
  EXPECT_EQ(all.size(), static_cast<std::size_t>(count));
  EXPECT_EQ(pool.stats().died, 0U);
}

// ---- retries

TEST_P(StopTaskTest, ATaskThatRanTooLongIsTriedAgain) {
  Pool pool(impatient(1));
  Value<int> runs(0);
  const auto second_time = [](Value<int> count) {
    if (count.fetch_add(1) == 0) hang();
    return 7;
  };
  const TaskOptions options{.timeout = 500ms * kSlowness, .retries = 1};
  EXPECT_EQ(pool.submit(options, second_time, runs).get(), 7);
  EXPECT_EQ(runs.get(), 2);
  // Where it stops when asked, the same worker tries again.
  Value<int> obedient(0);
  const auto obeys_once = [](Value<int> count) {
    if (count.fetch_add(1) == 0) return obey();
    return getpid();
  };
  const int worker = pool.apply(pid);
  EXPECT_EQ(pool.submit(options, obeys_once, obedient).get(), worker);
}

TEST_P(StopTaskTest, ATaskThatAlwaysTakesTooLongEndsWithTheCountOfItsAttempts) {
  Pool pool(impatient(1));
  Value<int> runs(0);
  const auto always = [](Value<int> count) {
    count.fetch_add(1);
    return hang();
  };
  auto future = pool.submit({.timeout = 200ms * kSlowness, .retries = 2}, always, runs);
  // Before and after the worker of the last attempt was killed.
  for (int i = 0; i < 2; ++i) {
    future.wait();
    const auto thrown = thrown_by<TaskTimeout>([&] { std::rethrow_exception(future.exception()); });
    ASSERT_NE(thrown, nullptr);
    EXPECT_EQ(attempts_of(thrown), 3);
    EXPECT_EQ(pool.apply(answer), 42);
  }
  EXPECT_EQ(runs.get(), 3);
}

TEST_P(StopTaskTest, AttemptsAreHowOftenItWasRunWhateverEndedThem) {
  Pool pool(impatient(1));
  const TaskOptions options{.timeout = 50ms * kSlowness, .retries = 2};
  EXPECT_EQ(attempts_of(thrown_by<TaskTimeout>([&] { pool.submit(options, obey).get(); })), 3)
      << "by a worker that stopped when it was asked to";
  const auto die = [] { raise(SIGKILL); };
  EXPECT_EQ(death_of([&] { pool.submit({.retries = 2}, die).get(); }).attempts, 3);
  // It died first, and then took too long.
  Value<int> runs(0);
  const auto both = [](Value<int> count) {
    if (count.fetch_add(1) < 2) raise(SIGKILL);
    return hang();
  };
  EXPECT_EQ(attempts_of(thrown_by<TaskTimeout>([&] { pool.submit(options, both, runs).get(); })),
            3);
  const TaskOptions once{.timeout = options.timeout, .retries = 0};
  EXPECT_EQ(attempts_of(thrown_by<TaskTimeout>([&] { pool.submit(once, hang).get(); })), 1);
  // An element of map.
  PoolOptions limited = impatient(1);
  limited.task_timeout = options.timeout;
  limited.retries = 2;
  Pool mapping(limited);
  const auto results = mapping.map_results([](int i) { return i == 1 ? hang() : i; },
                                           std::vector<int>{0, 1, 2}, {.chunk_size = 3});
  EXPECT_EQ(attempts_of(thrown_by<TaskTimeout>([&] { static_cast<void>(results[1].value()); })), 3);
}

TEST_P(StopTaskTest, ExceptionsAreTriedAgainOnlyIfAskedFor) {
  Pool pool(with(1));
  Value<int> runs(0);
  const auto fails_twice = [](Value<int> count) {
    if (count.fetch_add(1) < 2) throw std::runtime_error("not yet");
    return 1;
  };
  EXPECT_THROW(pool.submit({.retries = 5}, fails_twice, runs).get(), std::runtime_error);
  EXPECT_EQ(runs.get(), 1);
  runs.set(0);
  EXPECT_EQ(pool.submit({.retries = 5, .retry_exceptions = true}, fails_twice, runs).get(), 1);
  EXPECT_EQ(runs.get(), 3);
  runs.set(-10);
  try {
    pool.submit({.retries = 1, .retry_exceptions = true}, fails_twice, runs).get();
    FAIL();
  } catch (const std::runtime_error& e) {
    ASSERT_NE(remote_info(e), nullptr);
    EXPECT_EQ(remote_info(e)->attempts, 2);
  }
}

TEST_P(StopTaskTest, ElementsThatThrowAreTriedAgainIfAskedFor) {
  PoolOptions options = with(2);
  options.retries = 3;
  options.retry_exceptions = true;
  Pool pool(options);
  Array<int> runs(20);
  const auto fails_once = [](int i, Array<int> counts) {
    if (counts[static_cast<std::size_t>(i)]++ == 0) throw std::runtime_error("once");
    return i;
  };
  std::vector<std::pair<int, Array<int>>> arguments;
  for (int i = 0; i < 20; ++i) arguments.emplace_back(i, runs);
  const auto all = pool.starmap(fails_once, arguments, {.chunk_size = 7});
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(all[static_cast<std::size_t>(i)], i);
    EXPECT_EQ(runs[static_cast<std::size_t>(i)], 2);
  }
}

// ---- deadlines

TEST_P(StopTaskTest, ATaskThatWaitsBeyondItsDeadlineIsNeverRun) {
  Pool pool(with(1));
  Event begun;
  Event let_go;
  auto first = pool.submit(hold, begun, let_go);
  begun.wait();
  Value<int> runs(0);
  const auto count = [](Value<int> n) { n.fetch_add(1); };
  const auto deadline = std::chrono::steady_clock::now() + 30ms;
  auto late = pool.submit({.deadline = deadline}, count, runs);
  auto patient = pool.submit({.deadline = deadline + 24h}, count, runs);
  try {
    late.get();
    FAIL();
  } catch (const TaskTimeout& e) {
    EXPECT_EQ(e.attempts(), 0);
  }
  EXPECT_GE(std::chrono::steady_clock::now(), deadline);
  let_go.set();
  patient.get();
  EXPECT_EQ(runs.get(), 1);
}

TEST_P(StopTaskTest, ADeadlineIsKeptAlsoIfNobodyWaits) {
  Pool pool(with(1));
  Event begun;
  Event let_go;
  auto first = pool.submit(hold, begun, let_go);
  begun.wait();
  // In an order that is not theirs; each has to be noticed.
  std::vector<Future<int>> futures;
  for (const auto ms : {50, 10, 90, 30, 70}) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(ms);
    futures.push_back(pool.submit({.deadline = deadline}, answer));
  }
  for (const auto& future : futures) {
    EXPECT_TRUE(wait_until([&] { return future.ready(); }));
  }
  let_go.set();
  EXPECT_GT(first.get(), 0);
  for (auto& future : futures) EXPECT_THROW(future.get(), TaskTimeout);
  EXPECT_EQ(pool.stats().timed_out, 5U);
}

TEST_P(StopTaskTest, ADeadlineThatIsOverAlreadyEndsTheTaskAtOnce) {
  Pool pool(with(1));
  auto future = pool.submit({.deadline = std::chrono::steady_clock::time_point{}}, answer);
  EXPECT_THROW(future.get(), TaskTimeout);
  EXPECT_EQ(pool.apply(answer), 42);
}

TEST_P(StopTaskTest, ADeadlineEndsARunningTaskWhateverRetriesItHas) {
  Pool pool(impatient(1));
  const auto deadline = std::chrono::steady_clock::now() + 100ms;
  auto future = pool.submit({.deadline = deadline, .retries = 100}, hang);
  EXPECT_THROW(future.get(), TaskTimeout);
  EXPECT_EQ(pool.apply(answer), 42);
}

TEST_P(StopTaskTest, TheErrorNamesTheLimitThatWasMissed) {
  Pool pool(impatient(1));
  const auto text_with = [&](const TaskOptions& options) {
    const auto thrown = thrown_by<TaskTimeout>([&] { pool.submit(options, hang).get(); });
    return thrown == nullptr ? std::string() : text_of(thrown);
  };
  const auto now = std::chrono::steady_clock::now;
  EXPECT_EQ(text_with({.timeout = 50ms, .name = "t"}),
            "brood: t ran for longer than its timeout of 50 ms");
  EXPECT_EQ(text_with({.timeout = 1500us, .retries = 1, .name = "t"}),
            "brood: t ran for longer than its timeout of 1500 us (attempt 2)");
  EXPECT_EQ(text_with({.deadline = now(), .name = "t"}),
            "brood: t missed its deadline before it was run");
  EXPECT_EQ(text_with({.deadline = now() + 500ms * kSlowness, .name = "t"}),
            "brood: t missed its deadline");
  EXPECT_EQ(text_with({.timeout = 50ms, .deadline = now() + 24h, .name = "t"}),
            "brood: t ran for longer than its timeout of 50 ms, or missed its deadline");
}

// ---- cancelling

TEST_P(StopTaskTest, ATaskThatWaitsIsCancelledAndNeverRun) {
  Pool pool(with(1));
  Event begun;
  Event let_go;
  auto first = pool.submit(hold, begun, let_go);
  begun.wait();
  Value<int> runs(0);
  auto second = pool.submit([](Value<int> n) { n.fetch_add(1); }, runs);
  EXPECT_FALSE(second.running());
  EXPECT_TRUE(first.running());
  EXPECT_TRUE(second.cancel());
  EXPECT_TRUE(second.cancel()) << "again";
  EXPECT_TRUE(second.cancelled());
  EXPECT_TRUE(second.ready());
  EXPECT_THROW(second.get(), Cancelled);
  let_go.set();
  EXPECT_GT(first.get(), 0);
  pool.close();
  pool.join();
  EXPECT_EQ(runs.get(), 0);
  EXPECT_EQ(pool.stats().cancelled, 1U);
}

TEST_P(StopTaskTest, ARunningTaskIsAskedToStopThenItsWorkerIsKilled) {
  Pool pool(impatient(1));
  const int before = pool.apply(pid);
  Event begun;
  Event never;
  auto future = pool.submit(hold, begun, never);
  begun.wait();
  EXPECT_TRUE(future.cancel());
  EXPECT_TRUE(future.ready()) << "nobody waits for the worker";
  EXPECT_FALSE(future.running());
  EXPECT_THROW(future.get(), Cancelled);
  EXPECT_NE(pool.apply(pid), before);
  EXPECT_EQ(pool.stats().died, 0U);
}

TEST_P(StopTaskTest, ACancelledTaskThatStopsKeepsItsWorker) {
  PoolOptions options = with(1);
  options.grace = kHangGuard;
  Pool pool(options);
  const int before = pool.apply(pid);
  auto future = pool.submit(obey);
  EXPECT_TRUE(wait_until([&] { return future.running(); }));
  EXPECT_TRUE(future.cancel());
  EXPECT_THROW(future.get(), Cancelled);
  EXPECT_EQ(pool.apply(pid), before);
}

// Sleeps until it is asked to stop; says whether it heard of it so.
void sleep_until_asked(Event begun, Value<int> heard) {
  pollfd door{stop_fd(), POLLIN, 0};
  begun.set();
  while (!stop_requested()) {
    if (poll(&door, 1, static_cast<int>(kHangGuard / 1ms)) != 1) return;
  }
  heard += 1;
}

TEST_P(StopTaskTest, ATaskMaySleepUntilItIsAskedToStop) {
  PoolOptions options = with(1);
  options.grace = kHangGuard;
  Pool pool(options);
  const int before = pool.apply(pid);
  Value<int> heard(0);
  for (int round = 1; round <= 3; ++round) {
    Event begun;
    auto cancelled = pool.submit(sleep_until_asked, begun, heard);
    begun.wait();
    EXPECT_TRUE(cancelled.cancel());
    EXPECT_THROW(cancelled.get(), Cancelled);
    Event also_begun;
    EXPECT_THROW(pool.submit({.timeout = 30ms}, sleep_until_asked, also_begun, heard).get(),
                 TaskTimeout);
    EXPECT_EQ(pool.apply(pid), before);
    EXPECT_EQ(heard.get(), 2 * round);
  }
  Event begun;
  auto last = pool.submit(sleep_until_asked, begun, heard);
  begun.wait();
  EXPECT_FALSE(pool.shutdown(0ms));
  const std::string outcome = outcome_of([&] { last.get(); });
  EXPECT_TRUE(outcome == "PoolClosed" || outcome == "value") << outcome;
  EXPECT_THROW(static_cast<void>(stop_fd()), Error) << "this is no task";
}

TEST_P(StopTaskTest, WhoWaitsForACancelledTaskIsWoken) {
  Pool pool(impatient(1));
  Event begun;
  Event never;
  auto future = pool.submit(hold, begun, never);
  begun.wait();
  std::stop_source source;
  auto other = pool.submit({.stop = source.get_token()}, answer);
  std::thread canceller([&] {
    std::this_thread::sleep_for(20ms);  // so that it most likely waits by then
    source.request_stop();
  });
  EXPECT_FALSE(future.wait_for(10ms));
  EXPECT_THROW(other.get(), Cancelled);
  canceller.join();
  EXPECT_TRUE(future.cancel());
}

TEST_P(StopTaskTest, WhatHasEndedIsNotCancelled) {
  Pool pool(with(1));
  auto future = pool.submit(answer);
  future.wait();
  EXPECT_FALSE(future.cancel());
  EXPECT_FALSE(future.cancelled());
  EXPECT_EQ(future.get(), 42);
  EXPECT_FALSE(future.cancel()) << "there is no task any more";
  auto late = pool.submit({.deadline = std::chrono::steady_clock::time_point{}}, answer);
  EXPECT_FALSE(late.cancel());
  EXPECT_THROW(late.get(), TaskTimeout);
}

TEST_P(StopTaskTest, AStopTokenCancelsAllThatItWasGivenTo) {
  Pool pool(impatient(2));
  std::stop_source source;
  std::vector<Future<int>> futures;
  for (int i = 0; i < 20; ++i) futures.push_back(pool.submit({.stop = source.get_token()}, obey));
  EXPECT_TRUE(wait_until([&] { return futures[1].running(); }));
  source.request_stop();
  for (auto& future : futures) EXPECT_THROW(future.get(), Cancelled);
  // One that has said so already.
  auto late = pool.submit({.stop = source.get_token()}, answer);
  EXPECT_THROW(late.get(), Cancelled);
  EXPECT_EQ(pool.apply(answer), 42);
  EXPECT_EQ(pool.stats().cancelled, 21U);
}

TEST_P(StopTaskTest, AStopTokenMayOutliveTaskAndPool) {
  std::stop_source source;
  {
    Pool pool(with(1));
    EXPECT_EQ(pool.submit({.stop = source.get_token()}, answer).get(), 42);
    static_cast<void>(pool.submit({.stop = source.get_token()}, answer));
  }
  source.request_stop();
}

TEST_P(StopTaskTest, CancellingRunsTheContinuations) {
  Pool pool(impatient(1));
  Event begun;
  Event never;
  Loop loop;
  std::vector<std::string> heard;
  const auto value = [&](int) { heard.push_back("value"); };
  const auto error = [&](std::exception_ptr e) {
    heard.push_back(outcome_of([&] { std::rethrow_exception(e); }));
  };
  auto runs = pool.submit(hold, begun, never);
  auto waits = pool.submit(answer);
  begun.wait();
  std::stop_source source;
  auto told = pool.submit({.stop = source.get_token()}, answer);
  EXPECT_TRUE(runs.cancel());
  EXPECT_TRUE(waits.cancel());
  source.request_stop();
  for (auto* future : {&runs, &waits, &told}) {
    static_cast<void>(std::move(*future).notify(loop, value, error));
  }
  EXPECT_TRUE(wait_until([&] {
    loop.run_for(10ms);
    return heard.size() == 3;
  }));
  for (const std::string& what : heard) EXPECT_EQ(what, "Cancelled");
}

TEST_P(StopTaskTest, WhoWaitsForSeveralHearsOfCancelsAndTimeLimits) {
  Pool pool(impatient(1));
  Event begun;
  Event never;
  std::vector<Future<int>> futures;
  futures.push_back(pool.submit(hold, begun, never));
  futures.push_back(pool.submit(answer));
  begun.wait();
  // Long after the other one is cancelled, on however busy a machine.
  const auto deadline = std::chrono::steady_clock::now() + 1s * kSlowness;
  futures.push_back(pool.submit({.deadline = deadline}, answer));
  std::thread canceller([&] {
    std::this_thread::sleep_for(10ms);  // so that it most likely is waited for by then
    EXPECT_TRUE(futures[1].cancel());
  });
  std::vector<std::string> order;
  for (auto& future : as_completed(futures)) {
    order.push_back(outcome_of([&] { future.get(); }));
    const bool last = order.size() == 2;
    EXPECT_EQ(last && futures[0].cancel(), last);
  }
  canceller.join();
  ASSERT_EQ(order.size(), 3U);
  EXPECT_EQ(order[0], "Cancelled");
  EXPECT_EQ(order[1], "TimeoutError");
  EXPECT_EQ(order[2], "Cancelled");
}

// Each of these races with the end of its task: whichever wins, there is one outcome, and no worker
// dies for a task that it has ended.
TEST_P(StopTaskTest, CancellingRacesWithTheEnd) {
  Pool pool(with(2));
  const int rounds = 3000 / kSlowness;
  int cancelled = 0;
  for (int i = 0; i < rounds; ++i) {
    auto future = pool.submit(answer);
    for (int spin = 0; spin < i % 200; ++spin) std::atomic_signal_fence(std::memory_order_seq_cst);
    if (future.cancel()) {
      ++cancelled;
      EXPECT_THROW(future.get(), Cancelled);
    } else {
      EXPECT_EQ(future.get(), 42);
    }
  }
  EXPECT_EQ(pool.stats().cancelled, static_cast<std::uint64_t>(cancelled));
  EXPECT_EQ(pool.stats().died, 0U);
}

TEST_P(StopTaskTest, TimeLimitsRaceWithTheEnd) {
  PoolOptions options = with(2);
  options.grace = 0ms;  // the hardest: asked and killed in one moment
  Pool pool(options);
  const int rounds = 300 / kSlowness;
  int in_time = 0;
  for (int i = 0; i < rounds; ++i) {
    const auto spin = [](int microseconds) {
      const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(microseconds);
      while (std::chrono::steady_clock::now() < end) {
      }
      return 1;
    };
    auto a = pool.submit({.timeout = 300us}, spin, 280 + i % 40);
    auto b = pool.submit(answer);
    try {
      in_time += a.get();
    } catch (const TaskTimeout&) {
    }
    EXPECT_EQ(b.get(), 42) << "died for another's task";
  }
  const PoolStats stats = pool.stats();
  EXPECT_EQ(stats.timed_out, static_cast<std::uint64_t>(rounds - in_time));
  EXPECT_EQ(stats.died, 0U);
}

TEST_P(StopTaskTest, APoolThatIsClosedEndsWithItsCancelledTasks) {
  Pool pool(with(1));
  Event begun;
  Event let_go;
  auto first = pool.submit(hold, begun, let_go);
  begun.wait();
  auto second = pool.submit(answer);
  pool.close();
  EXPECT_TRUE(second.cancel());
  let_go.set();
  pool.join();
  EXPECT_THROW(second.get(), Cancelled);
  EXPECT_GT(first.get(), 0);
}

// ---- priorities, and room

TEST_P(StopTaskTest, TheMostUrgentRunFirst) {
  Pool pool(with(1));
  Event begun;
  Event let_go;
  auto first = pool.submit(hold, begun, let_go);
  begun.wait();
  Queue<std::string> order;
  const auto note = [](Queue<std::string> q, std::string text) { q.put(std::move(text)); };
  std::vector<Future<void>> futures;
  futures.push_back(pool.submit({.priority = Priority::low}, note, order, "low"));
  futures.push_back(pool.submit(note, order, "normal 1"));
  futures.push_back(pool.submit({.priority = Priority::high}, note, order, "high 1"));
  futures.push_back(pool.submit(note, order, "normal 2"));
  futures.push_back(pool.submit({.priority = Priority::high}, note, order, "high 2"));
  let_go.set();
  for (auto& future : futures) future.get();
  for (const char* expected : {"high 1", "high 2", "normal 1", "normal 2", "low"}) {
    EXPECT_EQ(order.get(), expected);
  }
}

TEST_P(StopTaskTest, ManyTasksOfEachPriorityAllRun) {
  Pool pool(with(2));
  std::vector<Future<int>> futures;
  for (int i = 0; i < 9000; ++i) {
    futures.push_back(pool.submit({.priority = static_cast<Priority>(i % 3)}, answer));
  }
  for (auto& future : futures) EXPECT_EQ(future.get(), 42);
}

TEST_P(StopTaskTest, SubmittingWaitsWhileTooManyTasksWait) {
  PoolOptions options = with(1);
  options.max_pending = 2;
  Pool pool(options);
  Event begun;
  Event let_go;
  auto first = pool.submit(hold, begun, let_go);
  begun.wait();
  auto second = pool.submit(answer);
  auto third = pool.try_submit(answer);
  ASSERT_TRUE(third.has_value());
  std::string text(1000, 'x');
  const auto size = [](std::string s) { return s.size(); };
  EXPECT_FALSE(pool.try_submit(size, std::move(text)).has_value());
  EXPECT_EQ(text.size(), 1000U) << "what was refused is untouched";
  EXPECT_FALSE(pool.submit_for(10ms, size, std::move(text)).has_value());
  EXPECT_EQ(pool.stats().pending, 2U);
  std::atomic<bool> submitted{false};
  std::thread blocked([&] {
    auto fourth = pool.submit(answer);
    submitted = true;
    EXPECT_EQ(fourth.get(), 42);
  });
  EXPECT_FALSE(wait_until([&] { return submitted.load(); }, 20ms));
  let_go.set();
  blocked.join();
  EXPECT_EQ(pool.submit_for(kHangGuard, size, std::move(text))->get(), 1000U);
  EXPECT_EQ(second.get() + third->get(), 84);
}

TEST_P(StopTaskTest, ACancelledTaskMakesRoomWhenItsTurnComes) {
  PoolOptions options = with(1);
  options.max_pending = 1;
  Pool pool(options);
  Event begun;
  Event let_go;
  auto first = pool.submit(hold, begun, let_go);
  begun.wait();
  auto second = pool.submit(answer);
  EXPECT_FALSE(pool.try_submit(answer).has_value());
  EXPECT_TRUE(second.cancel());
  auto third = pool.submit_for(kHangGuard, answer);
  ASSERT_TRUE(third.has_value());
  let_go.set();
  EXPECT_EQ(third->get(), 42);
}

// A pool with room for one task that waits, and that is taken until `let_go`.
struct FullPool {
  explicit FullPool(PoolOptions options)
      : pool([&] {
          options.max_pending = 1;
          return Pool(options);
        }()),
        runs(pool.submit(hold, begun, let_go)) {
    begun.wait();
    waits = pool.submit(answer);
  }
  // Every place is there again.
  void expect_room_once_let_go() {
    EXPECT_FALSE(pool.try_submit(answer).has_value());
    let_go.set();
    EXPECT_EQ(waits.get(), 42);
    for (int i = 0; i < 3; ++i) EXPECT_EQ(pool.submit_for(kHangGuard, answer)->get(), 42);
    EXPECT_EQ(pool.stats().pending, 0U);
  }

  Event begun;
  Event let_go;
  Pool pool;
  Future<int> runs;
  Future<int> waits;
};

TEST_P(StopTaskTest, ADeadlineEndsTheWaitForRoom) {
  FullPool full(with(1));
  const auto soon = [] { return std::chrono::steady_clock::now() + 20ms; };
  auto late = full.pool.submit({.deadline = soon()}, answer);
  EXPECT_TRUE(late.ready());
  EXPECT_THROW(late.get(), TaskTimeout);
  auto limited = full.pool.submit_for(kHangGuard, {.deadline = soon()}, answer);
  ASSERT_TRUE(limited.has_value());
  EXPECT_THROW(limited->get(), TaskTimeout);
  EXPECT_FALSE(full.pool.submit_for(10ms, {.deadline = soon() + kHangGuard}, answer).has_value())
      << "the limit came first";
  auto long_ago = full.pool.try_submit({.deadline = soon() - 1h}, answer);
  ASSERT_TRUE(long_ago.has_value());
  EXPECT_THROW(long_ago->get(), TaskTimeout);
  const PoolStats stats = full.pool.stats();
  EXPECT_EQ(stats.pending, 1U);
  EXPECT_EQ(stats.timed_out, 3U);
  EXPECT_EQ(stats.done, 3U);
  full.expect_room_once_let_go();
}

TEST_P(StopTaskTest, AStopRequestEndsTheWaitForRoom) {
  FullPool full(with(1));
  std::stop_source source;
  std::atomic<int> cancelled{0};
  std::vector<std::thread> blocked;
  const auto submit = [&](auto&& submitted) {
    blocked.emplace_back([&cancelled, submitted] {
      EXPECT_EQ(outcome_of([&] { static_cast<void>(submitted().get()); }), "Cancelled");
      ++cancelled;
    });
  };
  const TaskOptions options{.stop = source.get_token()};
  submit([&] { return full.pool.submit(options, answer); });
  submit([&] { return std::move(*full.pool.submit_for(kHangGuard, options, answer)); });
  EXPECT_FALSE(wait_until([&] { return cancelled != 0; }, 20ms));
  source.request_stop();
  for (std::thread& thread : blocked) thread.join();
  auto too = full.pool.try_submit(options, answer);
  ASSERT_TRUE(too.has_value()) << "it needs no room";
  EXPECT_THROW(too->get(), Cancelled);
  EXPECT_EQ(full.pool.stats().cancelled, 3U);
  full.expect_room_once_let_go();
}

TEST_P(StopTaskTest, WhoWaitsForRoomLearnsThatThePoolIsClosed) {
  PoolOptions options = with(1);
  options.max_pending = 1;
  options.grace = 0ms;
  Pool pool(options);
  auto first = pool.submit(hang);
  EXPECT_TRUE(wait_until([&] { return first.running(); }));
  auto second = pool.submit(answer);
  std::thread blocked([&] { EXPECT_THROW(static_cast<void>(pool.submit(answer)), PoolClosed); });
  pool.terminate();
  blocked.join();
}

TEST_P(StopTaskTest, WhateverSubmitsTakesOptionsInBraces) {
  Pool pool(with(1));
  const auto twice = [](int n) { return 2 * n; };
  EXPECT_EQ(pool.submit({.timeout = kHangGuard}, twice, 1).get(), 2);
  EXPECT_EQ(pool.apply({.timeout = kHangGuard}, twice, 1), 2);
  EXPECT_EQ(pool.apply_async({.timeout = kHangGuard}, twice, 1).get(), 2);
  EXPECT_EQ(pool.try_submit({.timeout = kHangGuard}, twice, 1)->get(), 2);
  EXPECT_EQ(pool.submit_for(kHangGuard, {.timeout = kHangGuard}, twice, 1)->get(), 2);
  EXPECT_THROW(pool.apply({.timeout = 10ms}, obey), TaskTimeout);
  TaskOptions named{.timeout = 10ms};
  EXPECT_THROW(pool.apply(named, obey), TaskTimeout);
  EXPECT_THROW(pool.apply_async(named, obey).get(), TaskTimeout);
}

TEST_P(StopTaskTest, OptionsThatMakeNoSenseAreRefused) {
  PoolOptions options = with(1);
  options.task_timeout = 0ms;
  EXPECT_THROW(Pool{options}, Error);
  options = with(1);
  options.grace = -1ms;
  EXPECT_THROW(Pool{options}, Error);
  options = with(1);
  options.max_pending = 0;
  EXPECT_THROW(Pool{options}, Error);
  Pool pool(with(1));
  EXPECT_THROW(static_cast<void>(pool.submit({.timeout = -5ms}, answer)), Error);
  EXPECT_THROW(static_cast<void>(pool.submit({.priority = static_cast<Priority>(9)}, answer)),
               Error);
  EXPECT_EQ(pool.apply(answer), 42);
}

TEST_P(StopTaskTest, StatisticsNameTheTask) {
  Pool pool(with(1));
  Event begun;
  Event let_go;
  auto future = pool.submit({.name = "upload 17"}, hold, begun, let_go);
  begun.wait();
  EXPECT_EQ(pool.stats().workers[0].task, "upload 17");
  let_go.set();
  future.wait();
  auto dies = pool.submit({.name = "upload 18"}, [] { kill(getpid(), SIGKILL); });
  EXPECT_EQ(death_of([&] { dies.get(); }).task, "upload 18");
}

TEST(StopRequestedTest, IsFalseOutsideOfATask) { EXPECT_FALSE(stop_requested()); }

}  // namespace
}  // namespace brood::test
