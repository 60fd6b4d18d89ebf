// The cells of a queue: several put and get, it is closed, it grows, members die and are buried.
#include <array>
#include <cstring>

#include "channel/queue_ring.hpp"
#include "schedule/report.hpp"
#include "shm/arena.hpp"
#include "sys/clock.hpp"

namespace brood::schedule {
namespace {

using channel::Attempt;
using channel::Position;
using channel::QueueRing;
using channel::QueueShape;
using shm::OwnerId;

constexpr std::size_t kMostItems = 8;

OwnerId owner(int number) { return {static_cast<std::uint16_t>(number + 2), 1}; }

// A queue of small items in memory of its own; what lies in a cell is also in `values`, whose
// accesses have to be ordered by the protocol.
class Scenery {
 public:
  explicit Scenery(std::uint32_t cells) {
    alignas(64) static std::array<std::byte, sizeof(channel::QueueBody) + 8 * 16> bytes;
    std::memset(bytes.data(), 0, bytes.size());
    const QueueShape shape{.cells = cells, .cell_bytes = 16, .bounded = 1};
    QueueRing::format(bytes, shape);
    place_ = {
        {1}, reinterpret_cast<shm::ObjectHeader*>(bytes.data()), shm::ObjectKind::queue, bytes, 0};
  }
  void attach(Scene& scene, QueueRing& ring) {
    scene.require(ring.attach(place_, objects_), "no queue");
  }

  // False: it is closed.
  bool put(Scene& scene, QueueRing& ring, int who, int value) {
    Position at;
    for (;;) {
      const Attempt attempt = ring.claim(at, owner(who));
      scene.require(attempt != Attempt::damaged, "damaged");
      if (attempt == Attempt::closed) return false;
      if (attempt == Attempt::done) break;
      // Cells of the dead are passed by whoever needs room.
      static_cast<void>(ring.look_at_head());
      sys::yield();
    }
    values[at.index].write(value);
    ring.publish(at, owner(who));
    return true;
  }
  // Nothing: it is closed and empty.
  int get(Scene& scene, QueueRing& ring, int who) {
    Position at;
    for (;;) {
      const Attempt attempt = ring.take(at, owner(who));
      scene.require(attempt != Attempt::damaged, "damaged");
      if (attempt == Attempt::closed) return -1;
      if (attempt == Attempt::done) break;
      sys::yield();
    }
    const int value = values[at.index].read();
    ring.clear(at, owner(who));
    return value;
  }

  std::array<Data<int>, 4> values;

 private:
  shm::ObjectPlace place_;
  shm::Objects objects_;
};

// How often each item was got; item = 4 * producer + number.
struct Got {
  std::array<sys::Atomic<int>, kMostItems> times{};
  void note(Scene& scene, int item) {
    scene.require(item >= 0 && item < static_cast<int>(kMostItems), "an item that nobody put");
    const int before = times[static_cast<std::size_t>(item)].exchange(1, std::memory_order_relaxed);
    scene.require(before == 0, "got twice");
  }
};

void get_some(Scene& scene, Scenery& queue, Got& got, int who, int count) {
  QueueRing ring;
  queue.attach(scene, ring);
  int last = -1;
  for (int i = 0; i < count; ++i) {
    const int item = queue.get(scene, ring, who);
    if (item < 0) return;
    scene.require(item / 4 != last / 4 || item > last || last < 0, "out of order");
    last = item;
    got.note(scene, item);
  }
}

Body passing(std::uint32_t cells, int producers, int consumers, int each) {
  return [=](Scene& scene) {
    Scenery queue(cells);
    Got got;
    for (int who = 0; who < producers; ++who) {
      scene.actor("producer", [&, who] {
        QueueRing ring;
        queue.attach(scene, ring);
        for (int i = 0; i < each; ++i) {
          scene.require(queue.put(scene, ring, who, 4 * who + i), "closed by nobody");
        }
      });
    }
    for (int i = 0; i < consumers; ++i) {
      scene.actor("consumer", [&, i] {
        get_some(scene, queue, got, producers + i, producers * each / consumers);
      });
    }
    scene.play();
    for (int who = 0; who < producers; ++who) {
      for (int i = 0; i < each; ++i) {
        scene.require(got.times[static_cast<std::size_t>(4 * who + i)].load() == 1, "lost");
      }
    }
  };
}

// Each put that returned before or while it was closed is got.
void closing(Scene& scene) {
  Scenery queue(2);
  Got got;
  std::array<sys::Atomic<int>, kMostItems> returned{};
  for (int who = 0; who < 2; ++who) {
    scene.actor("producer", [&, who] {
      QueueRing ring;
      queue.attach(scene, ring);
      if (queue.put(scene, ring, who, 4 * who)) {
        returned[static_cast<std::size_t>(4 * who)].store(1, std::memory_order_relaxed);
      }
    });
  }
  scene.actor("closer", [&] {
    QueueRing ring;
    queue.attach(scene, ring);
    ring.close();
  });
  scene.actor("consumer", [&] { get_some(scene, queue, got, 4, 8); });
  scene.play();
  for (std::size_t i = 0; i < kMostItems; ++i) {
    scene.require(returned[i].load() == got.times[i].load(), "lost, or got though refused");
  }
}

// Who dies in a put or a get loses that item at most, and holds nobody up.
Body dying(bool producer_dies) {
  return [=](Scene& scene) {
    Scenery queue(2);
    Got got;
    sys::Atomic<int> returned{0};
    const auto produce = [&] {
      QueueRing ring;
      queue.attach(scene, ring);
      for (int i = 0; i < 3; ++i) {
        queue.put(scene, ring, 0, i);
        returned.store(i + 1, std::memory_order_relaxed);
      }
    };
    const auto consume = [&](int who, int count) {
      QueueRing ring;
      queue.attach(scene, ring);
      for (int i = 0; i < count; ++i) got.note(scene, queue.get(scene, ring, who));
    };
    int mortal = 0;
    OwnerId dead = owner(0);
    if (producer_dies) {
      mortal = scene.mortal("producer", produce);
    } else {
      dead = owner(1);
      mortal = scene.mortal("consumer", [&] { consume(1, 1); });
      scene.actor("producer", produce);
    }
    scene.actor("janitor", [&] {
      const bool died = scene.await_end(mortal);
      QueueRing ring;
      queue.attach(scene, ring);
      if (died) {
        static_cast<void>(ring.bury(dead));
        scene.require(ring.bury(dead) == 0, "buried, and again something to bury");
      }
      if (producer_dies) ring.close();
    });
    scene.actor("other consumer", [&] {
      if (producer_dies) {
        get_some(scene, queue, got, 2, 8);
      } else {
        consume(2, 1);
      }
    });
    scene.play();
    int count = 0;
    for (const auto& times : got.times) count += times.load();
    if (producer_dies) {
      scene.require(count == returned.load() || count == returned.load() + 1, "lost");
    } else {
      scene.require(count >= 1, "lost more than one");
    }
  };
}

// Somebody has died in a put before; whoever wants room, and whoever wants an item, passes its
// cell.
void passing_a_void(Scene& scene) {
  Scenery queue(1);
  Got got;
  {
    QueueRing ring;
    queue.attach(scene, ring);
    Position at;
    scene.require(ring.claim(at, owner(4)) == Attempt::done, "not empty");
    scene.require(ring.bury(owner(4)) == 0, "it took nothing");
  }
  for (int who = 0; who < 2; ++who) {
    scene.actor("producer", [&, who] {
      QueueRing ring;
      queue.attach(scene, ring);
      scene.require(queue.put(scene, ring, who, 4 * who), "closed by nobody");
    });
  }
  scene.actor("consumer", [&] { get_some(scene, queue, got, 2, 2); });
  scene.play();
  scene.require(got.times[0].load() == 1 && got.times[4].load() == 1, "lost");
}

// The cell that is marked as the end is one that the dead was writing.
void closing_beside_a_burial(Scene& scene) {
  Scenery queue(1);
  {
    QueueRing ring;
    queue.attach(scene, ring);
    Position at;
    scene.require(ring.claim(at, owner(4)) == Attempt::done, "not empty");
  }
  scene.actor("janitor", [&] {
    QueueRing ring;
    queue.attach(scene, ring);
    static_cast<void>(ring.bury(owner(4)));
  });
  scene.actor("closer", [&] {
    QueueRing ring;
    queue.attach(scene, ring);
    ring.close();
  });
  scene.play();
  QueueRing ring;
  queue.attach(scene, ring);
  Position at;
  scene.require(ring.take(at, owner(0)) == Attempt::closed, "it is not closed");
  scene.require(ring.claim(at, owner(0)) == Attempt::closed, "it is not closed");
}

TEST(QueueScheduleTest, EachItemIsGotOnceAndInItsOrder) {
  expect_right_by_seed("one cell, one producer, one consumer", passing(1, 1, 1, 2), 1);
  expect_right_by_seed("two cells, two producers, one consumer", passing(2, 2, 1, 2), 1);
  expect_right_by_seed("two cells, two producers, two consumers", passing(2, 2, 2, 2), 1);
  expect_right_by_seed("one cell, two producers, two consumers", passing(1, 2, 2, 2), 1);
}
TEST(QueueScheduleTest, WhatWasPutBeforeTheEndIsGot) {
  expect_right_by_seed("two producers, a consumer, a closer", closing, 2);
}
TEST(QueueScheduleTest, TheDeadAreBuried) {
  expect_right_by_seed("a producer may die", dying(true), 2);
  expect_right_by_seed("a consumer may die", dying(false), 2);
  expect_right_by_seed("a cell is void", passing_a_void, 1);
  expect_right_in_all("a closer beside a burial", closing_beside_a_burial);
}

TEST(QueueScheduleTest, EachBreakIsNoticed) {
  expect_breaks_noticed("queue", {"queue_ring.cpp", "queue_ring.hpp"},
                        {passing(2, 2, 1, 2), passing(2, 2, 2, 2), passing(1, 2, 2, 2), closing,
                         dying(true), dying(false), passing_a_void, closing_beside_a_burial},
                        {{"queue_ring.hpp", "hint.store(", Damage::drop, "a hint"},
                         {"queue_ring.cpp", "closed.store(1", Damage::drop,
                          "the mark ends the ring; the word is for who looks from outside"},
                         {"queue_ring.cpp", "closed.store(1", Damage::relax, "the same"},
                         {"queue_ring.cpp", "has_void.store(1", Damage::drop, "for size() only"},
                         {"queue_ring.cpp", "compare_exchange_strong(bits, next, ", Damage::relax,
                          "of what was to be written nothing was; for the bells"}},
                        20'000);
}

}  // namespace
}  // namespace brood::schedule
