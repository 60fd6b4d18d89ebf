// What a pool's supervisor begins with, and its workers after it.
#pragma once

#include <array>
#include <cstdint>

#include "pool/protocol/view.hpp"
#include "pool/protocol/worker_setup.hpp"
#include "shm/family_layout.hpp"

namespace brood::pool {

struct SupervisorStart {
  PoolView view;
  int segment_fd = -1;
  std::size_t arena_limit_bytes = 0;
  std::uint32_t workers = 1;
  std::uint32_t restart_limit = 16;
  shm::FamilyLayout* family = nullptr;
  int warden_socket = -1;
  int caller_pid = 0;
  std::int64_t grace_ns = 0;           // from asking a task to stop to killing its worker
  const char* process_name = "";       // "brood:NAME"
  std::uint64_t fd_limit = 0;          // the host's, which the workers get back
  bool known_to_warden = false;        // born from it
  const WorkerSetup* setup = nullptr;  // never nullptr
  // What the workers' surroundings need: the directory, the streams; -1: none.
  std::array<int, 3> descriptors = {-1, -1, -1};
};

}  // namespace brood::pool
