#include "pool/protocol/dormancy.hpp"

#include <algorithm>

#include "pool/protocol/call.hpp"
#include "pool/protocol/lookout.hpp"

namespace brood::pool {

namespace {

std::uint32_t empty_places(const PoolView& view) noexcept {
  return view.supervisor().dormant.load(std::memory_order_seq_cst);
}

}  // namespace

void call_worker(const PoolView& view, IdleWorkers& idle, WaitingTasks& waiting) noexcept {
  // Somebody who looks will find it, or pass the rest on.
  if (!idle.anyone_looking() && call_one(view, idle)) return;
  if (count_wanted(view, idle, waiting) > 0) call_supervisor(view);
}

void call_another(const PoolView& view, IdleWorkers& idle) noexcept {
  if (!idle.wake_one() && empty_places(view) != 0) call_supervisor(view);
}

void leave_empty(const PoolView& view, IdleWorkers& idle, std::uint16_t slot) noexcept {
  idle.forget(slot);
  view.supervisor().dormant.fetch_add(1, std::memory_order_seq_cst);
}

std::size_t count_wanted(const PoolView& view, const IdleWorkers& idle,
                         WaitingTasks& waiting) noexcept {
  const std::size_t empty = empty_places(view);
  if (empty == 0) return 0;
  const std::size_t tasks = waiting.count_all();
  // Who looks or sleeps stops that before it claims, so each of them is good for one task.
  const std::size_t coming = static_cast<std::size_t>(idle.count_looking()) + idle.count_sleeping();
  return std::min(empty, tasks - std::min(tasks, coming));
}

void fill_empty(const PoolView& view) noexcept {
  view.supervisor().dormant.fetch_sub(1, std::memory_order_relaxed);
}

}  // namespace brood::pool
