// What a worker tells of its own crash, in the signal handler, while the core file that may follow
// has not been begun: so its task can be settled long before the kernel says that it is dead.
#pragma once

#include <atomic>
#include <cstdint>

#include "pool/protocol/view.hpp"

namespace brood::pool {

// Where the stack of the thread that runs tasks is the library's own; 0: it runs none. Written by
// that thread, in the frame that calls what may run the user's code.
[[gnu::visibility("hidden")]] extern constinit std::atomic<std::uintptr_t> task_stack;

// From now on this process, the worker `me`, tells its desk of crashes, and calls the supervisor.
//
// Threads: before there are others; any may crash. Blocking: never. Ownership: none; what `view` is
// must outlive the process. Errors: what can't be known of a crash is left out. The handler uses no
// heap and no lock. Death: is what this is for; at any instruction the desk says no more than is
// true. A child that a task has forked tells nothing.
void report_crashes(const PoolView& view, shm::OwnerId me) noexcept;

}  // namespace brood::pool
