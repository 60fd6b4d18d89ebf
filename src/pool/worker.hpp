// A worker: the process that runs tasks.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "pool/view.hpp"

namespace brood::pool {

struct WorkerStart {
  PoolView view;
  int segment_fd = -1;
  std::size_t arena_limit_bytes = 0;
  shm::OwnerId me;
  std::optional<shm::OwnerId> member;  // its place in the family, if there was one
  int supervisor_pid = 0;
  std::uint64_t fd_limit = 0;  // soft limit on descriptors
  const char* process_name = "";
};

// The life of a worker, in a process just forked; never returns.
[[noreturn]] void worker_main(const WorkerStart& start) noexcept;

}  // namespace brood::pool
