// Waiting for a few descriptors.
#pragma once

#include <cstdint>
#include <span>

namespace brood::sys {

// One descriptor to look at; as the kernel's pollfd. A negative one is passed over.
struct PollEntry {
  int fd = -1;
  short wanted = 1;  // readable
  short seen = 0;

  [[nodiscard]] bool readable() const noexcept { return (seen & 1) != 0; }
  // It is readable, or never will be again.
  [[nodiscard]] bool ready() const noexcept { return seen != 0 && !invalid(); }
  // It is no open descriptor.
  [[nodiscard]] bool invalid() const noexcept { return (seen & 0x20) != 0; }
};

// Fills in what was seen of each; waits until one of them has something, or deadline_ns (now_ns()).
// Meanwhile the thread has `mask` for its signal mask, if given; exchanged in one step with the
// wait, so that no signal falls between. How many have something (0: time is up), or -errno
// (-EINTR: a signal handler ran).
int poll(std::span<PollEntry> entries, std::int64_t deadline_ns,
         const std::uint64_t* mask = nullptr) noexcept;

}  // namespace brood::sys
