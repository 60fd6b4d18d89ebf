// Waiting in tests: bounded, and patient where the machine or the build is slow.
#pragma once

#include <algorithm>
#include <chrono>
#include <concepts>
#include <cstdint>
#include <thread>

namespace brood::test {

#ifdef BROOD_SANITIZED
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

// By how much everything may take longer under sanitizers.
inline constexpr int kSlowness = kSanitized ? 4 : 1;

// Nothing may take so long: what is still going on then hangs.
inline constexpr std::chrono::nanoseconds kHangGuard = std::chrono::seconds(30) * kSlowness;

// What DESIGN promises within one second, tests grant five.
inline constexpr std::chrono::nanoseconds kPromisedSecond = std::chrono::seconds(5) * kSlowness;

class Deadline {
 public:
  explicit Deadline(std::chrono::nanoseconds limit)
      : end_(std::chrono::steady_clock::now() + limit) {}
  [[nodiscard]] bool passed() const { return std::chrono::steady_clock::now() >= end_; }
  [[nodiscard]] std::chrono::nanoseconds left() const {
    return std::max<std::chrono::nanoseconds>(end_ - std::chrono::steady_clock::now(),
                                              std::chrono::nanoseconds(0));
  }

 private:
  std::chrono::steady_clock::time_point end_;
};

// Whether `predicate` came true in time; looks at it every so often.
template <std::predicate Predicate>
bool wait_until(Predicate&& predicate, std::chrono::nanoseconds guard = kHangGuard) {
  const Deadline deadline(guard);
  auto pause = std::chrono::microseconds(50);
  for (;;) {
    if (predicate()) return true;
    if (deadline.passed()) return predicate();
    std::this_thread::sleep_for(pause);
    if (pause < std::chrono::milliseconds(5)) pause *= 2;
  }
}

// For what is tried in samples: the same all day, so that a failure can be looked at.
inline std::uint64_t seed_of_the_day() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::hours>(now).count()) /
         24;
}

}  // namespace brood::test
