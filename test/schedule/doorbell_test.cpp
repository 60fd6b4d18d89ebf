// The doorbells of an object: whoever polls is told that it is ready, and of nothing else, whoever
// dies.
#include "channel/doorbell.hpp"

#include "schedule/report.hpp"
#include "sys/datagram.hpp"
#include "sys/futex.hpp"

namespace brood::schedule {
namespace {

// Ready while it has items.
class Object {
 public:
  void put() {
    items_.fetch_add(1, std::memory_order_seq_cst);
    channel::ring_doorbells(board, objects_);
  }
  bool take() {
    int seen = items_.load(std::memory_order_seq_cst);
    while (seen > 0) {
      if (items_.compare_exchange_strong(seen, seen - 1, std::memory_order_seq_cst)) return true;
    }
    return false;
  }
  void bury() {
    channel::ring_for_the_dead(board, objects_, [this] { return is_ready(); });
  }
  [[nodiscard]] bool is_ready() { return items_.load(std::memory_order_seq_cst) > 0; }

  channel::DoorbellBoard board{};

 private:
  sys::Atomic<int> items_{0};
  shm::Objects objects_;
};

// As shared::Doorbell, and who polls it.
class Watcher {
 public:
  Watcher(Scene& scene, Object& object, std::uint16_t slot)
      : object_(object),
        slot_(slot),
        name_(channel::id_of(object.board), {slot, 0}),
        mailbox_(scene.mailbox(name_.text(), readable_)) {}

  void open() {
    object_.board.watchers.set(slot_);
    ring();
    settle();
  }
  void settle() {
    if (object_.is_ready()) return;
    channel::settle_doorbell(
        object_.board, [this] { return object_.is_ready(); },
        [this] { sys::empty_mailbox(mailbox_); }, [this] { ring(); });
  }
  void poll() {
    while (readable_.load(std::memory_order_acquire) == 0) sys::futex_wait(&readable_, 0, -1);
  }
  // Takes whatever it is told of.
  void watch() {
    open();
    for (;;) {
      poll();
      static_cast<void>(object_.take());
      settle();
    }
  }
  [[nodiscard]] bool is_told() { return readable_.load() != 0; }

 private:
  void ring() { sys::knock(name_.text()); }

  Object& object_;
  std::uint16_t slot_;
  channel::DoorbellName name_;
  sys::Atomic<std::uint32_t> readable_{0};
  int mailbox_;
};

// Another takes now and then what the watcher was told of.
void passing(Scene& scene) {
  Object object;
  Watcher watcher(scene, object, 3);
  scene.server("watcher", [&] { watcher.watch(); });
  scene.actor("producer", [&] {
    object.put();
    object.put();
  });
  scene.actor("other taker", [&] { static_cast<void>(object.take()); });
  scene.play();
  scene.require(!object.is_ready() || watcher.is_told(), "the watcher is not told");
}

// One more begins to watch meanwhile; none of them takes anything.
void coming(Scene& scene) {
  Object object;
  Watcher early(scene, object, 3);
  Watcher late(scene, object, 70);
  early.open();
  scene.actor("early watcher", [&] { early.poll(); });
  scene.actor("late watcher", [&] {
    late.open();
    late.poll();
  });
  scene.actor("producer", [&] { object.put(); });
  scene.play();
}

// Who has disarmed the board dies, and another takes what it had put: the next to put has to ring.
void dying(Scene& scene) {
  Object object;
  Watcher watcher(scene, object, 3);
  scene.server("watcher", [&] { watcher.watch(); });
  const int mortal = scene.mortal("producer", [&] { object.put(); });
  scene.actor("other taker", [&] { static_cast<void>(object.take()); });
  scene.actor("warden", [&] {
    if (scene.await_end(mortal)) object.bury();
  });
  scene.actor("other producer", [&] { object.put(); });
  scene.play();
  scene.require(!object.is_ready() || watcher.is_told(), "the watcher is not told");
}

// A death alone makes nothing ready.
void bystander(Scene& scene) {
  Object object;
  Watcher watcher(scene, object, 3);
  sys::Atomic<int> was_put{0};
  scene.actor("watcher", [&] {
    watcher.open();
    watcher.poll();
    scene.require(was_put.load(std::memory_order_seq_cst) != 0, "told of what nobody has put");
  });
  const int mortal = scene.mortal("bystander", [&] { static_cast<void>(object.take()); });
  scene.actor("warden", [&] {
    if (scene.await_end(mortal)) object.bury();
    was_put.store(1, std::memory_order_seq_cst);
    object.put();
  });
  scene.play();
}

// Its first two watchers come at once.
void naming(Scene& scene) {
  channel::DoorbellBoard board{};
  std::array<std::uint64_t, 2> ids{};
  for (std::uint64_t& id : ids) {
    scene.actor("watcher", [&] { id = channel::id_of(board); });
  }
  scene.play();
  scene.require(ids[0] == ids[1], "two names");
}

TEST(DoorbellScheduleTest, WhoPollsIsTold) {
  expect_right_by_seed("a producer, a watcher, another taker", passing, 2);
  expect_right_by_seed("another watcher comes", coming, 1);
  expect_right_in_all("two watchers give it a name", naming);
}
TEST(DoorbellScheduleTest, WhoPollsIsToldThoughWhoShouldHaveRungHasDied) {
  expect_right_by_seed("a producer may die", dying, 3);
}
TEST(DoorbellScheduleTest, ADeathMakesNothingReady) {
  expect_right_by_seed("a bystander may die", bystander, 1);
}
TEST(DoorbellScheduleTest, EachBreakIsNoticed) {
  expect_breaks_noticed(
      "doorbell", {"doorbell.cpp", "doorbell.hpp"}, {passing, coming, dying, bystander, naming},
      {{"doorbell.hpp", "armed.exchange", Damage::relax, "the look before it acquires"},
       {"doorbell.hpp", "armed.exchange", Damage::tear, "two ring where one was enough"},
       {"doorbell.hpp", "armed.exchange", Damage::drop, "each change rings, the first too"}},
      20'000);
}

}  // namespace
}  // namespace brood::schedule
