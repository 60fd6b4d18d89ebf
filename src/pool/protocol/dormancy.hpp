// Workers that leave their places for want of work, and come back when there is some.
#pragma once

#include <cstddef>
#include <cstdint>

#include "pool/protocol/admission.hpp"
#include "pool/protocol/idle.hpp"
#include "pool/protocol/view.hpp"

namespace brood::pool {

// Threads: any. Blocking: never. Ownership: none. Errors: none.
// Death: of a worker that was woken and has taken nothing leaves the task to whoever gets its
// place.
//
// Memory ordering: who puts a task into a ring looks at the sleepers next, then at the places that
// are empty; the supervisor counts a place as empty, then looks at the rings; a worker that leaves
// looks at the rings last (all seq_cst). So the supervisor sees the task, or is called.

// The caller's: has somebody come to the task that it has just put into a ring. Who is called, or
// looks, may be stopped before it comes: look_out_later() is to follow.
void call_worker(const PoolView& view, IdleWorkers& idle, WaitingTasks& waiting) noexcept;
// The same for tasks that a worker leaves behind, who may have been called for one of them.
void call_another(const PoolView& view, IdleWorkers& idle) noexcept;

// The supervisor's: the worker of `slot`, told to leave for want of work, has nobody in its place.
void leave_empty(const PoolView& view, IdleWorkers& idle, std::uint16_t slot) noexcept;
// For how many of the empty places there is work that nobody comes to.
[[nodiscard]] std::size_t count_wanted(const PoolView& view, const IdleWorkers& idle,
                                       WaitingTasks& waiting) noexcept;
void fill_empty(const PoolView& view) noexcept;

}  // namespace brood::pool
