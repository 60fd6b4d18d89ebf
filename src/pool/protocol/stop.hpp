// How stop_requested() finds its task where a thread, not a process, runs it.
#pragma once

#include <atomic>

namespace brood::pool {

// Set while this thread runs a task of a ThreadPool: whether that is to stop.
extern constinit thread_local const std::atomic<bool>* stop_of_thread;

// A descriptor that is readable once that is so. Throws SystemError.
int stop_fd_of_thread();

}  // namespace brood::pool
