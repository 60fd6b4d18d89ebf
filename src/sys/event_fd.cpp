#include "sys/event_fd.hpp"

#include <sys/eventfd.h>

#include <cstdint>

#include "sys/fd.hpp"
#include "sys/syscall.hpp"

namespace brood::sys {

int open_event() noexcept {
  return above_streams(static_cast<int>(call(SYS_eventfd2, 0, EFD_CLOEXEC | EFD_NONBLOCK)));
}

void set_event(int fd) noexcept {
  const std::uint64_t one = 1;
  call(SYS_write, fd, &one, sizeof one);
}

void clear_event(int fd) noexcept {
  std::uint64_t count = 0;
  call(SYS_read, fd, &count, sizeof count);
}

}  // namespace brood::sys
