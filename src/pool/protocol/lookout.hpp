// Whether the tasks that wait get taken by those who were to take them.
//
// With more workers than processors and tasks shorter than a wake-up, each task that comes would
// wake one more worker, until they are in each other's way. So nobody is woken while enough of them
// run short tasks, or are on the way: one for each processor but that of whoever brings the tasks.
// But the next task of a worker may be long, and a worker may be stopped, even one that was woken
// or looks for work; then another has to be woken after all.
#pragma once

#include <array>
#include <cstdint>

#include "pool/protocol/admission.hpp"
#include "pool/protocol/idle.hpp"
#include "pool/protocol/view.hpp"

namespace brood::pool {

// Wakes a worker for what has just been published, or leaves it to those who are coming and has the
// supervisor look out. False: nobody sleeps.
bool call_one(const PoolView& view, IdleWorkers& idle) noexcept;
// Has the supervisor look out later, for what has just been published and somebody was woken for,
// or looks.
void look_out_later(const PoolView& view) noexcept;

// The supervisor's.
//
// Threads: one. Blocking: never. Ownership: none; the view must outlive it. Errors: none.
// Death: of a worker that was coming: its bits are cleared as any dead worker's.
//
// Memory ordering: who leaves work to others publishes it, then reads lookout_wanted; this clears
// lookout_wanted, then looks for work (all seq_cst). So either this sees the work or is called. A
// wish stands until it is looked at, so that who submits all the time calls five times a second.
class Lookout {
 public:
  explicit Lookout(const PoolView& view) noexcept : view_(view) {}

  // Who was said to be coming the last time and has taken nothing since is so no more, and who
  // looks while work is left does not. If work is left, another is woken: up to as many as there
  // are processors if some was left the last time already. If hardly any of it has been taken
  // since, it is not short whatever it was before, and each time twice as many are woken.
  // True: nobody sleeps, and yet what waits has waited since the last look. Then all bells are to
  // be rung, for somebody may be stopped who was to ring one.
  [[nodiscard]] bool look(IdleWorkers& idle, WaitingTasks& waiting, std::int64_t now) noexcept;
  // When to look again; kForever: when asked to.
  [[nodiscard]] std::int64_t next_look_ns() const noexcept { return next_look_ns_; }

 private:
  void begin_later(IdleWorkers& idle, WaitingTasks& waiting, std::int64_t now) noexcept;
  void go_on_later(std::int64_t now) noexcept;
  void rest() noexcept;
  void note_who_comes(IdleWorkers& idle, bool first) noexcept;
  void call(IdleWorkers& idle, const WaitingTasks::Change& change, std::int64_t ns) noexcept;

  PoolView view_;
  std::int64_t next_look_ns_ = sys::kForever;
  std::int64_t last_look_ns_ = 0;
  bool is_at_it_ = false;  // work was left at the last look
  std::size_t most_at_once_ = 1;
  std::array<std::uint64_t, shm::kMaxSlots> seen_{};  // the task that each had last; 0: none came
};

}  // namespace brood::pool
