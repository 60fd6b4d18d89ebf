// Locks, semaphores, events, conditions and barriers hand on what was written under them: plain
// memory, between threads that sleep on bells as processes do, beside deaths.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "shm/barrier.hpp"
#include "shm/condition.hpp"
#include "shm/event.hpp"
#include "shm/lock.hpp"
#include "shm/semaphore.hpp"
#include "threads/participants.hpp"

namespace brood::shm {
namespace {

constexpr std::uint64_t kTurns = test::kSanitized ? 2'000 : 20'000;  // of each thread

constexpr OwnerId id_of(unsigned thread) { return {static_cast<std::uint16_t>(2 + thread), 1}; }
constexpr ThreadName name_of(unsigned thread) { return {id_of(thread), 1000 + thread}; }

// As src/shared/waiting.hpp, without looking up.
template <class Done>
void sleep_until(Bell& bell, Done&& done) {
  const std::int64_t guard = test::hang_guard_ns();
  while (!done()) {
    const std::uint32_t value = bell.listen();
    if (done()) return;
    ASSERT_NE(sys::futex_wait(&bell.word, value, guard), -ETIMEDOUT) << "nobody wakes the sleeper";
  }
}

// ---- locks

struct SharedLock {
  LockBody lock{};
  Bell bell{};
  std::uint64_t inside = 0;  // what it protects: plain
  bool half = false;         // changed

  Take take_it(unsigned me, bool recursive = false) {
    if (take_free(lock, LockWord::held_by(name_of(me)).pack())) return Take::taken;
    // Only who has not slept yet is polite: the ring for one is not to be lost on it.
    Take result = take(lock, name_of(me), {.recursive = recursive, .polite = true});
    if (result != Take::busy) return result;
    sleep_until(bell, [&] {
      result = take(lock, name_of(me), {.recursive = recursive});
      if (result == Take::busy && me == 1) mark_hungry(lock);
      return result != Take::busy;
    });
    return result;
  }
  void drop_it(unsigned me) {
    if (!drop_only(lock, LockWord::held_by(name_of(me)).pack())) {
      EXPECT_EQ(drop(lock, name_of(me)), Drop::dropped);
    }
    bell.ring();
  }
};

TEST(SyncThreadsTest, ALockIsForOneAtATime) {
  SharedLock shared;
  test::run_together(3, [&](unsigned i) {
    for (std::uint64_t n = 0; n < kTurns; ++n) {
      ASSERT_EQ(shared.take_it(i), Take::taken);
      ++shared.inside;
      if (n % 8 == 0) {
        // As in a condition's wait: all of it, and again.
        EXPECT_EQ(drop_all(shared.lock, name_of(i)), 1U);
        shared.bell.ring();
        sleep_until(shared.bell, [&] { return retake(shared.lock, name_of(i), 1) == Take::taken; });
      }
      shared.drop_it(i);
    }
  });
  EXPECT_EQ(shared.inside, 3 * kTurns);
}

TEST(SyncThreadsTest, ARecursiveLockIsFreeWhenItWasDroppedAsOften) {
  SharedLock shared;
  test::run_together(3, [&](unsigned i) {
    for (std::uint64_t n = 0; n < kTurns; ++n) {
      ASSERT_EQ(shared.take_it(i, true), Take::taken);
      ASSERT_EQ(take(shared.lock, name_of(i), {.recursive = true}), Take::deeper);
      ++shared.inside;
      EXPECT_EQ(drop(shared.lock, name_of(i)), Drop::kept);
      ++shared.inside;
      shared.drop_it(i);
    }
  });
  EXPECT_EQ(shared.inside, 6 * kTurns);
}

// Owners die amid a change, one after the other; who is told repairs it.
TEST(SyncThreadsTest, WhoRepairsSeesWhatTheDeadLeft) {
  SharedLock shared;
  std::atomic<std::uint64_t> dead{0};  // how many have died with the lock
  std::atomic<std::uint64_t> buried{0};
  std::atomic<std::uint64_t> repaired{0};
  std::atomic<bool> over{false};
  test::run_together(4, [&](unsigned i) {
    if (i == 0) {
      for (std::uint64_t n = 1; n <= kTurns / 4; ++n) {
        if (shared.take_it(i) != Take::taken) {
          --n;
          sys::yield();
          continue;
        }
        ++shared.inside;
        shared.half = true;
        dead.store(n, std::memory_order_release);
        while (buried.load(std::memory_order_relaxed) < n) sys::yield();
      }
      over.store(true, std::memory_order_release);
    } else if (i == 1) {
      for (std::uint64_t n = 0; n < kTurns / 4;) {
        if (dead.load(std::memory_order_acquire) == n) {
          sys::yield();
          continue;
        }
        EXPECT_TRUE(orphan(shared.lock, id_of(0)));
        shared.bell.ring_for_the_dead();
        buried.store(++n, std::memory_order_relaxed);
      }
    } else {
      while (!over.load(std::memory_order_acquire) ||
             look(shared.lock).state == LockState::orphaned) {
        const Take took = shared.take_it(i);
        if (took == Take::owner_died) {
          if (!take_orphaned(shared.lock, name_of(i))) continue;
          EXPECT_TRUE(shared.half);
          ++shared.inside;
          shared.half = false;
          EXPECT_TRUE(recover(shared.lock, name_of(i)));
          repaired.fetch_add(1, std::memory_order_relaxed);
        } else {
          ASSERT_EQ(took, Take::taken);
          EXPECT_FALSE(shared.half);
        }
        shared.drop_it(i);
        // The others are to have their turns.
        sys::yield();
      }
    }
  });
  EXPECT_EQ(repaired.load(), kTurns / 4);
  EXPECT_EQ(shared.inside, 2 * (kTurns / 4));
}

// ---- semaphores

template <std::uint32_t Count>
struct SharedPermits {
  SharedPermits() { Permits::begin(bytes, Count); }
  void acquire(unsigned me) {
    Permits permits(bytes);
    sleep_until(bell, [&] { return permits.acquire(id_of(me)); });
  }
  void release(unsigned me) {
    EXPECT_EQ(Permits(bytes).release(id_of(me), false), Permits::Released::yes);
    bell.ring();
  }
  alignas(64) std::array<std::byte, Permits::bytes_for(Count)> bytes{};
  Bell bell{};
};

TEST(SyncThreadsTest, APermitIsHandedOnWithWhatWasDoneUnderIt) {
  SharedPermits<1> shared;
  std::uint64_t inside = 0;
  test::run_together(3, [&](unsigned i) {
    for (std::uint64_t n = 0; n < kTurns; ++n) {
      shared.acquire(i);
      ++inside;
      shared.release(i);
    }
  });
  EXPECT_EQ(inside, 3 * kTurns);
  EXPECT_EQ(Permits(shared.bytes).value(), 1U);
}

// Permits that nobody began with: of the free cells, and of the full ones.
TEST(SyncThreadsTest, PermitsHandPlainMemoryToAndFro) {
  SharedPermits<4> room;
  SharedPermits<0> items;
  std::array<std::uint64_t, 4> ring{};
  test::run_together(2, [&](unsigned i) {
    for (std::uint64_t n = 0; n < kTurns; ++n) {
      if (i == 0) {
        room.acquire(i);
        ring[n % 4] = n;
        items.release(i);
      } else {
        items.acquire(i);
        ASSERT_EQ(ring[n % 4], n);
        room.release(i);
      }
    }
  });
  EXPECT_EQ(Permits(room.bytes).value(), 4U);
}

TEST(SyncThreadsTest, WhatTheDeadHeldIsHandedOn) {
  SharedPermits<1> shared;
  std::uint64_t inside = 0;
  std::atomic<std::uint64_t> dead{0};
  std::atomic<std::uint64_t> buried{0};
  test::run_together(3, [&](unsigned i) {
    for (std::uint64_t n = 1; n <= kTurns; ++n) {
      if (i == 2) {
        while (dead.load(std::memory_order_acquire) < n) sys::yield();
        Permits(shared.bytes).bury(id_of(0));
        shared.bell.ring_for_the_dead();
        buried.store(n, std::memory_order_relaxed);
        continue;
      }
      shared.acquire(i);
      ++inside;
      if (i == 1) {
        shared.release(i);
        continue;
      }
      dead.store(n, std::memory_order_release);
      while (buried.load(std::memory_order_relaxed) < n) sys::yield();
    }
  });
  EXPECT_EQ(inside, 2 * kTurns);
  EXPECT_EQ(Permits(shared.bytes).value(), 1U);
}

// ---- events

TEST(SyncThreadsTest, WhoSeesAnEventSeesWhatCameBeforeIt) {
  struct Signal {
    EventBody event{};
    Bell bell{};
    void set() {
      EXPECT_TRUE(shm::set(event));
      bell.ring_for_all();
    }
    void wait() {
      sleep_until(bell, [&] { return is_set(event); });
      clear(event);
    }
  };
  std::array<Signal, 2> signals;
  std::uint64_t ball = 0;
  test::run_together(2, [&](unsigned i) {
    for (std::uint64_t n = 0; n < kTurns; ++n) {
      if (i == 1) signals[1].wait();
      EXPECT_EQ(ball, 2 * n + i);
      ++ball;
      signals[1 - i].set();
      if (i == 0) signals[0].wait();
    }
  });
}

// ---- conditions

// A buffer of one under a lock, as textbooks have it; now and then a waiter gives up, or dies and
// is buried, and its notification goes to another.
TEST(SyncThreadsTest, WhoIsNotifiedFindsWhatItWaitedFor) {
  SharedLock shared;
  auto condition = std::make_unique<ConditionBody>();
  std::uint64_t value = 0;  // 0: none
  const auto wait = [&](unsigned me, bool dies) {
    const std::size_t cell = enter(*condition, id_of(me));
    EXPECT_EQ(drop_all(shared.lock, name_of(me)), 1U);
    shared.bell.ring();
    if (dies) {
      bury_waiter(*condition, id_of(me));
    } else {
      sleep_until(condition->cells[cell].bell, [&] { return is_notified(*condition, cell); });
    }
    sleep_until(shared.bell, [&] { return retake(shared.lock, name_of(me), 1) == Take::taken; });
    if (!dies) {
      EXPECT_TRUE(leave(*condition, cell));
    }
  };
  std::uint64_t sum = 0;
  std::uint64_t got = 0;
  test::run_together(4, [&](unsigned i) {
    for (std::uint64_t n = 1; n <= kTurns; ++n) {
      ASSERT_EQ(shared.take_it(i), Take::taken);
      bool dies = n % 16 == i;
      while ((value == 0) == (i >= 2)) {
        wait(i, dies);
        dies = false;
      }
      if (i < 2) {
        value = 2 * n + i;
      } else {
        sum += value;
        ++got;
        value = 0;
      }
      // All: a notification of one might come to a waiter of the same side.
      notify(*condition, 4);
      shared.drop_it(i);
    }
  });
  EXPECT_EQ(got, 2 * kTurns);
  EXPECT_EQ(sum, kTurns * (kTurns + 1) * 2 + kTurns);
  EXPECT_EQ(waiters(*condition), 0U);
}

// ---- barriers

template <bool Acts>
void pass_together() {
  constexpr unsigned kParties = 3;
  alignas(64) std::array<std::byte, BarrierView::bytes_for(kParties)> bytes{};
  BarrierView::begin(bytes, kParties);
  Bell bell{};
  std::array<std::uint64_t, kParties> phase{};  // each writes its own, all read: plain
  std::uint64_t acted = 0;
  test::run_together(kParties, [&](unsigned i) {
    BarrierView view(bytes);
    for (std::uint64_t n = 1; n <= 2 * kTurns; ++n) {
      // Writing and reading take turns.
      if (n % 2 == 1) phase[i] = n;
      const BarrierView::Arrival arrival = view.arrive(id_of(i), Acts);
      if (arrival.how == BarrierView::Arrived::acts) {
        ++acted;
        EXPECT_TRUE(view.acted(arrival.generation));
      }
      if (arrival.how == BarrierView::Arrived::waits) {
        sleep_until(bell,
                    [&] { return view.outcome(arrival.generation) != BarrierView::Outcome::open; });
        ASSERT_EQ(view.outcome(arrival.generation), BarrierView::Outcome::passed);
      } else {
        bell.ring_for_all();
      }
      view.leave(arrival);
      if (n % 2 == 0) continue;
      for (const std::uint64_t of : phase) EXPECT_EQ(of, n);
      if (Acts) {
        EXPECT_EQ(acted, n);
      }
    }
  });
}

TEST(SyncThreadsTest, PartiesSeeWhatAllDidBeforeTheyCame) { pass_together<false>(); }
TEST(SyncThreadsTest, PartiesSeeTheAction) { pass_together<true>(); }

// A party dies while another waits; what it had done is seen by who is told.
TEST(SyncThreadsTest, WhoIsToldOfADeadPartySeesWhatItDid) {
  alignas(64) std::array<std::byte, BarrierView::bytes_for(3)> bytes{};
  BarrierView::begin(bytes, 3);
  Bell bell{};
  std::uint64_t note = 0;
  std::atomic<std::uint64_t> dead{0};
  test::run_together(3, [&](unsigned i) {
    BarrierView view(bytes);
    for (std::uint64_t n = 1; n <= kTurns; ++n) {
      const OwnerId mortal{2, static_cast<std::uint16_t>(n)};
      if (i == 0) {
        // What the other reads of the last one comes before its arrival.
        for (BarrierWord word; word.generation != n - 1 || word.arrived != 1; word = view.look()) {
          sys::yield();
        }
        note = n;
        EXPECT_EQ(view.arrive(mortal, false).how, BarrierView::Arrived::waits);
        dead.store(n, std::memory_order_release);
      } else if (i == 1) {
        while (dead.load(std::memory_order_acquire) < n) sys::yield();
        view.bury(mortal);
        bell.ring_for_the_dead();
      } else {
        const BarrierView::Arrival arrival = view.arrive(id_of(2), false);
        ASSERT_EQ(arrival.how, BarrierView::Arrived::waits);
        sleep_until(bell,
                    [&] { return view.outcome(arrival.generation) != BarrierView::Outcome::open; });
        ASSERT_EQ(view.outcome(arrival.generation), BarrierView::Outcome::broken);
        EXPECT_EQ(note, n);
        view.leave(arrival);
        view.reset();
      }
    }
  });
}

}  // namespace
}  // namespace brood::shm
