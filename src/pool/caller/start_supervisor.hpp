// How a caller starts its pool's supervisor: as a copy of itself, or born from the warden.
#pragma once

#include <cstdint>
#include <string>

#include "pool/caller/pool_memory.hpp"
#include "pool/caller/workers_code.hpp"
#include "pool/protocol/worker_setup.hpp"
#include "start/current.hpp"
#include "sys/fd.hpp"
#include "warden/family.hpp"

namespace brood::pool {

// What it is told. Everything has to outlive the call.
struct SupervisorPlan {
  const PoolMemory& memory;
  const SetupToSend& setup;
  const std::string& process_name;
  std::uint32_t workers = 1;
  std::uint32_t restart_limit = 16;
  std::int64_t grace_ns = 0;
};

struct StartedSupervisor {
  sys::Fd pidfd;
  WorkersCode code;  // that it has, and its workers
};

// Threads: the one that makes the pool. Blocking: until it is copied or born. Ownership: of the
// process passes to who has its pidfd, and has to reap it. Errors: StartError, SystemError; one
// that may live though its birth was not told is ordered to end. Death: of the caller meanwhile:
// the supervisor sees that, or the warden, which it tells itself.
StartedSupervisor start_supervisor(const SupervisorPlan& plan, warden::Family& family,
                                   const start::Choice& choice);

}  // namespace brood::pool
