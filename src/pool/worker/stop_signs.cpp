#include "pool/worker/stop_signs.hpp"

#include "brood/error.hpp"
#include "brood/task.hpp"
#include "pool/protocol/stop.hpp"
#include "pool/protocol/worker_context.hpp"
#include "sys/syscall.hpp"

namespace brood::pool {

int StopSigns::stop_fd() {
  const std::lock_guard lock(stop_door_mutex_);
  if (running_.load(std::memory_order_relaxed) == nullptr) {
    throw Error("brood: stop_fd() is for tasks while they run");
  }
  if (!stop_door_) {
    const int mailbox = sys::open_mailbox(StopDoorName(view_, me_).text());
    stop_door_ = sys::Fd(static_cast<int>(sys::require(mailbox, "opening a task's stop_fd()")));
    set_stop_door(view_, me_, true);
  }
  knock_if_late();
  return stop_door_.get();
}

namespace {

// Those of this process, for the questions of its tasks.
StopSigns* the_signs = nullptr;

}  // namespace

void answer_tasks(StopSigns& signs) noexcept { the_signs = &signs; }

}  // namespace brood::pool

namespace brood {

bool stop_requested() noexcept {
  if (pool::stop_of_thread != nullptr) {
    return pool::stop_of_thread->load(std::memory_order_relaxed);
  }
  return pool::the_signs != nullptr && pool::the_signs->stop_requested();
}

int stop_fd() {
  if (pool::stop_of_thread != nullptr) return pool::stop_fd_of_thread();
  if (pool::worker_context().stop_fd >= 0) return pool::worker_context().stop_fd;
  if (pool::the_signs == nullptr) throw Error("brood: stop_fd() is for tasks while they run");
  return pool::the_signs->stop_fd();
}

}  // namespace brood
