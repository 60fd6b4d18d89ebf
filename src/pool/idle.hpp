// Who of the workers has nothing to do, and waking them (shm/pool_layout.hpp: IdleBits).
#pragma once

#include <bit>
#include <cstdint>

#include "pool/view.hpp"

namespace brood::pool {

// Threads: any process. Blocking: never. Ownership: none. Errors: none; bits are input.
// Death: a worker that dies leaves its bits; the supervisor clears them, then rings all bells.
//
// Memory ordering: work is published first, then the bits are read (both seq_cst); a worker sets or
// clears its bits first, then looks for work (both seq_cst). So either the worker sees the work or
// the publisher sees that the worker needs waking.
class IdleWorkers {
 public:
  IdleWorkers() noexcept = default;
  explicit IdleWorkers(const PoolView& view) noexcept
      : view_(view), words_((view.geometry().slots + 63U) / 64) {}

  // False if enough others look already.
  bool start_looking(std::uint16_t slot, int most) noexcept {
    // To be seen late costs a wake-up, no more.
    bits(slot).looking.fetch_or(mask(slot), std::memory_order_relaxed);
    if (count_looking() <= most) return true;
    stop_looking(slot);
    return false;
  }
  void stop_looking(std::uint16_t slot) noexcept {
    bits(slot).looking.fetch_and(~mask(slot), std::memory_order_seq_cst);
  }
  void start_sleeping(std::uint16_t slot) noexcept {
    bits(slot).sleeping.fetch_or(mask(slot), std::memory_order_seq_cst);
  }
  void stop_sleeping(std::uint16_t slot) noexcept {
    bits(slot).sleeping.fetch_and(~mask(slot), std::memory_order_seq_cst);
  }

  // A dead worker needs no waking, and finds nothing.
  void forget(std::uint16_t slot) noexcept {
    stop_looking(slot);
    stop_sleeping(slot);
  }

  // Clears the bits of slots that nobody has, which only a stray write can have set, and everyone's
  // claim to be looking: who really looks will find what there is.
  template <class InUse>
  void keep_only(InUse&& in_use) noexcept {
    for (std::size_t i = 0; i < words_; ++i) {
      std::uint64_t valid = 0;
      for (std::size_t bit = 0; bit < 64 && i * 64 + bit < view_.geometry().slots; ++bit) {
        const auto slot = static_cast<std::uint16_t>(i * 64 + bit);
        if (slot >= shm::kFirstWorkerSlot && in_use(slot)) valid |= mask(slot);
      }
      all(i).sleeping.fetch_and(valid, std::memory_order_seq_cst);
      all(i).looking.store(0, std::memory_order_seq_cst);
    }
  }

  [[nodiscard]] bool anyone_looking() const noexcept {
    for (std::size_t i = 0; i < words_; ++i) {
      if (all(i).looking.load(std::memory_order_seq_cst) != 0) return true;
    }
    return false;
  }

  [[nodiscard]] std::size_t looking() const noexcept {
    return static_cast<std::size_t>(count_looking());
  }

  [[nodiscard]] std::size_t count_sleeping() const noexcept {
    std::size_t count = 0;
    for (std::size_t i = 0; i < words_; ++i) {
      count +=
          static_cast<std::size_t>(std::popcount(all(i).sleeping.load(std::memory_order_seq_cst)));
    }
    return count;
  }

  // Wakes one sleeper; false: there is none.
  bool wake_one() noexcept {
    for (std::size_t i = 0; i < words_; ++i) {
      std::uint64_t left = all(i).sleeping.load(std::memory_order_seq_cst);
      while (left != 0) {
        const auto slot =
            static_cast<std::uint16_t>(i * 64 + static_cast<unsigned>(std::countr_zero(left)));
        left &= left - 1;
        // Whoever clears the bit wakes.
        if ((all(i).sleeping.fetch_and(~mask(slot), std::memory_order_relaxed) & mask(slot)) == 0) {
          continue;
        }
        ring(slot);
        return true;
      }
    }
    return false;
  }

  void ring(std::uint16_t slot) noexcept {
    sys::FutexWord& bell = view_.desk(slot).bell;
    bell.fetch_add(1, std::memory_order_release);
    sys::futex_wake(&bell, sys::kWakeAll);
  }

 private:
  static std::uint64_t mask(std::uint16_t slot) noexcept { return std::uint64_t{1} << (slot % 64); }
  [[nodiscard]] shm::IdleBits& all(std::size_t word) const noexcept {
    return view_.shared().idle[word];
  }
  [[nodiscard]] shm::IdleBits& bits(std::uint16_t slot) const noexcept { return all(slot / 64); }
  [[nodiscard]] int count_looking() const noexcept {
    int count = 0;
    for (std::size_t i = 0; i < words_; ++i) {
      count += std::popcount(all(i).looking.load(std::memory_order_seq_cst));
    }
    return count;
  }

  PoolView view_;
  std::size_t words_ = 1;
};

}  // namespace brood::pool
