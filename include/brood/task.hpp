// What a task may ask while it runs in a worker.
#pragma once

#include "brood/detail/cpp20.hpp"

namespace brood {

// Whether the task is to end: it was cancelled, has run for as long as it may, missed its deadline,
// or its pool is being terminated. What it returns or throws from then on does not count (but for
// the last reason), so it may return anything; a worker that goes on for longer than
// PoolOptions::grace is killed. Asking costs some nanoseconds. False outside of a task.
//
//   Threads:   any of the worker's.
[[nodiscard]] bool stop_requested() noexcept;

// A descriptor for poll() that is readable once the task is to end. The task neither reads nor
// closes it; it may be the same in the worker's next task. Rarely it is readable for no reason: ask
// stop_requested() then. Throws Error outside of a task, SystemError if there are no descriptors.
//
//   Threads:   any of the worker's.
int stop_fd();

}  // namespace brood
