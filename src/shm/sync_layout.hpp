// The bodies of locks, semaphores, events, conditions and barriers (object_layout.hpp says what
// lies around them). All zeros is the state of a new one, but for what its maker writes.
//
// GLOSSARY
//   thread     who owns a lock: a member of the family and a thread of it, in one word with the
//              lock's state. Who holds permits, waits for a condition or at a barrier: the member
//   orphaned   a lock whose owner ended while it held it: what it protects may be half changed
//   damaged    a lock that was orphaned and is held by somebody who knows that
//   pass       all parties have come to a barrier; they go on, and it is as new
//
// LOCK WORD      bits 63..42 thread | 41..26 epoch | 25..15 slot | 14..4 depth
//                     3 hungry | 2 damaged | 1..0 state
//
//                 take                     the owner ends
//        free -----------> held(thread, 1) -------------> orphaned ---recover---> free
//          ^                |   ^ take again, drop once      |  ^
//          +------drop------+   v                claim, retake  | drop, the owner ends
//          |               held(thread, n)                   v  |
//          +-------recover, then drop--------------- held(thread), damaged
//
//   The end of an owner whose lock has the rule ignore_owner_death leads from held to free.
//   hungry: somebody has waited for long. Who just comes stands back for a moment.
//
// PERMIT         bits 63..28 changes | 27..12 epoch | 11..1 slot | 0 held
//
//        free <==acquire / release, the holder's death==> held(member)
//
//   A semaphore has as many permits as it began with, so that the dead's are known, each by one
//   word. What is released by who holds none sets somebody else's free; if all are free, it adds to
//   `extra`, whose permits are nobody's.
//
// EVENT WORD     bits 63..1 times that it was set | 0 is set
//
// WAIT CELL      bits 63..29 ticket | 28..13 epoch | 12..2 slot | 1..0 state
//
//                  enter                   notify
//        empty -----------> waiting(member) ------> notified(member)
//          ^                   |                       |
//          +---leave, death----+-----------------------+ leave: the notification is used up
//                                                        death: it goes to another
//
//   Who finds no empty cell waits for `notifications` to change: it may wake without need.
//
// BARRIER WORD   bits 63..32 generation | 31..14 outcomes | 13..2 arrived | 1..0 state
//
//     filling(g, n) --arrive--> filling(g, n+1) --the last, no action--> filling(g+1, 0)   pass
//          |                        --the last--> acting(g) ---acted---> filling(g+1, 0)   pass
//          |                                       |
//          +---abort, timeout, death of a party----+--> broken(g) --reset--> filling(g+1, 0)
//          +---reset---------------------------------------------------> filling(g+1, 0)
//
//   outcomes: bit i tells that generation g-1-i did not pass. Who slept longer than they tell
//   takes the outcome that most of them have.
//
// PLACE          bits 59..28 generation | 27..12 epoch | 11..1 slot | 0 taken
//   A party takes one before it arrives, so that its death can be told.
//
// INVARIANTS (unless somebody scribbled here)
//   each change of state, owner and depth of a lock is one change of one word
//   permits free + permits held = permits, at every instruction of everybody
//   arrived <= places taken in this generation
#pragma once

#include <cstddef>
#include <cstdint>

#include "shm/arena_layout.hpp"
#include "shm/bell.hpp"
#include "shm/family_layout.hpp"

namespace brood::shm {

// A thread of a member. Thread ids have 22 bits on all systems with 64.
struct ThreadName {
  OwnerId owner;
  std::uint32_t thread = 0;
  friend bool operator==(ThreadName, ThreadName) = default;
};
static_assert(kFamilySlots <= 1U << 11U);

namespace sync_bits {

constexpr std::uint64_t take(std::uint64_t bits, unsigned from, unsigned count) noexcept {
  return bits >> from & ((std::uint64_t{1} << count) - 1);
}
constexpr std::uint64_t put(std::uint64_t value, unsigned from, unsigned count) noexcept {
  return take(value, 0, count) << from;
}
constexpr OwnerId owner(std::uint64_t bits, unsigned from) noexcept {
  return {static_cast<std::uint16_t>(take(bits, from, 11)),
          static_cast<std::uint16_t>(take(bits, from + 11, 16))};
}
constexpr std::uint64_t put(OwnerId owner, unsigned from) noexcept {
  return put(owner.slot, from, 11) | put(owner.epoch, from + 11, 16);
}

}  // namespace sync_bits

// ---- locks

enum class LockState : std::uint8_t { free = 0, held = 1, orphaned = 2 };

struct LockWord {
  LockState state = LockState::free;
  bool damaged = false;
  bool hungry = false;
  std::uint32_t depth = 0;  // how often its owner has it
  ThreadName owner = {};    // of an orphaned one: the last

  static constexpr std::uint32_t kMostDepth = (1U << 11U) - 1;

  static constexpr LockWord unpack(std::uint64_t bits) noexcept {
    const std::uint64_t state = bits & 3U;
    return {state == 3 ? LockState::held : static_cast<LockState>(state),
            (bits >> 2U & 1U) != 0,
            (bits >> 3U & 1U) != 0,
            static_cast<std::uint32_t>(sync_bits::take(bits, 4, 11)),
            {sync_bits::owner(bits, 15), static_cast<std::uint32_t>(bits >> 42U)}};
  }
  [[nodiscard]] constexpr std::uint64_t pack() const noexcept {
    return static_cast<std::uint64_t>(state) | std::uint64_t{damaged} << 2U |
           std::uint64_t{hungry} << 3U | sync_bits::put(depth, 4, 11) |
           sync_bits::put(owner.owner, 15) | sync_bits::put(owner.thread, 42, 22);
  }
  static constexpr LockWord held_by(ThreadName thread, std::uint32_t depth = 1) noexcept {
    return {LockState::held, false, false, depth, thread};
  }
};

struct LockBody {
  sys::Atomic<std::uint64_t> word;                // LockWord
  sys::Atomic<std::uint32_t> ignore_owner_death;  // not 0: the next locker simply gets it
  std::uint32_t reserved;
};

// ---- semaphores

// Permits whose holders are known. A semaphore has no more.
inline constexpr std::uint32_t kMostPermits = 65536;

struct PermitWord {
  bool held = false;
  OwnerId holder = {};
  std::uint64_t changes = 0;  // so that two equal looks tell that nothing happened in between

  static constexpr PermitWord unpack(std::uint64_t bits) noexcept {
    return {(bits & 1U) != 0, sync_bits::owner(bits, 1), bits >> 28U};
  }
  [[nodiscard]] constexpr std::uint64_t pack() const noexcept {
    return std::uint64_t{held} | sync_bits::put(holder, 1) | changes << 28U;
  }
};

struct SemaphoreBody {
  sys::Atomic<std::uint32_t> permits;  // how many follow; bounded by the body's size before use
  std::uint32_t reserved;
  sys::Atomic<std::uint64_t> extra;
  // Then: sys::Atomic<std::uint64_t>[permits], PermitWords.
};
static_assert(sizeof(SemaphoreBody) == 16);

// ---- events

struct EventBody {
  sys::Atomic<std::uint64_t> word;
};

// ---- conditions

inline constexpr std::size_t kWaitCells = 96;

enum class WaitState : std::uint8_t { empty = 0, waiting = 1, notified = 2 };

struct WaitWord {
  WaitState state = WaitState::empty;
  OwnerId waiter = {};
  std::uint64_t ticket = 0;  // who came earlier has the lower one, until they wrap around

  static constexpr unsigned kTicketBits = 35;

  static constexpr WaitWord unpack(std::uint64_t bits) noexcept {
    const std::uint64_t state = bits & 3U;
    return {state == 3 ? WaitState::notified : static_cast<WaitState>(state),
            sync_bits::owner(bits, 2), bits >> 29U};
  }
  [[nodiscard]] constexpr std::uint64_t pack() const noexcept {
    return static_cast<std::uint64_t>(state) | sync_bits::put(waiter, 2) | ticket << 29U;
  }
};

// One who waits, and what it sleeps on: a notification wakes nobody else.
struct WaitCell {
  sys::Atomic<std::uint64_t> word;  // WaitWord
  Bell bell;
  std::uint32_t reserved;
};
static_assert(sizeof(WaitCell) == 16);

struct ConditionBody {
  sys::Atomic<std::uint64_t> tickets;
  sys::Atomic<std::uint64_t> notifications;
  std::uint64_t reserved[2];
  WaitCell cells[kWaitCells];
};

// ---- barriers

inline constexpr std::uint32_t kMostParties = (1U << 12U) - 1;
inline constexpr std::size_t kActionBytes = 64;

enum class BarrierState : std::uint8_t { filling = 0, acting = 1, broken = 2 };

struct BarrierWord {
  BarrierState state = BarrierState::filling;
  std::uint32_t arrived = 0;
  std::uint32_t outcomes = 0;
  std::uint32_t generation = 0;

  static constexpr unsigned kOutcomes = 18;

  static constexpr BarrierWord unpack(std::uint64_t bits) noexcept {
    const std::uint64_t state = bits & 3U;
    return {state == 3 ? BarrierState::broken : static_cast<BarrierState>(state),
            static_cast<std::uint32_t>(sync_bits::take(bits, 2, 12)),
            static_cast<std::uint32_t>(sync_bits::take(bits, 14, kOutcomes)),
            static_cast<std::uint32_t>(bits >> 32U)};
  }
  [[nodiscard]] constexpr std::uint64_t pack() const noexcept {
    return static_cast<std::uint64_t>(state) | sync_bits::put(arrived, 2, 12) |
           sync_bits::put(outcomes, 14, kOutcomes) | std::uint64_t{generation} << 32U;
  }
  // The next generation, knowing what became of this one.
  [[nodiscard]] constexpr BarrierWord next(bool passed) const noexcept {
    return {BarrierState::filling, 0, outcomes << 1U | (passed ? 0U : 1U), generation + 1};
  }
};

struct PlaceWord {
  bool taken = false;
  OwnerId party = {};
  std::uint32_t generation = 0;

  static constexpr PlaceWord unpack(std::uint64_t bits) noexcept {
    return {(bits & 1U) != 0, sync_bits::owner(bits, 1), static_cast<std::uint32_t>(bits >> 28U)};
  }
  [[nodiscard]] constexpr std::uint64_t pack() const noexcept {
    return std::uint64_t{taken} | sync_bits::put(party, 1) | std::uint64_t{generation} << 28U;
  }
};

struct BarrierBody {
  sys::Atomic<std::uint64_t> word;     // BarrierWord
  sys::Atomic<std::uint32_t> parties;  // bounded by the body's size before use
  sys::Atomic<std::uint32_t> action;   // a thunk's number; 0: there is none
  sys::Atomic<std::int64_t> limit_ns;  // of a wait that names none; negative: no limit
  std::uint64_t reserved;
  std::byte captured[kActionBytes];  // what the action's callable consists of
  // Then: sys::Atomic<std::uint64_t>[places_of(parties)], PlaceWords.
};
static_assert(sizeof(BarrierBody) == 96);
// Who has left its pass late must not keep others from the next one.
constexpr std::size_t places_of(std::size_t parties) noexcept { return 2 * parties + 2; }

static_assert(LockWord::unpack(LockWord::held_by({{2047, 0xffff}, 4194303}, 2047).pack()).owner ==
              ThreadName{{2047, 0xffff}, 4194303});
static_assert(LockWord{}.pack() == 0 && PermitWord{}.pack() == 0 && WaitWord{}.pack() == 0 &&
              BarrierWord{}.pack() == 0 && PlaceWord{}.pack() == 0);

}  // namespace brood::shm
