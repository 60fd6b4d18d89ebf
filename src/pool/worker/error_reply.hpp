// How the worker puts an exception into a reply.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "pool/worker/worker_arenas.hpp"
#include "shm/pool_layout.hpp"

namespace brood::pool {

// Where the outcome of a task or element is written.
struct ReplyPlace {
  shm::ReplyKind& kind;
  std::span<std::byte> bytes;
  std::uint32_t* length;  // of what lies in place; nullptr: nothing but a block's name may
};

// The exception being handled, instead of whatever the reply was to be: in place if it fits, else
// in a block. `from_user` and `attempts` are as for encode_current_exception().
//
// Threads: the one that runs tasks. Blocking: never. Ownership: the arenas have the block.
// Errors: where there is no room for it, the caller is told that there was none. Death: as of a
// value: nobody reads the reply before the task has ended.
void reply_exception(WorkerArenas& arenas, bool from_user, std::uint32_t attempts,
                     ReplyPlace place) noexcept;

}  // namespace brood::pool
