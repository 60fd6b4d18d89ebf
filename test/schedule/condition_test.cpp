// Conditions and barriers: a notification is neither lost nor used twice, whoever dies; parties go
// on together, or all are told that they don't.
#include "shm/condition.hpp"

#include <array>
#include <memory>

#include "schedule/report.hpp"
#include "schedule/sync_scene.hpp"
#include "shm/barrier.hpp"
#include "sys/clock.hpp"

namespace brood::schedule {
namespace {

// ---- conditions

struct OneCondition {
  shm::ConditionBody body{};
  std::array<Data<int>, 2> gone_on;
};

// Enters, sleeps until notified, goes on.
void wait_once(OneCondition& it, shm::OwnerId me, std::size_t which, std::size_t cell) {
  static_cast<void>(me);
  sleep_until(it.body.cells[cell].bell, [&] { return shm::is_notified(it.body, cell); });
  if (shm::leave(it.body, cell)) it.gone_on[which].write(1);
}

void one_of_two_is_notified(Scene& scene) {
  OneCondition it;
  const std::array cells{shm::enter(it.body, kFirst), shm::enter(it.body, kSecond)};
  for (const std::size_t which : {std::size_t{0}, std::size_t{1}}) {
    scene.server("waiter", [&, which] { wait_once(it, kFirst, which, cells[which]); });
  }
  scene.actor("notifier", [&] { scene.require(shm::notify(it.body, 1) == 1, "nobody waits"); });
  scene.play();
  scene.require(it.gone_on[0].read() == 1 && it.gone_on[1].read() == 0, "not who came first");
}

void two_notify_two(Scene& scene) {
  OneCondition it;
  const std::array cells{shm::enter(it.body, kFirst), shm::enter(it.body, kSecond)};
  for (const std::size_t which : {std::size_t{0}, std::size_t{1}}) {
    scene.actor("waiter", [&, which] { wait_once(it, kFirst, which, cells[which]); });
  }
  for (int i = 0; i < 2; ++i) {
    scene.actor("notifier", [&] { shm::notify(it.body, 1); });
  }
  scene.play();
  scene.require(it.gone_on[0].read() + it.gone_on[1].read() == 2, "a notification is lost");
}

// Who gives up at its limit either was notified, or leaves the notification to the other.
void one_gives_up(Scene& scene) {
  OneCondition it;
  const std::array cells{shm::enter(it.body, kFirst), shm::enter(it.body, kSecond)};
  scene.actor("gives up", [&] {
    if (shm::leave(it.body, cells[0])) it.gone_on[0].write(1);
  });
  scene.server("waiter", [&] { wait_once(it, kSecond, 1, cells[1]); });
  scene.actor("notifier", [&] { shm::notify(it.body, 1); });
  scene.play();
  scene.require(it.gone_on[0].read() + it.gone_on[1].read() == 1, "lost, or used twice");
}

void a_waiter_dies(Scene& scene) {
  OneCondition it;
  const std::array cells{shm::enter(it.body, kFirst), shm::enter(it.body, kSecond)};
  sys::Atomic<int> used{0};
  const int mortal = scene.mortal("mortal", [&] {
    sleep_until(it.body.cells[cells[0]].bell, [&] { return shm::is_notified(it.body, cells[0]); });
    used.store(1, std::memory_order_relaxed);
    shm::leave(it.body, cells[0]);
  });
  scene.server("waiter", [&] { wait_once(it, kSecond, 1, cells[1]); });
  scene.actor("notifier", [&] { shm::notify(it.body, 1); });
  scene.actor("warden", [&] {
    if (scene.await_end(mortal)) shm::bury_waiter(it.body, kFirst);
  });
  scene.play();
  const bool other = it.gone_on[1].read() == 1;
  scene.require(other || used.load(std::memory_order_relaxed) == 1, "it did not pass on");
  scene.require(!other || scene.died(mortal), "used twice");
}

void a_notifier_dies(Scene& scene) {
  OneCondition it;
  const std::size_t cell = shm::enter(it.body, kFirst);
  scene.server("waiter", [&] { wait_once(it, kFirst, 0, cell); });
  const int mortal = scene.mortal("notifier", [&] { shm::notify(it.body, 1); });
  scene.actor("warden", [&] {
    if (scene.await_end(mortal)) shm::bury_waiter(it.body, kSecond);
  });
  scene.play();
  const auto word = shm::WaitWord::unpack(it.body.cells[cell].word.load(std::memory_order_relaxed));
  scene.require(word.state != shm::WaitState::notified, "notified, and not woken");
}

// ---- barriers

struct OneBarrier {
  OneBarrier() { shm::BarrierView::begin(bytes, 2); }
  shm::BarrierView view() { return shm::BarrierView(bytes); }
  alignas(64) std::array<std::byte, shm::BarrierView::bytes_for(2)> bytes{};
  shm::Bell bell{};
  std::array<Data<int>, 2> done;
  Data<int> acted;
};

enum class End : std::uint8_t { none, passed, broken };

// One wait, as src/shared/barrier.cpp does it.
End pass(OneBarrier& it, shm::OwnerId me, bool has_action) {
  using Arrived = shm::BarrierView::Arrived;
  shm::BarrierView view = it.view();
  const shm::BarrierView::Arrival arrival = view.arrive(me, has_action);
  if (arrival.how == Arrived::broken || arrival.how == Arrived::full) return End::broken;
  bool passed = true;
  if (arrival.how == Arrived::acts) {
    it.acted.write(it.acted.read() + 1);
    passed = view.acted(arrival.generation);
  }
  if (arrival.how == Arrived::waits) {
    auto outcome = shm::BarrierView::Outcome::open;
    sleep_until(it.bell, [&] {
      outcome = view.outcome(arrival.generation);
      return outcome != shm::BarrierView::Outcome::open;
    });
    passed = outcome == shm::BarrierView::Outcome::passed;
  } else {
    it.bell.ring_for_all();
  }
  view.leave(arrival);
  return passed ? End::passed : End::broken;
}

template <bool Acts>
void two_parties(Scene& scene) {
  OneBarrier it;
  for (const std::size_t which : {std::size_t{0}, std::size_t{1}}) {
    scene.actor("party", [&, which] {
      it.done[which].write(1);
      const shm::OwnerId me = which == 0 ? kFirst : kSecond;
      scene.require(pass(it, me, Acts) == End::passed, "broken");
      scene.require(it.done[1 - which].read() == 1, "gone on too early");
      if (Acts) scene.require(it.acted.read() == 1, "before the action");
    });
  }
  scene.play();
  scene.require(it.view().look().generation == 1, "generations");
}

void a_party_dies(Scene& scene) {
  OneBarrier it;
  std::array<End, 1> end{};
  const int mortal = scene.mortal("mortal", [&] { pass(it, kFirst, false); });
  scene.server("party", [&] { end[0] = pass(it, kSecond, false); });
  scene.actor("warden", [&] {
    if (scene.await_end(mortal)) {
      it.view().bury(kFirst);
      it.bell.ring_for_the_dead();
    }
  });
  scene.play();
  // It waits on only if the other died before it had come at all.
  scene.require(end[0] != End::none || (scene.died(mortal) && it.view().look().arrived == 1),
                "left waiting");
  scene.require(end[0] != End::broken || scene.died(mortal), "broken though nobody died");
}

void one_resets(Scene& scene) {
  OneBarrier it;
  scene.actor("party", [&] {
    if (pass(it, kFirst, false) == End::passed) it.done[0].write(1);
  });
  scene.actor("resets", [&] {
    while (it.view().look().arrived == 0) sys::yield();
    it.view().reset();
    it.bell.ring_for_all();
  });
  scene.play();
  scene.require(it.done[0].read() == 0, "passed alone");
  const shm::BarrierWord left = it.view().look();
  scene.require(left.state == shm::BarrierState::filling && left.arrived == 0, "not as new");
}

TEST(ConditionScheduleTest, ANotificationIsForOne) {
  expect_right_by_seed("one of two is notified", one_of_two_is_notified, 0.5);
  expect_right_by_seed("two notify two", two_notify_two, 0.5);
  expect_right_by_seed("one gives up", one_gives_up, 0.5);
}
TEST(ConditionScheduleTest, ANotificationOfTheDeadPassesOn) {
  expect_right_by_seed("a waiter may die", a_waiter_dies, 1);
  expect_right_by_seed("a notifier may die", a_notifier_dies, 0.5);
}
TEST(BarrierScheduleTest, PartiesGoOnTogether) {
  expect_right_in_all("two parties", two_parties<false>, {.old_reads = 1});
  expect_right_by_seed("two parties, an action", two_parties<true>, 0.5);
  expect_right_by_seed("one resets", one_resets, 0.5);
}
TEST(BarrierScheduleTest, APartysDeathBreaksIt) {
  expect_right_by_seed("a party may die", a_party_dies, 1);
}

}  // namespace
}  // namespace brood::schedule
