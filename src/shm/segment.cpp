#include "shm/segment.hpp"

#include <string>
#include <system_error>
#include <utility>

#include "brood/error.hpp"
#include "sys/syscall.hpp"

namespace brood::shm {

Segment::Segment(const char* name, std::size_t bytes)
    : fd_(static_cast<int>(sys::require(sys::create_memory_file(name, round_to_pages(bytes)),
                                        "creating a shared memory segment"))) {
  sys::require(mapping_.map(fd_.get(), round_to_pages(bytes)), "mapping a shared memory segment");
}

Segment::Segment(sys::Fd file, std::size_t bytes) : fd_(std::move(file)) {
  sys::require(mapping_.map(fd_.get(), round_to_pages(bytes)), "mapping a shared memory segment");
}

void Segment::reserve(std::size_t offset, std::size_t bytes) const {
  const int error = sys::reserve_extent(fd_.get(), offset, round_to_pages(bytes));
  if (error < 0) {
    throw ArenaFull("the system has no more shared memory (" +
                    std::generic_category().message(-error) + ")");
  }
}

}  // namespace brood::shm
