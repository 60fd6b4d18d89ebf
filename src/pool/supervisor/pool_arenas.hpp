// A pool's arenas as its supervisor has them.
#pragma once

#include <cstdint>

#include "pool/protocol/supervisor_start.hpp"
#include "pool/protocol/view.hpp"
#include "shm/arena.hpp"

namespace brood::pool {

// Gives the memory that they have not needed for a while back to the system.
//
// Threads: one, the supervisor's. Blocking: never. Ownership: none; the view's mapping must outlive
// it. Errors: none. Uses no heap.
// Death: of others is the arenas' own matter. Of the supervisor ends the pool.
class PoolArenas {
 public:
  explicit PoolArenas(const SupervisorStart& start) noexcept;

  // Of results, and of what the supervisor tells of deaths.
  [[nodiscard]] shm::Arena& outbox() noexcept { return outbox_; }

  // Now and then, until nothing is left to give back.
  void trim(std::int64_t now) noexcept;
  // When it is to be called next without being asked.
  [[nodiscard]] std::int64_t next_trim_ns(std::int64_t now) const noexcept;

 private:
  PoolView view_;
  shm::Arena inbox_;
  shm::Arena outbox_;
  std::int64_t next_trim_ns_ = 0;
  int quiet_trims_ = 0;
};

}  // namespace brood::pool
