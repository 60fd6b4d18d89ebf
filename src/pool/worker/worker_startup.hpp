// A worker's way to its first task: surroundings, the initializer, and once it has a place its name
// and `prepare`. How far it has come is what the supervisor's StartupWatch sees.
#pragma once

#include "pool/protocol/supervisor_start.hpp"
#include "pool/protocol/view.hpp"
#include "pool/protocol/worker_context.hpp"
#include "pool/protocol/worker_setup.hpp"
#include "pool/worker/user_code.hpp"

namespace brood::pool {

// Threads: the one that runs tasks. Blocking: for as long as the user's code takes. Ownership:
// none; what it is given must outlive it. Errors: what is thrown is written to the worker's note,
// for the caller to be told; the worker is to end then. Death: on the way is a failure that the
// supervisor sees by how far the desk says it has come.
class WorkerStartup {
 public:
  // `has_own_errors`: its stderr is not the pool's.
  WorkerStartup(const SupervisorStart& start, shm::OwnerId me, bool has_own_errors,
                const UserCode& user_code) noexcept;

  // The first steps of all. False: they failed.
  [[nodiscard]] bool initialize() noexcept;
  // A spare learns which worker it is when it is needed. False: it failed.
  [[nodiscard]] bool take_place() noexcept;
  [[nodiscard]] bool has_place() const noexcept { return named_; }

 private:
  template <class Step>
  bool set_up(Step&& step) noexcept;
  void take_surroundings() const;
  void take_name() noexcept;

  PoolView view_;
  const SupervisorStart& start_;
  const WorkerSetup& setup_;
  const bool has_own_errors_;
  const UserCode& user_code_;
  shm::OwnerId me_;
  const shm::WorkerEntry& entry_;
  shm::WorkerDesk& desk_;
  WorkerContext& context_ = worker_context();
  bool named_ = false;
};

}  // namespace brood::pool
