// Calling the supervisor, and giving it orders.
#pragma once

#include "pool/protocol/view.hpp"

namespace brood::pool {

// Has it look at everything again: it sleeps on the number of calls that it knew when it last
// began to look.
//
// Memory ordering: what the caller wrote before is seen by the look that the call asks for.
inline void call_supervisor(const PoolView& view) noexcept {
  sys::FutexWord& control = view.shared().control;
  control.fetch_add(1, std::memory_order_release);
  sys::futex_wake(&control, sys::kWakeAll);
}

// How the pool is to go on from now; never back.
//
// Memory ordering: seq_cst, as are the end of a task and the supervisor's look whether all are
// done. A worker that ends the last task and still reads the old order has ended it before that
// look.
inline void raise_order(const PoolView& view, shm::PoolOrder to) noexcept {
  sys::Atomic<shm::PoolOrder>& order = view.caller().order;
  shm::PoolOrder now = order.load(std::memory_order_relaxed);
  while (now < to && !order.compare_exchange_weak(now, to, std::memory_order_seq_cst)) {
  }
  call_supervisor(view);
}

// For the statistics: a task or element ends by its time limit.
inline void count_timed_out(const PoolView& view) noexcept {
  view.shared().timed_out.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace brood::pool
