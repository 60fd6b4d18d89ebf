// Who of the workers has nothing to do, and waking them (shm/pool_layout.hpp: IdleBits).
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#include "pool/protocol/view.hpp"
#include "sys/process.hpp"

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
  // More workers than processors that are coming would only be in each other's way, and whoever
  // publishes work needs one, too.
  explicit IdleWorkers(const PoolView& view, int processors = sys::usable_cpus()) noexcept
      : view_(view),
        words_((view.geometry().slots + shm::kIdleSlots - 1) / shm::kIdleSlots),
        processors_(std::max(processors, 1)) {}

  // ---- what a worker says of itself

  // False if enough others look already.
  bool start_looking(std::uint16_t slot, int most) noexcept {
    // To be seen late costs a wake-up, no more.
    bits(slot).looking.fetch_or(looker(slot), std::memory_order_relaxed);
    if (count_looking() <= most) return true;
    stop_looking(slot);
    return false;
  }
  void stop_looking(std::uint16_t slot) noexcept {
    bits(slot).looking.fetch_and(~looker(slot), std::memory_order_seq_cst);
  }
  void start_sleeping(std::uint16_t slot) noexcept {
    bits(slot).state.fetch_or(sleeper(slot), std::memory_order_seq_cst);
  }
  // However it was woken, if at all.
  void stop_sleeping(std::uint16_t slot) noexcept {
    bits(slot).state.fetch_and(~(sleeper(slot) | comer(slot)), std::memory_order_seq_cst);
  }
  // That it will soon be back for the next task; until it sleeps.
  void start_coming(std::uint16_t slot) noexcept {
    bits(slot).state.fetch_or(comer(slot), std::memory_order_seq_cst);
  }
  void stop_coming(std::uint16_t slot) noexcept {
    bits(slot).state.fetch_and(~comer(slot), std::memory_order_seq_cst);
  }

  // ---- what the supervisor does about the dead

  // A dead worker needs no waking, and finds nothing.
  void forget(std::uint16_t slot) noexcept {
    stop_looking(slot);
    stop_sleeping(slot);
  }

  // Who really does will find what there is.
  void nobody_looks() noexcept {
    for (std::size_t i = 0; i < words_; ++i) all(i).looking.store(0, std::memory_order_seq_cst);
  }
  // Clears the bits of slots that nobody has, which only a stray write can have set, and everyone's
  // claim to be looking or coming: who really is will find what there is.
  template <class InUse>
  void keep_only(InUse&& in_use) noexcept {
    for (std::size_t i = 0; i < words_; ++i) {
      std::uint64_t valid = 0;
      for (std::size_t bit = 0; bit < shm::kIdleSlots; ++bit) {
        const std::size_t slot = i * shm::kIdleSlots + bit;
        if (slot < shm::kFirstWorkerSlot || slot >= view_.geometry().slots) continue;
        if (in_use(static_cast<std::uint16_t>(slot))) {
          valid |= sleeper(static_cast<std::uint16_t>(slot));
        }
      }
      all(i).state.fetch_and(valid, std::memory_order_seq_cst);
    }
    nobody_looks();
  }

  // ---- counting

  [[nodiscard]] bool anyone_looking() const noexcept {
    for (std::size_t i = 0; i < words_; ++i) {
      if (all(i).looking.load(std::memory_order_seq_cst) != 0) return true;
    }
    return false;
  }
  [[nodiscard]] int count_looking() const noexcept {
    int count = 0;
    for (std::size_t i = 0; i < words_; ++i) {
      count += std::popcount(all(i).looking.load(std::memory_order_seq_cst));
    }
    return count;
  }
  [[nodiscard]] std::size_t count_sleeping() const noexcept {
    int count = 0;
    for (std::size_t i = 0; i < words_; ++i) {
      count += std::popcount(sleepers(all(i).state.load(std::memory_order_seq_cst)));
    }
    return static_cast<std::size_t>(count);
  }
  [[nodiscard]] bool is_coming(std::uint16_t slot) const noexcept {
    return (bits(slot).state.load(std::memory_order_relaxed) & comer(slot)) != 0;
  }

  // ---- waking

  // Wakes one sleeper; false: there is none.
  bool wake_one() noexcept {
    for (std::size_t i = 0; i < words_; ++i) {
      if (wake_one_of(i, all(i).state.load(std::memory_order_seq_cst))) return true;
    }
    return false;
  }

  enum class [[nodiscard]] Call {
    woken,         // a sleeper was
    nobody,        // sleeps
    left_to_them,  // to those who are coming
  };
  // Wakes one sleeper, if that is of use while the caller goes on.
  Call call_one() noexcept { return call_one_of(std::max(processors_ - 1, 1)); }
  // The same if that is of use while the caller waits.
  Call call_one_more() noexcept { return call_one_of(processors_); }

  void ring(std::uint16_t slot) noexcept {
    sys::FutexWord& bell = view_.desk(slot).bell;
    bell.fetch_add(1, std::memory_order_release);
    sys::futex_wake(&bell, sys::kWakeAll);
  }

 private:
  Call call_one_of(int enough) noexcept {
    int coming = 0;
    std::size_t word = words_;
    std::uint64_t state = 0;
    for (std::size_t i = 0; i < words_; ++i) {
      const std::uint64_t now = all(i).state.load(std::memory_order_seq_cst);
      coming += std::popcount(now >> shm::kIdleSlots);
      if (word < words_ || sleepers(now) == 0) continue;
      word = i;
      state = now;
    }
    if (word == words_) return Call::nobody;
    if (coming >= enough) return Call::left_to_them;
    return wake_one_of(word, state) ? Call::woken : Call::nobody;
  }

  bool wake_one_of(std::size_t word, std::uint64_t state) noexcept {
    while (sleepers(state) != 0) {
      const auto bit = static_cast<unsigned>(std::countr_zero(sleepers(state)));
      const auto slot = static_cast<std::uint16_t>(word * shm::kIdleSlots + bit);
      const std::uint64_t next = (state & ~sleeper(slot)) | comer(slot);
      // Whoever clears the bit wakes.
      if (all(word).state.compare_exchange_strong(state, next, std::memory_order_relaxed)) {
        ring(slot);
        return true;
      }
    }
    return false;
  }

  static std::uint32_t looker(std::uint16_t slot) noexcept {
    return std::uint32_t{1} << (slot % shm::kIdleSlots);
  }
  static std::uint64_t sleeper(std::uint16_t slot) noexcept { return looker(slot); }
  static std::uint64_t comer(std::uint16_t slot) noexcept {
    return sleeper(slot) << shm::kIdleSlots;
  }
  static std::uint32_t sleepers(std::uint64_t state) noexcept {
    return static_cast<std::uint32_t>(state);
  }
  [[nodiscard]] shm::IdleBits& all(std::size_t word) const noexcept {
    return view_.shared().idle[word];
  }
  [[nodiscard]] shm::IdleBits& bits(std::uint16_t slot) const noexcept {
    return all(slot / shm::kIdleSlots);
  }

  PoolView view_;
  std::size_t words_ = 1;
  int processors_ = 1;
};

}  // namespace brood::pool
