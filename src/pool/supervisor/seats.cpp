#include "pool/supervisor/seats.hpp"

#include <algorithm>

#include "pool/protocol/dormancy.hpp"
#include "pool/protocol/worker_setup.hpp"

namespace brood::pool {

using shm::LeaveWish;
using shm::WorkerRole;

Seats::Seats(const SupervisorStart& start, Tenants& tenants, Settler& settler, IdleWorkers& idle,
             WaitingTasks& waiting) noexcept
    : view_(start.view),
      min_workers_(start.setup->min_workers),
      capacity_(std::max<std::uint32_t>(start.workers, kLeastCapacity)),
      tenants_(tenants),
      settler_(settler),
      idle_(idle),
      waiting_(waiting),
      count_(start.workers) {}

void Seats::take(Tenant& tenant, std::uint32_t index) noexcept {
  Seat& seat = seats_[index];
  const std::uint16_t slot = tenant.id.slot;
  if (seat.ever_held) ++seat.restarts;
  seat.ever_held = true;
  seat.slot = slot;
  tenant.index = index;
  shm::WorkerEntry& entry = view_.entry(slot);
  entry.index.store(index, std::memory_order_relaxed);
  entry.restarts.store(seat.restarts, std::memory_order_relaxed);
  entry.role.store(WorkerRole::active, std::memory_order_seq_cst);
  idle_.ring(slot);
}

bool Seats::promote_spare(std::uint32_t index) noexcept {
  if (!has_spare()) return false;
  take(tenants_.in(spare_), index);
  spare_ = 0;
  return true;
}

void Seats::vacate(const Tenant& tenant) noexcept {
  const std::uint16_t slot = tenant.id.slot;
  if (spare_ == slot) spare_ = 0;
  if (tenant.index != kNoIndex && seats_[tenant.index].slot == slot) seats_[tenant.index].slot = 0;
}

void Seats::resize() noexcept {
  const std::uint32_t wanted = std::clamp<std::uint32_t>(
      view_.caller().workers.load(std::memory_order_acquire), 1, capacity_);
  if (wanted == count_) return;
  for (std::uint32_t index = 0; index < std::max(wanted, count_); ++index) {
    Seat& seat = seats_[index];
    if (seat.dormant) wake(seat);
    if (index >= wanted && seat.slot != 0) retire(tenants_.in(seat.slot));
  }
  count_ = wanted;
}

void Seats::grant_wishes() noexcept {
  for (Tenant& tenant : tenants_.in_use()) {
    if (tenant.state != TenantState::ready || tenant.index == kNoIndex) continue;
    const LeaveWish wish = view_.desk(tenant.id.slot).wish.load(std::memory_order_acquire);
    if (wish == LeaveWish::yields && !tenant.handed_on) hand_on(tenant);
    if (wish == LeaveWish::worn || wish == LeaveWish::yields) replace(tenant);
    if (wish == LeaveWish::idle && count_held() > fewest()) leave_dormant(tenant);
  }
}

void Seats::hand_on(Tenant& tenant) noexcept {
  tenant.handed_on = true;
  settler_.hand_on(tenant.id);
  idle_.wake_one();
}

// Once there is somebody for its place.
void Seats::replace(Tenant& tenant) noexcept {
  if (!has_spare() || tenants_.in(spare_).state != TenantState::ready) return;
  const std::uint32_t index = tenant.index;
  retire(tenant);
  promote_spare(index);
}

void Seats::leave_dormant(Tenant& tenant) noexcept {
  Seat& seat = seats_[tenant.index];
  retire(tenant);
  leave_empty(view_, idle_, tenant.id.slot);
  seat.dormant = true;
}

// It leaves when it has ended what it runs.
void Seats::retire(Tenant& tenant) noexcept {
  seats_[tenant.index].slot = 0;
  tenant.index = kNoIndex;
  tenant.retiring = true;
  shm::WorkerEntry& entry = view_.entry(tenant.id.slot);
  entry.index.store(kNoIndex, std::memory_order_relaxed);
  entry.role.store(WorkerRole::leaving, std::memory_order_seq_cst);
  idle_.ring(tenant.id.slot);
}

void Seats::wake_for_tasks() noexcept {
  std::size_t wanted = count_wanted(view_, idle_, waiting_);
  for (std::uint32_t index = 0; index < count_ && wanted > 0; ++index) {
    if (!seats_[index].dormant) continue;
    wake(seats_[index]);
    --wanted;
  }
}

void Seats::wake(Seat& seat) noexcept {
  seat.dormant = false;
  fill_empty(view_);
}

std::uint32_t Seats::count_held() const noexcept {
  std::uint32_t count = 0;
  for (std::uint32_t index = 0; index < count_; ++index) {
    count += seats_[index].slot != 0 ? 1U : 0U;
  }
  return count;
}

std::uint32_t Seats::fewest() const noexcept {
  return std::clamp<std::uint32_t>(min_workers_, 1, count_);
}

}  // namespace brood::pool
