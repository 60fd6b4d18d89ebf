// The first stage of a worker's death: somebody says that it is dying, and what it had to do is
// settled at once, long before its memory is gone (docs/decisions/death-in-two-stages.md). Its
// slot, locks and memory are not touched yet: that is the Undertaker's.
#pragma once

#include <cstdint>

#include "pool/protocol/idle.hpp"
#include "pool/protocol/settle.hpp"
#include "pool/supervisor/ending.hpp"
#include "pool/supervisor/memory_watch.hpp"
#include "pool/supervisor/places.hpp"
#include "pool/supervisor/startup_watch.hpp"
#include "pool/supervisor/tenants.hpp"

namespace brood::pool {

// Threads: one, the supervisor's. Blocking: never, apart from reading /proc. Ownership: none; what
// it is given must outlive it. Errors: where the system hides how a worker died, its task is
// settled when it is reaped. Reports are input. Uses no heap.
// Death: of a worker is settled once, by whatever tells of it first. Of the supervisor ends the
// pool.
class DeathWatch {
 public:
  DeathWatch(Places& places, StartupWatch& startup, MemoryWatch& memory, Settler& settler,
             IdleWorkers& idle, const Ending& ending) noexcept;

  // Sees how far each worker has come, and whether it is dying: by the kernel's mark on its life
  // word, or by the report of its crash handler.
  void look(std::int64_t now) noexcept;

  // It was reaped, and ended so: settles what nobody has told of before.
  void conclude(Tenant& tenant, int wait_status, std::int64_t now) noexcept;

 private:
  void look_for_report(Tenant& tenant, std::int64_t now) noexcept;
  void look_at_life(Tenant& tenant, std::int64_t now) noexcept;
  void mourn(Tenant& tenant, const WorkerDeath& death, std::int64_t now) noexcept;
  [[nodiscard]] bool has_left(Tenant& tenant) noexcept;
  [[nodiscard]] WorkerDeath death_of(const Tenant& tenant, int wait_status) noexcept;
  [[nodiscard]] WorkerDeath reported_crash(const Tenant& tenant) const noexcept;
  [[nodiscard]] WorkerDeath with_evidence(const Tenant& tenant, WorkerDeath death) noexcept;

  Places& places_;
  StartupWatch& startup_;
  MemoryWatch& memory_;
  Settler& settler_;
  IdleWorkers& idle_;
  const Ending& ending_;
};

}  // namespace brood::pool
