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
// the record before, and all but publish acquire what the former transition's process wrote. The
// marks that stop a task (cancel, expire, doom) carry nothing along.

// Caller: a free record becomes pending under `generation`.
void publish_task(shm::TaskState& state, std::uint32_t generation) noexcept;

// Caller: the same, but it is cancelled already, or `late`, and no worker will hear of it.
void publish_ended_task(shm::TaskState& state, std::uint32_t generation, bool late) noexcept;

// Worker: takes a pending task of this generation.
bool claim_task(shm::TaskState& state, std::uint32_t generation, shm::OwnerId worker) noexcept;

// What a step did. Each that gives a task its outcome wakes who waits for that task alone; those
// who wait for several are to be told by tell_if_watched() (completions.hpp).
struct Step {
  bool done = false;
  bool watched = false;  // it was an outcome, and somebody is to be told
  std::uint32_t generation = 0;
  explicit operator bool() const noexcept { return done; }
};

// Worker: its task is done, unless that is not for it to say any more: false also if the task is
// expired and to be started again, or the worker doomed.
Step finish_task(shm::TaskState& state, shm::OwnerId worker) noexcept;

// Supervisor: the task of `worker`, proven gone or crashed, is done. `late`: by its time limit.
Step end_task(shm::TaskState& state, shm::OwnerId worker, bool late) noexcept;

// Supervisor: the task of a dead worker is to be started again. Not if it is settled.
bool return_task(shm::TaskState& state, shm::OwnerId worker) noexcept;

// ---- stopping

enum class CancelStep : std::uint8_t {
  too_late,  // it has another outcome
  already,   // it was cancelled before
  ended,     // it was waiting
  stopping,  // it is running: its worker is to be told
};
// Caller: no value is to come.
CancelStep cancel_task(shm::TaskState& state, std::uint32_t generation, Step& step) noexcept;

// Anyone: the deadline of a task that waits is over.
Step expire_pending(shm::TaskState& state, std::uint32_t generation) noexcept;

// Supervisor, or the worker itself: the task has run for too long. `last`: it is not to be started
// again, but has its outcome.
Step expire_task(shm::TaskState& state, shm::OwnerId worker, bool last) noexcept;

// Worker: goes on with its task, which is not late or is started again here. False: it is doomed,
// or its task settled.
bool unexpire_task(shm::TaskState& state, shm::OwnerId worker) noexcept;

// Supervisor: the worker is to be killed for the task that it does not end; from now on it can't.
bool doom_task(shm::TaskState& state, shm::OwnerId worker, std::uint32_t generation) noexcept;

// ---- the rest

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

// Whether it is `worker` that has the task.
bool is_claimed_by(const shm::TaskWord& word, shm::OwnerId worker) noexcept;

// Whether its outcome is known; the worker may still run.
bool has_outcome(const shm::TaskWord& word) noexcept;

// Whether `word` can be that of a task committed under `generation`.
bool is_plausible(const shm::TaskWord& word, std::uint32_t generation) noexcept;

}  // namespace brood::pool
