// How a task in a worker hears that it is to stop: stop_requested() and stop_fd(), which any of its
// threads may ask.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>

#include "pool/protocol/stop_door.hpp"
#include "pool/protocol/task.hpp"
#include "pool/protocol/view.hpp"
#include "sys/clock.hpp"
#include "sys/datagram.hpp"
#include "sys/fd.hpp"

namespace brood::pool {

// Threads: any may ask; the one that runs tasks says which task that is, and how long it may take.
// Blocking: never. Ownership: of the mailbox behind stop_fd(); the view's mapping must outlive it.
// Errors: stop_fd() throws Error outside of tasks, SystemError. What others can write is bounded.
// Death: private memory; the supervisor clears the bit of the dead's door.
class StopSigns {
 public:
  StopSigns(const PoolView& view, shm::OwnerId me) noexcept : view_(view), me_(me) {}

  // ---- what tasks ask

  [[nodiscard]] bool stop_requested() noexcept {
    const shm::TaskState* state = running_.load(std::memory_order_relaxed);
    if (state == nullptr) return false;
    // seq_cst: see stop_door.hpp.
    const auto now = shm::TaskWord::unpack(state->word.load(std::memory_order_seq_cst));
    if (is_claimed_by(now, me_) && now.settled) return true;
    if (view_.caller().order.load(std::memory_order_relaxed) >= shm::PoolOrder::terminate) {
      return true;
    }
    const std::int64_t limit = limit_ns_.load(std::memory_order_relaxed);
    if (limit == shm::kNoLimitNs || sys::now_ns() < limit) return false;
    // From now on what it returns does not count: it may have been left half done.
    told_late_.store(true, std::memory_order_relaxed);
    return true;
  }

  int stop_fd();

  // ---- what the worker says

  void begin_task(const shm::TaskState& state) noexcept {
    running_.store(&state, std::memory_order_relaxed);
    if (stop_door_) {
      // What came for the task before; if it was for this one, again.
      sys::empty_mailbox(stop_door_.get());
      knock_if_late();
    }
  }
  void end_task() noexcept { running_.store(nullptr, std::memory_order_relaxed); }

  void begin_attempt() noexcept { told_late_.store(false, std::memory_order_relaxed); }
  void set_limit(std::int64_t limit) noexcept { limit_ns_.store(limit, std::memory_order_relaxed); }
  [[nodiscard]] std::int64_t limit_ns() const noexcept {
    return limit_ns_.load(std::memory_order_relaxed);
  }
  // Whether it has heard that its time is over.
  [[nodiscard]] bool has_told_late() const noexcept {
    return told_late_.load(std::memory_order_relaxed);
  }

 private:
  void knock_if_late() noexcept {
    if (stop_requested()) sys::knock(StopDoorName(view_, me_).text());
  }

  PoolView view_;
  shm::OwnerId me_;
  std::atomic<const shm::TaskState*> running_{nullptr};
  std::atomic<std::int64_t> limit_ns_{shm::kNoLimitNs};
  std::atomic<bool> told_late_{false};
  std::mutex stop_door_mutex_;
  sys::Fd stop_door_;
};

// This process is a worker, and `signs` answer what its tasks ask from now on, as long as it lives.
void answer_tasks(StopSigns& signs) noexcept;

}  // namespace brood::pool
