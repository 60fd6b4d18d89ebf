// A pool's supervisor: starts workers, settles the tasks of dead ones, replaces them, ends them.
//
// It is a copy of the caller, made when the pool was, and the parent of the workers: what they
// inherit is the program as it was then. It may have been copied from a process with threads, so
// nothing here uses the heap or takes a lock of the C library.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "brood/detail/process_handle.hpp"
#include "pool/view.hpp"
#include "pool/worker_setup.hpp"
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

// The same for a supervisor that is no copy of the caller.
struct SupervisorOrder {
  std::uint64_t max_tasks = 0;
  std::uint64_t payload_bytes = 0;
  std::uint64_t arena_limit_bytes = 0;
  std::uint32_t workers = 1;
  std::uint32_t restart_limit = 16;
  std::int64_t grace_ns = 0;
  std::int32_t caller_pid = 0;
  std::string process_name;
  WorkerSetup setup;
};

// What such a supervisor runs: a call as it is sent. The pool's segment goes along as the first
// descriptor, then those of the workers' surroundings that there are.
detail::SentCall send_supervisor(const SupervisorOrder& order);

// The life of the supervisor; never returns.
[[noreturn]] void supervisor_main(const SupervisorStart& start) noexcept;

}  // namespace brood::pool
