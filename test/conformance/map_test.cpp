// map: the element is the task.
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <list>
#include <memory>
#include <numeric>
#include <ranges>
#include <sstream>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "brood/pool.hpp"
#include "support/ledger.hpp"
#include "support/memory.hpp"
#include "support/pools.hpp"

namespace brood::test {
namespace {

class MapTest : public PoolConformance {};
BROOD_FOR_EACH_START_METHOD(MapTest);

int square(int n) { return n * n; }

std::vector<int> numbers(int count) {
  std::vector<int> result(static_cast<std::size_t>(count));
  std::iota(result.begin(), result.end(), 0);
  return result;
}

TEST_P(MapTest, OfNothingIsNothing) {
  Pool pool(with(2));
  EXPECT_TRUE(pool.map(square, std::vector<int>{}).empty());
  pool.map([](int) {}, std::vector<int>{});
}

TEST_P(MapTest, KeepsTheOrder) {
  Pool pool(with(3));
  for (const int count : {1, 2, 7, 23, 24, 25, 1000, 12'345}) {
    const std::vector<int> results = pool.map(square, numbers(count));
    ASSERT_EQ(results.size(), static_cast<std::size_t>(count));
    for (int i = 0; i < count; ++i) {
      ASSERT_EQ(results[static_cast<std::size_t>(i)],
                static_cast<int>(static_cast<unsigned>(i) * static_cast<unsigned>(i)));
    }
  }
}

TEST_P(MapTest, TakesTenMillionNumbers) {
  Pool pool(with(2));
  const int count = kSanitized ? 1'000'000 : 10'000'000;
  const std::vector<int> results = pool.map([](int n) { return n ^ 0x55; }, numbers(count));
  ASSERT_EQ(results.size(), static_cast<std::size_t>(count));
  for (int i = 0; i < count; ++i) ASSERT_EQ(results[static_cast<std::size_t>(i)], i ^ 0x55);
}

TEST_P(MapTest, TakesAndGivesStringsAndStructures) {
  Pool pool(with(2));
  std::vector<std::string> words;
  for (std::size_t i = 0; i < 2000; ++i) words.push_back(std::string(i % 300, 'w'));
  const auto results = pool.map([](std::string s) { return s + "."; }, words);
  ASSERT_EQ(results.size(), words.size());
  for (std::size_t i = 0; i < words.size(); ++i) ASSERT_EQ(results[i], words[i] + ".");
  const auto pairs = pool.map(
      [](const std::pair<int, std::string>& p) { return std::make_pair(p.second, p.first); },
      std::vector<std::pair<int, std::string>>{{1, "a"}, {2, "b"}});
  EXPECT_EQ(pairs[1], std::make_pair(std::string("b"), 2));
  const auto flags = pool.map([](int n) { return n % 2 == 0; }, numbers(100));
  for (int i = 0; i < 100; ++i) EXPECT_EQ(flags[static_cast<std::size_t>(i)], i % 2 == 0);
}

TEST_P(MapTest, TakesRangesOfAllKinds) {
  Pool pool(with(2));
  EXPECT_EQ(pool.map(square, std::list<int>{1, 2, 3}), (std::vector<int>{1, 4, 9}));
  EXPECT_EQ(pool.map(square, std::views::iota(0, 4)), (std::vector<int>{0, 1, 4, 9}));
  auto odd = std::views::iota(0, 10) | std::views::filter([](int n) { return n % 2 == 1; });
  EXPECT_EQ(pool.map(square, odd), (std::vector<int>{1, 9, 25, 49, 81}));
  std::istringstream stream("3 1 4 1 5");
  EXPECT_EQ(pool.map(square, std::ranges::istream_view<int>(stream)),
            (std::vector<int>{9, 1, 16, 1, 25}));
  const int plain[] = {2, 3};
  EXPECT_EQ(pool.map(square, plain), (std::vector<int>{4, 9}));
  EXPECT_EQ(
      pool.map([](std::string_view s) { return s.size(); }, std::vector<std::string>{"a", "bcd"}),
      (std::vector<std::size_t>{1, 3}));
  EXPECT_EQ(pool.map(square, std::vector<bool>{true, false}), (std::vector<int>{1, 0}));
}

TEST_P(MapTest, TheChunkSizeChangesNothingButTheChunks) {
  Pool pool(with(2));
  for (const std::size_t chunk : {1U, 2U, 99U, 100U, 101U, 1'000'000U}) {
    EXPECT_EQ(pool.map(square, numbers(100), {.chunk_size = chunk}),
              pool.map(square, numbers(100)));
  }
}

TEST_P(MapTest, TheFirstErrorByPositionIsThrownAfterAllElementsEnded) {
  Pool pool(with(2));
  TempFolder folder;
  const std::string list = folder.path("list");
  const auto task = brood::bind_front(
      [](const std::string& path, int n) {
        record(path, n);
        if (n == 300) throw std::out_of_range("300");
        if (n == 50) {
          usleep(20'000);
          throw std::invalid_argument("50");
        }
        if (n == 51) throw std::domain_error("51");
        return n;
      },
      list);
  try {
    pool.map(task, numbers(400), {.chunk_size = 10});
    FAIL();
  } catch (const std::invalid_argument& e) {
    EXPECT_EQ(std::string(e.what()), "50");
    EXPECT_NE(remote_info(e), nullptr);
  }
  const auto counts = counted(list);
  EXPECT_EQ(counts.size(), 400U);
  for (const auto& [number, times] : counts) EXPECT_EQ(times, 1) << number;
}

TEST_P(MapTest, ADeathCostsItsElementAndIsNamedByItsIndex) {
  Pool pool(with(2));
  TempFolder folder;
  for (const std::size_t chunk : {0U, 1U, 7U, 1000U}) {
    const std::string list = folder.path(std::to_string(chunk));
    const auto task = brood::bind_front(
        [](const std::string& path, int n) {
          record(path, n);
          if (n == 123) kill(getpid(), SIGKILL);
          return n;
        },
        list);
    const Death death = death_of([&] { pool.map(task, numbers(500), {.chunk_size = chunk}); });
    EXPECT_EQ(death.index, 123U);
    EXPECT_EQ(death.signal, SIGKILL);
    EXPECT_GT(death.pid, 0);
    const auto counts = counted(list);
    EXPECT_EQ(counts.size(), 500U);
    for (const auto& [number, times] : counts) EXPECT_EQ(times, 1) << number;
  }
}

TEST_P(MapTest, SeveralDeathsInOneChunkCostTheirElementsOnly) {
  Pool pool(with(2));
  TempFolder folder;
  const std::string list = folder.path("list");
  const auto task = brood::bind_front(
      [](const std::string& path, int n) {
        record(path, n);
        if (n == 0 || n == 40 || n == 41 || n == 99) kill(getpid(), SIGSEGV);
        return std::string(static_cast<std::size_t>(n) * 10, 'r');
      },
      list);
  const Death death = death_of([&] { pool.map(task, numbers(100), {.chunk_size = 100}); });
  EXPECT_EQ(death.index, 0U);
  EXPECT_EQ(death.signal, SIGSEGV);
  const auto counts = counted(list);
  EXPECT_EQ(counts.size(), 100U);
  for (const auto& [number, times] : counts) EXPECT_EQ(times, 1) << number;
  EXPECT_EQ(pool.stats().died, 4U);
}

TEST_P(MapTest, RetriesRunTheElementAgainAndOnlyIt) {
  PoolOptions options = with(2);
  options.retries = 2;
  Pool pool(options);
  TempFolder folder;
  const std::string list = folder.path("list");
  const auto task = brood::bind_front(
      [](const std::string& path, int n) {
        record(path, n);
        if (n % 50 == 13) {
          const auto all = recorded(path);
          if (std::count(all.begin(), all.end(), n) < 3) kill(getpid(), SIGKILL);
        }
        return n;
      },
      list);
  EXPECT_EQ(pool.map(task, numbers(200)), numbers(200));
  for (const auto& [number, times] : counted(list)) {
    EXPECT_EQ(times, number % 50 == 13 ? 3 : 1) << number;
  }
  const Death death = death_of([&] {
    pool.map(
        [](int n) {
          if (n == 5) kill(getpid(), SIGKILL);
          return n;
        },
        numbers(10));
  });
  EXPECT_EQ(death.attempts, 3);
  EXPECT_EQ(death.index, 5U);
}

TEST_P(MapTest, ATimeoutEndsTheWaitAndThePoolGoesOn) {
  Pool pool(with(2));
  TempFolder folder;
  const std::string gate = folder.path("gate");
  const auto task = brood::bind_front(
      [](const std::string& path, int n) {
        if (n == 3) wait_at_gate(path);
        return n;
      },
      gate);
  const auto before = std::chrono::steady_clock::now();
  EXPECT_THROW(pool.map(task, numbers(10), {.timeout = 50ms}), TimeoutError);
  EXPECT_GE(std::chrono::steady_clock::now() - before, 50ms);
  open_gate(gate);
  EXPECT_EQ(pool.map(task, numbers(10), {.timeout = kHangGuard}), numbers(10));
}

TEST_P(MapTest, WhatHasNoOutcomeAtTheTimeoutIsCancelled) {
  Pool pool(with(1));
  const auto until_stopped = [](const Queue<int>& ran, int n) {
    ran.put(n);
    while (!stop_requested()) usleep(1000);
    return n;
  };
  Queue<int> ran;
  const auto one = brood::bind_front(until_stopped, ran);
  const std::vector<std::tuple<Queue<int>, int>> pairs{{ran, 0}, {ran, 1}, {ran, 2}};
  const MapOptions soon{.chunk_size = 1, .timeout = 50ms};
  std::uint64_t cancelled = 0;
  const auto expect_end = [&](auto&& call) {
    EXPECT_THROW(static_cast<void>(call()), TimeoutError);
    // The worker is free again, without a grace that kills it.
    EXPECT_EQ(pool.apply(square, 3), 9);
    EXPECT_LE(ran.size(), 1U) << "those that waited never run";
    while (const auto n = ran.try_get()) EXPECT_EQ(*n, 0);
    EXPECT_EQ(pool.stats().cancelled, cancelled += 3);
  };
  expect_end([&] { return pool.map(one, numbers(3), soon); });
  expect_end([&] { return pool.map_results(one, numbers(3), soon); });
  expect_end([&] { return pool.starmap(until_stopped, pairs, soon); });
  expect_end([&] { return pool.starmap_results(until_stopped, pairs, soon); });
  // The same if the wait ends otherwise.
  const MapOptions told{.chunk_size = 1, .progress = [](const MapProgress&) {
                          throw TimeoutError("told to by the test");
                        }};
  expect_end([&] { return pool.map(one, numbers(3), told); });
  EXPECT_EQ(pool.stats().died, 0U);
}

TEST_P(MapTest, TheTimeoutOfMapAsyncCancelsNothing) {
  Pool pool(with(1));
  Event let_go;
  const auto task = [](const Event& go, int n) {
    go.wait();
    return n;
  };
  auto future = pool.map_async(brood::bind_front(task, let_go), numbers(2), {.timeout = 20ms});
  EXPECT_THROW(static_cast<void>(future.get()), TimeoutError);
  let_go.set();
  EXPECT_EQ(future.result().value(), numbers(2));
  EXPECT_EQ(pool.stats().cancelled, 0U);
}

TEST_P(MapTest, LargeResultsPerElementWork) {
  Pool pool(with(2));
  const auto results = pool.map(
      [](int n) { return std::vector<int>(static_cast<std::size_t>(n) * 1000, n); }, numbers(300));
  for (int i = 0; i < 300; ++i) {
    ASSERT_EQ(results[static_cast<std::size_t>(i)],
              std::vector<int>(static_cast<std::size_t>(i) * 1000, i));
  }
}

TEST_P(MapTest, SeveralMapsAtOnceDoNotMix) {
  Pool pool(with(2));
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int round = 0; round < 20; ++round) {
        const auto task = [t](int n) { return n * 10 + t; };
        const auto results = pool.map(task, numbers(1000));
        for (int i = 0; i < 1000; ++i) {
          if (results[static_cast<std::size_t>(i)] != i * 10 + t) ++wrong;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong.load(), 0);
}

TEST_P(MapTest, OnAClosedPoolThrows) {
  Pool pool(with(1));
  pool.close();
  EXPECT_THROW(pool.map(square, numbers(3)), PoolClosed);
}

TEST_P(MapTest, AnElementThatCannotBeEncodedFailsTheMapAndLeavesNothingBehind) {
  Pool pool(with(1));
  struct Node {
    std::unique_ptr<Node> next;
  };
  std::vector<Node> nodes(10);
  for (int i = 0; i < 1500; ++i) {
    Node next;
    next.next = std::make_unique<Node>(std::move(nodes[7]));
    nodes[7] = std::move(next);
  }
  for (int i = 0; i < 500; ++i) {
    EXPECT_THROW(pool.map([](const Node&) {}, nodes, {.chunk_size = 2}), NotSendable);
  }
  EXPECT_EQ(pool.map(square, numbers(3)), (std::vector<int>{0, 1, 4}));
}

TEST_P(MapTest, MemoryReturnsAfterwards) {
  Pool pool(with(2));
  pool.map(square, numbers(10));
  const long before = pool_memory_bytes();
  pool.map([](std::string s) { return s; },
           std::vector<std::string>(200, std::string(200'000, 'm')));
  EXPECT_GT(pool_memory_bytes(), before + (20L << 20));
  // Metadata of the pages remains; the pages are given back once idle for a second.
  EXPECT_TRUE(wait_until([&] { return pool_memory_bytes() < before + (2L << 20); }))
      << before << " bytes before, " << pool_memory_bytes() << " after";
}

}  // namespace
}  // namespace brood::test
