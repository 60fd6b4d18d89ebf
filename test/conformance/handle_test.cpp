// What all handles of shared objects have in common: they are values that go anywhere, and the
// object lives for as long as somebody has one.
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "brood/brood.hpp"
#include "support/pools.hpp"
#include "support/shared_word.hpp"
#include "warden/object_space.hpp"

namespace brood::test {
namespace {

class HandleTest : public StartMethodTest {
 protected:
  static ProcessOptions started_so() { return {.start = GetParam()}; }
  static PoolOptions with(std::size_t workers) { return {.workers = workers, .start = GetParam()}; }
};
BROOD_FOR_EACH_START_METHOD(HandleTest);

std::size_t blocks() { return warden::ObjectSpace::join().objects().arena().stats().live_blocks; }

// Holds are given back by the warden once it has proof of a death.
bool come_to(std::size_t expected) {
  return wait_until([&] { return blocks() == expected; }, 5s * kSlowness);
}

void add(const SharedWord& word, std::uint64_t n) { word.word().fetch_add(n); }

TEST_P(HandleTest, AProcessChangesWhatItsStarterSees) {
  const SharedWord word(1);
  Process process(started_so(), add, word, 41U);
  process.start();
  process.join();
  EXPECT_EQ(process.exit_code(), 0);
  EXPECT_EQ(word.word().load(), 42U);
}

TEST_P(HandleTest, TheObjectEndsWithItsLastHandle) {
  const SharedWord keeps_the_family(0);
  const std::size_t before = blocks();
  {
    const SharedWord word(1);
    const SharedWord copy = word;
    EXPECT_EQ(blocks(), before + 1);
  }
  EXPECT_EQ(blocks(), before);
}

TEST_P(HandleTest, AChildMayHaveTheLastOne) {
  const SharedWord done(0);
  const std::size_t before = blocks();
  Process process(
      started_so(),
      [](const SharedWord& mine, const SharedWord& say) {
        while (say.word().load() == 0) std::this_thread::sleep_for(1ms);
        if (mine.word().load() != 7) std::abort();
      },
      SharedWord(7), done);
  process.start();
  EXPECT_EQ(blocks(), before + 1);
  done.word().store(1);
  process.join();
  EXPECT_EQ(process.exit_code(), 0);
  EXPECT_TRUE(come_to(before));
}

TEST_P(HandleTest, WhatAKilledProcessHeldIsFreed) {
  const SharedWord ready(0);
  const std::size_t before = blocks();
  Process process(
      started_so(),
      [](SharedWord mine, const SharedWord& say) {
        const SharedWord another(3);
        say.word().store(mine.word().load() + another.word().load());
        for (;;) ::pause();
      },
      SharedWord(1), ready);
  process.start();
  ASSERT_TRUE(wait_until([&] { return ready.word().load() == 4; }, 20s * kSlowness));
  EXPECT_EQ(blocks(), before + 2);
  process.kill();
  process.join();
  EXPECT_TRUE(come_to(before));
}

TEST_P(HandleTest, AStartThatFailsGivesNothingAway) {
  const SharedWord word(1);
  const std::size_t before = blocks();
  {
    ProcessOptions options = started_so();
    options.cwd = "/no/such/directory";
    Process process(options, add, SharedWord(5), 1U);
    EXPECT_THROW(process.start(), Error);
  }
  EXPECT_TRUE(come_to(before));
}

TEST_P(HandleTest, ChildrenPassThemOn) {
  const SharedWord word(0);
  Process process(
      started_so(),
      [](SharedWord mine, StartMethod method) {
        Process child({.start = method}, add, std::move(mine), 5U);
        child.start();
        child.join();
      },
      word, GetParam());
  process.start();
  process.join();
  EXPECT_EQ(word.word().load(), 5U);
}

TEST_P(HandleTest, ARestartedProcessHasThemEachTime) {
  const SharedWord word(0);
  const std::size_t before = blocks();
  {
    ProcessOptions options = started_so();
    options.restart = {.max = 3, .backoff = 1ms};
    Process process(
        options,
        [](const SharedWord& mine, const SharedWord& number) {
          number.word().fetch_add(mine.word().load());
          if (number.word().load() < 15) ::kill(::getpid(), SIGKILL);
        },
        SharedWord(5), word);
    process.start();
    process.join();
    EXPECT_EQ(process.exit_code(), 0);
    EXPECT_EQ(process.restarts(), 2U);
  }
  EXPECT_EQ(word.word().load(), 15U);
  EXPECT_TRUE(come_to(before));
}

TEST_P(HandleTest, TasksTakeThem) {
  Pool pool(with(2));
  const SharedWord word(0);
  for (std::uint64_t i = 0; i < 100; ++i) pool.submit(add, word, i).get();
  EXPECT_EQ(word.word().load(), 4950U);
  const std::vector<SharedWord> words(8, word);
  pool.map([](const SharedWord& each) { each.word().fetch_add(1); }, words);
  EXPECT_EQ(word.word().load(), 4958U);
  pool.apply(bind_front([](const SharedWord& bound, std::uint64_t n) { bound.word() += n; }, word),
             2U);
  EXPECT_EQ(word.word().load(), 4960U);
}

TEST_P(HandleTest, ATaskKeepsItsArgumentsAlive) {
  Pool pool(with(1));
  std::vector<Future<std::uint64_t>> futures;
  for (std::uint64_t i = 0; i < 50; ++i) {
    futures.push_back(
        pool.submit([](const SharedWord& word) { return word.word().load(); }, SharedWord(i)));
  }
  for (std::uint64_t i = 0; i < 50; ++i) EXPECT_EQ(futures[i].get(), i);
}

TEST_P(HandleTest, WhatIsMovedIntoATaskIsTheTasks) {
  Pool pool(with(1));
  const SharedWord done(0);
  const std::size_t before = blocks();
  std::optional<SharedWord> moved(SharedWord(5));
  std::optional<SharedWord> copied(SharedWord(6));
  pool.submit(
          [](const std::optional<SharedWord>& a, const std::optional<SharedWord>& b) {
            if (a->word().load() + b->word().load() != 11) std::abort();
          },
          std::move(moved), copied)
      .get();
  EXPECT_TRUE(come_to(before + 1)) << "the one that was copied is still held here";
}

TEST_P(HandleTest, TasksReturnThem) {
  Pool pool(with(2));
  const SharedWord first = pool.submit([] { return SharedWord(9); }).get();
  EXPECT_EQ(first.word().load(), 9U);
  const std::size_t before = blocks();
  {
    std::vector<std::uint64_t> numbers(40);
    const auto words = pool.map([](std::uint64_t) { return SharedWord(3); }, numbers);
    for (const SharedWord& word : words) EXPECT_EQ(word.word().load(), 3U);
    const auto pair =
        pool.submit([] { return std::pair(std::optional(SharedWord(1)), SharedWord(2)); }).get();
    EXPECT_EQ(pair.first->word().load() + pair.second.word().load(), 3U);
    auto never_taken = pool.submit([] { return SharedWord(4); });
    never_taken.wait();
  }
  EXPECT_TRUE(come_to(before));
}

TEST_P(HandleTest, AKilledWorkersHoldsAreFreed) {
  Pool pool(with(1));
  const SharedWord word(0);
  const std::size_t before = blocks();
  auto future = pool.submit(
      [](const SharedWord& mine) {
        const SharedWord another(1);
        mine.word().store(another.word().load());
        ::kill(::getpid(), SIGKILL);
      },
      SharedWord(8));
  EXPECT_THROW(future.get(), WorkerDied);
  EXPECT_TRUE(come_to(before));
}

TEST_P(HandleTest, BytesAreNoPlaceForThem) {
  const SharedWord word(1);
  EXPECT_THROW(static_cast<void>(encode(word)), NotSendable);
}

TEST_P(HandleTest, WhatIsGoneIsStale) {
  const SharedWord word(1);
  detail::SentHandle sent;
  {
    const SharedWord gone(2);
    sent = {gone.object_handle().name(), SharedWord::kKind, 0, SharedWord::object_type()};
    EXPECT_NO_THROW(static_cast<void>(
        detail::receive_handle(sent, SharedWord::kKind, SharedWord::object_type())));
    EXPECT_THROW(static_cast<void>(detail::receive_handle(sent, SharedWord::kKind, 1)),
                 TypeMismatch);
  }
  EXPECT_THROW(
      static_cast<void>(detail::receive_handle(sent, SharedWord::kKind, SharedWord::object_type())),
      StaleHandle);
}

TEST(ForkedHandleTest, InAChildThatTheHostForksTheyAreInert) {
  const SharedWord word(1);
  const pid_t child = ::fork();
  if (child == 0) {
    try {
      word.word().store(2);
    } catch (const StaleHandle&) {
      ::_exit(0);
    }
    ::_exit(1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(word.word().load(), 1U);
}

TEST(ForkedHandleTest, ACopiedClosureAdoptsOnFirstUse) {
  const SharedWord word(1);
  Process process(forked, [&word, copy = word] {
    word.word().fetch_add(1);
    copy.word().fetch_add(1);
  });
  process.start();
  process.join();
  EXPECT_EQ(word.word().load(), 3U);
}

}  // namespace
}  // namespace brood::test
