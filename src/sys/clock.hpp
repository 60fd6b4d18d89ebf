// Monotonic time.
#pragma once

#include <cstdint>

namespace brood::sys {

// CLOCK_MONOTONIC in nanoseconds; the clock of std::chrono::steady_clock.
std::int64_t now_ns() noexcept;

// Who sleeps until another process wakes it looks up so often by itself: the other may be gone.
inline constexpr std::int64_t kLookUpNs = 200'000'000;

// Lets another runnable process have this processor.
void yield() noexcept;

// Busy-wait hint for the processor.
inline void cpu_relax() noexcept {
#if defined(BROOD_ATOMICS)
  yield();  // where schedules are chosen, somebody else has to go on
#elif defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Sleeps at least `ns` nanoseconds unless a signal handler ran.
void sleep_ns(std::int64_t ns) noexcept;

}  // namespace brood::sys
