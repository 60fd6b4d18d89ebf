// Waiting on words in shared memory.
#pragma once

#include <cstdint>
#include <span>

#include "sys/atomic.hpp"

namespace brood::sys {

using FutexWord = Atomic<std::uint32_t>;

// A limit for waits: a moment of now_ns().
inline constexpr std::int64_t kForever = INT64_MAX;

// Words are given by address: the kernel reads four bytes there, which may be half of something.
//
// Sleeps while `word` holds `expected`, until woken or `deadline_ns` (absolute, now_ns()).
// 0: woken, perhaps for no reason; -EAGAIN: it held another value; -ETIMEDOUT;
// -EINTR: a signal handler ran.
int futex_wait(const void* word, std::uint32_t expected, std::int64_t deadline_ns) noexcept;

// Wakes up to `count` sleepers; returns how many, or -errno.
int futex_wake(const void* word, int count) noexcept;
inline constexpr int kWakeAll = INT32_MAX;

// One of several words to wait on.
struct FutexWaiter {
  const FutexWord* word;
  std::uint32_t expected;
};
inline constexpr std::size_t kMaxFutexWaiters = 128;  // the kernel's limit

// Like futex_wait on up to kMaxFutexWaiters words at once. 0 or more: the index of a woken one.
// -ENOSYS before Linux 5.16.
int futex_wait_any(std::span<const FutexWaiter> waiters, std::int64_t deadline_ns) noexcept;

// Bits that the kernel knows in a robust word: who holds it, that it died, that someone waits.
inline constexpr std::uint32_t kFutexTidMask = 0x3fffffff;
inline constexpr std::uint32_t kFutexOwnerDied = 0x40000000;
inline constexpr std::uint32_t kFutexWaiters = 0x80000000;

// Where a robust word lies in shared memory, with the room that the C library's list of robust
// mutexes needs next to it. The pointers are written by the process that owns the word and read by
// the kernel when that process dies; no code of ours follows them.
struct RobustWord {
  FutexWord word;  // 0: free, else the owner's thread id; the kernel adds kFutexOwnerDied
  FutexWord note;  // its owner's, for whatever it has to say; the kernel does not look at it
  std::uint32_t reserved[4];
  void* previous;
  void* next;
};

// Makes the calling thread the owner of `life` until its death, when the kernel marks the word and
// wakes one waiter within about 0.1 ms, however much memory the process has. Joins the thread's
// list of robust mutexes, so these go on working. 0 or -errno.
int hold_until_death(RobustWord& life) noexcept;

}  // namespace brood::sys
