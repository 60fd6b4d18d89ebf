// What else there is beside map: outcomes, several arguments, slices, and lazy ranges.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <memory>
#include <ranges>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "brood/brood.hpp"
#include "support/pools.hpp"

namespace brood::test {
namespace {

class MapFamilyTest : public PoolConformance {};
BROOD_FOR_EACH_START_METHOD(MapFamilyTest);

int halve(int n) {
  if (n == 13) kill(getpid(), SIGKILL);
  if (n % 2 != 0) throw std::invalid_argument("odd: " + std::to_string(n));
  return n / 2;
}

// ---- lists in braces

int add(int a, int b) { return a + b; }

template <class Results>
auto all_of(Results results) {
  std::vector<std::ranges::range_value_t<Results>> all;
  for (auto& result : results) all.push_back(std::move(result));
  return all;
}

// What all pools take.
void take_lists(Pool& pool) {
  const std::vector halves{1, 2};
  const std::vector sums{3, 7};
  EXPECT_EQ(pool.map(halve, {2, 4}), halves);
  EXPECT_EQ(pool.map_results(halve, {2, 4}).at(1).value(), 2);
  EXPECT_EQ(pool.map_async(halve, {2, 4}).get(), halves);
  EXPECT_EQ(pool.starmap(add, {{1, 2}, {3, 4}}), sums);
  EXPECT_EQ(pool.starmap(add, {{1, 2}, {3, 4}}, {.chunk_size = 2}), sums);
  EXPECT_EQ(pool.starmap(add, {std::pair{1, 2}, std::pair{3, 4}}), sums);
  EXPECT_EQ(pool.starmap_results(add, {{1, 2}, {3, 4}}).at(1).value(), 7);
  EXPECT_EQ(pool.starmap_results(add, {std::tuple{1, 2}}).at(0).value(), 3);
  EXPECT_EQ(pool.starmap_async(add, {{1, 2}, {3, 4}}).get(), sums);
  EXPECT_EQ(pool.starmap_async(add, {std::array{1, 2}, std::array{3, 4}}).get(), sums);
  const auto label = [](std::string_view text, int n) {
    return std::string(text) + std::to_string(n);
  };
  EXPECT_EQ(pool.starmap(label, {{"a", 1}, {std::string("b"), 2}}),
            (std::vector<std::string>{"a1", "b2"}));
  const auto generic = [](auto a, auto b) { return a + b; };
  EXPECT_EQ(pool.starmap(generic, {std::pair{1, 2}, std::pair{3, 4}}), sums);
}

TEST_P(MapFamilyTest, ListsInBracesAreRanges) {
  Pool pool(with(2));
  take_lists(pool);
}

TEST_P(MapFamilyTest, ImapKeepsAListInBraces) {
  Pool pool(with(1));
  const auto size = [](std::string_view text) { return text.size(); };
  const std::string one(100, 'x');
  const std::string two(200, 'x');
  const std::vector<std::size_t> sizes{100, 200};
  auto some = pool.imap(size, {one, two}, {.chunk_size = 1});
  EXPECT_EQ(all_of(std::move(some)), sizes);
  auto outcomes = pool.imap_results(size, {one, two});
  EXPECT_EQ(outcomes.next().value().value(), 100U);
  auto unordered = pool.imap_unordered(size, {one, two}, {.chunk_size = 1});
  EXPECT_EQ(all_of(std::move(unordered)), sizes) << "one worker";
  auto unordered_outcomes = pool.imap_unordered_results(size, {one, two});
  EXPECT_EQ(unordered_outcomes.next().value().value(), 100U);
  // More than is read ahead.
  auto numbers = pool.imap(halve, {2, 4, 6, 8, 10, 12, 14, 16, 18, 20}, {.chunk_size = 1});
  EXPECT_EQ(all_of(std::move(numbers)), (std::vector{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}));
}

TEST(ThreadPoolMapFamilyTest, ListsInBracesAreRanges) {
  ThreadPool pool(2);
  take_lists(pool);
  EXPECT_EQ(all_of(pool.imap(halve, {2, 4})), (std::vector{1, 2}));
}

// ---- outcomes

TEST_P(MapFamilyTest, MapResultsGivesEachElementItsOutcome) {
  Pool pool(with(2));
  const auto results = pool.map_results(halve, std::views::iota(10, 16));
  ASSERT_EQ(results.size(), 6U);
  for (std::size_t i = 0; i < results.size(); ++i) {
    EXPECT_EQ(results[i].index(), i);
    EXPECT_EQ(results[i].has_value(), i % 2 == 0);
    EXPECT_EQ(results[i].error() == nullptr, i % 2 == 0);
  }
  EXPECT_EQ(*results[0], 5);
  EXPECT_EQ(results[2].value(), 6);
  EXPECT_EQ(results[1].value_or(-1), -1);
  EXPECT_THROW(static_cast<void>(results[1].value()), std::invalid_argument);
  try {
    static_cast<void>(results[3].value());
    FAIL();
  } catch (const WorkerDied& death) {
    EXPECT_EQ(death.signal, SIGKILL);
    EXPECT_EQ(death.index, 3U);
  }
}

TEST_P(MapFamilyTest, OutcomesOfFunctionsWithoutResults) {
  Pool pool(with(1));
  const auto results = pool.map_results(
      [](int n) {
        if (n == 1) throw std::out_of_range("1");
      },
      std::vector{0, 1});
  EXPECT_TRUE(results[0].has_value());
  results[0].value();
  EXPECT_THROW(results[1].value(), std::out_of_range);
}

TEST_P(MapFamilyTest, AFuturesOutcomeAndItsException) {
  Pool pool(with(1));
  auto right = pool.submit(halve, 8);
  EXPECT_EQ(right.exception(), nullptr);
  EXPECT_TRUE(right.valid()) << "looking takes nothing";
  EXPECT_EQ(right.result().value(), 4);
  EXPECT_FALSE(right.valid());
  auto wrong = pool.submit(halve, 9);
  EXPECT_THROW(std::rethrow_exception(wrong.exception()), std::invalid_argument);
  EXPECT_THROW(wrong.result().value(), std::invalid_argument);
  EXPECT_FALSE(wrong.valid());
  auto dies = pool.submit(halve, 13);
  EXPECT_THROW(dies.result().value(), WorkerDied);
  auto text = pool.submit([](std::string s) { return std::make_unique<std::string>(s + "!"); },
                          "moved out");
  const std::unique_ptr<std::string> moved = text.result().value();
  EXPECT_EQ(*moved, "moved out!");
}

TEST_P(MapFamilyTest, TheOutcomeOfATaskWhosePoolEnded) {
  Pool pool(with(1));
  auto never = pool.submit([] { pause(); });
  pool.terminate();
  EXPECT_THROW(std::rethrow_exception(never.exception()), PoolClosed);
  EXPECT_THROW(never.result().value(), PoolClosed);
}

// ---- several arguments

double weigh(int count, double each, std::string_view unit) {
  return count * each + static_cast<double>(unit.size());
}

TEST_P(MapFamilyTest, StarmapCallsWithTheParts) {
  Pool pool(with(2));
  const std::vector<std::tuple<int, double, std::string>> loads = {{2, 1.5, "kg"}, {3, 0.5, "g"}};
  EXPECT_EQ(pool.starmap(weigh, loads), (std::vector{5.0, 2.5}));
  const std::vector<std::pair<int, int>> pairs = {{1, 2}, {3, 4}, {0, 0}};
  EXPECT_EQ(pool.starmap([](auto a, auto b) { return a * 10 + b; }, pairs),
            (std::vector{12, 34, 0}));
  const auto results = pool.starmap_results(
      [](int a, int b) {
        if (b == 0) throw std::domain_error("division");
        return a / b;
      },
      pairs);
  EXPECT_EQ(results[1].value(), 0);
  EXPECT_THROW(static_cast<void>(results[2].value()), std::domain_error);
  EXPECT_TRUE(pool.starmap(weigh, decltype(loads){}).empty());
}

TEST_P(MapFamilyTest, ForEachTakesSlicesOfOneOrSeveralArrays) {
  Pool pool(with(2));
  Array<double> from(1000);
  Array<double> to(1000);
  for (std::size_t i = 0; i < 1000; ++i) from[i] = static_cast<double>(i);
  pool.for_each(
      [](std::span<const double> a, std::span<double> b) {
        for (std::size_t i = 0; i < a.size(); ++i) b[i] = 2 * a[i];
      },
      from.slices(7), to.slices(7));
  for (std::size_t i = 0; i < 1000; ++i) ASSERT_EQ(to[i], 2.0 * static_cast<double>(i));
  pool.for_each([](std::span<double> a) { a[0] = -1; }, to.slices(4));
  EXPECT_EQ(to[250], -1);
  EXPECT_THROW(pool.for_each([](int, int) {}, std::vector{1, 2}, std::vector{1}), Error);
  EXPECT_THROW(pool.for_each(halve, std::vector{2, 3}), std::invalid_argument);
}

// ---- lazy

TEST_P(MapFamilyTest, ImapGivesResultsInOrderAndReadsOnlyABitAhead) {
  Pool pool(with(2));
  int read = 0;
  auto endless = std::views::iota(0) | std::views::transform([&read](int n) { return ++read, n; });
  int expected = 0;
  for (const int n : pool.imap([](int v) { return v * 2; }, endless, {.chunk_size = 1})) {
    EXPECT_EQ(n, 2 * expected);
    if (++expected == 100) break;
  }
  EXPECT_GE(read, 100);
  EXPECT_LE(read, 100 + 2 * 4 + 1) << "four chunks a worker";
}

TEST_P(MapFamilyTest, ChunksOfImapGrowWhileElementsAreQuickAndStayBounded) {
  Pool pool(with(2));
  int read = 0;
  auto endless = std::views::iota(0) | std::views::transform([&read](int n) { return ++read, n; });
  auto results = pool.imap([](int v) { return v * 2; }, endless);
  EXPECT_EQ(results.next(), 0);
  EXPECT_LE(read, 2 * 4 + 2) << "one by one at first";
  int expected = 1;
  int most_ahead = 0;
  while (expected < 50'000) {
    EXPECT_EQ(results.next(), 2 * expected);
    ++expected;
    most_ahead = std::max(most_ahead, read - expected);
  }
  EXPECT_GT(most_ahead, 2 * 4 + 1);
  EXPECT_LE(most_ahead, 2 * 4 * 1024 + 1024);
}

TEST_P(MapFamilyTest, ImapOfAnythingByAnyChunk) {
  Pool pool(with(2));
  for (const std::size_t chunk : {0U, 1U, 3U, 100U, 1000U}) {
    std::vector<std::string> words;
    for (std::size_t i = 0; i < 100; ++i) words.push_back(std::string(i, 'w'));
    std::vector<std::string> got;
    for (std::string& s : pool.imap([](std::string s) { return s + "."; }, std::move(words),
                                    {.chunk_size = chunk})) {
      got.push_back(std::move(s));
    }
    ASSERT_EQ(got.size(), 100U);
    for (std::size_t i = 0; i < 100; ++i) ASSERT_EQ(got[i], std::string(i, 'w') + ".");
  }
  auto none = pool.imap(halve, std::vector<int>{});
  EXPECT_EQ(none.next(), std::nullopt);
  EXPECT_EQ(none.next(), std::nullopt);
}

TEST_P(MapFamilyTest, AnErrorOfImapComesAtItsPositionAndItGoesOnBehindIt) {
  Pool pool(with(2));
  auto results = pool.imap(halve, std::vector{2, 3, 13, 8}, {.chunk_size = 2});
  EXPECT_EQ(results.next(), 1);
  EXPECT_THROW(static_cast<void>(results.next()), std::invalid_argument);
  try {
    static_cast<void>(results.next());
    FAIL();
  } catch (const WorkerDied& death) {
    EXPECT_EQ(death.index, 2U);
  }
  EXPECT_EQ(results.next(), 4);
  EXPECT_EQ(results.next(), std::nullopt);
}

TEST_P(MapFamilyTest, WhatReadingTheRangeThrowsComesLast) {
  Pool pool(with(2));
  auto broken = std::views::iota(0, 10) | std::views::transform([](int n) {
                  if (n == 3) throw std::length_error("unreadable");
                  return n * 2;
                });
  std::vector<std::size_t> positions;
  int values = 0;
  for (const Result<int>& result : pool.imap_results(halve, broken)) {
    positions.push_back(result.index());
    if (result) {
      ++values;
    } else {
      EXPECT_THROW(static_cast<void>(result.value()), std::length_error);
    }
  }
  EXPECT_EQ(positions, (std::vector<std::size_t>{0, 1, 2, 3}));
  EXPECT_EQ(values, 3);
}

// Its encoder fails for some.
struct Picky {
  int number = 0;
  template <class Archive>
  void save(Archive& archive) const {
    if (number == 2) throw std::logic_error("not this one");
    archive(number);
  }
  template <class Archive>
  void load(Archive& archive) {
    archive(number);
  }
};

TEST_P(MapFamilyTest, WhatCannotBeSentIsTheErrorOfItsElementOnly) {
  Pool pool(with(2));
  for (const std::size_t chunk : {1U, 3U, 10U}) {
    std::vector<int> right;
    std::vector<std::size_t> wrong;
    for (const Result<int>& result :
         pool.imap_results([](const Picky& p) { return p.number; },
                           std::vector<Picky>{{0}, {1}, {2}, {3}}, {.chunk_size = chunk})) {
      if (result) {
        right.push_back(*result);
      } else {
        wrong.push_back(result.index());
        EXPECT_THROW(static_cast<void>(result.value()), std::logic_error);
      }
    }
    EXPECT_EQ(right, (std::vector{0, 1, 3}));
    EXPECT_EQ(wrong, (std::vector<std::size_t>{2}));
  }
}

TEST_P(MapFamilyTest, ALimitOfImapIsForEachResultAndItMayBeAskedAgain) {
  Pool pool(with(1));
  auto results = pool.imap(
      [](int n) {
        if (n == 1) usleep(300'000);
        return n;
      },
      std::vector{0, 1}, {.timeout = 50ms});
  while (true) {
    try {
      EXPECT_EQ(results.next(), 0);
      break;
    } catch (const TimeoutError&) {
    }
  }
  EXPECT_THROW(static_cast<void>(results.next()), TimeoutError);
  EXPECT_TRUE(wait_until([&] {
    try {
      return results.next() == 1;
    } catch (const TimeoutError&) {
      return false;
    }
  }));
}

TEST_P(MapFamilyTest, AClosedPoolEndsImapWhereItStands) {
  Pool pool(with(1));
  auto results = pool.imap_results(
      halve, std::views::iota(0) | std::views::transform([](int n) { return 2 * n; }));
  pool.close();
  std::size_t values = 0;
  for (const Result<int>& result : results) {
    if (result) {
      ++values;
    } else {
      EXPECT_THROW(static_cast<void>(result.value()), PoolClosed);
    }
  }
  EXPECT_EQ(values, 4U) << "those read ahead";
}

// ---- in whatever order

TEST_P(MapFamilyTest, ImapUnorderedGivesFirstWhatEndsFirst) {
  Pool pool(with(2));
  Event gate;
  std::vector<int> got;
  std::vector<std::pair<Event, int>> work;
  for (int i = 0; i < 40; ++i) work.emplace_back(gate, i);
  auto results = pool.imap_unordered(
      [](const std::pair<Event, int>& element) {
        if (element.second == 0) element.first.wait();
        return element.second;
      },
      work, {.chunk_size = 1});
  for (int i = 0; i < 39; ++i) got.push_back(results.next().value());
  EXPECT_EQ(std::ranges::count(got, 0), 0);
  gate.set();
  EXPECT_EQ(results.next(), 0);
  EXPECT_EQ(results.next(), std::nullopt);
  std::ranges::sort(got);
  for (int i = 0; i < 39; ++i) EXPECT_EQ(got[static_cast<std::size_t>(i)], i + 1);
}

TEST_P(MapFamilyTest, ImapUnorderedOfAnythingByAnyChunk) {
  Pool pool(with(2));
  for (const std::size_t chunk : {0U, 1U, 7U, 1000U}) {
    std::vector<bool> seen(1000);
    for (const int n : pool.imap_unordered([](int v) { return v; }, std::views::iota(0, 1000),
                                           {.chunk_size = chunk})) {
      EXPECT_FALSE(seen[static_cast<std::size_t>(n)]);
      seen[static_cast<std::size_t>(n)] = true;
    }
    EXPECT_EQ(std::ranges::count(seen, true), 1000);
  }
  auto none = pool.imap_unordered(halve, std::vector<int>{});
  EXPECT_EQ(none.next(), std::nullopt);
}

TEST_P(MapFamilyTest, ImapUnorderedOfAnEndlessRangeReadsOnlyABitAhead) {
  Pool pool(with(2));
  int read = 0;
  auto endless = std::views::iota(0) | std::views::transform([&read](int n) { return ++read, n; });
  int count = 0;
  for (const int n : pool.imap_unordered([](int v) { return v * 2; }, endless, {.chunk_size = 1})) {
    EXPECT_EQ(n % 2, 0);
    if (++count == 100) break;
  }
  EXPECT_LE(read, 100 + 2 * 4 + 1);
}

TEST_P(MapFamilyTest, ErrorsOfImapUnorderedHaveTheirPlacesAndThoseOfTheInputComeLast) {
  Pool pool(with(2));
  for (int round = 0; round < 10; ++round) {
    auto broken = std::views::iota(10, 100) | std::views::transform([](int n) {
                    if (n == 20) throw std::length_error("unreadable");
                    return n;
                  });
    std::vector<std::size_t> wrong;
    std::size_t count = 0;
    for (const Result<int>& result : pool.imap_unordered_results(halve, broken)) {
      ++count;
      if (result) continue;
      wrong.push_back(result.index());
      if (count != 11) continue;
      EXPECT_EQ(result.index(), 10U);
      EXPECT_THROW(static_cast<void>(result.value()), std::length_error);
    }
    EXPECT_EQ(count, 11U);
    std::ranges::sort(wrong);
    EXPECT_EQ(wrong, (std::vector<std::size_t>{1, 3, 5, 7, 9, 10}));
  }
}

TEST_P(MapFamilyTest, WorkersKilledAmidImapUnorderedCostTheirElements) {
  Pool pool(with(2));
  std::size_t died = 0;
  std::size_t values = 0;
  for (const Result<int>& result : pool.imap_unordered_results(
           [](int n) {
             if (n % 50 == 49) kill(getpid(), SIGKILL);
             return n;
           },
           std::views::iota(0, 500))) {
    if (result) {
      ++values;
    } else {
      ++died;
      EXPECT_EQ(result.index() % 50, 49U);
      EXPECT_THROW(static_cast<void>(result.value()), WorkerDied);
    }
  }
  EXPECT_EQ(died, 10U);
  EXPECT_EQ(values, 490U);
}

TEST_P(MapFamilyTest, ATimeoutOfImapUnorderedMayBeFollowedByTheResult) {
  Pool pool(with(1));
  Event gate;
  auto results = pool.imap_unordered([](const Event& e) { return e.wait(), 1; }, std::vector{gate},
                                     {.timeout = 5ms});
  EXPECT_THROW(static_cast<void>(results.next()), TimeoutError);
  gate.set();
  EXPECT_TRUE(wait_until([&] {
    try {
      return results.next() == 1;
    } catch (const TimeoutError&) {
      return false;
    }
  }));
  EXPECT_EQ(results.next(), std::nullopt);
}

TEST_P(MapFamilyTest, AClosedPoolEndsImapUnorderedAfterWhatWasRead) {
  Pool pool(with(1));
  auto results = pool.imap_unordered_results([](int n) { return n; }, std::views::iota(0));
  pool.close();
  std::size_t values = 0;
  for (const Result<int>& result : results) {
    if (result) {
      ++values;
    } else {
      EXPECT_THROW(static_cast<void>(result.value()), PoolClosed);
    }
  }
  EXPECT_EQ(values, 4U);
}

// ---- chunks by time

TEST_P(MapFamilyTest, AFewLongElementsAreSpreadOneByOne) {
  Pool pool(with(2));
  // Pairs that wait for each other: in one chunk they would wait for ever.
  std::vector<std::pair<Event, Event>> pairs;
  for (int i = 0; i < 2; ++i) {
    Event one;
    Event other;
    pairs.emplace_back(one, other);
    pairs.emplace_back(other, one);
  }
  const auto meet = [](const std::pair<Event, Event>& both) {
    both.first.set();
    return both.second.wait_for(std::chrono::seconds(20));
  };
  EXPECT_EQ(pool.map(meet, pairs), (std::vector{true, true, true, true}));
}

TEST_P(MapFamilyTest, ChunksByTimeGiveAllResultsInOrder) {
  Pool pool(with(2));
  for (const int count : {0, 1, 2, 15, 16, 17, 1000, 100'000}) {
    const auto squares = pool.map([](int n) { return n * 3; }, std::views::iota(0, count));
    ASSERT_EQ(squares.size(), static_cast<std::size_t>(count));
    for (int i = 0; i < count; ++i) ASSERT_EQ(squares[static_cast<std::size_t>(i)], 3 * i);
  }
  const auto slow = pool.map(
      [](int n) {
        if (n % 100 == 0) usleep(3000);
        return n;
      },
      std::views::iota(0, 500));
  EXPECT_EQ(slow.size(), 500U);
  EXPECT_EQ(slow[499], 499);
}

TEST_P(MapFamilyTest, ResultsNobodyAskedForAreDropped) {
  Pool pool(with(2));
  {
    auto results = pool.imap(halve, std::views::iota(0), {.chunk_size = 5});
    EXPECT_EQ(results.next(), 0);
  }
  EXPECT_TRUE(wait_until([&] { return pool.stats().pending + pool.stats().running == 0; }));
  EXPECT_EQ(pool.apply(halve, 2), 1);
}

// ---- the pool ends first

int first_alone(Event others_wait, int n) {
  if (n == 0) return n;
  others_wait.set();
  for (;;) pause();
}

// How many outcomes are `E`; the others must be values. There are `most` at most.
template <class E>
std::size_t count_errors(auto&& next, std::size_t most) {
  std::size_t errors = 0;
  std::size_t all = 0;
  for (auto outcome = next(); outcome; outcome = next()) {
    if (++all > most) break;
    if (*outcome) continue;
    EXPECT_THROW(std::rethrow_exception(outcome->error()), E);
    ++errors;
  }
  EXPECT_LE(all, most);
  return errors;
}

TEST_P(MapFamilyTest, WhatAPoolThatEndsLeavesOfImapAreOutcomesAndThenAnEnd) {
  const auto numbers = std::views::iota(0, 1000);
  const auto expect_ended = [](auto&& results, Pool& pool, const Event& others_wait) {
    others_wait.wait();
    pool.terminate();
    const std::size_t errors = count_errors<PoolClosed>([&] { return results.next(); }, 1000);
    EXPECT_GE(errors, 2U) << "of those read ahead, and of the input";
  };
  {
    Pool pool(with(1));
    const Event others_wait;
    expect_ended(pool.imap_results(bind_front(first_alone, others_wait), numbers), pool,
                 others_wait);
  }
  Pool pool(with(1));
  const Event others_wait;
  expect_ended(pool.imap_unordered_results(bind_front(first_alone, others_wait), numbers), pool,
               others_wait);
}

TEST_P(MapFamilyTest, WhatHadEndedBeforeThePoolDidIsNotLost) {
  Pool pool(with(1));
  const Event others_wait;
  auto future = pool.map_async(bind_front(first_alone, others_wait), std::views::iota(0, 5),
                               {.chunk_size = 1});
  others_wait.wait();
  pool.terminate();
  const std::vector<Result<int>> results = future.results();
  ASSERT_EQ(results.size(), 5U);
  EXPECT_EQ(results[0].value_or(-1), 0);
  for (std::size_t i = 1; i < results.size(); ++i) {
    EXPECT_EQ(results[i].index(), i);
    EXPECT_THROW(std::rethrow_exception(results[i].error()), PoolClosed);
  }
}

TEST_P(MapFamilyTest, AllOfThemTellThatTheInitializerFailed) {
  PoolOptions options = with(2);
  options.initializer = [] { throw std::runtime_error("no model"); };
  const auto numbers = std::views::iota(0, 100);
  const auto all_failed = [&](auto&& results) {
    return count_errors<InitializerFailed>([&] { return results.next(); }, 101);
  };
  Pool pool(options);
  EXPECT_GE(all_failed(pool.imap_unordered_results(halve, numbers)), 1U);
  EXPECT_GE(all_failed(Pool(options).imap_results(halve, numbers)), 1U);
  EXPECT_THROW(static_cast<void>(Pool(options).imap_unordered(halve, numbers).next()),
               InitializerFailed);
}

}  // namespace
}  // namespace brood::test
