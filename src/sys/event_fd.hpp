// A descriptor of this process's own that is readable when we say so.
#pragma once

namespace brood::sys {

// Not readable at first; close-on-exec. The descriptor or -errno.
int open_event() noexcept;
void set_event(int fd) noexcept;
void clear_event(int fd) noexcept;

}  // namespace brood::sys
