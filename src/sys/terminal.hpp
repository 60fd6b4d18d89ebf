// The terminal, if there is one.
#pragma once

namespace brood::sys {

// How wide the terminal behind `fd` is, in characters; 0: it is none, or does not know.
int terminal_columns(int fd) noexcept;

}  // namespace brood::sys
