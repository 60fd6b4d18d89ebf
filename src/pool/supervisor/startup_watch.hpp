// The way of a pool's processes to their first task, and those that don't get there.
#pragma once

#include <cstdint>

#include "pool/protocol/settle.hpp"
#include "pool/protocol/supervisor_start.hpp"
#include "pool/protocol/view.hpp"
#include "pool/protocol/worker_setup.hpp"
#include "pool/supervisor/ending.hpp"
#include "pool/supervisor/tenants.hpp"

namespace brood::pool {

// Sees how far each worker has come. After a failure nobody starts for a pause, which doubles each
// time. Too many failures in a row break the pool; so does the first in what the user has run
// before the tasks, unless it need not come again (a SIGKILL from outside).
//
// Threads: one, the supervisor's. Blocking: never. Ownership: none; what it is given must outlive
// it. Errors: a pool that can't start is broken, with a cause. What processes have written is
// bounded before use. Uses no heap.
// Death: of a process on its way counts as a failure. Of the supervisor ends the pool.
class StartupWatch {
 public:
  StartupWatch(const SupervisorStart& start, Ending& ending) noexcept;

  // Sees how far a worker has come by now.
  void look_at(Tenant& tenant, std::int64_t now) noexcept;
  // Nothing that goes before its first task can fail any more.
  [[nodiscard]] bool is_set_up(const Tenant& tenant) const noexcept;

  // It died, before it was set up.
  void note_death(const Tenant& tenant, const WorkerDeath& death, std::int64_t now) noexcept;
  // The template ended; if it was ready, another one is to load once more.
  void note_end_of_template(bool was_ready, const WorkerDeath& death, std::int64_t now) noexcept;
  // The system did not let a process be started. It may recover, if the pool can wait for that.
  void note_refusal(bool can_wait, std::int64_t now) noexcept;

  // Before that nobody is to be started.
  [[nodiscard]] std::int64_t next_start_ns() const noexcept { return next_start_ns_; }

 private:
  [[nodiscard]] bool is_prepared(const Tenant& tenant) const noexcept;
  [[nodiscard]] shm::SetupStage stage_of(const Tenant& tenant) const noexcept;
  [[nodiscard]] shm::SetupStep step_of(const Tenant& tenant) const noexcept;
  void look_at_setup(Tenant& tenant, std::int64_t now) noexcept;
  void note_failure(shm::SetupStep step, const WorkerDeath& death, std::int64_t now) noexcept;
  void fail_setup(shm::SetupStep step, const WorkerDeath& death, const shm::SetupNote* note,
                  std::int64_t now) noexcept;
  void back_off(std::int64_t now) noexcept;

  PoolView view_;
  Ending& ending_;
  const std::uint32_t restart_limit_;
  const bool has_setup_;  // of the user's, which may fail

  std::uint32_t failures_ = 0;  // in a row: processes that were not started, or not set up
  std::int64_t next_start_ns_ = 0;
};

}  // namespace brood::pool
