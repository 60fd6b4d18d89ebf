// Locks, semaphores and events: one at a time is in, whoever dies; who sleeps is woken.
#include "shm/lock.hpp"

#include <array>
#include <new>

#include "schedule/report.hpp"
#include "schedule/sync_scene.hpp"
#include "shm/event.hpp"
#include "shm/semaphore.hpp"

namespace brood::schedule {
namespace {

using shm::Take;
using shm::ThreadName;

// ---- locks

struct OneLock {
  shm::LockBody lock{};
  shm::Bell bell{};
  Data<int> inside;  // what the lock protects
};

ThreadName thread_of(shm::OwnerId owner) { return {owner, owner.slot + 100U}; }

Take take_it(OneLock& it, ThreadName me, bool recursive = false) {
  if (shm::take_free(it.lock, shm::LockWord::held_by(me).pack())) return Take::taken;
  Take result = Take::busy;
  sleep_until(it.bell, [&] {
    result = shm::take(it.lock, me, {.recursive = recursive, .polite = false});
    return result != Take::busy;
  });
  return result;
}

void drop_it(Scene& scene, OneLock& it, ThreadName me) {
  const bool dropped = shm::drop_only(it.lock, shm::LockWord::held_by(me).pack());
  scene.require(dropped || shm::drop(it.lock, me) == shm::Drop::dropped, "not mine");
  it.bell.ring();
}

void lock_once(Scene& scene, OneLock& it, ThreadName me) {
  scene.require(take_it(it, me) == Take::taken, "not taken");
  it.inside.write(it.inside.read() + 1);
  drop_it(scene, it, me);
}

void two_lockers(Scene& scene) {
  OneLock it;
  for (const shm::OwnerId me : {kFirst, kSecond}) {
    scene.actor("locker", [&, me] { lock_once(scene, it, thread_of(me)); });
  }
  scene.play();
  scene.require(it.inside.read() == 2, "not two were in");
}

// A third sleeper is woken by whoever was woken before it.
void three_lockers(Scene& scene) {
  OneLock it;
  for (const shm::OwnerId me : {kFirst, kSecond, kThird}) {
    scene.actor("locker", [&, me] { lock_once(scene, it, thread_of(me)); });
  }
  scene.play();
  scene.require(it.inside.read() == 3, "not three were in");
}

void twice_and_once(Scene& scene) {
  OneLock it;
  scene.actor("recursive", [&] {
    const ThreadName me = thread_of(kFirst);
    scene.require(take_it(it, me, true) == Take::taken, "not taken");
    scene.require(take_it(it, me, true) == Take::deeper, "not deeper");
    it.inside.write(it.inside.read() + 1);
    scene.require(shm::drop(it.lock, me) == shm::Drop::kept, "not kept");
    it.inside.write(it.inside.read() + 1);
    drop_it(scene, it, me);
  });
  scene.actor("other", [&] { lock_once(scene, it, thread_of(kSecond)); });
  scene.play();
  scene.require(it.inside.read() == 3, "not three times");
}

// The mortal may die at any step; the other gets the lock, or hears of the death, and recovers.
void an_owner_dies(Scene& scene) {
  OneLock it;
  const int mortal = scene.mortal("mortal", [&] { lock_once(scene, it, thread_of(kFirst)); });
  scene.actor("warden", [&] {
    if (scene.await_end(mortal)) {
      shm::orphan(it.lock, kFirst);
      it.bell.ring_for_the_dead();
    }
  });
  scene.actor("other", [&] {
    const ThreadName me = thread_of(kSecond);
    if (take_it(it, me) == Take::owner_died) {
      scene.require(scene.died(mortal), "nobody died");
      scene.require(shm::recover(it.lock, me), "nothing to recover");
      it.bell.ring_for_all();
      scene.require(take_it(it, me) == Take::taken, "not taken after recovery");
    }
    it.inside.write(5);
    drop_it(scene, it, me);
  });
  scene.play();
  const shm::LockState left = shm::look(it.lock).state;
  scene.require(
      left == shm::LockState::free || (left == shm::LockState::orphaned && scene.died(mortal)),
      "locked in the end");
}

// Two that heard of it repair it: one at a time, and nobody else is in meanwhile.
void two_repair(Scene& scene) {
  OneLock it;
  shm::take(it.lock, thread_of(kThird), {});
  shm::orphan(it.lock, kThird);
  for (const shm::OwnerId owner : {kFirst, kSecond}) {
    scene.actor("repairer", [&, owner] {
      const ThreadName me = thread_of(owner);
      if (shm::take_orphaned(it.lock, me)) {
        it.inside.write(it.inside.read() + 1);
        scene.require(shm::recover(it.lock, me), "it was not damaged");
        drop_it(scene, it, me);
      }
      if (shm::take(it.lock, me, {}) != Take::taken) return;
      it.inside.write(it.inside.read() + 10);
      drop_it(scene, it, me);
    });
  }
  scene.play();
  scene.require(it.inside.read() % 10 == 1, "repaired more than once");
}

// ---- semaphores

template <int Permits>
struct OneSemaphore {
  OneSemaphore() { shm::Permits::begin(body(), Permits); }
  std::span<std::byte> body() { return bytes; }
  alignas(64) std::array<std::byte, shm::Permits::bytes_for(Permits)> bytes{};
  shm::Bell bell{};
  Data<int> inside;
};

template <int Permits>
void acquire_it(OneSemaphore<Permits>& it, shm::OwnerId me) {
  shm::Permits permits(it.body());
  sleep_until(it.bell, [&] { return permits.acquire(me); });
}
template <int Permits>
void release_it(OneSemaphore<Permits>& it, shm::OwnerId me) {
  shm::Permits(it.body()).release(me, false);
  it.bell.ring();
}

void one_permit(Scene& scene) {
  OneSemaphore<1> it;
  for (const shm::OwnerId me : {kFirst, kSecond}) {
    scene.actor("holder", [&, me] {
      acquire_it(it, me);
      it.inside.write(it.inside.read() + 1);
      release_it(it, me);
    });
  }
  scene.play();
  scene.require(it.inside.read() == 2, "not two were in");
  scene.require(shm::Permits(it.body()).value() == 1, "a permit is lost");
}

// What one releases another acquires: nobody's permit, or one that was set free for another.
void handed_over(Scene& scene) {
  OneSemaphore<0> it;
  scene.actor("producer", [&] {
    it.inside.write(1);
    release_it(it, kFirst);
  });
  scene.actor("consumer", [&] {
    acquire_it(it, kSecond);
    scene.require(it.inside.read() == 1, "before it was produced");
  });
  scene.play();
  scene.require(shm::Permits(it.body()).value() == 0, "a permit too many");
}
void released_by_another(Scene& scene) {
  OneSemaphore<1> it;
  shm::Permits(it.body()).acquire(kThird);
  scene.actor("releaser", [&] {
    it.inside.write(1);
    release_it(it, kFirst);
  });
  scene.actor("other", [&] {
    acquire_it(it, kSecond);
    scene.require(it.inside.read() == 1, "before it was released");
    release_it(it, kSecond);
  });
  scene.play();
  scene.require(shm::Permits(it.body()).value() == 1, "not as many as in the beginning");
}

void a_holder_dies(Scene& scene) {
  OneSemaphore<1> it;
  const int mortal = scene.mortal("mortal", [&] {
    acquire_it(it, kFirst);
    it.inside.write(it.inside.read() + 1);
    release_it(it, kFirst);
  });
  scene.actor("warden", [&] {
    if (scene.await_end(mortal)) {
      shm::Permits(it.body()).bury(kFirst);
      it.bell.ring_for_the_dead();
    }
  });
  scene.actor("other", [&] {
    acquire_it(it, kSecond);
    it.inside.write(5);
    release_it(it, kSecond);
  });
  scene.play();
  scene.require(shm::Permits(it.body()).value() == 1, "a permit is lost, or one too many");
}

// Each releases a permit of somebody else's; both are released.
template <int Permits>
void two_release(Scene& scene) {
  OneSemaphore<Permits> it;
  for (int i = 0; i < Permits; ++i) shm::Permits(it.body()).acquire(kThird);
  for (const shm::OwnerId me : {kFirst, kSecond}) {
    scene.actor("releaser", [&, me] { release_it(it, me); });
  }
  scene.play();
  scene.require(shm::Permits(it.body()).value() == 2, "a permit is lost");
}

// As one_permit, of a permit that is nobody's.
void one_extra_permit(Scene& scene) {
  OneSemaphore<0> it;
  shm::Permits(it.body()).release(kThird, false);
  for (const shm::OwnerId me : {kFirst, kSecond}) {
    scene.actor("holder", [&, me] {
      acquire_it(it, me);
      it.inside.write(it.inside.read() + 1);
      release_it(it, me);
    });
  }
  scene.play();
  scene.require(it.inside.read() == 2, "not two were in");
}

void three_permits_for_three(Scene& scene) {
  OneSemaphore<0> it;
  scene.actor("producer", [&] {
    for (int i = 0; i < 2; ++i) release_it(it, kFirst);
  });
  scene.actor("another", [&] { release_it(it, kSecond); });
  for (int i = 0; i < 3; ++i) {
    scene.actor("consumer", [&] { acquire_it(it, kThird); });
  }
  scene.play();
}

// ---- events

void set_and_cleared(Scene& scene) {
  shm::EventBody event{};
  shm::Bell bell{};
  Data<int> before;
  scene.actor("waiter", [&] {
    const std::uint64_t seen = 0;
    sleep_until(bell, [&] { return shm::was_set_since(event, seen); });
    scene.require(before.read() == 1, "before it was set");
  });
  scene.actor("setter", [&] {
    before.write(1);
    scene.require(shm::set(event), "it was set");
    bell.ring_for_all();
    shm::clear(event);
  });
  scene.play();
  scene.require(!shm::is_set(event), "not cleared");
}

void two_wait(Scene& scene) {
  shm::EventBody event{};
  shm::Bell bell{};
  for (int i = 0; i < 2; ++i) {
    scene.actor("waiter", [&] { sleep_until(bell, [&] { return shm::is_set(event); }); });
  }
  scene.actor("setter", [&] {
    shm::set(event);
    bell.ring_for_all();
  });
  scene.play();
}

// Another rings beside who sets it, and has rung before.
template <class Ring, int Waiters>
void two_ring(Scene& scene) {
  shm::EventBody event{};
  shm::Bell bell{};
  bell.listen();
  for (int i = 0; i < Waiters; ++i) {
    scene.actor("waiter", [&] { sleep_until(bell, [&] { return shm::is_set(event); }); });
  }
  scene.actor("setter", [&] {
    bell.ring_for_all();
    shm::set(event);
    bell.ring_for_all();
  });
  scene.actor("rings", [&] { Ring{}(bell); });
  scene.play();
}
struct ForOne {
  void operator()(shm::Bell& bell) const { bell.ring(); }
};
struct ForTheDead {
  void operator()(shm::Bell& bell) const { bell.ring_for_the_dead(); }
};

// The usual pattern: clear it, look for work, wait; nobody sleeps while there is work.
void cleared_before_the_look(Scene& scene) {
  shm::EventBody event{};
  shm::Bell bell{};
  sys::Atomic<int> work{0};
  Data<int> prepared;
  shm::set(event);
  scene.actor("worker", [&] {
    shm::clear(event);
    if (work.load(std::memory_order_seq_cst) == 1) return;
    sleep_until(bell, [&] { return shm::is_set(event); });
    scene.require(work.load(std::memory_order_relaxed) == 1, "woken for nothing");
    scene.require(prepared.read() == 1, "not as it was when it was set");
  });
  scene.actor("setter", [&] {
    prepared.write(1);
    work.store(1, std::memory_order_seq_cst);
    shm::set(event);
    bell.ring_for_all();
  });
  scene.play();
}

// Who sets it is counted, whatever others do.
void set_and_cleared_by_several(Scene& scene) {
  shm::EventBody event{};
  std::array<Data<int>, 3> sets;
  for (std::size_t i = 0; i < sets.size(); ++i) {
    scene.actor("one", [&, i] {
      if (i != 0) sets[i].write(shm::set(event) ? 1 : 0);
      shm::clear(event);
    });
  }
  scene.actor("setter", [&] { sets[0].write(shm::set(event) ? 1 : 0); });
  scene.play();
  std::uint64_t count = 0;
  for (const Data<int>& set : sets) count += static_cast<std::uint64_t>(set.read());
  scene.require(event.word.load(std::memory_order_relaxed) >> 1U == count, "a time is lost");
}

constexpr const char* kLooked = "the look at the bit, which comes before it, orders it";
constexpr const char* kStale =
    "the swap decides; who believes that all are free adds one, and the sum is the same";
constexpr const char* kFigure = "of a moment that has passed when it is told";

TEST(LockScheduleTest, OneAtATimeIsInAndWhoSleepsIsWoken) {
  expect_right_in_all("two lockers", two_lockers, {.old_reads = 1});
  expect_right_in_all("one locks twice, another once", twice_and_once, {.old_reads = 1});
  expect_right_by_seed("three lockers", three_lockers, 1);
}
TEST(LockScheduleTest, AnOwnersDeathIsToldAndRecovered) {
  expect_right_by_seed("an owner may die, another recovers", an_owner_dies, 1);
  expect_right_in_all("two repair", two_repair, {.old_reads = 1});
}
TEST(LockScheduleTest, PermitsAreNeitherLostNorDoubled) {
  expect_right_in_all("one permit, two holders", one_permit, {.old_reads = 1});
  expect_right_in_all("a permit is handed over", handed_over, {.old_reads = 1});
  expect_right_in_all("another's permit is released", released_by_another, {.old_reads = 1});
  expect_right_in_all("two release one", two_release<1>, {.old_reads = 1});
  expect_right_in_all("two release more than there were", two_release<0>, {.old_reads = 1});
  expect_right_in_all("one permit of nobody's", one_extra_permit, {.old_reads = 1});
  expect_right_by_seed("a holder may die", a_holder_dies, 1);
}
TEST(LockScheduleTest, WhoWaitsSeesAnEventThatIsClearedAtOnce) {
  expect_right_in_all("set and cleared", set_and_cleared, {.old_reads = 1});
  expect_right_in_all("cleared before the look", cleared_before_the_look, {.old_reads = 1});
  expect_right_by_seed("set and cleared by several", set_and_cleared_by_several, 0.5);
}
TEST(LockScheduleTest, NobodySleepsThroughARing) {
  expect_right_by_seed("two wait for an event", two_wait, 0.5);
  expect_right_by_seed("two ring, one for the dead", two_ring<ForTheDead, 1>, 0.5);
  expect_right_by_seed("two ring, one for one", two_ring<ForOne, 2>, 0.5);
  expect_right_by_seed("three permits for three", three_permits_for_three, 0.5);
}

TEST(LockScheduleTest, EachBreakOfALockIsNoticed) {
  expect_breaks_noticed("lock", {"lock.cpp", "lock.hpp"},
                        {two_lockers, three_lockers, twice_and_once, an_owner_dies, two_repair},
                        {{"lock.hpp", "compare_exchange_strong(mine, 0", Damage::tear,
                          "of a held lock others change only the mark of hunger, a hint"},
                         {"lock.hpp", "LockWord::unpack(lock.word.load", Damage::relax,
                          "a look decides nothing, but on what the looker did itself"}},
                        10'000);
}
TEST(LockScheduleTest, EachBreakOfASemaphoreIsNoticed) {
  expect_breaks_noticed(
      "semaphore", {"semaphore.cpp", "semaphore.hpp"},
      {one_permit, handed_over, released_by_another, a_holder_dies, two_release<1>, two_release<0>,
       one_extra_permit},
      {{"semaphore.cpp", "const std::uint64_t bits = words_[at].load", Damage::relax, kStale},
       {"semaphore.cpp", "changes += PermitWord::unpack", Damage::relax, kStale},
       {"semaphore.cpp", "value = head_.extra.load", Damage::relax, kFigure},
       {"semaphore.cpp", "const PermitWord permit = PermitWord::unpack(word.load", Damage::relax,
        kFigure},
       {"semaphore.hpp", "bits = word.load(", Damage::relax,
        "the proof of death orders it, and the swap decides"}},
      10'000);
}
TEST(LockScheduleTest, EachBreakOfAnEventIsNoticed) {
  expect_breaks_noticed("event", {"event.hpp"},
                        {set_and_cleared, cleared_before_the_look, set_and_cleared_by_several}, {},
                        10'000);
}
TEST(LockScheduleTest, EachBreakOfABellIsNoticed) {
  expect_breaks_noticed(
      "bell", {"bell.hpp"},
      {two_lockers, an_owner_dies, set_and_cleared, two_wait, two_ring<ForTheDead, 1>,
       two_ring<ForOne, 2>},
      {{"bell.hpp", "word.fetch_or(1", Damage::drop, "nobody sleeps then"},
       {"bell.hpp", "rung = word.fetch_add", Damage::relax, kLooked},
       {"bell.hpp", "compare_exchange_weak(bits", Damage::relax, kLooked},
       {"bell.hpp", "compare_exchange_strong(rung", Damage::relax, kLooked},
       {"bell.hpp", "compare_exchange_strong(rung", Damage::drop,
        "the bit that stays costs the next ring a call"},
       {"bell.hpp", "word.fetch_add(2, std::memory_order_seq_cst);", Damage::relax,
        "beyond the explorer: it would have to overtake the change before it"}},
      100'000);
}

}  // namespace
}  // namespace brood::schedule
