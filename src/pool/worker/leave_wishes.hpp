// When a worker wishes to leave: worn, without work for long, or in the midst of a chunk that it is
// too worn to end. The supervisor grants it (seats.hpp).
#pragma once

#include <cstdint>

#include "pool/protocol/call.hpp"
#include "pool/protocol/view.hpp"
#include "pool/protocol/worker_setup.hpp"
#include "sys/clock.hpp"
#include "sys/futex.hpp"

namespace brood::pool {

// Threads: the one that runs tasks. Blocking: never, apart from reading /proc. Ownership: none;
// what it is given must outlive it. Errors: a size that the system does not tell is none.
// Death: a wish on the desk of a dead worker is nobody's: its next worker's desk is cleared.
class LeaveWishes {
 public:
  LeaveWishes(const PoolView& view, const WorkerSetup& setup, shm::OwnerId me) noexcept
      : view_(view),
        setup_(setup),
        wears_(setup_.max_tasks != 0 || setup_.recycle_above_bytes != 0),
        desk_(view_.desk(me.slot)) {}

  // What it has of memory now is not counted.
  void begin() noexcept {
    if (wears_) memory_at_start_ = own_memory();
  }

  void wish(shm::LeaveWish what) noexcept {
    wish_ = what;
    desk_.wish.store(what, std::memory_order_release);
    if (what != shm::LeaveWish::none) call_supervisor(view_);
  }
  // It has got a task after all.
  void take_back() noexcept {
    if (wish_ != shm::LeaveWish::none) wish(shm::LeaveWish::none);
  }
  // Takes no task any more.
  [[nodiscard]] bool is_worn() const noexcept { return wish_ > shm::LeaveWish::idle; }

  // ---- wear

  // A task, or an element of map.
  void count_served() noexcept { ++served_; }
  // Whether tasks wear it at all, ...
  [[nodiscard]] bool wears() const noexcept { return wears_; }
  // ... and enough of them have.
  [[nodiscard]] bool has_worn() noexcept {
    if (setup_.max_tasks != 0 && served_ >= setup_.max_tasks) return true;
    if (setup_.recycle_above_bytes == 0) return false;
    // Reading it takes as long as some tasks.
    constexpr std::int64_t kBetweenLooksNs = 1'000'000;
    const std::int64_t now = sys::now_ns();
    return now - memory_looked_at_ >= kBetweenLooksNs && has_grown(now);
  }
  // After a task.
  void look_for_wear() noexcept {
    if (wears_ && wish_ == shm::LeaveWish::none) wish_if_worn();
  }
  // Before it rests, when there is time to look at its memory.
  [[nodiscard]] bool has_grown_since_rest() noexcept {
    if (setup_.recycle_above_bytes == 0 || served_ == served_at_look_) return false;
    served_at_look_ = served_;
    return has_grown(sys::now_ns());
  }

  // ---- want of work

  // Since now.
  void begin_idling() noexcept { idle_since_ = sys::now_ns(); }
  void end_task() noexcept {
    if (setup_.idle_timeout_ns != 0) begin_idling();
  }
  // When it has idled for long enough to wish for its end; sys::kForever: never.
  [[nodiscard]] std::int64_t idle_until_ns() const noexcept {
    const bool times = setup_.idle_timeout_ns != 0 && wish_ == shm::LeaveWish::none;
    return times ? idle_since_ + setup_.idle_timeout_ns : sys::kForever;
  }

 private:
  void wish_if_worn() noexcept {
    if (has_worn()) wish(shm::LeaveWish::worn);
  }
  [[nodiscard]] static std::uint64_t own_memory() noexcept;
  [[nodiscard]] bool has_grown(std::int64_t now) noexcept;

  PoolView view_;
  const WorkerSetup& setup_;
  const bool wears_;
  shm::WorkerDesk& desk_;

  shm::LeaveWish wish_ = shm::LeaveWish::none;
  std::uint64_t served_ = 0;  // tasks, and elements of map
  std::uint64_t served_at_look_ = 0;
  std::uint64_t memory_at_start_ = 0;
  std::int64_t memory_looked_at_ = 0;
  std::int64_t idle_since_ = 0;
};

}  // namespace brood::pool
