// What a Future does besides giving a value.
#include "brood/future.hpp"

#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "brood/pool.hpp"
#include "support/ledger.hpp"
#include "support/memory.hpp"
#include "support/pools.hpp"

namespace brood::test {
namespace {

class FutureTest : public PoolConformance {};
BROOD_FOR_EACH_START_METHOD(FutureTest);

int twice(int n) { return 2 * n; }

TEST_P(FutureTest, TheValueCanBeTakenOnce) {
  Pool pool(with(1));
  auto future = pool.submit(twice, 1);
  EXPECT_TRUE(future.valid());
  EXPECT_EQ(future.get(), 2);
  EXPECT_FALSE(future.valid());
  EXPECT_FALSE(future.ready());
  EXPECT_THROW(future.get(), Error);
  EXPECT_THROW(future.wait(), Error);
  EXPECT_THROW(static_cast<void>(future.wait_for(0s)), Error);
  EXPECT_THROW(static_cast<void>(future.get_for(0s)), Error);
}

TEST_P(FutureTest, AnErrorToo) {
  Pool pool(with(1));
  auto future = pool.submit([] { throw std::runtime_error("once"); });
  EXPECT_THROW(future.get(), std::runtime_error);
  EXPECT_FALSE(future.valid());
  EXPECT_THROW(future.get(), Error);
}

TEST_P(FutureTest, AMovedFromOrDefaultOneHasNothing) {
  Pool pool(with(1));
  auto future = pool.submit(twice, 2);
  Future<int> other = std::move(future);
  EXPECT_FALSE(future.valid());  // NOLINT: on purpose
  EXPECT_THROW(future.get(), Error);
  EXPECT_EQ(other.get(), 4);
  Future<int> empty;
  EXPECT_FALSE(empty.valid());
  EXPECT_THROW(empty.get(), Error);
  empty = pool.submit(twice, 3);
  EXPECT_EQ(empty.get(), 6);
  static_assert(!std::is_copy_constructible_v<Future<int>>);
}

TEST_P(FutureTest, AssigningDropsTheFormerTaskButLetsItRun) {
  Pool pool(with(1));
  TempFolder folder;
  const std::string list = folder.path("list");
  auto future = pool.submit(
      [](std::string path) {
        record(path, 1);
        return 1;
      },
      list);
  future = pool.submit(
      [](std::string path) {
        record(path, 2);
        return 2;
      },
      list);
  EXPECT_EQ(future.get(), 2);
  EXPECT_EQ(recorded(list), (std::vector<std::int64_t>{1, 2}));
}

TEST_P(FutureTest, TimedFormsEndAtTheirTimeAndDisturbNothing) {
  Pool pool(with(1));
  TempFolder folder;
  const std::string gate = folder.path("gate");
  auto future = pool.submit(
      [](std::string path) {
        wait_at_gate(path);
        return 7;
      },
      gate);
  EXPECT_FALSE(future.ready());
  EXPECT_FALSE(future.wait_for(0s));
  EXPECT_FALSE(future.wait_for(-1s));
  EXPECT_EQ(future.get_for(0ns), std::nullopt);
  EXPECT_EQ(future.get_until(std::chrono::steady_clock::now() - 1h), std::nullopt);
  const auto before = std::chrono::steady_clock::now();
  EXPECT_EQ(future.get_for(30ms), std::nullopt);
  EXPECT_GE(std::chrono::steady_clock::now() - before, 30ms);
  EXPECT_FALSE(future.wait_until(std::chrono::steady_clock::now() + 1ms));
  EXPECT_TRUE(future.valid());
  open_gate(gate);
  EXPECT_TRUE(future.wait_for(std::chrono::hours(24 * 365 * 100)));
  EXPECT_TRUE(future.ready());
  EXPECT_EQ(future.get_for(0s), 7);
  EXPECT_FALSE(future.valid());
}

TEST_P(FutureTest, GetForOfAVoidTaskTellsWhetherItEnded) {
  Pool pool(with(1));
  TempFolder folder;
  auto future = pool.submit(wait_at_gate, folder.path("gate"));
  EXPECT_FALSE(future.get_for(1ms));
  open_gate(folder.path("gate"));
  EXPECT_TRUE(future.get_for(kHangGuard));
  EXPECT_FALSE(future.valid());
}

TEST_P(FutureTest, ReadyTurnsTrueWithoutAnybodyWaiting) {
  Pool pool(with(1));
  auto value = pool.submit(twice, 1);
  auto error = pool.submit([] { throw 1; });
  EXPECT_TRUE(wait_until([&] { return value.ready() && error.ready(); }));
  EXPECT_EQ(value.get(), 2);
  EXPECT_THROW(error.get(), RemoteError);
}

TEST_P(FutureTest, OneMayOutliveItsPool) {
  std::optional<Future<std::string>> done;
  std::optional<Future<std::string>> running;
  std::optional<Future<std::string>> waiting;
  std::optional<Future<std::string>> dropped;
  TempFolder folder;
  {
    Pool pool(with(1));
    const std::string large(100'000, 'l');
    done = pool.submit([](std::string s) { return s; }, large);
    done->wait();
    running = pool.submit(
        [](std::string p) {
          wait_at_gate(p);
          return p;
        },
        folder.path("gate"));
    waiting = pool.submit([](std::string s) { return s; }, large);
    dropped = pool.submit([](std::string s) { return s; }, large);
    ASSERT_TRUE(wait_until([&] { return pool.stats().running == 1; }));
  }
  EXPECT_EQ(done->get(), std::string(100'000, 'l'));
  EXPECT_TRUE(running->ready());
  EXPECT_THROW(running->get(), PoolClosed);
  EXPECT_THROW(waiting->get(), PoolClosed);
  dropped.reset();
}

TEST_P(FutureTest, ItsResultIsThereAfterClosingAndJoining) {
  Pool pool(with(2));
  std::vector<Future<int>> futures;
  for (int i = 0; i < 100; ++i) futures.push_back(pool.submit(twice, i));
  pool.close();
  pool.join();
  for (int i = 0; i < 100; ++i) {
    EXPECT_TRUE(futures[static_cast<std::size_t>(i)].ready());
    EXPECT_EQ(futures[static_cast<std::size_t>(i)].get(), 2 * i);
  }
}

TEST_P(FutureTest, DroppedFuturesTasksRunAllTheSame) {
  Pool pool(with(2));
  TempFolder folder;
  const std::string list = folder.path("list");
  for (int i = 0; i < 200; ++i) {
    static_cast<void>(pool.submit(record, list, i));
  }
  pool.close();
  pool.join();
  const auto counts = counted(list);
  EXPECT_EQ(counts.size(), 200U);
  for (const auto& [number, times] : counts) EXPECT_EQ(times, 1) << number;
}

TEST_P(FutureTest, TheMemoryOfAMillionDroppedFuturesIsUsedAgain) {
  Pool pool(with(2));
  const std::string payload(200, 'p');
  const auto echo = [](std::string s) { return s; };
  const int rounds = kSanitized ? 100 : 1000;
  long after_warm_up = 0;
  for (int round = 0; round < rounds; ++round) {
    for (int i = 0; i < 1000; ++i) static_cast<void>(pool.submit(echo, payload));
    pool.apply(twice, 1);
    if (round == rounds / 10) after_warm_up = pool_memory_bytes();
  }
  // Dropped tasks wait in the ring behind one another: some more may pile up now and then.
  EXPECT_LE(pool_memory_bytes(), after_warm_up * 2 + (8 << 20));
}

TEST_P(FutureTest, AFutureDroppedWhileItsTaskRunsFreesItsResultLater) {
  Pool pool(with(1));
  TempFolder folder;
  for (int round = 0; round < 20; ++round) {
    const std::string gate = folder.path("gate" + std::to_string(round));
    {
      auto dropped = pool.submit(
          [](std::string path) {
            wait_at_gate(path);
            return std::string(std::size_t{4} << 20, 'r');
          },
          gate);
      ASSERT_TRUE(wait_until([&] { return pool.stats().running == 1; }));
    }
    open_gate(gate);
    pool.apply(twice, round);
  }
  // Twenty results of 4 MiB, of which each but the last few must have made room for the next.
  EXPECT_LT(pool_memory_bytes(), 60L << 20);
}

TEST_P(FutureTest, WaitersInSeveralThreadsAllWake) {
  Pool pool(with(2));
  TempFolder folder;
  const std::string gate = folder.path("gate");
  std::vector<Future<int>> futures;
  for (int i = 0; i < 8; ++i) {
    futures.push_back(pool.submit(
        [](std::string path, int n) {
          wait_at_gate(path);
          return n;
        },
        gate, i));
  }
  std::vector<std::thread> threads;
  std::vector<int> got(8, -1);
  for (std::size_t i = 0; i < 8; ++i) {
    threads.emplace_back([&, i] { got[i] = futures[i].get(); });
  }
  open_gate(gate);
  for (std::thread& thread : threads) thread.join();
  for (int i = 0; i < 8; ++i) EXPECT_EQ(got[static_cast<std::size_t>(i)], i);
}

}  // namespace
}  // namespace brood::test
