// The one door to the kernel. Every system call of brood passes through sys::call, which tests may
// replace to make any call fail.
//
// One convention for results, as the kernel's own: >= 0 is the value, < 0 is -errno. Nothing in
// src/sys throws or allocates except where a declaration says so, so that all of it may be used in
// a process that was just forked from a program with threads, and in signal handlers.
// EINTR is handled here once: calls that can simply be made again are; waits with a time limit
// are continued with what is left of it.
#pragma once

#include <sys/syscall.h>

#include <cerrno>
#include <concepts>
#include <cstdint>

namespace brood::sys {

// A stand-in for the kernel: call number and six arguments; returns the value or -errno.
using KernelFn = long (*)(long nr, long a, long b, long c, long d, long e, long f) noexcept;

// The real kernel.
long kernel(long nr, long a, long b, long c, long d, long e, long f) noexcept;

// Puts `fn` in the kernel's place for this process and its later children; returns what was there.
// Only for tests: not synchronised with calls under way.
KernelFn replace_kernel(KernelFn fn) noexcept;

namespace detail {
extern KernelFn current_kernel;

template <class T>
long word(T value) noexcept {
  if constexpr (std::is_pointer_v<T> || std::is_null_pointer_v<T>) {
    return reinterpret_cast<long>(static_cast<const volatile void*>(value));
  } else {
    return static_cast<long>(value);
  }
}
}  // namespace detail

template <class... Args>
long call(long nr, Args... args) noexcept {
  static_assert(sizeof...(Args) <= 6);
  long a[6] = {detail::word(args)...};
  return detail::current_kernel(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
}

// For calls that did nothing when interrupted.
template <class... Args>
long call_restarting(long nr, Args... args) noexcept {
  for (;;) {
    const long result = call(nr, args...);
    if (result != -EINTR) return result;
  }
}

// Throws SystemError naming `doing` if `result` is an error, returns it otherwise.
long require(long result, const char* doing);

}  // namespace brood::sys
