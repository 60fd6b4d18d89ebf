// A pool's segment without a pool: for participants that are threads.
#pragma once

#include <cstddef>

#include "pool/protocol/view.hpp"
#include "shm/segment.hpp"

namespace brood::test {

struct SharedPool {
  static constexpr std::size_t kTasks = std::size_t{1} << 14;
  static constexpr std::size_t kPayloadBytes = std::size_t{1} << 25;
  static constexpr std::size_t kLimitBytes = std::size_t{1} << 24;

  explicit SharedPool(std::size_t workers)
      : geometry(pool::PoolGeometry::make(kTasks, workers, kPayloadBytes)),
        segment("brood:threads", geometry.end) {
    for (const pool::Zone& zone :
         {geometry.caller_header, geometry.supervisor_header, geometry.owners, geometry.entries,
          geometry.retry_ring, geometry.shared_header, geometry.lives, geometry.desks}) {
      segment.reserve(zone.offset, zone.bytes);
    }
  }

  // Each participant has its own.
  [[nodiscard]] pool::PoolView view() const { return {segment.base(), geometry}; }

  pool::PoolGeometry geometry;
  shm::Segment segment;
};

}  // namespace brood::test
