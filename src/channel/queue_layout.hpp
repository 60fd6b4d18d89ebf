// Every byte of a queue that lies in shared memory: the body of an object of kind `queue`.
//
// GLOSSARY
//   cell      a word and room for a value's encoding, or for the name of the frame that holds it
//   ring      an array of cells, used lap after lap. A queue without a limit goes on to a ring of
//             twice the size when one is full; the rings it leaves stay until the queue ends
//   position  (ring, lap, index): positions are claimed strictly in their order, without gaps
//   tail      the first position that is not claimed
//   head      the first position whose value may still be had
//   frame     a block of the arena that holds a value that is too large for a cell, or that has
//             handles in it (shm/object_layout.hpp)
//
// BODY  QueueBody | held[kFamilySlots] if tasks are counted | cells of the first ring
//
// CELL WORD   bits 63..32 lap | 31..16 epoch | 15..5 slot | 4 closed | 3 moved | 2..0 state
//
//     empty(lap) --claim--> writing(lap, producer) --publish--> full(lap)
//        ^                        | its death                      | take
//        |                        v                                v
//   lap+1 <--whoever passes-- voided(lap)        lap+1 <--clear-- taken(lap, consumer)
//        |                                                         | its death
//        +---------------------------------------------------------+
//
//   A mark ends the ring at the position that would be claimed in this cell next: `moved`, so that
//   all go on at the beginning of the next ring, or `closed`, for good. Marks are set on the tail's
//   cell by a swap, and never taken away; so no claim can follow. All changes of state but swaps
//   add a difference, which leaves marks as they are.
//
// DEATH   between two instructions of
//   a producer   before publish: the cell becomes void; its frame is freed. The put had not
//                returned. After it: nothing is lost.
//   a consumer   between take and its return: its value is lost with it, nothing else.
//   whoever ends a ring, or makes the next: somebody else does it.
//   Who is stopped while it writes a cell is waited for by those who want what lies behind it.
//
// Memory ordering: publish releases and take acquires what is in a cell; clear releases and claim
// acquires the room. Changes that others may sleep for are seq_cst (shm/bell.hpp).
//
// INVARIANTS (unless somebody scribbled here)
//   position p is claimed  <=>  word(p).lap > p.lap, or word(p).lap = p.lap and it is not empty
//   p is claimed  =>  all positions before p are claimed, or lie behind their ring's end
//   what lies before the head will never be full again
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "channel/doorbell_layout.hpp"
#include "shm/object_layout.hpp"

namespace brood::channel {

enum class CellState : std::uint8_t { empty = 0, writing = 1, full = 2, taken = 3, voided = 4 };

class CellWord {
 public:
  explicit constexpr CellWord(std::uint64_t bits) noexcept : bits_(bits) {}
  constexpr CellWord(CellState state, std::uint32_t lap) noexcept
      : bits_(static_cast<std::uint64_t>(state) | std::uint64_t{lap} << 32U) {}
  constexpr CellWord(CellState state, std::uint32_t lap, shm::OwnerId owner) noexcept
      : bits_(CellWord(state, lap).bits_ | std::uint64_t{owner.slot & kSlotMask} << 5U |
              std::uint64_t{owner.epoch} << 16U) {}

  [[nodiscard]] constexpr std::uint64_t bits() const noexcept { return bits_; }
  [[nodiscard]] constexpr CellState state() const noexcept {
    return static_cast<CellState>(bits_ & 7U);
  }
  [[nodiscard]] constexpr bool is(CellState state) const noexcept { return this->state() == state; }
  [[nodiscard]] constexpr bool moved() const noexcept { return (bits_ & kMoved) != 0; }
  [[nodiscard]] constexpr bool closed() const noexcept { return (bits_ & kClosed) != 0; }
  [[nodiscard]] constexpr std::uint64_t marks() const noexcept {
    return bits_ & (kMoved | kClosed);
  }
  [[nodiscard]] constexpr std::uint32_t lap() const noexcept {
    return static_cast<std::uint32_t>(bits_ >> 32U);
  }
  [[nodiscard]] constexpr shm::OwnerId owner() const noexcept {
    return {static_cast<std::uint16_t>(bits_ >> 5U & kSlotMask),
            static_cast<std::uint16_t>(bits_ >> 16U)};
  }
  static constexpr std::uint64_t kMoved = 8;
  static constexpr std::uint64_t kClosed = 16;

 private:
  static constexpr unsigned kSlotMask = shm::kFamilySlots - 1;
  std::uint64_t bits_;
};
static_assert(shm::kFamilySlots == 2048, "a cell's word has 11 bits for the slot");
static_assert(CellWord(CellState::full, 7, {2047, 0xffff}).owner() == shm::OwnerId{2047, 0xffff});

inline constexpr unsigned kMaxRings = 24;
inline constexpr std::uint32_t kMaxCells = std::uint32_t{1} << 26U;  // of one ring
inline constexpr std::size_t kCellHead = sizeof(std::uint64_t);      // its word

struct Position {
  std::uint32_t ring = 0;
  std::uint32_t lap = 0;
  std::uint32_t index = 0;

  static constexpr Position unpack(std::uint64_t bits) noexcept {
    return {static_cast<std::uint32_t>(bits >> 59U), static_cast<std::uint32_t>(bits),
            static_cast<std::uint32_t>(bits >> 32U) & ((1U << 27U) - 1)};
  }
  [[nodiscard]] constexpr std::uint64_t pack() const noexcept {
    return std::uint64_t{ring} << 59U | std::uint64_t{index} << 32U | lap;
  }
  // How many positions of a ring of `cells` this one lies behind `other`, of the same ring.
  [[nodiscard]] constexpr std::int64_t minus(Position other, std::uint32_t cells) const noexcept {
    return std::int64_t{static_cast<std::int32_t>(lap - other.lap)} * cells + index - other.index;
  }
  friend constexpr bool operator==(Position, Position) = default;
};
static_assert(Position::unpack(Position{23, 0xfffffffe, kMaxCells}.pack()) ==
              Position{23, 0xfffffffe, kMaxCells});

// How a queue waits, as its maker wished.
enum class QueueWait : std::uint32_t { adaptive = 0, spin = 1, sleep = 2 };

// Written once, before anybody else sees the queue.
struct QueueShape {
  std::uint32_t cells = 0;       // of the first ring; of all, if the queue is bounded
  std::uint32_t cell_bytes = 0;  // with the word: 16, 32, 64 or 128
  std::uint32_t framed = 0;      // 1: cells hold names of frames
  std::uint32_t bounded = 0;
  std::uint32_t drops_oldest = 0;
  std::uint32_t counts_tasks = 0;
  QueueWait wait = QueueWait::adaptive;
  std::uint32_t reserved = 0;
  std::uint64_t max_bytes = 0;  // of framed queues; 0: no limit
};
static_assert(sizeof(QueueShape) == 40);

struct QueueBody {
  // Read by all, seldom written.
  QueueShape shape;
  sys::Atomic<std::uint32_t> closed;
  sys::Atomic<std::uint32_t> deaths;     // since `bytes` was counted last
  sys::Atomic<std::uint32_t> abandoned;  // tasks whose consumers died or left, not yet told of
  shm::Bell finished;                    // join() sleeps here
  sys::Atomic<std::uint32_t> has_void;   // 1: somebody has died in a put
  DoorbellBoard board;
  // [k]: the frame of ring k, which has 2^k times the cells of the first. [0] is not used.
  std::array<sys::Atomic<std::uint64_t>, kMaxRings> rings;
  // Hints: a position not far before the tail, and one not far before the head.
  alignas(64) sys::Atomic<std::uint64_t> tail;
  alignas(64) sys::Atomic<std::uint64_t> head;
  // Of the frames in the queue, and of those about to be put in.
  alignas(64) sys::Atomic<std::int64_t> bytes;
};

// Tasks that a member has got and has not called done, by slot.
using HeldTasks = std::array<sys::Atomic<std::uint32_t>, shm::kFamilySlots>;

constexpr std::size_t first_ring_offset(bool counts_tasks) noexcept {
  return sizeof(QueueBody) + (counts_tasks ? sizeof(HeldTasks) : 0);
}
static_assert(first_ring_offset(true) % 64 == 0 && first_ring_offset(false) % 64 == 0);

}  // namespace brood::channel
