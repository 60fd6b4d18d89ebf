// How long things took, as counts of how often it was about so long.
#pragma once

#include "brood/detail/cpp20.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdint>

namespace brood {

// Four steps for each doubling, so that a time is known to within a fifth; up to 36 minutes.
//
//   Threads:   a value.
//   Blocking:  never.
//   Ownership: of its counts.
//   Errors:    none.
//   Death:     of workers: nothing here depends on one.
class LatencyHistogram {
 public:
  static constexpr std::size_t kSteps = 160;

  // The step that a time belongs to, and where a step begins.
  [[nodiscard]] static constexpr std::size_t step_of(std::chrono::nanoseconds time) noexcept {
    const auto ns = static_cast<std::uint64_t>(std::max<std::int64_t>(time.count(), 0));
    if (ns < 4) return static_cast<std::size_t>(ns);
    const auto exponent = static_cast<std::size_t>(std::bit_width(ns)) - 1;
    const auto quarter = static_cast<std::size_t>(ns >> (exponent - 2)) & 3U;
    return std::min((exponent - 1) * 4 + quarter, kSteps - 1);
  }
  [[nodiscard]] static constexpr std::chrono::nanoseconds begin_of(std::size_t step) noexcept {
    if (step < 4) return std::chrono::nanoseconds(step);
    return std::chrono::nanoseconds((std::int64_t{4} + static_cast<std::int64_t>(step % 4))
                                    << (step / 4 - 1));
  }

  [[nodiscard]] std::uint64_t count() const noexcept {
    std::uint64_t sum = 0;
    for (const std::uint64_t n : counts) sum += n;
    return sum;
  }

  // A time that `share` (0 ... 1) of all were not above, as the end of its step: 0.5 is the median.
  // 0 if nothing was counted.
  [[nodiscard]] std::chrono::nanoseconds percentile(double share) const noexcept {
    const auto all = static_cast<double>(count());
    std::uint64_t seen = 0;
    for (std::size_t step = 0; step < kSteps && all > 0; ++step) {
      seen += counts[step];
      if (counts[step] != 0 && static_cast<double>(seen) >= share * all) return begin_of(step + 1);
    }
    return {};
  }

  std::array<std::uint64_t, kSteps> counts{};
};

}  // namespace brood
