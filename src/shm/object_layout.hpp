// What lies at the beginning of every block of the family's object arena.
//
// The arena's segment ("brood:objects") is shared by all members of a family and by the workers of
// its pools. A block is one of two things, told apart by its first word:
//
//   object   ObjectHeader | SlotSet[sides] | body     a queue, a lock, a value...: what users hold
//   frame    FrameHeader | SentRef[] | payload        a message that is too large for a queue's
//                                                     cell, or that carries handles
//
// GLOSSARY
//   member   a process with a slot in the family's owner table (owner_layout.hpp)
//   hold     "this member has handles of this object": a bit per member and side, set and cleared
//            by the member itself, and cleared by the warden once its death is proven
//   side     what may end by itself: the two ends of a pipe. Other objects have one side
//   sent     at some time a frame named this side. While nobody holds it, one may still do so: the
//            warden then looks through all frames ("collects")
//   container  the object in whose queue a frame lies; it dies with it
//
// THE WORD OF AN OBJECT    bits 63..32 moves | 5..4 ended sides | 3..2 sent sides | 1..0 state
//
//     raw --make--> live --the last side ends--> dying --> (the block is freed)
//
//   `moves` counts changes of the hold sets. A member sets its bit, then increments moves; later it
//   increments moves, then clears its bit. Whoever ends a side reads the word, finds no bit but its
//   own (and, if sent, no frame that names it), and swaps the word it has read: so either it sees a
//   hold or its swap fails. A hold needs somebody else's, or a frame, at that time. Its own bit
//   keeps the block while it wakes who waits for the end; whoever clears the last bit of a dying
//   object frees it. The collector, who holds nothing, sets the warden's bit meanwhile.
//
// WHO OWNS A BLOCK (in the arena's words)
//   an object being made, a frame being written or read: the member that does so
//   a live object, a frame on its way in a container:     nobody
//   So what a dead member was about is freed by Arena::sweep, and whoever takes a frame out of a
//   container takes it by one swap of the arena's word, from nobody to itself.
//
// INVARIANTS (unless somebody scribbled here)
//   live(object) and its owner is nobody  =>  header and body are complete
//   bit(member, side) set  =>  side not ended, or the member is just ending it
//   all sides ended  <=>  state dying
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "shm/arena_layout.hpp"
#include "shm/bell.hpp"
#include "shm/family_layout.hpp"

namespace brood::shm {

enum class ObjectKind : std::uint32_t {
  none = 0,
  queue = 1,
  pipe = 2,
  value = 3,
  array = 4,
  lock = 5,
  semaphore = 6,
  event = 7,
  condition = 8,
  barrier = 9,
  descriptor = 10,
  last = descriptor,
};

inline constexpr std::size_t kMaxSides = 2;
constexpr std::size_t sides_of(ObjectKind kind) noexcept {
  return kind == ObjectKind::pipe ? 2 : 1;
}

// One bit per member of the family.
struct alignas(64) SlotSet {
  std::array<sys::Atomic<std::uint64_t>, kFamilySlots / 64> words;

  static constexpr std::uint64_t mask(std::uint16_t slot) noexcept {
    return std::uint64_t{1} << (slot % 64U);
  }
  [[nodiscard]] sys::Atomic<std::uint64_t>& word(std::uint16_t slot) noexcept {
    return words[slot / 64U % words.size()];
  }
  // Whether it changed.
  bool set(std::uint16_t slot) noexcept {
    return (word(slot).fetch_or(mask(slot), std::memory_order_seq_cst) & mask(slot)) == 0;
  }
  bool clear(std::uint16_t slot) noexcept {
    return (word(slot).fetch_and(~mask(slot), std::memory_order_seq_cst) & mask(slot)) != 0;
  }
  [[nodiscard]] bool has(std::uint16_t slot) noexcept {
    return (word(slot).load(std::memory_order_seq_cst) & mask(slot)) != 0;
  }
  [[nodiscard]] bool has_only(std::uint16_t slot) const noexcept {
    for (std::size_t i = 0; i < words.size(); ++i) {
      const std::uint64_t own = i == slot / 64U ? mask(slot) : 0;
      if (words[i].load(std::memory_order_seq_cst) != own) return false;
    }
    return true;
  }
  [[nodiscard]] bool empty() const noexcept {
    for (const auto& bits : words) {
      if (bits.load(std::memory_order_seq_cst) != 0) return false;
    }
    return true;
  }
};
static_assert(sizeof(SlotSet) == kFamilySlots / 8);

enum class ObjectState : std::uint8_t { raw = 0, live = 1, dying = 2 };

struct ObjectWord {
  ObjectState state = ObjectState::raw;
  std::uint8_t sent = 0;   // a bit per side
  std::uint8_t ended = 0;  // a bit per side
  std::uint32_t moves = 0;

  static constexpr ObjectWord unpack(std::uint64_t bits) noexcept {
    return {static_cast<ObjectState>(bits & 3U), static_cast<std::uint8_t>(bits >> 2U & 3U),
            static_cast<std::uint8_t>(bits >> 4U & 3U), static_cast<std::uint32_t>(bits >> 32U)};
  }
  [[nodiscard]] constexpr std::uint64_t pack() const noexcept {
    return static_cast<std::uint64_t>(state) | std::uint64_t{sent} << 2U |
           std::uint64_t{ended} << 4U | std::uint64_t{moves} << 32U;
  }
};

// "brood ob" and "brood fr" as numbers: blocks hold nothing of ours before they are complete, and
// what a freed block holds is never looked at.
inline constexpr std::uint64_t kObjectMagic = 0x626f'20646f6f7262;
inline constexpr std::uint64_t kFrameMagic = 0x7266'20646f6f7262;

struct alignas(64) ObjectHeader {
  sys::Atomic<std::uint64_t> magic;
  sys::Atomic<std::uint64_t> word;  // ObjectWord
  ObjectKind kind;
  std::uint32_t reserved;
  std::uint64_t type;  // of what it holds: a handle of another type is refused
  // The collector's notes (the warden only): the word when it began, sides that something names.
  sys::Atomic<std::uint64_t> seen;
  sys::Atomic<std::uint32_t> named;
  // Who waits for the object sleeps here. What each bell is for, the kind says; all of them are
  // rung when a side ends and when a member that held the object has died.
  std::array<Bell, 4> bells;
  std::uint32_t reserved_too;
};
static_assert(sizeof(ObjectHeader) == 64);

// A handle on its way: what a frame says of each that its payload contains.
struct SentRef {
  BlockRef object;
  std::uint32_t side = 0;
  std::uint32_t reserved = 0;
};
static_assert(sizeof(SentRef) == 16);

struct alignas(64) FrameHeader {
  sys::Atomic<std::uint64_t> magic;
  sys::Atomic<std::uint64_t> container;  // BlockRef of an object; 0: none yet
  std::uint64_t payload_bytes;
  std::uint32_t payload_offset;  // from the block's beginning; a multiple of 64
  std::uint32_t refs;            // SentRefs that follow this header
  std::array<std::uint64_t, 4> reserved;
};
static_assert(sizeof(FrameHeader) == 64);

constexpr std::size_t body_offset(ObjectKind kind) noexcept {
  return sizeof(ObjectHeader) + sides_of(kind) * sizeof(SlotSet);
}
constexpr std::size_t frame_payload_offset(std::size_t refs) noexcept {
  return (sizeof(FrameHeader) + refs * sizeof(SentRef) + 63) / 64 * 64;
}

}  // namespace brood::shm
