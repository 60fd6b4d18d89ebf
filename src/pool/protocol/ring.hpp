// The two sides of a ring of record names (shm/pool_layout.hpp): one process writes, all read.
#pragma once

#include <algorithm>
#include <cstdint>

#include "shm/pool_layout.hpp"

namespace brood::pool {

// The writer's side.
//
// It has no way to be full: readers claim in order (a reader that was held up knows by the lap that
// it is late), so the unclaimed tasks are the last of the ring, each has a record of its own, and
// the writer keeps the capacity >= the records there are.
//
// Threads: one at a time. Blocking: never. Ownership: none. Errors: none.
// Death: of the writer ends the pool; of readers is nothing to it.
class RingWriter {
 public:
  using Cell = sys::Atomic<std::uint64_t>;
  RingWriter() noexcept = default;
  RingWriter(shm::RingHeader& header, Cell* cells) noexcept : header_(&header), cells_(cells) {}

  [[nodiscard]] std::uint64_t tail() const noexcept { return tail_; }
  [[nodiscard]] std::uint32_t capacity_log() const noexcept { return log_; }

  void start(std::uint32_t capacity_log) noexcept {
    log_ = capacity_log;
    header_->capacity_log.store(log_, std::memory_order_release);
  }

  // Moves the ring to twice its size; the memory behind it must be there and zero.
  void grow() noexcept {
    const std::uint64_t capacity = std::uint64_t{1} << log_;
    for (std::uint64_t position = tail_ - std::min(tail_, capacity); position < tail_; ++position) {
      auto entry = shm::RingEntry::unpack(cell(log_, position).load(std::memory_order_relaxed));
      entry.lap = shm::RingEntry::lap_of(position, log_ + 1);
      cell(log_ + 1, position).store(entry.pack(), std::memory_order_relaxed);
    }
    start(log_ + 1);
  }

  // The entry becomes visible with the new tail. seq_cst, because the writer looks at the sleepers
  // next and a worker that goes to sleep looks at the tail after it has said so: one of the two
  // must see the other.
  void push(shm::RingEntry entry) noexcept {
    entry.lap = shm::RingEntry::lap_of(tail_, log_);
    cell(log_, tail_).store(entry.pack(), std::memory_order_relaxed);
    header_->tail.store(++tail_, std::memory_order_seq_cst);
  }

 private:
  [[nodiscard]] Cell& cell(std::uint32_t log, std::uint64_t position) const noexcept {
    const std::uint64_t capacity = std::uint64_t{1} << log;
    return cells_[capacity + (position & (capacity - 1))];
  }

  shm::RingHeader* header_ = nullptr;
  Cell* cells_ = nullptr;
  // The truth is here; the header only tells readers.
  std::uint64_t tail_ = 0;
  std::uint32_t log_ = 0;
};

// A reader's side. It keeps a position of its own, below which it knows every task claimed; the
// shared hint only lets it skip what others claimed. When the epoch changes it forgets both: they
// may come from a hint that was overwritten.
//
// Threads: one. Blocking: never. Ownership: none. Errors: none; all that is read is bounded.
// Death: at any instruction loses nothing: the ring is only read, the hint only a hint.
class RingReader {
 public:
  using Cell = sys::Atomic<std::uint64_t>;
  RingReader() noexcept = default;
  RingReader(const shm::RingHeader& header, const Cell* cells, std::uint32_t max_log,
             sys::Atomic<std::uint64_t>& head_hint,
             const sys::Atomic<std::uint32_t>& hint_epoch) noexcept
      : header_(&header),
        cells_(cells),
        max_log_(max_log),
        head_hint_(&head_hint),
        hint_epoch_(&hint_epoch) {}

  // Whether there may be tasks that nobody has claimed. seq_cst: see RingWriter::push.
  [[nodiscard]] bool maybe_pending() noexcept {
    const std::uint64_t tail = header_->tail.load(std::memory_order_seq_cst);
    // Most pools never use more than one of their rings.
    return tail != 0 && start(tail) < tail;
  }

  // The positions from the first that nobody is known to have claimed. seq_cst: see
  // RingWriter::push.
  struct Left {
    std::uint64_t first = 0;
    std::uint64_t end = 0;
    [[nodiscard]] std::uint64_t count() const noexcept { return end - first; }
  };
  [[nodiscard]] Left left() noexcept {
    const std::uint64_t tail = header_->tail.load(std::memory_order_seq_cst);
    return {start(tail), tail};
  }

  // What became of an offer.
  enum class Offer {
    taken,    // by us
    gone,     // somebody has it or had it
    unknown,  // it can't be told yet: nothing from here on may be skipped
  };

  // Offers entries, oldest first, until `claim(entry)` takes one. False: nothing was left.
  template <class Claim>
  bool take(Claim&& claim) noexcept {
    const std::uint64_t tail = header_->tail.load(std::memory_order_acquire);
    if (tail == 0) return false;
    // Acquired as well: a ring that has grown since holds copies of the entries below the tail.
    const std::uint32_t log =
        std::min(header_->capacity_log.load(std::memory_order_acquire), max_log_);
    const std::uint64_t capacity = std::uint64_t{1} << log;
    std::uint64_t position = start(tail);
    // More than a ring's length behind: those entries are overwritten, so they were claimed.
    if (tail - position > capacity) position = tail - capacity;
    Offer offer = Offer::gone;
    while (position < tail && offer == Offer::gone) {
      const std::uint64_t bits =
          cells_[capacity + (position & (capacity - 1))].load(std::memory_order_relaxed);
      const auto entry = shm::RingEntry::unpack(bits);
      // Zeros are entries from before the ring grew, older than all that was copied; another lap
      // is a cell written again since: both were claimed long ago.
      if (bits != 0 && entry.lap == shm::RingEntry::lap_of(position, log)) offer = claim(entry);
      if (offer != Offer::unknown) ++position;
    }
    advance(position);
    return offer == Offer::taken;
  }

 private:
  [[nodiscard]] std::uint64_t start(std::uint64_t tail) noexcept {
    // Relaxed: a hint tells which epoch it is of.
    const auto epoch = static_cast<std::uint16_t>(hint_epoch_->load(std::memory_order_relaxed));
    if (epoch != epoch_) {
      epoch_ = epoch;
      own_head_ = 0;
    }
    const auto hint = shm::HeadHint::unpack(head_hint_->load(std::memory_order_relaxed));
    const bool usable = hint.epoch == epoch_ && hint.position <= tail;
    return std::min(usable ? std::max(hint.position, own_head_) : own_head_, tail);
  }

  void advance(std::uint64_t position) noexcept {
    own_head_ = std::max(own_head_, position);
    const auto hint = shm::HeadHint::unpack(head_hint_->load(std::memory_order_relaxed));
    const bool nonsense = hint.position > header_->tail.load(std::memory_order_relaxed);
    if (hint.epoch == epoch_ && hint.position >= own_head_ && !nonsense) return;
    head_hint_->store(shm::HeadHint{own_head_, epoch_}.pack(), std::memory_order_relaxed);
  }

  const shm::RingHeader* header_ = nullptr;
  const Cell* cells_ = nullptr;
  std::uint32_t max_log_ = 0;
  sys::Atomic<std::uint64_t>* head_hint_ = nullptr;
  const sys::Atomic<std::uint32_t>* hint_epoch_ = nullptr;
  std::uint64_t own_head_ = 0;
  std::uint16_t epoch_ = 0;
};

}  // namespace brood::pool
