// A worker: the process that runs tasks.
#pragma once

#include <cstdint>
#include <optional>

#include "pool/protocol/supervisor_start.hpp"
#include "pool/protocol/view.hpp"

namespace brood::pool {

struct WorkerStart {
  const SupervisorStart& pool;
  shm::OwnerId me;
  std::optional<shm::OwnerId> member;  // its place in the family, if there was one
  int supervisor_pid = 0;
  int errors = -1;  // its stderr; -1: that of the pool
};

// The life of a worker, in a process just forked; never returns.
[[noreturn]] void worker_main(const WorkerStart& start) noexcept;

}  // namespace brood::pool
