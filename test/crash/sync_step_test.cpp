// Operations on locks and the like, with a death after each of their instructions. What a death
// leaves is the object's body as it is then: the warden's burial is tried on a copy after every
// step, and the survivor goes on there.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstring>
#include <functional>
#include <new>
#include <ostream>

#include "channel/burial.hpp"
#include "channel/doorbell.hpp"
#include "channel/event_layout.hpp"
#include "shm/barrier.hpp"
#include "shm/condition.hpp"
#include "shm/event.hpp"
#include "shm/lock.hpp"
#include "shm/semaphore.hpp"
#include "support/every_instruction.hpp"
#include "support/stepped_child.hpp"
#include "sys/datagram.hpp"
#include "sys/fd.hpp"

namespace brood::test {
namespace {

using namespace std::chrono_literals;
using shm::BarrierView;
using shm::ObjectKind;
using shm::OwnerId;
using shm::Permits;
using shm::Take;
using shm::ThreadName;

constexpr OwnerId kVictim{5, 3};
constexpr OwnerId kOther{6, 1};
constexpr OwnerId kBystander{7, 2};
constexpr ThreadName kVictimsThread{kVictim, 1001};
constexpr ThreadName kOthersThread{kOther, 1002};

// Header, hold set and body, as in the arena.
struct alignas(64) Block {
  shm::ObjectHeader header;
  shm::SlotSet holds;
  alignas(64) std::byte body[4096];
};

struct Object {
  Block& block;
  ObjectKind kind;
  [[nodiscard]] shm::LockBody& lock() const {
    return *reinterpret_cast<shm::LockBody*>(block.body);
  }
  [[nodiscard]] shm::ConditionBody& condition() const {
    return *reinterpret_cast<shm::ConditionBody*>(block.body);
  }
  [[nodiscard]] Permits permits() const { return Permits(block.body); }
  [[nodiscard]] channel::SharedEvent& event() const {
    return *reinterpret_cast<channel::SharedEvent*>(block.body);
  }
  [[nodiscard]] BarrierView barrier() const { return BarrierView(block.body); }
  [[nodiscard]] shm::Bell& bell() const { return block.header.bells[0]; }

  // What the warden does about a death.
  void bury(OwnerId dead) const {
    shm::Objects objects;
    const shm::ObjectPlace place{{}, &block.header, kind, block.body, 0};
    channel::bury_in(place, dead, objects);
    channel::bury_in(place, dead, objects);
  }
};

struct Operation {
  const char* name;
  ObjectKind kind;
  std::function<void(const Object&)> prepare;
  std::function<void(const Object&)> run;
  std::function<void(const Object&)> survive;  // on the copy, after the burial
};

void PrintTo(const Operation& operation, std::ostream* out) { *out << operation.name; }

void begin_permits(const Object& object) { Permits::begin(object.block.body, 3); }
void begin_barrier(const Object& object) { BarrierView::begin(object.block.body, 2); }
void nothing(const Object&) {}

// Free, or orphaned and to be recovered: never held.
void lock_goes_on(const Object& object) {
  ASSERT_FALSE(shm::is_held_by(object.lock(), kVictimsThread));
  const Take taken = shm::take(object.lock(), kOthersThread, {});
  if (taken == Take::owner_died) {
    ASSERT_TRUE(shm::recover(object.lock(), kOthersThread));
    ASSERT_EQ(shm::take(object.lock(), kOthersThread, {}), Take::taken);
  } else {
    ASSERT_EQ(taken, Take::taken);
  }
  ASSERT_EQ(shm::drop(object.lock(), kOthersThread), shm::Drop::dropped);
}
void all_permits_are_there(const Object& object) {
  ASSERT_EQ(object.permits().held_by(kVictim), 0U);
  ASSERT_EQ(object.permits().value() + object.permits().held_by(kBystander), 3U);
}
void the_other_is_notified(const Object& object) {
  // Cell 1 is the bystander's; the victim, who came first, has used no notification.
  ASSERT_TRUE(shm::is_notified(object.condition(), 1));
}
void nobody_of_the_dead_waits(const Object& object) {
  ASSERT_EQ(shm::waiters(object.condition()), 1U);
}
void barrier_goes_on(const Object& object) {
  BarrierView view = object.barrier();
  // Whatever the victim had begun has passed or is broken; then it is as new.
  ASSERT_NE(view.look().state, shm::BarrierState::acting);
  if (view.look().state == shm::BarrierState::broken) view.reset();
  if (view.look().arrived == 1) view.reset();  // the bystander, whom the victim never met
  ASSERT_EQ(view.arrive(kOther, false).how, BarrierView::Arrived::waits);
  ASSERT_EQ(view.arrive(kBystander, false).how, BarrierView::Arrived::passed);
}

// Of a bystander who polls the event.
sys::Fd doorbell;

void somebody_polls(const Object& object) {
  channel::DoorbellBoard& board = object.event().board;
  const channel::DoorbellName name(channel::id_of(board), {kBystander.slot, 0});
  doorbell.reset(sys::open_mailbox(name.text()));
  ASSERT_TRUE(doorbell);
  board.watchers.set(kBystander.slot);
  board.armed.store(1);
}
void set_and_ring(const Object& object, bool cleared_meanwhile) {
  static const shm::Objects objects;
  shm::set(object.event().event);
  if (cleared_meanwhile) shm::clear(object.event().event);
  channel::ring_doorbells(object.event().board, objects);
}
void told_if_it_is_set(const Object& object) {
  const bool told = sys::empty_mailbox(doorbell.get()) > 0;
  ASSERT_EQ(told, shm::is_set(object.event().event));
}
void told_or_to_be_told(const Object& object) {
  const bool told = sys::empty_mailbox(doorbell.get()) > 0;
  ASSERT_TRUE(told || object.event().board.armed.load() != 0);
  ASSERT_TRUE(told || !shm::is_set(object.event().event));
}

const Operation kOperations[] = {
    {"lock: take and drop", ObjectKind::lock, nothing,
     [](const Object& object) {
       shm::take(object.lock(), kVictimsThread, {});
       shm::drop(object.lock(), kVictimsThread);
       object.bell().ring();
     },
     lock_goes_on},
    {"lock: take and drop what nobody wants", ObjectKind::lock, nothing,
     [](const Object& object) {
       const std::uint64_t mine = shm::LockWord::held_by(kVictimsThread).pack();
       shm::take_free(object.lock(), mine);
       shm::drop_only(object.lock(), mine);
       object.bell().ring();
     },
     lock_goes_on},
    {"lock: take thrice and drop all", ObjectKind::lock, nothing,
     [](const Object& object) {
       for (int i = 0; i < 3; ++i) shm::take(object.lock(), kVictimsThread, {.recursive = true});
       shm::drop_all(object.lock(), kVictimsThread);
       shm::retake(object.lock(), kVictimsThread, 3);
     },
     lock_goes_on},
    {"lock: recover", ObjectKind::lock,
     [](const Object& object) {
       shm::take(object.lock(), kOthersThread, {});
       shm::orphan(object.lock(), kOther);
     },
     [](const Object& object) {
       shm::take_orphaned(object.lock(), kVictimsThread);
       shm::recover(object.lock(), kVictimsThread);
       shm::drop(object.lock(), kVictimsThread);
     },
     lock_goes_on},
    {"lock: bury its owner", ObjectKind::lock,
     [](const Object& object) { shm::take(object.lock(), kOthersThread, {}); },
     [](const Object& object) { object.bury(kOther); },
     [](const Object& object) {
       object.bury(kOther);
       lock_goes_on(object);
     }},
    {"semaphore: acquire and release", ObjectKind::semaphore,
     [](const Object& object) {
       begin_permits(object);
       object.permits().acquire(kBystander);
     },
     [](const Object& object) {
       object.permits().acquire(kVictim);
       object.permits().acquire(kVictim);
       object.permits().release(kVictim, true);
       object.bell().ring();
       object.permits().release(kVictim, true);
     },
     all_permits_are_there},
    {"semaphore: bury a holder", ObjectKind::semaphore,
     [](const Object& object) {
       begin_permits(object);
       object.permits().acquire(kOther);
       object.permits().acquire(kOther);
     },
     [](const Object& object) { object.bury(kOther); },
     [](const Object& object) {
       object.bury(kOther);
       all_permits_are_there(object);
     }},
    {"condition: wait", ObjectKind::condition,
     [](const Object& object) { shm::enter(object.condition(), kBystander); },
     [](const Object& object) {
       shm::leave(object.condition(), shm::enter(object.condition(), kVictim));
     },
     nobody_of_the_dead_waits},
    {"condition: die notified", ObjectKind::condition,
     [](const Object& object) {
       shm::enter(object.condition(), kVictim);
       shm::enter(object.condition(), kBystander);
       shm::notify(object.condition(), 1);
     },
     [](const Object& object) { static_cast<void>(shm::is_notified(object.condition(), 0)); },
     the_other_is_notified},
    {"event: set while somebody polls", ObjectKind::event, somebody_polls,
     [](const Object& object) { set_and_ring(object, false); }, told_if_it_is_set},
    {"event: set and cleared while somebody polls", ObjectKind::event, somebody_polls,
     [](const Object& object) { set_and_ring(object, true); }, told_or_to_be_told},
    {"event: bury who has not rung", ObjectKind::event,
     [](const Object& object) {
       somebody_polls(object);
       shm::set(object.event().event);
       object.event().board.armed.store(0);
     },
     [](const Object& object) { object.bury(kOther); },
     [](const Object& object) {
       object.bury(kOther);
       told_if_it_is_set(object);
     }},
    {"event: bury who has disarmed for nothing", ObjectKind::event,
     [](const Object& object) {
       somebody_polls(object);
       object.event().board.armed.store(0);
     },
     [](const Object& object) { object.bury(kOther); },
     [](const Object& object) {
       object.bury(kOther);
       told_if_it_is_set(object);
       told_or_to_be_told(object);
     }},
    {"barrier: arrive and leave", ObjectKind::barrier,
     [](const Object& object) {
       begin_barrier(object);
       object.barrier().arrive(kBystander, false);
     },
     [](const Object& object) {
       BarrierView view = object.barrier();
       view.leave(view.arrive(kVictim, false));
     },
     barrier_goes_on},
    {"barrier: act", ObjectKind::barrier,
     [](const Object& object) {
       begin_barrier(object);
       object.barrier().arrive(kBystander, true);
     },
     [](const Object& object) {
       BarrierView view = object.barrier();
       const auto arrival = view.arrive(kVictim, true);
       view.acted(arrival.generation);
       view.leave(arrival);
     },
     barrier_goes_on},
    {"barrier: bury a party", ObjectKind::barrier,
     [](const Object& object) {
       begin_barrier(object);
       object.barrier().arrive(kOther, false);
     },
     [](const Object& object) { object.bury(kOther); },
     [](const Object& object) {
       object.bury(kOther);
       ASSERT_EQ(object.barrier().look().state, shm::BarrierState::broken);
       barrier_goes_on(object);
     }},
};

class SyncStepTest : public testing::TestWithParam<Operation> {
 protected:
  SyncStepTest()
      : memory_(mmap(nullptr, 2 * sizeof(Block), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                     -1, 0)) {}
  ~SyncStepTest() override {
    munmap(memory_, 2 * sizeof(Block));
    doorbell.reset();
  }

  [[nodiscard]] Object object(int which) const {
    return {static_cast<Block*>(memory_)[which], GetParam().kind};
  }

  void* memory_;
  OnOneProcessor here_;
  Path path_;
};

TEST_P(SyncStepTest, KilledAfterEveryInstruction) {
  EveryInstruction every(GetParam().name, 200ms);
  new (memory_) Block[2]{};
  GetParam().prepare(object(0));
  const auto judge = [&](long n) {
    SCOPED_TRACE(every.how_to_repeat(n));
    std::memcpy(static_cast<void*>(&object(1).block), &object(0).block, sizeof(Block));
    object(1).bury(kVictim);
    GetParam().survive(object(1));
    every.count_kill();
  };
  SteppedChild victim([&] {
    mark();
    GetParam().run(object(0));
  });
  every.set_length(victim.step_through(path_, judge));
}

INSTANTIATE_TEST_SUITE_P(, SyncStepTest, testing::ValuesIn(kOperations), name_of_case<Operation>);

}  // namespace
}  // namespace brood::test
