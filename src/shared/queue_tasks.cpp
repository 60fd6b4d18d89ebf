// Counting tasks: which values of a JoinableQueue were got and not called done.
//
// There is no count of unfinished tasks, which deaths would make wrong: a task is unfinished while
// it lies in a cell or is held by a member, and join() looks there. A consumer notes a task as held
// before it clears the cell, so that the task is always in one of the two.
#include <string>

#include "brood/error.hpp"
#include "shared/queue.hpp"
#include "shared/waiting.hpp"
#include "sys/identity.hpp"

namespace brood::shared {

void SharedQueue::begin_task() noexcept {
  (*ring_.held())[me_.slot].fetch_add(1, std::memory_order_seq_cst);
  open_tasks_.fetch_add(1, std::memory_order_relaxed);
}

void SharedQueue::task_done() {
  ready_here();
  if (ring_.held() == nullptr) detail::throw_no_queue();
  sys::Atomic<std::uint32_t>& held = (*ring_.held())[me_.slot];
  std::uint32_t count = held.load(std::memory_order_relaxed);
  do {
    if (count == 0) {
      throw Error("brood: task_done() was called more often than this process got a task");
    }
  } while (!held.compare_exchange_weak(count, count - 1, std::memory_order_seq_cst));
  open_tasks_.fetch_sub(1, std::memory_order_relaxed);
  if (count == 1) body().finished.ring_for_all();
}

// Nothing was put in while we looked, so if each place was empty once, all were empty at the end.
bool SharedQueue::is_finished() {
  const Position before = ring_.tail();
  if (ring_.size() != 0 || ring_.is_taking()) return false;
  for (const auto& held : *ring_.held()) {
    if (held.load(std::memory_order_seq_cst) != 0) return false;
  }
  return ring_.tail() == before;
}

bool SharedQueue::join(detail::DeadlineNs deadline) {
  ready_here();
  if (ring_.held() == nullptr) detail::throw_no_queue();
  std::uint32_t abandoned = 0;
  const auto over = [&] {
    abandoned = body().abandoned.load(std::memory_order_seq_cst);
    return abandoned != 0 || is_finished();
  };
  if (!over() && !wait_until(body().finished, deadline, nullptr, over)) return false;
  if (abandoned == 0) return true;
  abandoned = body().abandoned.exchange(0, std::memory_order_seq_cst);
  throw TaskAbandoned("brood: " + std::to_string(abandoned) +
                      " tasks of this queue will never be done: their consumers died, or left, "
                      "before task_done()");
}

// With the last handle of this process.
void SharedQueue::abandon_tasks() noexcept {
  if (token_.load(std::memory_order_acquire) != sys::process_token()) return;
  if (ring_.held() == nullptr || warden::ObjectSpace::current() == nullptr) return;
  const std::int64_t open = open_tasks_.load(std::memory_order_relaxed);
  if (open <= 0) return;
  sys::Atomic<std::uint32_t>& held = (*ring_.held())[me_.slot];
  std::uint32_t count = held.load(std::memory_order_relaxed);
  std::uint32_t less = 0;
  do {
    less = static_cast<std::uint32_t>(std::min<std::int64_t>(open, count));
  } while (!held.compare_exchange_weak(count, count - less, std::memory_order_seq_cst));
  body().abandoned.fetch_add(less, std::memory_order_seq_cst);
  body().finished.ring_for_all();
}

}  // namespace brood::shared
