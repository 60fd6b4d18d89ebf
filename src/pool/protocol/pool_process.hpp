// What every process begins with that runs the user's code for a pool: workers and their template.
#pragma once

#include <optional>

#include "pool/protocol/supervisor_start.hpp"
#include "shm/owner_layout.hpp"

namespace brood::pool {

// First thing in a process that runs the user's code for the supervisor: signals, descriptors,
// group; and from then on it can write only what a worker has to. `line` is kept open, too.
//
// Threads: the only one of a process just copied. Blocking: never. Ownership: closes what is not
// the pool's. Errors: without that protection the process ends. Uses no heap.
// Death: of the supervisor ends it, also of one that died before this.
void become_pool_process(const SupervisorStart& start, int supervisor_pid,
                         std::optional<shm::OwnerId> member, int line = -1) noexcept;

}  // namespace brood::pool
