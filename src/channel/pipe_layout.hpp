// The body of a pipe: every byte of it that processes share.
//
//   PipeHeader | DoorbellBoard[2] | StreamHints[2] | StreamCell[cells] for each direction there is
//
// A pipe has two sides, its ends. Direction d carries what side d sends; a one-way pipe has only
// direction 1, so that side 0 reads and side 1 writes. Each direction is a ring of cells, each with
// one message, in the order of positions: position p lies in cell p mod cells, and its lap is
// p / cells. Any number of processes and threads may send and receive at both ends.
//
// GLOSSARY
//   cell     room for a message of up to 48 bytes, or for the name of a frame (object_layout.hpp)
//            that contains it
//   claim    of a cell by one process, which alone writes or reads its message until it is done
//   hint     where to begin to look for the first cell that is empty (tail) or full (head). Every
//            position before the tail hint was claimed by a sender, every one before the head hint
//            is done with. It may lag; the cells know better
//
// THE WORD OF A CELL    bits 63..33 lap | 32..3 owner (epoch, slot), or size | 2..0 state
//
//                  claim                publish
//   empty(lap) ----------> writing(me) ---------> full_inline(size), full_frame
//      ^                       |                        |
//      |                 burial of the dead             | take
//      |                       v                        v
//      |                     void(lap)           taken_inline(me), taken_frame(me)
//      |                       | by whoever             | done; or burial, with the frame, if
//      |                       v comes by               v any: that message dies with its taker
//      +-- lap + 1 ------------+<-----------------------+
//
//   Claim and owner are one word. What a dead sender wrote and did not publish is a hole, which
//   receivers skip; what was published is delivered, whatever becomes of its sender. Only if a
//   sender dies between publishing a frame and giving it to nobody (so before its send returned)
//   the frame goes with it: the receiver finds a name without a frame, and skips that too.
//
// ORDER. Receivers skip cells that are being written or read, and look a second time at those that
// were being written when they find a message behind them. So the messages of one thread arrive
// in their order, and a process that is stopped inside send or recv keeps nobody from the next
// message, until the ring has come round to its cell.
//
// WHO RINGS WHICH BELL (ObjectHeader::bells)
//   bells[s]      a message for side s has been published
//   bells[2 + s]  there is room for what side s wants to send
//   board s       (doorbell_layout.hpp) as bells[s], for those who poll; also when side 1 - s ends
//
// INVARIANTS (unless somebody scribbled here)
//   the positions that were ever claimed by senders are 0 .. n-1 for some n
//   lap(cell) is that of the position it is used for, or waits to be used for next
//   full_inline(size): size <= 48, and so many bytes of the payload are complete
//   full_frame: payload[0] is a BlockRef of a frame whose container is this pipe, [1] its size
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "channel/doorbell_layout.hpp"
#include "shm/object_layout.hpp"

namespace brood::channel {

inline constexpr std::size_t kInlineBytes = 48;
inline constexpr std::uint32_t kMaxPipeCellsLog = 20;

struct alignas(64) PipeHeader {
  std::uint32_t cells_log;  // written before publishing, checked by all who look
  std::uint32_t is_duplex;
  std::uint64_t most_bytes;  // of large messages on their way in one direction, but for the first
};
static_assert(sizeof(PipeHeader) == 64);

struct StreamHints {
  alignas(64) sys::Atomic<std::uint64_t> tail;  // positions; see GLOSSARY
  alignas(64) sys::Atomic<std::uint64_t> head;
};
static_assert(sizeof(StreamHints) == 128);

enum class StreamCellState : std::uint8_t {
  empty = 0,  // zero, so that a new body is an empty pipe
  writing = 1,
  full_inline = 2,
  full_frame = 3,
  taken_inline = 4,
  taken_frame = 5,
  hole = 6,      // void(lap)
  nonsense = 7,  // nobody writes this: what else a word may be
};

struct StreamWord {
  StreamCellState state = StreamCellState::empty;
  shm::OwnerId owner = {};  // writing, taken
  std::uint8_t size = 0;    // full_inline
  std::uint32_t lap = 0;    // kLapBits of it

  static constexpr unsigned kLapBits = 31;
  static constexpr std::uint32_t kLapMask = (std::uint32_t{1} << kLapBits) - 1;

  static constexpr StreamWord unpack(std::uint64_t bits) noexcept {
    StreamWord word;
    word.state = static_cast<StreamCellState>(bits & 7U);
    word.lap = static_cast<std::uint32_t>(bits >> 33U);
    if (word.is_claimed()) {
      word.owner = {static_cast<std::uint16_t>(bits >> 3U & 0x3fffU),
                    static_cast<std::uint16_t>(bits >> 17U & 0xffffU)};
    } else {
      word.size = static_cast<std::uint8_t>(bits >> 3U & 0xffU);
    }
    // Else nobody could exchange it for another.
    if (word.pack() != bits) word.state = StreamCellState::nonsense;
    return word;
  }
  [[nodiscard]] constexpr std::uint64_t pack() const noexcept {
    const std::uint64_t middle =
        is_claimed() ? std::uint64_t{owner.slot & 0x3fffU} | std::uint64_t{owner.epoch} << 14U
                     : std::uint64_t{size};
    return static_cast<std::uint64_t>(state) | middle << 3U | std::uint64_t{lap & kLapMask} << 33U;
  }
  [[nodiscard]] constexpr bool is_claimed() const noexcept {
    return state == StreamCellState::writing || is_taken();
  }
  [[nodiscard]] constexpr bool is_taken() const noexcept {
    return state == StreamCellState::taken_inline || state == StreamCellState::taken_frame;
  }
  [[nodiscard]] constexpr bool is_full() const noexcept {
    return state == StreamCellState::full_inline || state == StreamCellState::full_frame;
  }
  [[nodiscard]] constexpr bool is_owned_by(shm::OwnerId who) const noexcept {
    return is_claimed() && owner == who;
  }
  // How many laps it is ahead of another: small numbers around zero.
  [[nodiscard]] constexpr std::int32_t laps_after(std::uint32_t other) const noexcept {
    return static_cast<std::int32_t>((lap - other) << 1U) >> 1;
  }
};
static_assert(
    StreamWord::unpack(StreamWord{StreamCellState::writing, {0x3ffe, 0xfffe}, 0, 5}.pack()).owner ==
    shm::OwnerId{0x3ffe, 0xfffe});
static_assert(StreamWord::unpack(StreamWord{StreamCellState::full_inline, {}, 48, 7}.pack()).size ==
              48);
static_assert(StreamWord{StreamCellState::empty, {}, 0, 0}.laps_after(StreamWord::kLapMask) == 1);

// All words are atomics, since a receiver looks at the type, and a sender at the sizes, of messages
// that others may be taking. No order is theirs but that of `type` (stream.cpp).
struct alignas(64) StreamCell {
  sys::Atomic<std::uint64_t> word;  // StreamWord
  sys::Atomic<std::uint64_t> type;  // of the message: what a receiver asks for has to be the same
  std::array<sys::Atomic<std::uint64_t>, kInlineBytes / 8> payload;
};
static_assert(sizeof(StreamCell) == 64);

// Where things lie in the body.
constexpr std::size_t board_offset(std::uint32_t side) noexcept {
  return sizeof(PipeHeader) + side * sizeof(DoorbellBoard);
}
constexpr std::size_t hints_offset(std::uint32_t direction) noexcept {
  return board_offset(2) + direction * sizeof(StreamHints);
}
constexpr std::size_t cells_offset(std::uint32_t direction, bool duplex,
                                   std::uint32_t cells_log) noexcept {
  const std::size_t before = duplex ? direction : 0;
  return hints_offset(2) + before * (sizeof(StreamCell) << cells_log);
}
constexpr std::size_t pipe_body_bytes(bool duplex, std::uint32_t cells_log) noexcept {
  return hints_offset(2) + (duplex ? 2U : 1U) * (sizeof(StreamCell) << cells_log);
}

// The bells.
constexpr std::size_t message_bell(std::uint32_t side) noexcept { return side; }
constexpr std::size_t room_bell(std::uint32_t side) noexcept { return 2 + side; }

}  // namespace brood::channel
