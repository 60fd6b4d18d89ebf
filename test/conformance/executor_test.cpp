// What CPython's tests of multiprocessing.Pool and ProcessPoolExecutor try and nothing else here
// does: the ends of pools whose tasks still run, and what becomes of arguments. Some of CPython's
// are skipped there because they hang.
#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <memory>
#include <optional>
#include <ranges>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "brood/brood.hpp"
#include "support/host.hpp"
#include "support/pools.hpp"

namespace brood::test {
namespace {

class ExecutorTest : public PoolConformance {};
BROOD_FOR_EACH_START_METHOD(ExecutorTest);

int twice(int n) { return 2 * n; }
void hang() {
  for (;;) pause();
}

// ---- ends of pools

// Python's shutdown(wait=False) while a task runs: its interpreter waits for ever at its end.
TEST_P(ExecutorTest, AProgramEndsThoughATaskOfItsClosedPoolRunsForEver) {
  for (const bool leaked : {false, true}) {
    Host host([&] {
      auto pool = std::make_unique<Pool>(with(2));
      HOST_CHECK(pool->apply(twice, 1) == 2);
      static auto never = pool->submit(hang);
      HOST_CHECK(wait_until([&] { return never.running(); }));
      pool->close();
      // Where LeakSanitizer finds it.
      static std::unique_ptr<Pool>* kept = nullptr;
      if (leaked) kept = new std::unique_ptr<Pool>(std::move(pool));
      HOST_CHECK((kept != nullptr) == leaked);
      return 0;
    });
    EXPECT_EQ(host.end(), "exit 0");
    EXPECT_TRUE(host.is_gone_within(kPromisedSecond)) << describe(host.family());
  }
}

TEST_P(ExecutorTest, AProgramEndsThoughItHasCancelledAllTasksAndClosedItsPool) {
  Host host([&] {
    Pool pool(with(2));
    std::vector<Future<void>> futures;
    for (int i = 0; i < 50; ++i) futures.push_back(pool.submit(hang));
    for (auto& future : futures) HOST_CHECK(future.cancel());
    pool.close();
    return 0;
  });
  EXPECT_EQ(host.end(), "exit 0");
  EXPECT_TRUE(host.is_gone_within(kPromisedSecond)) << describe(host.family());
}

TEST_P(ExecutorTest, WhatIsCancelledRightBeforeTheEndDoesNotHoldItUp) {
  for (int again = 0; again < 50 / kSlowness; ++again) {
    Pool pool(with(1));
    EXPECT_EQ(pool.apply(twice, 1), 2);
    auto future = pool.submit(twice, 2);
    if (future.cancel()) {
      EXPECT_THROW(future.get(), Cancelled);
    } else {
      EXPECT_EQ(future.get(), 4);
    }
    EXPECT_TRUE(pool.shutdown(kHangGuard));
  }
}

TEST_P(ExecutorTest, CancellingWhatWaitsLetsTheOthersFinish) {
  Pool pool(with(2));
  Semaphore steps(0);
  const auto step = [](Semaphore gate) { gate.acquire(); };
  std::vector<Future<void>> futures;
  for (int i = 0; i < 50; ++i) futures.push_back(pool.submit(step, steps));
  EXPECT_TRUE(wait_until([&] { return futures[0].running() && futures[1].running(); }));
  for (std::size_t i = 2; i < 50; ++i) EXPECT_TRUE(futures[i].cancel());
  steps.release();
  steps.release();
  EXPECT_TRUE(pool.shutdown(kHangGuard));
  futures[0].get();
  futures[1].get();
  for (std::size_t i = 2; i < 50; ++i) EXPECT_THROW(futures[i].get(), Cancelled);
}

TEST_P(ExecutorTest, AClosedPoolRunsFiftyTasksThatWaited) {
  Pool pool(with(2));
  std::vector<Future<void>> futures;
  for (int i = 0; i < 50; ++i) {
    futures.push_back(pool.submit([] { std::this_thread::sleep_for(2ms); }));
  }
  EXPECT_TRUE(pool.shutdown(kHangGuard));
  for (auto& future : futures) future.get();
}

// As long as there is a pool it does what it is asked to; a closed one says so. Nothing hangs.
TEST_P(ExecutorTest, SubmittingInAnExitHandlerIsWorkOrAnError) {
  Host host([&] {
    static Pool* leaked = nullptr;
    HOST_CHECK(std::atexit([] {
                 say(outcome_of([] { static_cast<void>(leaked->submit(twice, 1).get()); }));
               }) == 0);
    leaked = new Pool(with(1));
    HOST_CHECK(leaked->apply(twice, 1) == 2);
    return 0;
  });
  const std::string outcome = host.read_line();
  EXPECT_TRUE(outcome == "PoolClosed" || outcome == "FamilyBroken" || outcome == "value")
      << outcome;
  EXPECT_EQ(host.end(), "exit 0");
  EXPECT_TRUE(host.is_gone_within(kPromisedSecond)) << describe(host.family());
}

// What workers that are recycled leave undone is done by others, or told: also when nobody holds
// the pool any more.
TEST_P(ExecutorTest, TasksOfAPoolThatGoesWhileItsWorkersAreRecycledHaveAnOutcome) {
  for (const bool closes : {false, true}) {
    PoolOptions options = with(1);
    options.max_tasks_per_worker = 1;
    Event begun;
    Event let_go;
    std::vector<Future<int>> futures;
    {
      Pool pool(options);
      const auto wait_and_return = [](Event started, Event gate, int value) {
        started.set();
        gate.wait();
        return value;
      };
      for (int i = 0; i < 3; ++i) futures.push_back(pool.submit(wait_and_return, begun, let_go, i));
      begun.wait();
      if (closes) {
        pool.close();
        let_go.set();
        EXPECT_TRUE(pool.join_for(kHangGuard));
      }
    }
    for (int i = 0; i < 3; ++i) {
      auto& future = futures[static_cast<std::size_t>(i)];
      if (closes) {
        EXPECT_EQ(future.get(), i);
      } else {
        EXPECT_THROW(future.get(), PoolClosed);
      }
    }
  }
}

TEST_P(ExecutorTest, TerminatingAPoolWhoseWorkersHaveDiedIsFine) {
  Pool pool(with(1));
  EXPECT_THROW(pool.apply([] { _exit(1); }), WorkerDied);
  pool.terminate();
  pool.terminate();
  EXPECT_THROW(static_cast<void>(pool.submit(twice, 1)), PoolClosed);
  EXPECT_TRUE(pool.join_for(kHangGuard));
}

// ---- tasks

TEST_P(ExecutorTest, ManyMoreTasksThanWorkersMayWaitForTheSame) {
  Pool pool(with(4));
  Semaphore all(0);
  std::vector<Future<void>> futures;
  for (int i = 0; i < 60; ++i) {
    futures.push_back(pool.submit([](Semaphore gate) { gate.acquire(); }, all));
  }
  EXPECT_EQ(pool.stats().workers.size(), 4U);
  for (int i = 0; i < 60; ++i) all.release();
  for (auto& future : futures) EXPECT_TRUE(future.get_for(kHangGuard));
}

// Tells of the end of each copy that is not the caller's.
class Guest {
 public:
  Guest() = default;
  explicit Guest(Semaphore departures) : departures_(std::move(departures)) {}
  Guest(Guest&&) = default;
  Guest& operator=(Guest&&) = default;
  ~Guest() {
    // A moved-from semaphore is none.
    if (arrived_ && departures_ && *departures_) departures_->release();
  }
  template <class Archive>
  void save(Archive& ar) const {
    ar(departures_);
  }
  template <class Archive>
  void load(Archive& ar) {
    ar(departures_);
    arrived_ = true;
  }

 private:
  std::optional<Semaphore> departures_;
  bool arrived_ = false;
};

TEST_P(ExecutorTest, ArgumentsAreDestroyedWhenTheirTaskHasEnded) {
  Pool pool(with(1));
  Semaphore departures(0);
  pool.submit([](const Guest&) {}, Guest(departures)).get();
  EXPECT_TRUE(departures.try_acquire_for(kHangGuard));
  const auto throws = [](const Guest&) { throw std::runtime_error("on purpose"); };
  EXPECT_THROW(pool.submit(throws, Guest(departures)).get(), std::runtime_error);
  EXPECT_TRUE(departures.try_acquire_for(kHangGuard));
  EXPECT_FALSE(departures.try_acquire()) << "each once";
}

TEST_P(ExecutorTest, AMapOfARangeThatThrowsThrowsItAndThePoolGoesOn) {
  Pool pool(with(2));
  for (const int bad : {0, 1, 7, 999}) {
    const auto numbers = std::views::iota(0, 1000) | std::views::transform([bad](int i) {
                           if (i == bad) throw std::out_of_range("the range");
                           return i;
                         });
    EXPECT_THROW(static_cast<void>(pool.map(twice, numbers, {.chunk_size = 3})), std::out_of_range)
        << bad;
    EXPECT_EQ(pool.apply(twice, 21), 42);
  }
  EXPECT_TRUE(wait_until([&] { return pool.stats().pending + pool.stats().running == 0; }));
}

}  // namespace
}  // namespace brood::test
