#include "pool/supervisor/audit.hpp"

namespace brood::pool {

void Audit::run() noexcept {
  settler_.audit(
      [](shm::OwnerId owner, const void* tenants) {
        return static_cast<const Tenants*>(tenants)->knows(owner);
      },
      &tenants_);
  idle_.keep_only([this](std::uint16_t slot) { return tenants_.is_used(slot); });
  view_.supervisor().hint_epoch.fetch_add(1, std::memory_order_release);
  tenants_.ring(idle_);
}

void Audit::run_if_asked() noexcept {
  const std::uint32_t doubts = view_.caller().doubts.load(std::memory_order_acquire);
  if (doubts == answered_) return;
  answered_ = doubts;
  run();
}

}  // namespace brood::pool
