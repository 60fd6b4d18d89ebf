#include "pool/supervisor/tenants.hpp"

#include <algorithm>
#include <utility>

#include "sys/process.hpp"

namespace brood::pool {

Tenant& Tenants::move_in(shm::OwnerId id, std::int32_t pid, sys::Fd pidfd) noexcept {
  top_slot_ = std::max(top_slot_, static_cast<std::uint16_t>(id.slot + 1));
  Tenant& tenant = in(id.slot);
  tenant = Tenant{};
  tenant.state = TenantState::starting;
  tenant.pid = pid;
  tenant.id = id;
  tenant.pidfd = std::move(pidfd);
  return tenant;
}

std::size_t Tenants::count() const noexcept {
  return static_cast<std::size_t>(std::ranges::distance(in_use()));
}

Tenant* Tenants::find(int pid) noexcept {
  for (Tenant& tenant : in_use()) {
    if (tenant.pid == pid) return &tenant;
  }
  return nullptr;
}

bool Tenants::knows(shm::OwnerId id) const noexcept {
  const Tenant& tenant = all_[id.slot];
  return tenant.used() && tenant.id == id;
}

std::uint16_t Tenants::free_slot() const noexcept {
  for (std::uint16_t slot = shm::kFirstWorkerSlot; slot < slots_; ++slot) {
    if (!is_used(slot)) return slot;
  }
  return 0;
}

void Tenants::signal(int signal) const noexcept {
  for (const Tenant& tenant : in_use()) sys::send_signal(tenant.pidfd.get(), signal);
}

void Tenants::ring(IdleWorkers& idle) const noexcept {
  for (const Tenant& tenant : in_use()) idle.ring(tenant.id.slot);
}

}  // namespace brood::pool
