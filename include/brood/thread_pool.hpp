// The interface of Pool on threads, and the pool that is always there.
#pragma once

#include "brood/detail/cpp20.hpp"

#include <cstddef>
#include <utility>

#include "brood/executor.hpp"
#include "brood/pool.hpp"

namespace brood {

// A Pool whose workers are threads of this process: for debugging, and as an Executor. What Pool
// refuses is refused here too, arguments and results are copied through their encodings, and tasks
// run where a debugger sees them. It may be passed and moved to whatever takes a Pool.
//
//   Threads:   as Pool; `workers` of its own, from the constructor on, with signals blocked.
//   Blocking:  as Pool; but a task that runs can't be ended: terminate() drops those that wait, and
//              join(), shutdown() and the destructor wait for those that run.
//   Ownership: as Pool; a copy in a forked child is inert.
//   Errors:    exceptions of tasks arrive unchanged, those of brood too, and have no RemoteInfo. Of
//              TaskOptions only `stop` is observed: nothing hurries somebody who is debugging. What
//              is cancelled while it runs goes on, and hears of it by stop_requested(). resize()
//              throws Error.
//              std::system_error if threads can't be made.
//   Death:     of a task is that of this process.
class ThreadPool : public Pool {
 public:
  ThreadPool() : ThreadPool(cpu_count()) {}
  explicit ThreadPool(std::size_t workers);

  // Has a function called by one of the threads, in its turn among the tasks; what it throws goes
  // to the log. Throws PoolClosed.
  void post(Posted job);
};

// A Pool of the default options, made by the first call and kept: for programs that want one and no
// more. Its workers are copies of the process as it was then.
//
//   Threads:   any.
//   Blocking:  while it is made; at exit, for the time that ending its workers takes (terminate()).
//   Ownership: brood's, until the program exits. A child that you fork yourself has none, and gets
//              its own with its first call.
//   Errors:    as the constructor of Pool; the next call tries again.
//   Death:     as Pool.
Pool& default_pool();

}  // namespace brood
