#include "sys/terminal.hpp"

#include <sys/ioctl.h>
#include <sys/syscall.h>

#include "sys/syscall.hpp"

namespace brood::sys {

int terminal_columns(int fd) noexcept {
  winsize size{};
  if (call(SYS_ioctl, fd, TIOCGWINSZ, &size) < 0) return 0;
  return size.ws_col;
}

}  // namespace brood::sys
