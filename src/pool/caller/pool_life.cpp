#include "pool/caller/pool_life.hpp"

#include <utility>

#include "brood/error.hpp"
#include "pool/caller/setup_failure.hpp"
#include "sys/process.hpp"

namespace brood::pool {

using shm::PoolCondition;

PoolLife::PoolLife(const PoolView& view, const warden::Family& family, sys::Fd supervisor,
                   std::uint64_t memory_limit_bytes) noexcept
    : view_(view),
      family_(family),
      memory_limit_bytes_(memory_limit_bytes),
      supervisor_pidfd_(std::move(supervisor)) {}

void PoolLife::refuse_closed() { throw PoolClosed("brood: the pool is closed; make a new one"); }

std::exception_ptr PoolLife::failure_told(PoolCondition told) const {
  switch (told) {
    case PoolCondition::ended:
      return std::make_exception_ptr(PoolClosed("brood: the pool ended before this task did"));
    case PoolCondition::broken_startup:
      return std::make_exception_ptr(BrokenPool(
          "brood: the workers die before they are ready to work; look at their messages"));
    case PoolCondition::broken_family:
      return failure_without_warden();
    case PoolCondition::broken_setup:
      return setup_failure(view_, memory_limit_bytes_);
    default:
      return nullptr;
  }
}

std::exception_ptr PoolLife::failure_without_warden() {
  return std::make_exception_ptr(
      FamilyBroken("brood: the warden of this family of processes was killed"));
}

std::exception_ptr PoolLife::failure_without_supervisor() {
  return std::make_exception_ptr(BrokenPool("brood: the pool's supervisor was killed"));
}

bool PoolLife::reap_if_ended() noexcept {
  if (sys::has_ended(supervisor_pidfd_.get(), 0) != 1) return false;
  reap();
  return true;
}

void PoolLife::reap() noexcept {
  sys::ExitStatus status;
  sys::reap(supervisor_pidfd_.get(), status);
  supervisor_gone_.store(true, std::memory_order_release);
}

}  // namespace brood::pool
