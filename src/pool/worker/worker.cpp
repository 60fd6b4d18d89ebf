#include "pool/worker/worker.hpp"

#include <new>

#include "pool/protocol/call.hpp"
#include "pool/protocol/pool_process.hpp"
#include "pool/protocol/worker_context.hpp"
#include "pool/worker/crash_handler.hpp"
#include "pool/worker/leave_wishes.hpp"
#include "pool/worker/stop_signs.hpp"
#include "pool/worker/task_runner.hpp"
#include "pool/worker/user_code.hpp"
#include "pool/worker/work_search.hpp"
#include "pool/worker/worker_startup.hpp"
#include "start/child_main.hpp"
#include "start/hooks.hpp"
#include "start/process_name.hpp"
#include "start/thrown_trace.hpp"
#include "sys/clock.hpp"
#include "sys/fd.hpp"
#include "sys/process.hpp"
#include "sys/stack.hpp"

namespace brood::pool {

namespace {

using shm::LeaveWish;
using shm::RingEntry;
using shm::WorkerRole;

// One round after the other: it takes a task and runs it, or rests until there may be one; until it
// is to leave. Each of its parts knows one thing:
//
//   WorkerStartup the way to the first task    WorkSearch   where tasks are, and who sleeps
//   TaskRunner    how one is run               ClaimedTask  which of its attempts counts
//   WorkerArenas  arguments and results        ChunkCells   the results of map
//   StopSigns     what a task hears of its end LeaveWishes  when there have been enough of them
//   UserCode      whose code runs
//
// Threads: one; tasks may have more, which ask StopSigns. Blocking: while there is no task.
// Ownership: of the parts. Errors: of a task is that task's. Death: see the parts; the supervisor
// takes it from there.
class Worker {
 public:
  Worker(const WorkerStart& start, bool has_own_errors) noexcept
      : entry_(start.pool.view.entry(start.me.slot)),
        search_(start.pool.view, start.me),
        signs_(start.pool.view, start.me),
        wishes_(start.pool.view, *start.pool.setup, start.me),
        startup_(start.pool, start.me, has_own_errors, user_code_),
        runner_(start.pool, start.me, user_code_, signs_, wishes_) {}

  // What its tasks ask.
  [[nodiscard]] StopSigns& signs() noexcept { return signs_; }

  // The exit status.
  int run() {
    wishes_.begin();
    if (!startup_.initialize()) return 1;
    for (;;) {
      const WorkerRole role = entry_.role.load(std::memory_order_acquire);
      if (role == WorkerRole::leaving || runner_.is_unfit()) {
        // Whoever woke us for a task meant somebody who takes it.
        if (startup_.has_place()) search_.pass_on();
        return 0;
      }
      if (role == WorkerRole::active && !startup_.has_place()) {
        wishes_.begin_idling();
        if (!startup_.take_place()) return 1;
      }
      RingEntry task;
      if (role == WorkerRole::active && !wishes_.is_worn() && search_.take(task)) {
        wishes_.take_back();
        runner_.run(task);
        wishes_.look_for_wear();
        wishes_.end_task();
      } else {
        rest(role);
      }
    }
  }

 private:
  void rest(WorkerRole role) noexcept {
    const bool may_serve = role == WorkerRole::active && !wishes_.is_worn();
    if (may_serve && wishes_.has_grown_since_rest()) return wishes_.wish(LeaveWish::worn);
    const std::int64_t until = may_serve ? wishes_.idle_until_ns() : sys::kForever;
    search_.wait(role, !wishes_.is_worn(), until);
    if (until != sys::kForever && sys::now_ns() >= until) wishes_.wish(LeaveWish::idle);
  }

  const shm::WorkerEntry& entry_;
  WorkSearch search_;
  UserCode user_code_;
  StopSigns signs_;
  LeaveWishes wishes_;
  WorkerStartup startup_;
  TaskRunner runner_;
};

}  // namespace

void worker_main(const WorkerStart& start) noexcept {
  // First: whatever it says from here on is its own.
  const bool has_own_errors = start.errors >= 0 && sys::place_fd(start.errors, 2) == 0;
  become_pool_process(start.pool, start.supervisor_pid, start.member);
  const PoolView& view = start.pool.view;
  report_crashes(view, start.me);
  sys::hold_until_death(view.owners().life(start.me.slot));

  const start::ThrownTrace trace(task_stack);
  // On the heap: a task that ends the process by exit() must not destroy it.
  auto* worker = new (std::nothrow) Worker(start, has_own_errors);
  if (worker == nullptr) sys::exit_now(1);
  answer_tasks(worker->signs());
  start::set_process_name(start.pool.process_name);
  start::run_after_fork_actions();
  const int status = worker->run();
  destroy_worker_states();
  start::leave_child(status);
}

}  // namespace brood::pool
