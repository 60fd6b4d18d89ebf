#include "sys/poll.hpp"

#include <poll.h>
#include <time.h>

#include <algorithm>
#include <cstddef>

#include "sys/clock.hpp"
#include "sys/futex.hpp"
#include "sys/syscall.hpp"

namespace brood::sys {

static_assert(sizeof(PollEntry) == sizeof(pollfd) && offsetof(PollEntry, wanted) == 4 &&
              offsetof(PollEntry, seen) == 6);
static_assert(POLLIN == 1 && POLLNVAL == 0x20);

int poll(std::span<PollEntry> entries, std::int64_t deadline_ns,
         const std::uint64_t* mask) noexcept {
  timespec limit{};
  const bool limited = deadline_ns != kForever;
  if (limited) {
    const std::int64_t left = std::max<std::int64_t>(deadline_ns - now_ns(), 0);
    limit.tv_sec = left / 1'000'000'000;
    limit.tv_nsec = left % 1'000'000'000;
  }
  return static_cast<int>(call(SYS_ppoll, entries.data(), entries.size(),
                               limited ? &limit : nullptr, mask, mask != nullptr ? 8 : 0));
}

}  // namespace brood::sys
