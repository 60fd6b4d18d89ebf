// A pool's segment as its caller makes it.
#pragma once

#include <cstddef>

#include "pool/protocol/view.hpp"
#include "shm/segment.hpp"

namespace brood::pool {

// Address space for a pool.
struct SegmentSize {
  std::size_t tasks = 0;
  std::size_t payload_bytes = 0;  // of each of its two arenas
};

// Threads: the one that makes the pool. Blocking: never. Ownership: of the segment, which lives as
// long as somebody may look at a task. Death: of the caller leaves nothing: the segment has no
// name.
struct PoolMemory {
  shm::Segment segment;
  SegmentSize size;
  PoolView view;
  std::size_t arena_limit_bytes = 0;

  // As large as the system lets it be, with the caller and a supervisor to come among its owners.
  // Throws SystemError, ArenaFull.
  static PoolMemory make(std::size_t workers);
};

}  // namespace brood::pool
