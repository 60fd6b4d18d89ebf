// How a worker runs a task that it has claimed: what the task's code sees, and what becomes of what
// it returns or throws.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>

#include "brood/detail/thunk.hpp"
#include "brood/error.hpp"
#include "pool/protocol/call.hpp"
#include "pool/protocol/supervisor_start.hpp"
#include "pool/protocol/view.hpp"
#include "pool/protocol/worker_context.hpp"
#include "pool/worker/chunk_cells.hpp"
#include "pool/worker/claimed_task.hpp"
#include "pool/worker/crash_handler.hpp"
#include "pool/worker/leave_wishes.hpp"
#include "pool/worker/stop_signs.hpp"
#include "pool/worker/task_times.hpp"
#include "pool/worker/user_code.hpp"
#include "pool/worker/worker_arenas.hpp"
#include "sys/clock.hpp"
#include "sys/thrown.hpp"

namespace brood::pool {

// One task after the other, each by its thunk. What is done for every task is in here, so that it
// becomes one piece of code with the worker's round.
//
// Threads: the one that runs tasks. Blocking: for as long as the task takes. Ownership: of the
// worker's arenas, and of what it has made of bound values; what it is given must outlive it.
// Errors: what is thrown becomes the task's outcome. What the caller wrote is checked before use.
// Death: the stage on the desk says how far it had come; what becomes of the task, see ClaimedTask.
class TaskRunner final : public detail::TaskFrame {
 public:
  TaskRunner(const SupervisorStart& start, shm::OwnerId me, UserCode& user_code, StopSigns& signs,
             LeaveWishes& wishes) noexcept;

  // A task has closed what none can be without.
  [[nodiscard]] bool is_unfit() const noexcept { return arenas_.is_unfit(); }

  void run(shm::RingEntry task) noexcept {
    if (is_watched_) {
      want_watch();
    } else {
      desk_.stage.store(shm::WorkerStage::claimed, std::memory_order_relaxed);
    }
    yields_ = false;
    element_ = 0;
    user_code_.begin_task();
    task_.begin(task);
    const std::int64_t taken_ns =
        count_waiting_time(shared_.waiting, task_.request(), task_.state());
    task_stack.store(reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0)),
                     std::memory_order_relaxed);
    // Once the task has ended, its record may be another's already.
    const bool has_elements = static_cast<bool>(task_.request().cells);
    do {
      task_.count_run();
      task_.begin_attempt();
      sys::try_watched(
          [&] {
            open_request();
            const detail::Thunk thunk = detail::find_thunk(task_.request().thunk);
            if (thunk.run == nullptr) {
              throw DecodeError("brood: a task names code that is not here");
            }
            const std::int64_t begin = has_elements ? sys::now_ns() : 0;
            thunk.run(*this);
            if (has_elements) note_busy_time(task_.state(), begin);
          },
          [&] {
            user_code_.come_back();
            desk_.stage.store(shm::WorkerStage::replying, std::memory_order_relaxed);
            fail_task();
            task_.note_failure();
            yields_ = false;
          });
      if (yields_) break;
    } while (!task_.conclude());
    task_stack.store(0, std::memory_order_relaxed);
    task_.end();
    context_.number.reset();
    if (yields_) {
      // It stays ours until the supervisor gives it to another.
      task_.end_attempt();
      return wishes_.wish(shm::LeaveWish::yields);
    }
    if (!has_elements) {
      wishes_.count_served();
      task_.count_done();
    }
    if (taken_ns != 0) count_latency(shared_.running, sys::now_ns() - taken_ns);
    desk_.stage.store(shm::WorkerStage::idle, std::memory_order_release);
  }

  // ---- what thunks see

  [[nodiscard]] std::span<const std::byte> arguments() const noexcept override {
    return arguments_;
  }
  void enter_user_code() noexcept override;
  void leave_user_code() noexcept override;

  std::span<std::byte> reply(std::size_t bytes, bool has_handles) override;
  void keep_for_caller(std::span<const detail::ObjectHandle> handles) override;

  [[nodiscard]] std::uint32_t count() const noexcept override { return task_.request().count; }
  [[nodiscard]] std::uint32_t first() const noexcept override { return cells_.first(); }
  std::span<std::byte> reply_element(std::uint32_t index, std::size_t bytes, bool in_cell) override;
  void attempt_elements(const std::uint32_t& index, void (*call)(void* context),
                        void* context) override;
  void fail_element(std::uint32_t index) noexcept override;
  detail::ElementEnd finish_element(std::uint32_t index) noexcept override;

  [[nodiscard]] std::span<const std::byte> bound_bytes(std::uint64_t block) const override;
  std::shared_ptr<const void>& bound_cache(std::uint64_t id) override;

 private:
  // So that the supervisor looks at our memory from now on.
  void want_watch() noexcept {
    // Both seq_cst: either it sees us at work, or we see that it has stopped looking.
    desk_.stage.store(shm::WorkerStage::claimed, std::memory_order_seq_cst);
    if (shared_.watch_wanted.load(std::memory_order_seq_cst) != 0) return;
    shared_.watch_wanted.store(1, std::memory_order_relaxed);
    call_supervisor(view_);
  }

  // The request is the caller's own writing, in memory that no worker can change. The cells first:
  // whatever else fails is then told in them.
  void open_request() {
    const shm::TaskRequest& request = task_.request();
    arguments_ = {};
    cells_.close();
    if (request.cells) {
      cells_.open(request, task_.state(), arenas_);
      element_ = cells_.first();
    }
    if (request.arguments) {
      arguments_ = arenas_.arguments(request.arguments);
    } else {
      arguments_ = request.inline_arguments;
    }
    if (arguments_.size() < request.argument_bytes) {
      throw DecodeError("brood: the arguments of a task are gone");
    }
    arguments_ = arguments_.first(static_cast<std::size_t>(request.argument_bytes));
  }

  void fail_task() noexcept;

  const bool is_watched_;  // for its memory
  shm::WorkerDesk& desk_;
  shm::SharedHeader& shared_;
  PoolView view_;
  WorkerContext& context_ = worker_context();
  UserCode& user_code_;
  LeaveWishes& wishes_;
  WorkerArenas arenas_;
  ClaimedTask task_;
  std::unordered_map<std::uint64_t, std::shared_ptr<const void>> bound_;

  // Of the task being run:
  std::span<const std::byte> arguments_;
  ChunkCells cells_;
  std::uint32_t element_ = 0;  // that is next
  bool yields_ = false;
};

}  // namespace brood::pool
