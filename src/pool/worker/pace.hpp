// Whether the tasks of one worker have lately been short.
#pragma once

#include <cstdint>

#include "sys/clock.hpp"

namespace brood::pool {

// By the clock, which is read once for many tasks. Two long rounds in a row are believed, not one:
// the worker may just have lost its processor.
//
// Threads: one. Blocking: never. Ownership, Errors, Death: none.
class Pace {
 public:
  // What is believed until there is a first round.
  explicit Pace(bool brisk = false) noexcept : brisk_(brisk) {}

  [[nodiscard]] bool is_brisk() const noexcept { return brisk_; }

  // A task is taken. True: is_brisk() has changed.
  bool count_task() noexcept {
    if (++tasks_ < kTasks) [[likely]]
      return false;
    const std::int64_t now = sys::now_ns();
    const bool is_short = busy_ns_ + (now - since_ns_) < kTasks * kShortNs;
    start_round(now);
    const bool was_brisk = brisk_;
    long_rounds_ = is_short ? 0 : long_rounds_ + 1;
    brisk_ = is_short || (brisk_ && long_rounds_ < 2);
    return brisk_ != was_brisk;
  }

  // There is nothing to do from `now`, ...
  void pause(std::int64_t now) noexcept { busy_ns_ += now - since_ns_; }
  // ... and may be something again.
  void resume(std::int64_t now) noexcept { since_ns_ = now; }

 private:
  // Waking a worker takes as long, of its waker and of itself together.
  static constexpr std::int64_t kShortNs = 5'000;
  static constexpr int kTasks = 16;

  void start_round(std::int64_t now) noexcept {
    tasks_ = 0;
    busy_ns_ = 0;
    since_ns_ = now;
  }

  int tasks_ = 0;  // of this round
  std::int64_t busy_ns_ = 0;
  std::int64_t since_ns_ = 0;  // so the first round, in which all is cold, is a long one
  int long_rounds_ = 0;
  bool brisk_;
};

}  // namespace brood::pool
