// A lock for what a process keeps to itself and a child may inherit half-used.
#pragma once

#include <atomic>
#include <cstdint>

#include "sys/clock.hpp"
#include "sys/identity.hpp"

namespace brood::sys {

// A fork can't leave it locked for ever: its word names the process of its holder, so that what a
// child copied from a locking thread counts as free. What it protects has to make sense at every
// instruction of the holder. Held for moments only, since waiters do not sleep.
class ProcessMutex {
 public:
  constexpr ProcessMutex() noexcept = default;
  ProcessMutex(const ProcessMutex&) = delete;
  ProcessMutex& operator=(const ProcessMutex&) = delete;

  void lock() noexcept {
    const std::uint64_t self = process_token();
    for (;;) {
      std::uint64_t holder = holder_.load(std::memory_order_relaxed);
      const bool free = holder != self;  // 0, or copied from a parent
      if (free && holder_.compare_exchange_weak(holder, self, std::memory_order_acquire)) return;
      yield();
    }
  }
  void unlock() noexcept { holder_.store(0, std::memory_order_release); }

 private:
  std::atomic<std::uint64_t> holder_{0};
};

}  // namespace brood::sys
