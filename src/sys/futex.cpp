#include "sys/futex.hpp"

#include <linux/futex.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>

#include "sys/syscall.hpp"

namespace brood::sys {

static_assert(FutexWord::is_always_lock_free && sizeof(FutexWord) == 4);
static_assert(kFutexTidMask == FUTEX_TID_MASK && kFutexOwnerDied == FUTEX_OWNER_DIED &&
              kFutexWaiters == FUTEX_WAITERS);
static_assert(offsetof(RobustWord, next) == 32 && sizeof(RobustWord) == 40);

namespace {

timespec to_timespec(std::int64_t ns) noexcept {
  timespec t{};
  t.tv_sec = ns / 1'000'000'000;
  t.tv_nsec = ns % 1'000'000'000;
  return t;
}

}  // namespace

int futex_wait(const void* word, std::uint32_t expected, std::int64_t deadline_ns) noexcept {
  // FUTEX_WAIT_BITSET, because its time limit is absolute.
  const timespec limit = to_timespec(deadline_ns);
  return static_cast<int>(call(SYS_futex, word, FUTEX_WAIT_BITSET, expected,
                               deadline_ns == kForever ? nullptr : &limit, nullptr,
                               FUTEX_BITSET_MATCH_ANY));
}

int futex_wake(const void* word, int count) noexcept {
  return static_cast<int>(call(SYS_futex, word, FUTEX_WAKE, count, nullptr, nullptr, 0));
}

int futex_wait_any(std::span<const FutexWaiter> waiters, std::int64_t deadline_ns) noexcept {
  futex_waitv list[kMaxFutexWaiters];
  const std::size_t count = std::min(waiters.size(), kMaxFutexWaiters);
  for (std::size_t i = 0; i < count; ++i) {
    list[i] = {};
    list[i].val = waiters[i].expected;
    list[i].uaddr = reinterpret_cast<std::uintptr_t>(waiters[i].word);
    list[i].flags = FUTEX_32;
  }
  const timespec limit = to_timespec(deadline_ns);
  return static_cast<int>(call(SYS_futex_waitv, list, count, 0,
                               deadline_ns == kForever ? nullptr : &limit, CLOCK_MONOTONIC));
}

int hold_until_death(RobustWord& life) noexcept {
  robust_list_head* head = nullptr;
  std::size_t length = 0;
  const long result = call(SYS_get_robust_list, 0, &head, &length);
  if (result < 0) return static_cast<int>(result);
  if (head == nullptr || length != sizeof(robust_list_head)) return -ENOSYS;
  // The list gives one distance from entry to word for all entries; ours is laid out for glibc's.
  const long distance =
      static_cast<long>(offsetof(RobustWord, word)) - static_cast<long>(offsetof(RobustWord, next));
  if (head->futex_offset != distance) return -ENOSYS;
  life.word.store(static_cast<std::uint32_t>(call(SYS_gettid)) | kFutexWaiters,
                  std::memory_order_relaxed);
  auto* entry = reinterpret_cast<robust_list*>(&life.next);
  auto* second = head->list.next;
  life.previous = head;
  life.next = second;
  // glibc keeps its entries doubly linked: the pointer before an entry's `next` leads backwards.
  if (second != &head->list) reinterpret_cast<void**>(second)[-1] = entry;
  asm volatile("" ::: "memory");
  head->list.next = entry;
  return 0;
}

}  // namespace brood::sys
