// The second stage of a death: proof. What the dead owned is free again, and what they left behind
// is ended (docs/decisions/death-in-two-stages.md; the first stage: death_watch.hpp).
#pragma once

#include <cstdint>

#include "pool/supervisor/audit.hpp"
#include "pool/supervisor/births.hpp"
#include "pool/supervisor/death_watch.hpp"
#include "pool/supervisor/ending.hpp"
#include "pool/supervisor/places.hpp"
#include "pool/supervisor/template.hpp"
#include "pool/supervisor/tenants.hpp"
#include "shm/arena.hpp"
#include "sys/process.hpp"

namespace brood::pool {

// Reaps the supervisor's children: workers, the template, and orphans of theirs, which come to it
// as a subreaper.
//
// Threads: one, the supervisor's. Blocking: finish() alone. Ownership: of the numbers of children
// that have ended, until it reaps them; what it is given must outlive it. Errors: none. Uses no
// heap.
// Death: of the supervisor ends the pool.
class Undertaker {
 public:
  Undertaker(Places& places, Births& births, DeathWatch& deaths, Audit& audit, shm::Arena& outbox,
             const Template& origin, const Ending& ending) noexcept;

  // Buries those who have ended.
  void reap(std::int64_t now) noexcept;

  // At the pool's end: nobody who came from it is to stay. Gives up after a while.
  void finish() noexcept;

 private:
  void bury(Tenant& tenant, const sys::ExitStatus& status, std::int64_t now) noexcept;
  void kill_orphans() noexcept;
  [[nodiscard]] bool is_ours(int pid) noexcept;

  Places& places_;
  Births& births_;
  DeathWatch& deaths_;
  Audit& audit_;
  shm::Arena& outbox_;
  const Template& template_;
  const Ending& ending_;
};

}  // namespace brood::pool
