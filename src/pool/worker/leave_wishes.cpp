#include "pool/worker/leave_wishes.hpp"

#include "sys/process.hpp"
#include "sys/procfs.hpp"

namespace brood::pool {

std::uint64_t LeaveWishes::own_memory() noexcept {
  return sys::own_memory_of(sys::process_id()).value_or(0);
}

bool LeaveWishes::has_grown(std::int64_t now) noexcept {
  memory_looked_at_ = now;
  return own_memory() > memory_at_start_ + setup_.recycle_above_bytes;
}

}  // namespace brood::pool
