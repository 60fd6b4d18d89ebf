// How a worker finds its next task, and sleeps when there is none.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "pool/protocol/idle.hpp"
#include "pool/protocol/ring.hpp"
#include "pool/protocol/view.hpp"
#include "pool/worker/pace.hpp"
#include "start/look_time.hpp"
#include "sys/clock.hpp"
#include "sys/process.hpp"

namespace brood::pool {

// One worker's search.
//
// Threads: one. Blocking: wait() alone. Ownership: none; the view's mapping must outlive it.
// Errors: none; what is read is bounded. Death: at any instruction, the worker has either not
// claimed a task, or is named as its owner and its own desk names the task; its idle bits are the
// supervisor's to clear.
class WorkSearch {
 public:
  WorkSearch(const PoolView& view, shm::OwnerId me, int processors = sys::usable_cpus(),
             Pace pace = Pace()) noexcept;

  // Claims a task, if there is one that nobody has.
  bool take(shm::RingEntry& task) noexcept;

  // Returns when there may be a task (for one that takes them), a role other than `role`, at
  // `until`, or for no reason.
  void wait(shm::WorkerRole role, bool takes_tasks = true,
            std::int64_t until = sys::kForever) noexcept;

  // Wakes somebody else for what there may be to do: for a worker that takes no task any more.
  void pass_on() noexcept;

  // The parts of wait: busily, as long as that has lately been worth it (false: found nothing), ...
  bool look() noexcept;
  // ... and asleep.
  void sleep(shm::WorkerRole role, bool takes_tasks = true,
             std::int64_t until = sys::kForever) noexcept;

 private:
  [[nodiscard]] bool maybe_work() noexcept {
    return retry_ring_.maybe_pending() ||
           std::ranges::any_of(rings_, [](RingReader& ring) { return ring.maybe_pending(); });
  }
  [[nodiscard]] RingReader::Offer claim(shm::RingEntry entry) noexcept;
  [[nodiscard]] bool is_too_late(shm::RingEntry entry) const noexcept;
  void make_room_known() noexcept;
  [[nodiscard]] bool look_until(std::int64_t end) noexcept;

  PoolView view_;
  shm::OwnerId me_;
  const shm::WorkerEntry& entry_;
  shm::WorkerDesk& desk_;
  IdleWorkers idle_;
  std::array<RingReader, shm::kPriorities> rings_;
  RingReader retry_ring_;
  int most_looking_;
  start::LookTime look_time_;
  Pace pace_;
};

}  // namespace brood::pool
