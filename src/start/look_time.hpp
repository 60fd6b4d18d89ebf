// How long to look for something before sleeping.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace brood::start {

// A sleeper costs its waker a system call and both some microseconds; a looker costs a processor.
// So one looks as long as waits have lately been short enough for looking to end them: the time
// doubles after a wait that was, and halves after one that was not, however it ended.
//
// Threads: any; they share what they learn. Blocking: never. Errors, Ownership, Death: none.
class LookTime {
 public:
  [[nodiscard]] std::int64_t ns() const noexcept { return ns_.load(std::memory_order_relaxed); }

  void learn(std::int64_t waited_ns) noexcept {
    const std::int64_t now = ns();
    const std::int64_t next =
        waited_ns < kMostNs ? std::min(now * 2, kMostNs) : std::max(now / 2, kLeastNs);
    if (next != now) ns_.store(next, std::memory_order_relaxed);
  }

 private:
  static constexpr std::int64_t kMostNs = 50'000;
  static constexpr std::int64_t kLeastNs = 500;
  std::atomic<std::int64_t> ns_{kMostNs};
};

}  // namespace brood::start
