// A segment: one memory file, mapped as a whole. Never named, so nothing of it can be left behind;
// sparse, so its size is address space and not memory.
#pragma once

#include <cstddef>

#include "sys/fd.hpp"
#include "sys/memory.hpp"

namespace brood::shm {

class Segment {
 public:
  Segment() noexcept = default;
  // Address space only: see reserve(). Throws SystemError.
  Segment(const char* name, std::size_t bytes);
  // Maps one that another process made. Throws SystemError.
  Segment(sys::Fd file, std::size_t bytes);

  [[nodiscard]] std::byte* base() const noexcept { return mapping_.data(); }
  [[nodiscard]] std::size_t size() const noexcept { return mapping_.size(); }
  [[nodiscard]] int fd() const noexcept { return fd_.get(); }
  [[nodiscard]] sys::Fd& file() noexcept { return fd_; }

  // Takes memory for a range before its first use. Throws ArenaFull.
  void reserve(std::size_t offset, std::size_t bytes) const;

 private:
  sys::Fd fd_;
  sys::Mapping mapping_;
};

// `bytes` rounded up to whole pages.
constexpr std::size_t round_to_pages(std::size_t bytes) noexcept {
  return (bytes + sys::kPageBytes - 1) & ~(sys::kPageBytes - 1);
}

}  // namespace brood::shm
