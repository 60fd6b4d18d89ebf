// The supervisor's watch over time limits and cancelled tasks (shm/pool_layout.hpp: stopping a
// task that runs).
#pragma once

#include <cstdint>

#include "pool/protocol/view.hpp"

namespace brood::pool {

// Worker: the task or element that it begins will have run for too long at `limit`.
void announce_limit(const PoolView& view, shm::OwnerId worker, std::int64_t limit) noexcept;

// Caller: a task that it has just published is to have ended at `deadline`, which is after `now`.
void announce_deadline(const PoolView& view, std::int64_t deadline, std::int64_t now) noexcept;

// What the supervisor remembers of the task that one worker has.
struct StopWatch {
  std::uint64_t entry = 0;  // RingEntry of the task; 0: none
  std::uint32_t element = 0;
  std::uint32_t attempts = 0;
  std::int64_t since_ns = 0;    // when it was first seen in this attempt
  std::int64_t settled_ns = 0;  // when it was first seen settled; 0: never
  bool told = false;            // by its stop door that it is to stop
  bool doomed = false;          // the worker has been condemned for it
};

// Threads: one, the supervisor's. Blocking: never. Ownership: none; the view must outlive it.
// Errors: none; what workers wrote is bounded before use.
// Death: of the supervisor ends the pool, whatever this was doing. Marks that it left on a task are
// seen by the task's worker.
class TaskClock {
 public:
  TaskClock(const PoolView& view, std::int64_t grace_ns) noexcept
      : view_(view), grace_ns_(grace_ns) {}

  // Before a look: from here on, whoever sets a limit calls the supervisor.
  void take_back_promise() noexcept;
  // After it: the supervisor will look again by itself at `wake_ns`, or when this says.
  std::int64_t promise(std::int64_t wake_ns) noexcept;

  // Stops the task of that worker if it is over its limit. True: the worker is to be killed; it
  // can't end its task any more.
  bool must_die(StopWatch& watch, shm::OwnerId worker, std::int64_t now) noexcept;

  // Ends the tasks that still wait when their deadline is over.
  void expire_pending_tasks(std::int64_t now) noexcept;

 private:
  [[nodiscard]] std::int64_t limit_of(const StopWatch& watch, const shm::TaskRequest& request,
                                      shm::OwnerId worker) const noexcept;
  void wake_at(std::int64_t time) noexcept;

  PoolView view_;
  std::int64_t grace_ns_;
  std::int64_t wake_ns_ = shm::kNoLimitNs;
  std::int64_t next_scan_ns_ = shm::kNoLimitNs;
  std::int64_t last_scan_ns_ = 0;
  std::int64_t not_before_ns_ = 0;     // scans are not to take all of the time
  std::int64_t seen_deadline_ns_ = 0;  // the caller's last
};

}  // namespace brood::pool
