// A worker: the process that runs tasks.
#pragma once

#include <cstdint>
#include <optional>

#include "pool/supervisor.hpp"
#include "pool/view.hpp"

namespace brood::pool {

struct WorkerStart {
  const SupervisorStart& pool;
  shm::OwnerId me;
  std::optional<shm::OwnerId> member;  // its place in the family, if there was one
  int supervisor_pid = 0;
  int errors = -1;  // its stderr; -1: that of the pool
};

// First thing in a process that runs the user's code for the supervisor: signals, descriptors,
// group; and from then on it can write only what a worker has to. `line` is kept open, too.
void become_pool_process(const SupervisorStart& start, int supervisor_pid,
                         std::optional<shm::OwnerId> member, int line = -1) noexcept;

// The life of a worker, in a process just forked; never returns.
[[noreturn]] void worker_main(const WorkerStart& start) noexcept;

}  // namespace brood::pool
