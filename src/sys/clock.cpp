#include "sys/clock.hpp"

#include <time.h>

#include "sys/syscall.hpp"

namespace brood::sys {

std::int64_t now_ns() noexcept {
  // By libc: it reads the clock in the vDSO without entering the kernel.
  timespec t{};
  ::clock_gettime(CLOCK_MONOTONIC, &t);
  return std::int64_t{t.tv_sec} * 1'000'000'000 + t.tv_nsec;
}

void yield() noexcept { call(SYS_sched_yield); }

void sleep_ns(std::int64_t ns) noexcept {
  timespec t{};
  t.tv_sec = ns / 1'000'000'000;
  t.tv_nsec = ns % 1'000'000'000;
  call(SYS_nanosleep, &t, nullptr);
}

}  // namespace brood::sys
