// The places of a pool's workers: who works under which index, who is there for the next that falls
// vacant, and who leaves.
//
//   vacant --promote_spare, take--> held --retire, or its holder's death--> vacant
//   held --its holder leaves for want of work--> dormant --a task waits, or resize()--> vacant
#pragma once

#include <array>
#include <cstdint>

#include "pool/protocol/admission.hpp"
#include "pool/protocol/idle.hpp"
#include "pool/protocol/settle.hpp"
#include "pool/protocol/supervisor_start.hpp"
#include "pool/protocol/view.hpp"
#include "pool/supervisor/tenants.hpp"

namespace brood::pool {

// Threads: one, the supervisor's. Blocking: never. Ownership: none; what it is given must outlive
// it. Errors: none; wishes are input. Uses no heap.
// Death: of a tenant has to be said here by vacate(). Of the supervisor ends the pool.
class Seats {
 public:
  Seats(const SupervisorStart& start, Tenants& tenants, Settler& settler, IdleWorkers& idle,
        WaitingTasks& waiting) noexcept;

  // How many there are.
  [[nodiscard]] std::uint32_t count() const noexcept { return count_; }
  // To be filled: vacant, and not for want of work.
  [[nodiscard]] bool is_vacant(std::uint32_t index) const noexcept {
    return seats_[index].slot == 0 && !seats_[index].dormant;
  }
  [[nodiscard]] bool has_spare() const noexcept { return spare_ != 0; }

  // A worker just started waits for a seat, ...
  void park(const Tenant& tenant) noexcept { spare_ = tenant.id.slot; }
  // ... or has it from the beginning.
  void take(Tenant& tenant, std::uint32_t index) noexcept;
  // The spare takes the seat; false: there is none.
  bool promote_spare(std::uint32_t index) noexcept;
  // The tenant is dead: its seat, if it has one, is vacant, or there is no spare any more.
  void vacate(const Tenant& tenant) noexcept;

  // As many as the caller wants now.
  void resize() noexcept;
  // What workers ask for by themselves. After all deaths are known: a spare is used as it is now.
  void grant_wishes() noexcept;
  // Gives the chunk that the worker has stopped at to another one.
  void hand_on(Tenant& tenant) noexcept;
  // Seats are to be filled again for tasks that nobody comes to.
  void wake_for_tasks() noexcept;

 private:
  struct Seat {
    std::uint16_t slot = 0;  // 0: vacant
    std::uint32_t restarts = 0;
    bool ever_held = false;
    bool dormant = false;  // vacant for want of work
  };

  void replace(Tenant& tenant) noexcept;
  void leave_dormant(Tenant& tenant) noexcept;
  void retire(Tenant& tenant) noexcept;
  void wake(Seat& seat) noexcept;
  [[nodiscard]] std::uint32_t count_held() const noexcept;
  [[nodiscard]] std::uint32_t fewest() const noexcept;

  PoolView view_;
  const std::uint32_t min_workers_;
  const std::uint32_t capacity_;  // the most seats that there may ever be
  Tenants& tenants_;
  Settler& settler_;
  IdleWorkers& idle_;
  WaitingTasks& waiting_;

  std::uint32_t count_;
  std::array<Seat, shm::kMaxSlots> seats_;
  std::uint16_t spare_ = 0;  // its slot; 0: none
};

}  // namespace brood::pool
