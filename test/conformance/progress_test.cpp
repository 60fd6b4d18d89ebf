// What a call of map shows of itself while it runs.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdlib>
#include <ranges>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "brood/brood.hpp"
#include "support/pools.hpp"

namespace brood::test {
namespace {

class ProgressTest : public PoolConformance {};
BROOD_FOR_EACH_START_METHOD(ProgressTest);

int nap(int n) {
  std::this_thread::sleep_for(std::chrono::milliseconds(2));
  return n;
}

int nap_once_heard(Event is_heard, int n) {
  if (n == 59) is_heard.wait();  // the end is not to come first
  return nap(n);
}

TEST_P(ProgressTest, AFunctionHearsHowFarItIs) {
  Pool pool(with(2));
  std::vector<MapProgress> heard;
  Event is_heard;
  const std::thread::id me = std::this_thread::get_id();
  const Progress progress(
      [&](const MapProgress& now) {
        EXPECT_EQ(std::this_thread::get_id(), me);
        heard.push_back(now);
        is_heard.set();
      },
      5ms);
  const auto work = bind_front(nap_once_heard, is_heard);
  const auto all = pool.map(work, std::views::iota(0, 60), {.chunk_size = 5, .progress = progress});
  EXPECT_EQ(all.size(), 60U);
  ASSERT_GE(heard.size(), 2U);
  for (std::size_t i = 0; i < heard.size(); ++i) {
    EXPECT_EQ(heard[i].total, 60U);
    EXPECT_GE(heard[i].done, i > 0 ? heard[i - 1].done : 0);
    EXPECT_EQ(heard[i].done == 60, i + 1 == heard.size()) << "the end is told once, as the last";
    EXPECT_EQ(heard[i].deaths, 0U);
  }
  EXPECT_GT(heard.back().per_second, 0);
  EXPECT_EQ(heard.back().left, 0ns);
}

TEST_P(ProgressTest, DeathsAndErrorsCountAsDone) {
  Pool pool(with(2));
  MapProgress last;
  const auto work = [](int n) {
    if (n == 3) kill(getpid(), SIGKILL);
    if (n == 4) throw std::runtime_error("4");
    return n;
  };
  const auto results =
      pool.map_results(work, std::views::iota(0, 8),
                       {.chunk_size = 2, .progress = [&](const MapProgress& now) { last = now; }});
  EXPECT_EQ(results.size(), 8U);
  EXPECT_EQ(last.done, 8U);
  EXPECT_EQ(last.deaths, 1U);
}

TEST_P(ProgressTest, WhatTheFunctionThrowsLeavesTheCall) {
  Pool pool(with(1));
  const auto fails = [](const MapProgress&) { throw std::out_of_range("stop"); };
  EXPECT_THROW(static_cast<void>(pool.map(nap, std::views::iota(0, 10), {.progress = fails})),
               std::out_of_range);
  EXPECT_EQ(pool.apply(nap, 3), 3);
}

TEST_P(ProgressTest, ItIsHeardWhileTheElementsAreStillBeingMade) {
  Pool pool(with(1));
  int made = 0;
  const auto slowly = std::views::iota(0, 10) | std::views::transform([&](int n) {
                        ++made;
                        return nap(n);
                      });
  std::vector<int> made_when_heard;
  const Progress progress([&](const MapProgress&) { made_when_heard.push_back(made); }, 1ms);
  EXPECT_EQ(pool.map(nap, slowly, {.chunk_size = 1, .progress = progress}).size(), 10U);
  ASSERT_GE(made_when_heard.size(), 2U);
  EXPECT_LT(made_when_heard.front(), made);
}

TEST_P(ProgressTest, WhatTheFunctionThrowsLeavesTheCallBeforeAllIsSubmitted) {
  Pool pool(with(1));
  int made = 0;
  const auto slowly = std::views::iota(0, 10) | std::views::transform([&](int n) {
                        ++made;
                        return nap(n);
                      });
  const Progress fails([](const MapProgress&) { throw std::out_of_range("stop"); }, 1ms);
  EXPECT_THROW(static_cast<void>(pool.map(nap, slowly, {.chunk_size = 1, .progress = fails})),
               std::out_of_range);
  EXPECT_LE(made, 2);
  EXPECT_EQ(pool.apply(nap, 3), 3);
}

TEST_P(ProgressTest, ATimeoutIsKeptBesideIt) {
  Pool pool(with(1));
  const auto ignore = [](const MapProgress&) {};
  const auto wait = [](int) { std::this_thread::sleep_for(kHangGuard); };
  EXPECT_THROW(pool.map(wait, std::vector{1}, {.progress = ignore, .timeout = 30ms}), TimeoutError);
}

TEST_P(ProgressTest, OfOneThatIsNeverDueOnlyTheEndIsHeard) {
  Pool pool(with(1));
  int calls = 0;
  const Progress progress([&](const MapProgress&) { ++calls; }, std::chrono::nanoseconds::max());
  static_cast<void>(pool.map(nap, std::views::iota(0, 10), {.progress = progress}));
  EXPECT_EQ(calls, 1);
}

TEST_P(ProgressTest, AnEmptyCallTellsItsEnd) {
  Pool pool(with(1));
  int calls = 0;
  const auto count = [&](const MapProgress& now) {
    ++calls;
    EXPECT_EQ(now.done, now.total);
  };
  EXPECT_TRUE(pool.map(nap, std::vector<int>{}, {.progress = count}).empty());
  EXPECT_EQ(calls, 1);
}

// What `action` writes to stderr, which is `fd` meanwhile; `from` is its other end.
template <class Action>
std::string written_to(int fd, int from, Action&& action) {
  const int before = dup(STDERR_FILENO);
  dup2(fd, STDERR_FILENO);
  action();
  dup2(before, STDERR_FILENO);
  close(before);
  close(fd);
  std::string text;
  std::array<char, 4096> some;
  for (ssize_t n = 0; (n = read(from, some.data(), some.size())) > 0;) {
    text.append(some.data(), static_cast<std::size_t>(n));
  }
  close(from);
  return text;
}

TEST_P(ProgressTest, OnATerminalThereIsABar) {
  const int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
  ASSERT_GE(master, 0);
  ASSERT_EQ(grantpt(master), 0);
  ASSERT_EQ(unlockpt(master), 0);
  const int slave = open(ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC);
  ASSERT_GE(slave, 0);
  winsize size{};
  size.ws_col = 70;
  ASSERT_EQ(ioctl(slave, TIOCSWINSZ, &size), 0);
  Pool pool(with(1));
  // Read while the other end is open: what is in a terminal goes when it closes.
  const int other = dup(slave);
  fcntl(master, F_SETFL, O_NONBLOCK);
  const std::string text = written_to(slave, master, [&] {
    static_cast<void>(pool.map(nap, std::views::iota(0, 100), {.progress = true}));
  });
  close(other);
  EXPECT_NE(text.find("\r[====="), std::string::npos) << text;
  EXPECT_NE(text.find("100/100"), std::string::npos) << text;
  EXPECT_EQ(text.back(), '\n');
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\r', at), text.size());
    EXPECT_LT(end - at, 70U + 4U) << "a line of the terminal, and the sequence that clears it";
    at = end + 1;
  }
}

TEST_P(ProgressTest, ElsewhereThereIsALine) {
  std::array<int, 2> ends{};
  ASSERT_EQ(pipe2(ends.data(), O_CLOEXEC), 0);
  Pool pool(with(1));
  const std::string text = written_to(ends[1], ends[0], [&] {
    static_cast<void>(pool.map(nap, std::views::iota(0, 10), {.progress = true}));
  });
  EXPECT_EQ(text.rfind("10/10, ", 0), 0U) << text;
  EXPECT_EQ(std::ranges::count(text, '\n'), 1);
}

TEST_P(ProgressTest, StatisticsTellHowLongTasksWaitAndRun) {
  Pool pool(with(1));
  for (int i = 0; i < 20; ++i) pool.apply(nap, i);
  // The last may not have been counted yet.
  EXPECT_TRUE(wait_until([&] { return pool.stats().running_time.count() == 20; }));
  const PoolStats stats = pool.stats();
  EXPECT_EQ(stats.waiting_time.count(), 20U);
  EXPECT_GE(stats.running_time.percentile(0.1), 2ms);
  EXPECT_LT(stats.waiting_time.percentile(0.1), stats.running_time.percentile(0.1));
}

TEST_P(ProgressTest, OfManyTasksOneInSixteenIsTimed) {
  Pool pool(with(2));
  std::vector<Future<int>> futures;
  for (int i = 0; i < 1000 + 1600; ++i) futures.push_back(pool.submit([] { return 1; }));
  for (auto& future : futures) future.get();
  EXPECT_TRUE(wait_until([&] { return pool.stats().running_time.count() >= 1100; }));
  EXPECT_LE(pool.stats().waiting_time.count(), 1101U);
}

}  // namespace
}  // namespace brood::test
