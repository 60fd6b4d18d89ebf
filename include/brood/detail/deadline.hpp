// Any duration and any moment as a deadline.
#pragma once

#include <chrono>

#include "brood/detail/pool_core.hpp"

namespace brood::detail {

// So long from now; what is longer than 292 years is for ever.
template <class Rep, class Period>
DeadlineNs deadline_in(const std::chrono::duration<Rep, Period>& duration) noexcept {
  using Seconds = std::chrono::duration<double>;
  if (Seconds(duration) >= Seconds(std::chrono::nanoseconds::max())) return kNoDeadline;
  return deadline_after(std::chrono::ceil<std::chrono::nanoseconds>(duration));
}

template <class Clock, class Duration>
DeadlineNs deadline_at(const std::chrono::time_point<Clock, Duration>& moment) {
  const auto now = Clock::now();
  // What is long past must not overflow.
  if (moment <= now) return deadline_in(Duration::zero());
  return deadline_in(moment - now);
}

}  // namespace brood::detail
