// How a thread of the caller waits for a task's outcome: it looks for a little, then sleeps.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "brood/detail/pool_core.hpp"
#include "pool/caller/pool_life.hpp"
#include "pool/caller/records.hpp"
#include "pool/protocol/idle.hpp"
#include "pool/protocol/view.hpp"
#include "start/look_time.hpp"
#include "start/waits.hpp"
#include "sys/clock.hpp"
#include "sys/process.hpp"

namespace brood::pool {

// Threads: any; they share what they learn of how long to look. Blocking: wait(). Ownership: none;
// what it is given must outlive it. Errors: PoolClosed, BrokenPool, FamilyBroken, where the outcome
// will never come; BrokenPool for a record that was overwritten.
// Death: of whoever was to wake a sleeper costs it no more than its next look.
class OutcomeWait {
 public:
  OutcomeWait(const PoolView& view, IdleWorkers& idle, PoolLife& life) noexcept
      : view_(view), idle_(idle), life_(life) {}

  // True: the task has ended. False: the deadline came first. The pool has so many workers.
  bool wait(detail::TaskTicket task, detail::DeadlineNs deadline, std::size_t workers) {
    start::serve_signals();
    if (has_ended(view_, task)) return true;
    const std::int64_t start = sys::now_ns();
    const bool ended = look_until(task, std::min(deadline, start + look_time_.ns()), workers) ||
                       sleep_until(task, deadline);
    look_time_.learn(sys::now_ns() - start);
    return ended;
  }

 private:
  [[nodiscard]] bool look_until(detail::TaskTicket task, std::int64_t end,
                                std::size_t workers) const noexcept {
    // With as many workers awake as processors, looking for long would take one from a worker.
    constexpr std::int64_t kShortLookNs = 2'000;
    const std::size_t awake = workers - std::min(workers, idle_.count_sleeping());
    if (awake >= cpus_) end = std::min(end, sys::now_ns() + kShortLookNs);
    do {
      for (int i = 0; i < 32; ++i) {
        if (has_ended(view_, task)) return true;
        sys::cpu_relax();
      }
    } while (sys::now_ns() < end);
    return false;
  }
  bool sleep_until(detail::TaskTicket task, detail::DeadlineNs deadline);

  PoolView view_;
  IdleWorkers& idle_;
  PoolLife& life_;
  std::size_t cpus_ = static_cast<std::size_t>(sys::usable_cpus());
  start::LookTime look_time_;
};

}  // namespace brood::pool
