#include "sys/epoll.hpp"

#include <sys/epoll.h>

#include <algorithm>
#include <climits>

#include "sys/clock.hpp"
#include "sys/futex.hpp"
#include "sys/syscall.hpp"

namespace brood::sys {

int ReadableSet::open() noexcept {
  const int fd = above_streams(static_cast<int>(call(SYS_epoll_create1, EPOLL_CLOEXEC)));
  if (fd < 0) return fd;
  set_.reset(fd);
  return 0;
}

int ReadableSet::add(int fd, std::uint64_t tag) noexcept {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = tag;
  return static_cast<int>(call(SYS_epoll_ctl, set_.get(), EPOLL_CTL_ADD, fd, &event));
}

int ReadableSet::remove(int fd) noexcept {
  epoll_event event{};
  return static_cast<int>(call(SYS_epoll_ctl, set_.get(), EPOLL_CTL_DEL, fd, &event));
}

int ReadableSet::wait(std::span<std::uint64_t> tags, std::int64_t deadline_ns) noexcept {
  constexpr std::size_t kBatch = 32;
  epoll_event events[kBatch];
  int timeout_ms = -1;
  if (deadline_ns != kForever) {
    const std::int64_t left = std::max<std::int64_t>(deadline_ns - now_ns(), 0);
    timeout_ms = static_cast<int>(std::min<std::int64_t>((left + 999'999) / 1'000'000, INT_MAX));
  }
  const long count = call(SYS_epoll_pwait, set_.get(), events, std::min(tags.size(), kBatch),
                          timeout_ms, nullptr, 0);
  for (long i = 0; i < count; ++i) tags[static_cast<std::size_t>(i)] = events[i].data.u64;
  return static_cast<int>(std::max(count, 0L));
}

}  // namespace brood::sys
