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

// Who waits longer is notified, also where another's cell has been used again.
void in_their_order(Scene& scene) {
  OneCondition it;
  const std::size_t cell = shm::enter(it.body, kFirst);
  const std::size_t earlier = shm::enter(it.body, kSecond);
  shm::leave(it.body, cell);
  const std::size_t later = shm::enter(it.body, kThird);
  scene.require(later < earlier, "not the cell that was used before");
  scene.actor("notifier", [&] { shm::notify(it.body, 1); });
  scene.play();
  scene.require(shm::is_notified(it.body, earlier) && !shm::is_notified(it.body, later), "order");
}

// The same beside somebody who just comes.
void in_their_order_beside_another(Scene& scene) {
  OneCondition it;
  std::array<std::size_t, 3> cells{};
  const std::size_t used = shm::enter(it.body, kThird);
  std::size_t longer = 0;
  scene.actor("just comes", [&] { cells[0] = shm::enter(it.body, kFirst); });
  scene.actor("three come", [&] {
    cells[1] = shm::enter(it.body, kSecond);
    longer = shm::enter(it.body, kSecond);
    shm::leave(it.body, used);
    cells[2] = shm::enter(it.body, kThird);
  });
  scene.play();
  shm::notify(it.body, 3);
  scene.require(cells[0] != cells[1] && cells[0] != cells[2], "two in one cell");
  scene.require(shm::is_notified(it.body, longer) || !shm::is_notified(it.body, cells[2]), "order");
}

// Whether it is notified or dead first: the other is notified in the end.
void one_is_buried(Scene& scene) {
  OneCondition it;
  shm::enter(it.body, kFirst);
  const std::size_t other = shm::enter(it.body, kSecond);
  scene.actor("warden", [&] { shm::bury_waiter(it.body, kFirst); });
  scene.actor("notifier", [&] { shm::notify(it.body, 1); });
  scene.play();
  scene.require(shm::is_notified(it.body, other), "the notification is lost with the dead");
}

// Who found no cell sleeps on the bell of all (src/shared/condition.cpp).
void without_a_cell(Scene& scene) {
  OneCondition it;
  shm::Bell bell{};
  scene.actor("waiter", [&] {
    sleep_until(bell, [&] { return it.body.notifications.load(std::memory_order_seq_cst) != 0; });
  });
  scene.actor("notifier", [&] {
    shm::notify(it.body, 1);
    bell.ring_for_all();
  });
  scene.play();
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

using Arrived = shm::BarrierView::Arrived;

// So that whoever buries it knows of it, each has a place of its own.
void two_take_places(Scene& scene) {
  OneBarrier it;
  std::array<shm::BarrierView::Arrival, 2> arrivals;
  for (const std::size_t which : {std::size_t{0}, std::size_t{1}}) {
    scene.actor("party", [&, which] {
      arrivals[which] = it.view().arrive(which == 0 ? kFirst : kSecond, false);
    });
  }
  scene.play();
  scene.require(arrivals[0].place != arrivals[1].place, "two in one place");
}

void a_waiting_party_is_buried(Scene& scene) {
  OneBarrier it;
  it.view().arrive(kFirst, false);
  scene.actor("warden", [&] {
    it.view().bury(kFirst);
    it.bell.ring_for_the_dead();
  });
  scene.play();
  scene.require(it.view().look().state == shm::BarrierState::broken, "not known to be there");
}

// A barrier whose places are all taken by who has passed and not left yet.
template <std::uint32_t Parties>
struct FullBarrier {
  FullBarrier() {
    shm::BarrierView::begin(bytes, Parties);
    for (shm::BarrierView::Arrival& arrival : arrivals) arrival = view().arrive(kThird, false);
  }
  shm::BarrierView view() { return shm::BarrierView(bytes); }
  alignas(64) std::array<std::byte, shm::BarrierView::bytes_for(Parties)> bytes{};
  std::array<shm::BarrierView::Arrival, shm::places_of(Parties)> arrivals;
  shm::Bell entrance{};
};

// Who waits for a place gets that which another leaves, or which a burial frees.
template <bool Dies>
void at_the_entrance(Scene& scene) {
  FullBarrier<1> it;
  scene.actor("leaves", [&] {
    if (Dies) {
      it.view().bury(kThird);
      it.entrance.ring_for_the_dead();
    } else {
      it.view().leave(it.arrivals[0]);
      it.entrance.ring_for_all();
    }
  });
  scene.actor("comes", [&] {
    sleep_until(it.entrance, [&] { return it.view().arrive(kFirst, false).how != Arrived::full; });
  });
  scene.play();
}

// A second burial does not take the place from who has it next.
void two_bury(Scene& scene) {
  OneBarrier it;
  it.view().arrive(kThird, false);
  for (int i = 0; i < 2; ++i) {
    scene.actor("warden", [&] { it.view().bury(kThird); });
  }
  scene.actor("comes", [&] {
    while (it.view().look().state != shm::BarrierState::broken) sys::yield();
    it.view().reset();
    scene.require(it.view().arrive(kFirst, false).how == Arrived::waits, "no place");
  });
  scene.play();
  it.view().bury(kFirst);
  scene.require(it.view().look().state == shm::BarrierState::broken, "not known to be there");
}

// Who comes while a generation ends says in its place to which it came at last.
void a_generation_ends_meanwhile(Scene& scene) {
  OneBarrier it;
  shm::BarrierView::Arrival arrival;
  scene.actor("comes", [&] { arrival = it.view().arrive(kFirst, false); });
  scene.actor("resets", [&] {
    it.view().abort();
    it.view().reset();
  });
  scene.play();
  it.view().bury(kFirst);
  const shm::BarrierWord left = it.view().look();
  const bool waited = arrival.how == Arrived::waits && arrival.generation == left.generation;
  scene.require((left.state == shm::BarrierState::broken) == waited, "of another generation");
}

// Alone, it acts each time it comes; who comes amid that waits at the entrance.
void amid_an_action(Scene& scene) {
  alignas(64) std::array<std::byte, shm::BarrierView::bytes_for(1)> bytes{};
  shm::BarrierView::begin(bytes, 1);
  shm::Bell entrance{};
  Data<int> acted;
  for (const shm::OwnerId me : {kFirst, kSecond}) {
    scene.actor("party", [&, me] {
      shm::BarrierView view(bytes);
      shm::BarrierView::Arrival arrival;
      const auto arrives = [&] {
        arrival = view.arrive(me, true);
        return arrival.how != Arrived::full;
      };
      // Who does not wait says nothing to the bell.
      if (!arrives()) sleep_until(entrance, arrives);
      acted.write(acted.read() + 1);
      scene.require(view.acted(arrival.generation), "broken");
      view.leave(arrival);
      entrance.ring_for_all();
    });
  }
  scene.play();
  scene.require(acted.read() == 2, "not both");
}

// Who stops others says so first, then resets: nobody waits who has not heard of it.
void stopped_by_a_reset(Scene& scene) {
  OneBarrier it;
  sys::Atomic<int> stop{0};
  scene.actor("party", [&] {
    const auto arrival = it.view().arrive(kFirst, false);
    if (stop.load(std::memory_order_seq_cst) == 1) return;
    sleep_until(it.bell, [&] {
      return it.view().outcome(arrival.generation) != shm::BarrierView::Outcome::open;
    });
  });
  scene.actor("stops", [&] {
    stop.store(1, std::memory_order_seq_cst);
    it.view().reset();
    it.bell.ring_for_all();
  });
  scene.play();
}

// An abort is never lost, and whoever does not pass leaves no place taken.
template <bool Acts>
void one_aborts(Scene& scene) {
  alignas(64) std::array<std::byte, shm::BarrierView::bytes_for(1)> bytes{};
  shm::BarrierView::begin(bytes, 1);
  Data<int> passed;
  scene.actor("party", [&] {
    shm::BarrierView view(bytes);
    const shm::BarrierView::Arrival arrival = view.arrive(kFirst, Acts);
    if (arrival.how == Arrived::broken) return;
    if (!Acts || view.acted(arrival.generation)) passed.write(1);
    view.leave(arrival);
  });
  scene.actor("aborts", [&] { shm::BarrierView(bytes).abort(); });
  scene.play();
  shm::BarrierView view(bytes);
  scene.require(view.look().state == shm::BarrierState::broken, "the abort is lost");
  scene.require(view.look().generation == static_cast<std::uint32_t>(passed.read()),
                "a pass is lost");
  view.reset();
  for (std::size_t i = 0; i < shm::places_of(1); ++i) {
    scene.require(view.arrive(kFirst, false).how == Arrived::passed, "a place is taken for ever");
  }
}

constexpr const char* kProof = "only burials believe it, and the proof of death orders it";

TEST(ConditionScheduleTest, ANotificationIsForOne) {
  expect_right_by_seed("one of two is notified", one_of_two_is_notified, 0.5);
  expect_right_by_seed("two notify two", two_notify_two, 0.5);
  expect_right_by_seed("one gives up", one_gives_up, 0.5);
}
TEST(ConditionScheduleTest, WhoWaitsLongestIsNotified) {
  expect_right_in_all("in their order", in_their_order);
  expect_right_by_seed("in their order, beside another", in_their_order_beside_another, 0.5);
  expect_right_by_seed("without a cell", without_a_cell, 0.5);
}
TEST(ConditionScheduleTest, ANotificationOfTheDeadPassesOn) {
  expect_right_by_seed("one is buried", one_is_buried, 0.5);
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

TEST(BarrierScheduleTest, PlacesAreEachForOne) {
  expect_right_in_all("two take places", two_take_places, {.old_reads = 1});
  expect_right_in_all("a waiting party is buried", a_waiting_party_is_buried);
  expect_right_in_all("at the entrance, one leaves", at_the_entrance<false>, {.old_reads = 1});
  expect_right_by_seed("at the entrance, one is buried", at_the_entrance<true>, 0.5);
  expect_right_by_seed("two bury", two_bury, 0.5);
  expect_right_in_all("a generation ends", a_generation_ends_meanwhile, {.old_reads = 1});
}
TEST(BarrierScheduleTest, AnActionIsWaitedForOrAborted) {
  expect_right_by_seed("amid an action", amid_an_action, 0.5);
  expect_right_in_all("stopped by a reset", stopped_by_a_reset, {.old_reads = 1});
  expect_right_in_all("one aborts", one_aborts<false>, {.old_reads = 1});
  expect_right_in_all("one aborts an action", one_aborts<true>, {.old_reads = 1});
}

TEST(ConditionScheduleTest, EachBreakIsNoticed) {
  expect_breaks_noticed(
      "condition", {"condition.cpp", "condition.hpp"},
      {one_of_two_is_notified, two_notify_two, one_gives_up, a_waiter_dies, a_notifier_dies,
       one_is_buried, in_their_order, in_their_order_beside_another, without_a_cell},
      {{"condition.cpp", "compare_exchange_strong(empty", Damage::relax,
        "the condition's lock, which who waits drops next, orders it"},
       {"condition.cpp", "word.exchange(0", Damage::relax,
        "the lock, which it has again, orders it"},
       {"condition.cpp", "notifications.fetch_add", Damage::tear, "any change will do"},
       {"condition.cpp", "std::uint64_t bits = cell.word.load", Damage::relax,
        "the proof of death orders it, and the swap decides"},
       {"condition.cpp", "compare_exchange_weak(bits, 0", Damage::relax,
        "the proof of death orders it; who takes the cell next needs nothing of it"}},
      2'000);
}
TEST(BarrierScheduleTest, EachBreakIsNoticed) {
  expect_breaks_noticed(
      "barrier", {"barrier.cpp", "barrier.hpp"},
      {two_parties<false>, two_parties<true>, one_resets, a_party_dies, two_take_places,
       a_waiting_party_is_buried, at_the_entrance<false>, at_the_entrance<true>, two_bury,
       a_generation_ends_meanwhile, amid_an_action, stopped_by_a_reset, one_aborts<false>,
       one_aborts<true>},
      {{"barrier.cpp", "compare_exchange_weak(bits, mine.pack()", Damage::relax, kProof},
       {"barrier.cpp", "places_[arrival.place].store(PlaceWord", Damage::relax, kProof},
       {"barrier.cpp", "bits = place.load(", Damage::relax, kProof},
       {"barrier.cpp", "place.compare_exchange_strong(bits, 0", Damage::relax,
        "the ring for the dead that follows changes the bell, which orders it"},
       {"barrier.cpp", "if (has_place) places_", Damage::relax,
        "who broke it or acts rings for those at the entrance"}},
      10'000);
}

}  // namespace
}  // namespace brood::schedule
