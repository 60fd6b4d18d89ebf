// The protocol of a queue's cells (queue_layout.hpp): claiming, publishing, taking, clearing,
// growing, closing, and what the warden does about the dead.
//
// Threads:   any, of any process; each process has a view of its own.
// Blocking:  never; each call looks at a bounded number of cells.
// Ownership: a view; the caller holds the object. A claimed or taken cell is the caller's process's
//            until published or cleared.
// Errors:    as values. Sizes come from the object's block and are checked once, in attach().
// Death:     at any instruction is made good by bury().
// Nothing here uses the heap.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "channel/queue_layout.hpp"
#include "shm/objects.hpp"

namespace brood::channel {

// How an attempt ended.
enum class Attempt : std::uint8_t {
  done,     // the cell is ours
  full,     // no cell is free
  empty,    // there is no value
  busy,     // there is one that is still being written
  closed,   // and nothing is left
  damaged,  // what lies here makes no sense
};

class QueueRing {
 public:
  QueueRing() noexcept = default;
  QueueRing(const QueueRing&) = delete;
  QueueRing& operator=(const QueueRing&) = delete;

  static std::size_t body_bytes(const QueueShape& shape) noexcept;
  // Of an object that nobody else sees, whose body is zero.
  static void format(std::span<std::byte> body, const QueueShape& shape) noexcept;

  // False: this is no queue, or one whose description has been overwritten.
  bool attach(const shm::ObjectPlace& object, shm::Objects& objects) noexcept;
  [[nodiscard]] const QueueShape& shape() const noexcept { return shape_; }
  [[nodiscard]] QueueBody& body() const noexcept { return *body_; }
  [[nodiscard]] HeldTasks* held() const noexcept { return held_; }

  // ---- producers

  // A cell at the tail. `at` names it.
  Attempt claim(Position& at, shm::OwnerId me) noexcept {
    if (swap_where_we_were(at, put_at_, body_->tail, CellWord(CellState::empty, 0),
                           CellWord(CellState::writing, 0, me))) [[likely]] {
      return Attempt::done;
    }
    return claim_slowly(at, me);
  }
  void publish(Position at, shm::OwnerId me) noexcept {
    change(at, CellWord(CellState::writing, 0, me), CellWord(CellState::full, 0));
  }
  // The same of a cell that names a frame of ours, which is the queue's then. The name is in the
  // cell before the frame is nobody's: there the warden finds it if we die in between.
  void publish_frame(Position at, shm::OwnerId me, shm::BlockRef frame) noexcept;
  // After claim() has found it full: makes place in a larger ring. 0 or an errno value.
  int grow() noexcept;
  // Nothing can be claimed from now on.
  void close() noexcept;

  // ---- consumers

  Attempt take(Position& at, shm::OwnerId me) noexcept {
    if (swap_where_we_were(at, get_at_, body_->head, CellWord(CellState::full, 0),
                           CellWord(CellState::taken, 0, me))) [[likely]] {
      return Attempt::done;
    }
    return take_slowly(at, me);
  }
  void clear(Position at, shm::OwnerId me) noexcept {
    change(at, CellWord(CellState::taken, 0, me), CellWord(CellState::empty, 1));
  }

  // Makes the frame that is named in a cell of ours our own. None: somebody wrote there who should
  // not.
  shm::FramePlace accept_frame(Position at) noexcept;

  // ---- anybody

  // The value's room in a cell that is ours: cell_bytes - kCellHead.
  [[nodiscard]] std::byte* room(Position at) const noexcept {
    return cell(bases_[at.ring].load(std::memory_order_relaxed), at.index) + kCellHead;
  }
  // What take() would find.
  [[nodiscard]] Attempt look_at_head() noexcept;
  // Whether take() would not have to wait; also if that is because there is nothing to wait for.
  [[nodiscard]] bool is_ready() noexcept;
  // Who is writing the item that all wait for; nullopt: they do not wait for such a one.
  [[nodiscard]] std::optional<shm::OwnerId> writer_at_head() noexcept;
  // Whether claim() would find no cell.
  [[nodiscard]] bool is_full() noexcept;
  // Values, and cells being written.
  [[nodiscard]] std::uint64_t size() noexcept;
  // The tail as it is seen now: it has not moved as long as this stays the same.
  [[nodiscard]] Position tail() noexcept;
  // Whether somebody is between take() and clear().
  [[nodiscard]] bool is_taking() noexcept;
  // Calls visit(name of a frame) for each full cell of a framed queue.
  template <class Visit>
  void for_each_frame(Visit&& visit) noexcept;

  // ---- the warden

  // Of a member whose death is proven: what it was writing is void, what it was taking is gone.
  // How many values it had taken.
  std::uint32_t bury(shm::OwnerId dead) noexcept;

 private:
  using Word = sys::Atomic<std::uint64_t>;
  // How many positions apart hints are written.
  static constexpr std::uint32_t kHintEvery = 32;

  [[nodiscard]] std::uint32_t cells_of(std::uint32_t ring) const noexcept {
    return shape_.cells << ring;
  }
  // nullptr: there is no such ring.
  std::byte* reach(std::uint32_t ring) noexcept;
  [[nodiscard]] std::byte* cell(std::byte* base, std::uint32_t index) const noexcept {
    return base + std::size_t{index} * shape_.cell_bytes;
  }
  [[nodiscard]] Word& word(Position at) const noexcept {
    return *reinterpret_cast<Word*>(
        cell(bases_[at.ring].load(std::memory_order_relaxed), at.index));
  }
  [[nodiscard]] CellWord look(Position at) const noexcept {
    return CellWord(word(at).load(std::memory_order_seq_cst));
  }
  void step(Position& at) const noexcept {
    if (++at.index < cells_of(at.ring)) return;
    at.index = 0;
    ++at.lap;
  }
  [[nodiscard]] std::uint32_t most_steps(Position at) const noexcept;
  [[nodiscard]] std::atomic_ref<std::uint64_t> name_in(Position at) const noexcept {
    return std::atomic_ref<std::uint64_t>(*reinterpret_cast<std::uint64_t*>(room(at)));
  }
  [[nodiscard]] shm::FramePlace frame_in(Position at) const noexcept;
  static bool is_claimed(CellWord seen, Position at) noexcept;
  void pass(Position& at, CellWord seen) const noexcept;
  [[nodiscard]] bool is_before(Position a, Position b) const noexcept;
  bool is_likely(Position there, bool claimed) noexcept;
  void follow(Position& at, const sys::Atomic<std::uint64_t>& hint, bool claimed) noexcept;
  // Where others of this process will begin; and now and then, for other processes: that costs a
  // line that all share.
  void note(std::atomic<std::uint64_t>& cursor, sys::Atomic<std::uint64_t>& hint,
            Position done) noexcept {
    Position next = done;
    step(next);
    cursor.store(next.pack(), std::memory_order_relaxed);
    if (done.index % kHintEvery == 0) [[unlikely]]
      hint.store(next.pack(), std::memory_order_relaxed);
  }
  // Most often the cell is as it has to be, without a mark: then one swap does it, and one transfer
  // of its line between processors.
  bool swap_where_we_were(Position& at, std::atomic<std::uint64_t>& cursor,
                          sys::Atomic<std::uint64_t>& hint, CellWord from, CellWord to) noexcept {
    at = Position::unpack(cursor.load(std::memory_order_relaxed));
    const std::uint64_t lap = CellWord(CellState::empty, at.lap).bits();
    std::uint64_t expected = lap | from.bits();
    if (!word(at).compare_exchange_strong(expected, lap | to.bits(), std::memory_order_acquire)) {
      return false;
    }
    note(cursor, hint, at);
    return true;
  }
  // By their difference, which leaves marks alone.
  void change(Position at, CellWord from, CellWord to) noexcept {
    word(at).fetch_add(to.bits() - from.bits(), std::memory_order_seq_cst);
  }
  Attempt claim_slowly(Position& at, shm::OwnerId me) noexcept;
  Attempt take_slowly(Position& at, shm::OwnerId me) noexcept;
  bool rejoin(Position& at, const sys::Atomic<std::uint64_t>& hint) noexcept;
  bool go_to_next_ring(Position& at) noexcept;
  Attempt find_tail(Position& at, CellWord& seen) noexcept;
  Attempt find_head(Position& at, CellWord& seen) noexcept;
  Attempt end_ring(std::uint32_t ring, std::uint64_t mark) noexcept;
  [[nodiscard]] std::uint64_t count(Position head, Position end, bool with_void) const noexcept;
  void pass_void(Position at, CellWord seen) noexcept;
  void drop_frame(Position at) noexcept;
  std::uint32_t bury_cell(Position at, shm::OwnerId dead) noexcept;

  QueueShape shape_;
  shm::BlockRef queue_;
  shm::Objects* objects_ = nullptr;
  QueueBody* body_ = nullptr;
  HeldTasks* held_ = nullptr;
  // This process's: where the rings are that it has seen, and where it was last.
  mutable std::array<std::atomic<std::byte*>, kMaxRings> bases_{};
  std::atomic<std::uint64_t> put_at_{0};
  std::atomic<std::uint64_t> get_at_{0};
};

template <class Visit>
void QueueRing::for_each_frame(Visit&& visit) noexcept {
  for (std::uint32_t ring = 0; ring < kMaxRings && reach(ring) != nullptr; ++ring) {
    for (Position at{ring, 0, 0}; at.index < cells_of(ring); ++at.index) {
      if (!look(at).is(CellState::full)) continue;
      visit(shm::BlockRef{name_in(at).load(std::memory_order_relaxed)});
    }
  }
}

}  // namespace brood::channel
