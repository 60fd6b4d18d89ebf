// Operations on a queue, with a death after each of their instructions. As for the arena, what a
// death leaves is the shared memory as it is then: a warden buries the dead on a copy of it.
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <ostream>
#include <stdexcept>
#include <string>
#include <vector>

#include "channel/burial.hpp"
#include "channel/queue_ring.hpp"
#include "shm/objects.hpp"
#include "support/every_instruction.hpp"
#include "support/stepped_child.hpp"
#include "sys/fd.hpp"
#include "sys/memory.hpp"

namespace brood::test {
namespace {

using namespace std::chrono_literals;
using channel::Attempt;
using channel::Position;
using channel::QueueRing;
using channel::QueueShape;
using shm::Arena;
using shm::BlockRef;
using shm::ObjectPlace;
using shm::Objects;
using shm::OwnerId;

constexpr std::size_t kPages = 6;
constexpr OwnerId kWarden{1, 1};
constexpr OwnerId kSurvivor{100, 1};
constexpr OwnerId kVictim{200, 2};
constexpr OwnerId kDead{300, 3};

using Values = std::vector<std::uint64_t>;

// An arena in a memory file of its own.
class Region {
 public:
  Region() {
    const std::size_t payload = kPages * shm::arena::kPageBytes;
    const std::size_t metadata = Arena::metadata_bytes(payload);
    bytes_ = metadata + payload;
    file_.reset(sys::create_memory_file("queue-step", bytes_));
    if (mapping_.map(file_.get(), bytes_) != 0) throw std::runtime_error("no memory");
    at_ = {mapping_.data(), file_.get(), 0, metadata, payload, payload};
  }
  void attach(Objects& objects, OwnerId me) const { objects.attach(at_, me); }
  void copy_from(const Region& other) const {
    std::memcpy(mapping_.data(), other.mapping_.data(), bytes_);
  }

 private:
  sys::Fd file_;
  sys::Mapping mapping_;
  std::size_t bytes_ = 0;
  shm::ArenaRegion at_;
};

// One member's view of the queue.
struct View {
  View(const Region& region, OwnerId me, BlockRef queue) {
    region.attach(objects, me);
    place = objects.find(queue);
    if (!place || !ring.attach(place, objects)) throw std::runtime_error("no queue");
  }
  bool put(std::uint64_t value) {
    BlockRef name;
    if (ring.shape().framed != 0) {
      const shm::FramePlace frame = objects.make_frame(place.ref, {}, 200);
      if (!frame) return false;
      for (std::size_t i = 0; i < 200; i += 8) std::memcpy(&frame.payload[i], &value, 8);
      name = frame.ref;
    }
    Position at;
    Attempt attempt = Attempt::full;
    while ((attempt = ring.claim(at, objects.me())) == Attempt::full) {
      static_cast<void>(ring.look_at_head());
      if (ring.shape().bounded == 0 ? ring.grow() != 0 : ring.is_full()) break;
    }
    if (attempt != Attempt::done) {
      if (name) objects.free_block(name);
      return false;
    }
    if (name) {
      ring.publish_frame(at, objects.me(), name);
    } else {
      std::memcpy(ring.room(at), &value, 8);
      ring.publish(at, objects.me());
    }
    return true;
  }
  bool get(std::uint64_t& value) {
    Position at;
    if (ring.take(at, objects.me()) != Attempt::done) return false;
    if (ring.shape().framed == 0) {
      std::memcpy(&value, ring.room(at), 8);
      ring.clear(at, objects.me());
      return true;
    }
    const shm::FramePlace frame = ring.accept_frame(at);
    ring.clear(at, objects.me());
    if (!frame) return false;
    std::memcpy(&value, frame.payload.data(), 8);
    for (std::size_t i = 0; i < 200; i += 8) {
      if (std::memcmp(&frame.payload[i], &value, 8) != 0) value = 0xbad;
    }
    objects.free_block(frame.ref);
    return true;
  }

  Objects objects;
  ObjectPlace place;
  QueueRing ring;
};

struct Operation {
  const char* name;
  QueueShape shape;
  std::function<void(View& survivor, View& dead)> prepare;
  std::function<void(View& victim)> run;
  std::vector<Values> outcomes;  // what may be in the queue then
  bool may_leak = false;         // until the queue ends
};
void PrintTo(const Operation& operation, std::ostream* out) { *out << operation.name; }

constexpr QueueShape kSmall{.cells = 3, .cell_bytes = 16, .bounded = 1};
constexpr QueueShape kFramed{.cells = 3, .cell_bytes = 16, .framed = 1, .bounded = 1};
constexpr QueueShape kGrowing{.cells = 2, .cell_bytes = 16};
constexpr QueueShape kGrowingFramed{.cells = 2, .cell_bytes = 16, .framed = 1};

auto holding(int count) {
  return [=](View& survivor, View&) {
    for (int i = 1; i <= count; ++i) survivor.put(static_cast<std::uint64_t>(i));
  };
}
// Somebody died in a put and in a get, and was not buried yet.
void with_dead(View& survivor, View& dead) {
  survivor.put(1);
  Position at;
  static_cast<void>(dead.ring.claim(at, kDead));
  survivor.put(2);
  static_cast<void>(dead.ring.take(at, kDead));
}
void put_one(View& victim) { victim.put(42); }
void get_one(View& victim) {
  std::uint64_t value = 0;
  victim.get(value);
}
void close_it(View& victim) { victim.ring.close(); }
void bury_the_dead(View& victim) { channel::bury_in(victim.place, kDead, victim.objects); }

const Operation kOperations[] = {
    {"queue: put", kSmall, holding(1), put_one, {{1}, {1, 42}}},
    {"queue: put into a full one", kSmall, holding(3), put_one, {{1, 2, 3}}},
    {"queue: put a frame", kFramed, holding(1), put_one, {{1}, {1, 42}}},
    {"queue: put and grow", kGrowing, holding(2), put_one, {{1, 2}, {1, 2, 42}}, true},
    {"queue: put a frame and grow",
     kGrowingFramed,
     holding(2),
     put_one,
     {{1, 2}, {1, 2, 42}},
     true},
    {"queue: get", kSmall, holding(2), get_one, {{1, 2}, {2}}},
    {"queue: get a frame", kFramed, holding(2), get_one, {{1, 2}, {2}}},
    {"queue: get from the next ring",
     kGrowing,
     [](View& survivor, View&) {
       for (std::uint64_t i = 1; i <= 4; ++i) survivor.put(i);
       std::uint64_t value = 0;
       survivor.get(value);
       survivor.get(value);
     },
     get_one,
     {{3, 4}, {4}},
     true},
    {"queue: close", kSmall, holding(2), close_it, {{1, 2}}},
    {"queue: close a full one", kSmall, holding(3), close_it, {{1, 2, 3}}},
    {"queue: bury", kSmall, with_dead, bury_the_dead, {{2}}},
    {"queue: bury with frames", kFramed, with_dead, bury_the_dead, {{2}}},
};

BlockRef prepare(const Operation& operation, const Region& region) {
  Objects survivor;
  region.attach(survivor, kSurvivor);
  EXPECT_EQ(survivor.format(), 0);
  const ObjectPlace queue =
      survivor.make(shm::ObjectKind::queue, 7, QueueRing::body_bytes(operation.shape));
  QueueRing::format(queue.body, operation.shape);
  survivor.publish(queue);
  for (const OwnerId member : {kVictim, kDead}) survivor.hold(queue, 0, member.slot);
  View view(region, kSurvivor, queue.ref);
  View dead(region, kDead, queue.ref);
  operation.prepare(view, dead);
  return queue.ref;
}

// The dead are buried; what is in the queue is one of what may be, and it works.
void expect_recovered(const Operation& operation, const Region& region, BlockRef queue) {
  Objects warden;
  region.attach(warden, kWarden);
  for (int i = 0; i < 2; ++i) {
    for (const OwnerId dead : {kVictim, kDead}) {
      warden.bury(dead, channel::bury_in);
      const ObjectPlace place = warden.find(queue);
      ASSERT_TRUE(place);
      channel::bury_in(place, dead, warden);  // again, as after a hold of its own
    }
  }
  View survivor(region, kSurvivor, queue);
  Values values;
  const std::size_t size = survivor.ring.size();
  std::uint64_t value = 0;
  while (survivor.get(value)) values.push_back(value);
  EXPECT_EQ(values.size(), size);
  EXPECT_NE(std::find(operation.outcomes.begin(), operation.outcomes.end(), values),
            operation.outcomes.end())
      << testing::PrintToString(values);
  EXPECT_FALSE(survivor.ring.is_taking());
  if (!operation.may_leak) {
    EXPECT_EQ(warden.arena().stats().live_blocks, 1U);
  }
  if (survivor.ring.body().closed.load() == 0) {
    for (std::uint64_t i = 0; i < 7; ++i) {
      ASSERT_TRUE(survivor.put(100 + i));
      ASSERT_TRUE(survivor.get(value));
      ASSERT_EQ(value, 100 + i);
    }
  } else {
    survivor.ring.close();
    Position at;
    ASSERT_EQ(survivor.ring.claim(at, kSurvivor), Attempt::closed);
    ASSERT_EQ(survivor.ring.take(at, kSurvivor), Attempt::closed);
  }
  static_cast<void>(survivor.objects.release(survivor.place, 0, kSurvivor.slot));
  static_cast<void>(warden.collect());
  EXPECT_EQ(warden.arena().stats().live_blocks, 0U);
}

class QueueStepTest : public testing::TestWithParam<Operation> {
 protected:
  SteppedChild victim() {
    return SteppedChild([&] {
      View view(region_, kVictim, queue_);
      mark();
      GetParam().run(view);
    });
  }

  // All n in one pass, on copies.
  void watch_every_instruction(EveryInstruction& every) {
    queue_ = prepare(GetParam(), region_);
    const auto judge = [&](long n) {
      if (HasFailure()) return;
      if (!every.full() && n % 7 != offset_ && n > 0) return;
      SCOPED_TRACE(every.how_to_repeat(n));
      copy_.copy_from(region_);
      expect_recovered(GetParam(), copy_, queue_);
      every.count_kill();
    };
    judge(0);
    SteppedChild child = victim();
    every.set_length(child.step_through(path_, judge));
  }

  void kill_after(long n) {
    queue_ = prepare(GetParam(), region_);
    SteppedChild child = victim();
    child.go(path_, n);
    child.kill();
    expect_recovered(GetParam(), region_, queue_);
  }

  const Region region_;
  const Region copy_;
  BlockRef queue_;
  Path path_;
  long offset_ = static_cast<long>(EveryInstruction::seed() % 7);
  OnOneProcessor here_;
};

TEST_P(QueueStepTest, KilledAfterEveryInstruction) {
  EveryInstruction every(GetParam().name, 200ms);
  if (EveryInstruction::only() >= 0) {
    kill_after(EveryInstruction::only());
    return;
  }
  watch_every_instruction(every);
  for (int i = 0; i < 3 && !HasFailure(); ++i) {
    const long n = every.random_instruction();
    SCOPED_TRACE(every.how_to_repeat(n));
    kill_after(n);
  }
}

INSTANTIATE_TEST_SUITE_P(, QueueStepTest, testing::ValuesIn(kOperations), name_of_case<Operation>);

}  // namespace
}  // namespace brood::test
