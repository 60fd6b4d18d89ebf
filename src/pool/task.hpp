// What may be done to the shared record of a task (state diagram: shm/pool_layout.hpp).
#pragma once

#include <cstdint>
#include <optional>

#include "shm/pool_layout.hpp"

namespace brood::pool {

// Each function is one transition of the diagram: one compare-and-swap of the record's word, safe
// against death before and after it.
//
// Threads: any process. Blocking: never. Errors: false or nullopt, if the record was not in the
// state the transition starts from, or its word is nonsense; nothing was changed then.
// Memory ordering: publish, claim, finish, return and condemn release what their process wrote to
// the record before, and all but publish acquire what the former transition's process wrote.

// Caller: a free record becomes pending under `generation`.
void publish_task(shm::TaskState& state, std::uint32_t generation) noexcept;

// Worker: takes a pending task of this generation.
bool claim_task(shm::TaskState& state, std::uint32_t generation, shm::OwnerId worker) noexcept;

// Worker: its task is done; supervisor: the task of `worker`, proven gone or crashed, is done.
// Wakes who waits for it alone. If it was watched, tell_watchers() (completions.hpp) is to follow.
struct Finished {
  bool done = false;
  bool watched = false;
  std::uint32_t generation = 0;
  explicit operator bool() const noexcept { return done; }
};
Finished finish_task(shm::TaskState& state, shm::OwnerId worker) noexcept;

// Supervisor: the task of a dead worker is to be started again.
bool return_task(shm::TaskState& state, shm::OwnerId worker) noexcept;

// Supervisor: the record's word is `nonsense`; ends the task as corrupt.
bool condemn_task(shm::TaskState& state, std::uint64_t nonsense, std::uint32_t generation) noexcept;

// Caller: done with the record.
void release_task(shm::TaskState& state) noexcept;

// Caller: asks to be woken; returns the low half of the word to sleep on, or nullopt if there is
// nothing to wait for (the task is done, or its word is nonsense). Orders nothing: who reads the
// reply looks at the word again, with acquire.
std::optional<std::uint32_t> announce_waiter(shm::TaskState& state,
                                             std::uint32_t generation) noexcept;

// Caller: has whoever ends the task tell the watchers. False: it has ended, or its word is
// nonsense. seq_cst, as is the end of a task: it sees what was written before, or this sees the
// end.
bool announce_watcher(shm::TaskState& state, std::uint32_t generation) noexcept;

// The half of the word that sleepers sleep on.
const void* sleeping_half(const shm::TaskState& state) noexcept;

// Whether `word` can be that of a task committed under `generation`.
bool is_plausible(const shm::TaskWord& word, std::uint32_t generation) noexcept;

}  // namespace brood::pool
