// How a caller ends its pool: it gives orders, waits for the supervisor's end, and has everything
// killed if that does not come.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "brood/detail/pool_core.hpp"
#include "pool/caller/maker.hpp"
#include "pool/caller/pool_life.hpp"
#include "pool/protocol/view.hpp"

namespace brood::pool {

// Threads: any. Blocking: join_until(), shutdown() and end(), as long as they say. Ownership: none;
// what it is given must outlive it. Errors: as PoolCore. In another process than the pool's, orders
// do nothing.
// Death: of the supervisor ends the pool; the warden ends what is left.
class PoolEnd {
 public:
  PoolEnd(const PoolView& view, const Maker& maker, PoolLife& life) noexcept
      : view_(view), maker_(maker), life_(life) {}

  void close() noexcept { raise_order(shm::PoolOrder::drain); }
  void terminate() noexcept;

  // Whether all of it has ended. Throws Error if nobody has ordered that.
  bool join_until(detail::DeadlineNs deadline);
  // Whether it has ended by itself.
  bool shutdown(detail::DeadlineNs drain, std::chrono::nanoseconds term);
  // All that has to be done at once, bounded.
  void end() noexcept;

 private:
  void raise_order(shm::PoolOrder to) noexcept;
  void order_termination(std::chrono::milliseconds term) noexcept;
  bool has_ended_now(long ended);
  bool ends_within(std::int64_t limit_ns);
  [[nodiscard]] std::string living_workers() const;

  PoolView view_;
  const Maker& maker_;
  PoolLife& life_;
};

}  // namespace brood::pool
