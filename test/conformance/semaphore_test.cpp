// Semaphores and events (CPython: _TestSemaphore, _TestEvent).
#include <algorithm>
#include <atomic>
#include <random>

#include "support/processes.hpp"
#include "support/sync.hpp"

namespace brood::test {
namespace {

class SemaphoreTest : public SyncTest {};
BROOD_FOR_EACH_START_METHOD(SemaphoreTest);

// ---- as in Python

template <class S>
void count_down_and_up(const S& semaphore) {
  EXPECT_EQ(semaphore.get_value(), 2U);
  semaphore.acquire();
  EXPECT_EQ(semaphore.get_value(), 1U);
  EXPECT_TRUE(semaphore.try_acquire());
  EXPECT_EQ(semaphore.get_value(), 0U);
  EXPECT_FALSE(semaphore.try_acquire());
  semaphore.release();
  EXPECT_EQ(semaphore.get_value(), 1U);
  semaphore.release();
  EXPECT_EQ(semaphore.get_value(), 2U);
}

TEST_P(SemaphoreTest, ItCountsAndMayExceedWhatItBeganWith) {
  const Semaphore semaphore(2);
  count_down_and_up(semaphore);
  semaphore.release();
  EXPECT_EQ(semaphore.get_value(), 3U);
  semaphore.release();
  EXPECT_EQ(semaphore.get_value(), 4U);
  semaphore.release(3);
  for (int i = 0; i < 7; ++i) EXPECT_TRUE(semaphore.try_acquire());
  EXPECT_FALSE(semaphore.try_acquire());
  EXPECT_EQ(printed(semaphore), "<Semaphore(value=0)>");
}

TEST_P(SemaphoreTest, ABoundedOneMayNotExceedIt) {
  const BoundedSemaphore semaphore(2);
  count_down_and_up(semaphore);
  EXPECT_THROW(semaphore.release(), Error);
  EXPECT_EQ(semaphore.get_value(), 2U);
  semaphore.acquire();
  EXPECT_THROW(semaphore.release(2), Error);
  EXPECT_EQ(semaphore.get_value(), 1U) << "nothing was released";
  semaphore.release(1);
  EXPECT_EQ(printed(semaphore), "<BoundedSemaphore(value=2, maxvalue=2)>");
}

TEST_P(SemaphoreTest, ALimitEndsAWaitAndNotBefore) {
  const Semaphore semaphore(0);
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_FALSE(semaphore.try_acquire_for(0s));
  EXPECT_FALSE(semaphore.try_acquire_for(-1s));
  EXPECT_FALSE(semaphore.try_acquire_for(std::chrono::duration<double>(0.02)));
  EXPECT_GE(std::chrono::steady_clock::now() - begin, 20ms);
  EXPECT_FALSE(semaphore.try_acquire_until(std::chrono::steady_clock::now() + 5ms));
  semaphore.release();
  EXPECT_TRUE(semaphore.try_acquire_for(std::chrono::hours::max()));
}

TEST_P(SemaphoreTest, NumbersThatMakeNoSenseAreRefused) {
  EXPECT_THROW(Semaphore(-1), Error);
  EXPECT_THROW(Semaphore(65537), Error);
  EXPECT_THROW(BoundedSemaphore(std::int64_t{1} << 40), Error);
  const Semaphore most(65536);
  EXPECT_EQ(most.get_value(), 65536U);
}

// ---- among processes

TEST_P(SemaphoreTest, NoMoreAreInThanThereArePermits) {
  const Semaphore semaphore(2);
  const SharedWord inside(0);
  const SharedWord most(0);
  std::vector<Process> processes;
  for (int i = 0; i < 4; ++i) {
    processes.push_back(run(
        [](const Semaphore& mine, const SharedWord& in, const SharedWord& highest) {
          for (int n = 0; n < 200; ++n) {
            mine.acquire();
            const std::uint64_t now = in.word().fetch_add(1) + 1;
            std::uint64_t seen = highest.word().load();
            while (seen < now && !highest.word().compare_exchange_weak(seen, now)) {
            }
            if (n % 8 == 0) std::this_thread::yield();
            in.word().fetch_sub(1);
            mine.release();
          }
        },
        semaphore, inside, most));
  }
  join_all(processes);
  EXPECT_LE(most.word().load(), 2U);
  EXPECT_EQ(semaphore.get_value(), 2U);
}

TEST_P(SemaphoreTest, WhatOneReleasesAnotherAcquires) {
  const Semaphore items(0);
  const Semaphore room(3);
  Process consumer = run(
      [](const Semaphore& take, const Semaphore& give) {
        for (int i = 0; i < 300; ++i) {
          take.acquire();
          give.release();
        }
      },
      items, room);
  for (int i = 0; i < 300; ++i) {
    ASSERT_TRUE(room.try_acquire_for(kHangGuard));
    items.release();
  }
  consumer.join();
  EXPECT_EQ(items.get_value(), 0U);
  EXPECT_EQ(room.get_value(), 3U);
}

// ---- deaths

template <class S>
void acquire_and_die(const S& semaphore, int permits) {
  for (int i = 0; i < permits; ++i) semaphore.acquire();
  die_now();
}

TEST_P(SemaphoreTest, PermitsOfTheDeadReturn) {
  const Semaphore semaphore(3);
  const BoundedSemaphore bounded(3);
  semaphore.acquire();
  bounded.acquire();
  std::vector<Process> processes;
  processes.push_back(run(acquire_and_die<Semaphore>, semaphore, 2));
  processes.push_back(run(acquire_and_die<BoundedSemaphore>, bounded, 2));
  for (Process& process : processes) process.join();
  for (int i = 0; i < 2; ++i) {
    EXPECT_TRUE(semaphore.try_acquire_for(kHangGuard));
    EXPECT_TRUE(bounded.try_acquire_for(kHangGuard));
  }
  EXPECT_EQ(semaphore.get_value(), 0U) << "what others hold stays theirs";
  EXPECT_EQ(bounded.get_value(), 0U);
}

TEST_P(SemaphoreTest, EventsThatTheDeadHaveUsedUpDoNotReturn) {
  const Semaphore events(0);
  events.release(3);
  const SharedWord gone(0);
  Process process = run(acquire_and_die<Semaphore>, events, 2);
  process.join();
  EXPECT_FALSE(wait_until([&] { return events.get_value() > 1; }, 50ms));
  EXPECT_EQ(events.get_value(), 1U);
}

TEST_P(SemaphoreTest, APermitThatAnotherHasReleasedDoesNotReturnTwice) {
  const BoundedSemaphore semaphore(1);
  const Event has;
  Process process = run(
      [](const BoundedSemaphore& mine, const Event& say) {
        mine.acquire();
        say.set();
        for (;;) ::pause();
      },
      semaphore, has);
  has.wait();
  semaphore.release();
  semaphore.acquire();
  process.kill();
  process.join();
  EXPECT_FALSE(semaphore.try_acquire_for(50ms));
  semaphore.release();
  EXPECT_EQ(semaphore.get_value(), 1U);
}

TEST_P(SemaphoreTest, KilledAtRandomMomentsTheyTakeNoPermitAlong) {
  const BoundedSemaphore semaphore(2);
  const SharedWord rounds(0);
  std::mt19937_64 random(seed_of_the_day());
  const auto start = [&] {
    return run(
        [](const BoundedSemaphore& mine, const SharedWord& turn) {
          for (;;) {
            mine.acquire();
            turn.word().fetch_add(1);
            mine.release();
          }
        },
        semaphore, rounds);
  };
  std::vector<Process> processes;
  for (int i = 0; i < 3; ++i) processes.push_back(start());
  for (int kills = 0; kills < 12; ++kills) {
    ASSERT_TRUE(comes_to(rounds, rounds.word().load() + 20));
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 2000));
    Process& victim = processes[random() % processes.size()];
    victim.kill();
    victim.join();
    victim = start();
  }
  for (Process& process : processes) process.kill();
  for (Process& process : processes) process.join();
  EXPECT_TRUE(wait_until([&] { return semaphore.get_value() == 2; }));
  EXPECT_THROW(semaphore.release(), Error);
}

// ---- events

class EventTest : public SyncTest {};
BROOD_FOR_EACH_START_METHOD(EventTest);

TEST_P(EventTest, ItIsSetUntilItIsCleared) {
  const Event event;
  EXPECT_FALSE(event.is_set());
  EXPECT_EQ(printed(event), "<Event unset>");
  EXPECT_FALSE(event.wait_for(0s));
  EXPECT_FALSE(event.wait_for(5ms));
  event.set();
  EXPECT_TRUE(event.is_set());
  EXPECT_EQ(printed(event), "<Event set>");
  event.set();
  event.wait();
  EXPECT_TRUE(event.wait_for(0s));
  EXPECT_TRUE(event.wait_until(std::chrono::steady_clock::now() - 1s));
  event.clear();
  EXPECT_FALSE(event.is_set());
  EXPECT_FALSE(event.wait_for(1ms));
}

TEST_P(EventTest, AnotherProcessSetsIt) {
  const Event event;
  Process process = run(
      [](const Event& mine) {
        std::this_thread::sleep_for(5ms);
        mine.set();
      },
      event);
  event.wait();
  EXPECT_TRUE(event.is_set());
  process.join();
}

TEST_P(EventTest, AllWhoWaitGoOnThoughItIsClearedAtOnce) {
  const Event event;
  const SharedWord waiting(0);
  std::vector<Process> processes;
  for (int i = 0; i < 3; ++i) {
    processes.push_back(run(
        [](const Event& mine, const SharedWord& here) {
          say_so(here);
          mine.wait();
        },
        event, waiting));
  }
  ASSERT_TRUE(comes_to(waiting, 3));
  // Who came later would wait for good.
  ASSERT_TRUE(wait_until([&] {
    return std::ranges::all_of(processes, [](const Process& process) {
      const auto info = look_at(process.pid());
      return info && info->state == 'S';
    });
  }));
  event.set();
  event.clear();
  join_all(processes);
}

TEST_P(EventTest, WhoSetsItAndDiesHasSetIt) {
  const Event event;
  Process process = run(
      [](const Event& mine) {
        mine.set();
        die_now();
      },
      event);
  process.join();
  EXPECT_TRUE(event.wait_for(0s));
}

}  // namespace
}  // namespace brood::test
