// A pool's supervisor: starts workers, settles the tasks of dead ones, replaces them, ends them.
//
// It is a copy of the caller, made when the pool was, and the parent of the workers: what they
// inherit is the program as it was then. It may have been copied from a process with threads, so
// nothing here uses the heap or takes a lock of the C library.
#pragma once

#include <cstdint>
#include <string>

#include "brood/detail/process_handle.hpp"
#include "pool/protocol/supervisor_start.hpp"
#include "pool/protocol/worker_setup.hpp"

namespace brood::pool {

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
