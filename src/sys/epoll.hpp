// Waiting for many descriptors.
#pragma once

#include <cstdint>
#include <span>

#include "sys/fd.hpp"

namespace brood::sys {

// A set of descriptors that become readable, each with a number of the caller's choice. A closed
// descriptor leaves the set by itself.
class ReadableSet {
 public:
  // 0 or -errno.
  int open() noexcept;
  int add(int fd, std::uint64_t tag) noexcept;
  int remove(int fd) noexcept;
  // Fills `tags` with those of readable descriptors; waits until deadline_ns (now_ns()).
  // Returns how many; 0: time is up or a signal handler ran.
  int wait(std::span<std::uint64_t> tags, std::int64_t deadline_ns) noexcept;
  [[nodiscard]] int fd() const noexcept { return set_.get(); }

 private:
  Fd set_;
};

}  // namespace brood::sys
