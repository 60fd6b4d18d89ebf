// A pool's segment: all that caller, supervisor and workers share.
//
// Three zones, by who may write. Workers run code that crashes, so they can write as little as
// possible: the first two zones are mapped read-only in them.
//
//   caller zone       written by the process that made the pool
//       CallerHeader | TaskRequest[max_tasks] | main ring | doors | inbox arena (arguments,
//       callables)
//   supervisor zone   written by the pool's supervisor
//       SupervisorHeader | owner words | WorkerEntry[] | retry ring
//   shared zone       written by all of them; whatever is read from here is input
//       SharedHeader | life cells | WorkerDesk[] | SetupNote[] | CrashNote[] |
//       TaskState[max_tasks] | completion ring | outbox arena (results, details of deaths)
// (PoolView in pool/protocol/view.hpp says at which offsets.)
//
// Glossary
//   record      the pair TaskRequest + TaskState of one index: a task while it exists
//   ring        a queue of record names, written by one process, read by all workers. Not the
//               ring but the record's own word decides who has the task
//   position    counts ring entries from the pool's start; never wraps in practice (64 bits)
//   head hint   a position below which every task has been claimed; may lag, is checked when used,
//               and holds for one epoch
//   desk        what one worker tells of itself
//   slot        0: the caller, 1: the supervisor, 2...: workers, one per process ever at a time
//   watched     of a task: whoever ends it also tells those who wait for several (CompletionHeader)
//   door        of a task or the pool: a datagram socket of the caller's, for poll() and epoll
//
// The word of a record (TaskState::word) is the only place that says what became of a task:
//
//              commit           claim(worker)             reply
//     free ------------> pending ------------> claimed ------------> done
//      ^                  | ^                     | |                  | |
//      |                  | +----- retry ---------+ +---- death -------+ |
//      |                  |    (supervisor, after     (supervisor)       |
//      |                  |     the worker's death)                      |
//      |                  +---- cancel, deadline (anyone) ----> done -----+
//      +--------------------------- release (caller) --------------------+
//
//   One 64-bit word holds phase, owner and generation, so claim and owner change together; a
//   worker killed at any instruction has either not claimed the task or is named as its owner.
//   The generation changes with each commit, so an old name never fits a new task.
//
// Stopping a task that runs, within phase claimed, by marks in the same word:
//
//     (no mark) ---- cancel (caller), last time limit (supervisor) ----> settled
//         |                                                                 |  worker ends: done,
//         +---- time limit, retries left (supervisor) ----> expired         |  what it has is
//         dropped
//                     worker ends: pending again               |            |
//                                                              +--- grace --+
//                                                                   v  (supervisor)
//                                                                 doomed: the worker may not end
//                                                                 the task any more, and is killed
//
//   settled says that no value will come: for the caller the task has ended, whatever its worker
//   does. With expired it ended by its time limit, without it by cancel(). Since a worker is killed
//   only for a word that it can't leave any more, it never dies for a task that it has finished.
//
// Invariants
//   request.generation = generation of word, from commit to release
//   phase claimed  =>  the owner's desk names the record as its intent (written before the claim)
//   phase done, not settled  =>  kind, length and reply are final
//   progress <= request.count; elements below it are final
//   desk.wish yields  =>  the desk's task is claimed by it and stands still: only the supervisor
//                         gives it to another
//   setup_cause is final before condition says broken_setup
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "shm/arena.hpp"
#include "shm/bell.hpp"
#include "shm/owner_layout.hpp"
#include "shm/trace_layout.hpp"
#include "sys/memory.hpp"

namespace brood::shm {

inline constexpr std::uint16_t kCallerSlot = 0;
inline constexpr std::uint16_t kCallerEpoch = 1;  // the caller and the supervisor never change
inline constexpr std::uint16_t kSupervisorSlot = 1;
inline constexpr std::uint16_t kFirstWorkerSlot = 2;
inline constexpr std::size_t kMaxSlots = 1024;

// ---- the record

enum class TaskPhase : std::uint8_t { free = 0, pending = 1, claimed = 2, done = 3 };

// The fields of TaskState::word. The caller sleeps on the low half.
//
//   bits 0-1    phase; 0 with a mark: claimed and doomed, which implies a mark
//   bits 2, 3   the marks settled and expired
//   bit 4       waited
//   bits 5-14   owner's slot      bits 16-31  its epoch
//   bit 15      watched
//   bits 32-63  generation
struct TaskWord {
  TaskPhase phase = TaskPhase::free;
  bool waited = false;  // somebody sleeps on it: who ends the task has to wake
  OwnerId owner{};      // in phase claimed
  std::uint32_t generation = 0;
  bool watched = false;  // who ends the task has to tell those who wait for several
  bool settled = false;  // no value will come
  bool expired = false;  // its time is over; not settled: it is to be started again
  bool doomed = false;   // its worker is being killed for it

  static constexpr TaskWord unpack(std::uint64_t bits) noexcept {
    const bool doomed = (bits & 3U) == 0 && (bits & (kSettled | kExpired)) != 0;
    return {doomed ? TaskPhase::claimed : static_cast<TaskPhase>(bits & 3U),
            (bits & kWaited) != 0,
            OwnerId{static_cast<std::uint16_t>((bits >> kSlotShift) & (kMaxSlots - 1)),
                    static_cast<std::uint16_t>(bits >> 16U)},
            static_cast<std::uint32_t>(bits >> 32U),
            (bits & kWatched) != 0,
            (bits & kSettled) != 0,
            (bits & kExpired) != 0,
            doomed};
  }
  [[nodiscard]] constexpr std::uint64_t pack() const noexcept {
    return (doomed ? 0U : static_cast<std::uint64_t>(phase)) | (settled ? kSettled : 0U) |
           (expired ? kExpired : 0U) | (waited ? kWaited : 0U) | (watched ? kWatched : 0U) |
           std::uint64_t{owner.slot} << kSlotShift | std::uint64_t{owner.epoch} << 16U |
           std::uint64_t{generation} << 32U;
  }
  static constexpr std::uint64_t without_waiters(std::uint64_t bits) noexcept {
    return bits & ~std::uint64_t{kWaited | kWatched};
  }

 private:
  static constexpr std::uint32_t kSettled = 1U << 2U;
  static constexpr std::uint32_t kExpired = 1U << 3U;
  static constexpr std::uint32_t kWaited = 1U << 4U;
  static constexpr std::uint32_t kWatched = 1U << 15U;
  static constexpr unsigned kSlotShift = 5;
};
static_assert(kMaxSlots == 1U << 10U);

// What a finished task or element has to show.
enum class ReplyKind : std::uint8_t {
  none = 0,              // not finished
  value_inline = 1,      // encoded in place
  value_block = 2,       // encoded in the outbox block named in place
  exception_inline = 3,  // an encoded exception, likewise
  exception_block = 4,
  died = 5,        // a DeathNote in place
  cells = 6,       // map: each element has a cell of its own
  corrupt = 7,     // the record was found overwritten
  expired = 8,     // map: the element ran longer than it may; a LateNote in its cell
  died_block = 9,  // a DeathNote and a DeathEvidence in the outbox block named in place
};

inline constexpr std::size_t kInlineReplyBytes = 32;
inline constexpr std::size_t kInlineArgumentBytes = 64;

// Begins every outbox block that holds an encoded reply; the encoding follows.
struct PacketHeader {
  std::uint64_t length;
  std::uint64_t handles;  // BlockRef of a frame among the family's objects that is the caller's and
                          // names what the reply does; 0: none
};
static_assert(sizeof(PacketHeader) == 16);

// What is known of a death besides how the kernel tells of it; bits.
inline constexpr std::uint32_t kOutOfMemory = 1;
inline constexpr std::uint32_t kOverMemoryLimit =
    2;                                              // the same, by PoolOptions::memory_limit_bytes
inline constexpr std::uint32_t kStackOverflow = 4;  // as its crash handler thought

// What is left of a dead worker in the reply it can't give.
struct DeathNote {
  std::int32_t pid;
  std::uint32_t wait_status;  // as wait() tells it
  std::uint64_t fault_address;
  std::uint32_t attempts;
  std::uint32_t causes;
};
static_assert(sizeof(DeathNote) <= kInlineReplyBytes);

// The same in the cell of an element that is too small for it.
struct CellDeathNote {
  std::int32_t pid;
  std::uint16_t wait_status;
  std::uint16_t attempts;  // and the causes above them
};
inline constexpr unsigned kCellCausesShift = 13;
inline constexpr std::uint32_t kCellAttempts = (1U << kCellCausesShift) - 1;
static_assert(sizeof(CellDeathNote) == 8);

// Follows the DeathNote in a block, and is followed by what it counts.
struct DeathEvidence {
  std::uint32_t trace_bytes;   // of the stack, as in CrashNote
  std::uint32_t stderr_bytes;  // the last that the worker wrote there
};
inline constexpr std::size_t kStderrTailBytes = 4096;

// How often an element was started that always took too long, in its 8-byte cell.
struct LateNote {
  std::uint32_t attempts;
  std::uint32_t reserved;
};
static_assert(sizeof(LateNote) == 8);

// Times are sys::now_ns(); this is no limit.
inline constexpr std::int64_t kNoLimitNs = INT64_MAX;

enum class TaskFlag : std::uint16_t {
  retry_exceptions = 1,  // what the function throws counts as a failed attempt
  limited = 2,           // has a timeout or a deadline
  timed = 4,             // while it waits, its reply begins with when it was submitted
};

inline constexpr std::uint16_t kRetriesWithoutEnd = 0xffff;

// Written by the caller before the commit, by nobody after it.
struct alignas(64) TaskRequest {
  sys::Atomic<std::uint32_t> generation;
  std::uint32_t thunk;
  std::uint32_t count;        // elements: 1 for submit
  std::uint16_t cell_bytes;   // map only
  std::uint16_t number_high;  // bits 32-47 of number()
  BlockRef arguments;         // inbox; none: inline
  BlockRef cells;             // outbox; map only: count cells of cell_bytes, then count ReplyKinds
  std::uint64_t argument_bytes;
  std::uint16_t retries;  // kRetriesWithoutEnd: as many as it takes
  std::uint16_t flags;    // TaskFlag
  std::uint32_t number_low;
  std::int64_t timeout_ns;   // of each run of each element
  std::int64_t deadline_ns;  // of all, waiting included
  std::array<std::byte, kInlineArgumentBytes> inline_arguments;

  [[nodiscard]] bool has(TaskFlag flag) const noexcept {
    return (flags & static_cast<std::uint16_t>(flag)) != 0;
  }
  // After so many attempts that failed.
  [[nodiscard]] bool may_be_tried_again(std::uint32_t attempts) const noexcept {
    return retries == kRetriesWithoutEnd || attempts <= retries;
  }
  // How many tasks and elements the pool was given before this one or its first element.
  [[nodiscard]] std::uint64_t number() const noexcept {
    return std::uint64_t{number_high} << 32U | number_low;
  }
};
static_assert(sizeof(TaskRequest) == 128 && offsetof(TaskRequest, inline_arguments) == 64);

// Written by whoever the word says.
struct alignas(64) TaskState {
  sys::Atomic<std::uint64_t> word;
  sys::Atomic<std::uint32_t> progress;  // map: elements finished
  // At the current element: those that failed.
  sys::Atomic<std::uint32_t> attempts;
  std::uint32_t length;  // bytes of an inline reply
  ReplyKind kind;
  std::uint8_t reserved;
  // Of a task that is limited: how often a worker has begun it, as far as this counts.
  std::uint16_t runs;
  std::array<std::byte, kInlineReplyBytes> reply;
  std::uint32_t busy_us;  // map: how long its elements took the worker that ended it
};
static_assert(sizeof(TaskState) == 64 && offsetof(TaskState, reply) % 8 == 0);
static_assert(sys::Atomic<std::uint64_t>::is_always_lock_free);

// ---- rings

// Names a record in a ring: index in bits 0-21, lap in 22-31, generation in 32-63. The lap tells a
// reader that was held up that the cell has been written again: the round of the ring, modulo 2^10.
// 0 is no entry: generations start at 1.
inline constexpr unsigned kIndexBits = 22;
inline constexpr std::uint32_t kLaps = 1U << (32U - kIndexBits);
struct RingEntry {
  std::uint32_t index = 0;
  std::uint32_t generation = 0;
  std::uint32_t lap = 0;
  static constexpr RingEntry unpack(std::uint64_t bits) noexcept {
    const auto low = static_cast<std::uint32_t>(bits);
    return {low & ((1U << kIndexBits) - 1), static_cast<std::uint32_t>(bits >> 32U),
            low >> kIndexBits};
  }
  [[nodiscard]] constexpr std::uint64_t pack() const noexcept {
    return std::uint64_t{generation} << 32U | lap << kIndexBits | index;
  }
  static constexpr std::uint32_t lap_of(std::uint64_t position, std::uint32_t capacity_log) {
    return static_cast<std::uint32_t>(position >> capacity_log) & (kLaps - 1);
  }
};

// The writer's side of a ring. A ring that is full moves to one of twice the size, which lies
// behind it: entry p of the ring with capacity 2^k is cells[2^k + p % 2^k].
// Order: entries, then capacity_log, then tail (release); readers: tail (acquire), then
// capacity_log, then the entry. So who sees a position also sees where it lies.
struct alignas(64) RingHeader {
  sys::Atomic<std::uint64_t> tail;          // positions below it are written
  sys::Atomic<std::uint32_t> capacity_log;  // k
};

inline constexpr std::uint32_t kFirstRingLog = 10;

// ---- the caller zone

// How the pool is to go on; only ever increases.
enum class PoolOrder : std::uint32_t { run = 0, drain = 1, terminate = 2, kill = 3 };

// A ring for each: workers take from the most urgent that has something.
inline constexpr std::size_t kPriorities = 3;
inline constexpr std::size_t kNormalPriority = 1;

struct CallerHeader {
  std::array<RingHeader, kPriorities> rings;  // most urgent first
  alignas(64) sys::Atomic<PoolOrder> order;
  sys::Atomic<std::uint32_t> term_ms;  // from SIGTERM to SIGKILL, when order is terminate
  sys::Atomic<std::uint32_t> records;  // indices below it have memory and may be in use
  sys::Atomic<std::uint32_t> doubts;   // counts requests to look whether all still makes sense
  OwnerId member;                      // the caller's place in the family
  sys::Atomic<std::uint32_t> doors;    // tasks that have a door; each has its bit in the doors
  sys::Atomic<std::uint64_t> door_id;  // random: what the names of the doors begin with
  // The earliest deadline of tasks that may be waiting; one that is over may be replaced.
  sys::Atomic<std::int64_t> deadline_ns;
  std::uint64_t seed;                  // what task_seed() follows from
  sys::Atomic<std::uint32_t> workers;  // how many there are to be
};

// ---- the supervisor zone

enum class PoolCondition : std::uint32_t {
  starting = 0,
  running = 1,
  ended = 2,           // no worker is left and none will come
  broken_startup = 3,  // workers die before their first task
  broken_family = 4,   // the warden is gone
  broken_setup = 5,    // see setup_cause
};

// ---- what goes before the first task

enum class SetupStep : std::uint32_t { none = 0, preload = 1, initializer = 2, prepare = 3 };

// What failed, and how: as an EncodedException, or as a death.
inline constexpr std::size_t kSetupNoteBytes = 2032;
struct SetupCause {
  SetupStep step;
  std::uint32_t length;  // of `exception`; 0: the process died
  std::int32_t pid;
  std::uint32_t wait_status;
  std::uint64_t fault_address;
  std::uint32_t causes;
  std::uint32_t stderr_bytes;
  std::array<std::byte, kSetupNoteBytes> exception;
  std::array<std::byte, kStderrTailBytes> stderr_tail;  // of one that died
};

// What a process of the pool tells of the exception that its setup ended with. The template has
// the supervisor's. `length` is written last.
struct alignas(64) SetupNote {
  sys::Atomic<std::uint32_t> length;
  std::array<std::byte, kSetupNoteBytes> exception;
};

// A head hint: position in bits 0-47, in 48-63 the low bits of the epoch it was written in. After
// every unexpected death the supervisor begins a new epoch, since the dead may have written here.
struct HeadHint {
  std::uint64_t position = 0;
  std::uint16_t epoch = 0;
  static constexpr HeadHint unpack(std::uint64_t bits) noexcept {
    return {bits & ((std::uint64_t{1} << 48U) - 1), static_cast<std::uint16_t>(bits >> 48U)};
  }
  [[nodiscard]] constexpr std::uint64_t pack() const noexcept {
    return position | std::uint64_t{epoch} << 48U;
  }
};

struct SupervisorHeader {
  alignas(64) sys::Atomic<PoolCondition> condition;  // the caller sleeps on it in join
  sys::Atomic<std::uint32_t> hint_epoch;
  alignas(64) RingHeader retry_ring;
  alignas(64) sys::Atomic<std::uint64_t> died;  // workers that died while the pool ran
  sys::Atomic<std::uint64_t> retried;           // tasks that were started again
  sys::Atomic<std::uint64_t> settled;           // that ended with their worker, or waiting
  // When the supervisor will look at time limits of its own accord. Who makes a limit that comes
  // sooner calls it. Both sides seq_cst: the limit is written first, then this is read; this is
  // taken back first, then the limits are read.
  alignas(64) sys::Atomic<std::int64_t> next_look_ns;
  sys::Atomic<std::uint64_t> retired_done;  // tasks done by workers that are gone
  // Counts deaths and repairs after which the completion ring may lack a task.
  sys::Atomic<std::uint64_t> lost_completions;
  // Seats that are empty for want of work.
  alignas(64) sys::Atomic<std::uint32_t> dormant;
  SetupCause setup_cause;
};

enum class WorkerRole : std::uint32_t {
  none = 0,
  starting = 1,
  parked = 2,  // a spare: ready, but takes no task
  active = 3,
  leaving = 4,  // to exit when it has no task
};

// What the supervisor says of the worker in a slot.
struct alignas(64) WorkerEntry {
  sys::Atomic<WorkerRole> role;
  sys::Atomic<std::int32_t> pid;
  sys::Atomic<std::uint32_t> index;     // which worker of the pool it is: 0 ... workers-1
  sys::Atomic<std::uint32_t> restarts;  // how many held that index before
};

inline constexpr std::uint32_t kRetryRingLog = 12;

// ---- the shared zone

// Which workers are there for a task that comes, two bits per slot in one word, so that of all who
// see a sleeper one wakes it, and each can tell that it was woken:
//
//            --------- sleeps -------->            -- who wakes it, before its bell -->
//     awake                             sleeping                                        coming
//            <----- finds work itself -            <----------- is there --------------
//
//   A worker whose tasks have lately been short says itself that it is coming, while it runs them.
//   That may turn out wrong, as may a worker be stopped when it was to come, or while it looks: who
//   relies on any of them has the supervisor look whether the work gets done (lookout_wanted).
inline constexpr std::size_t kIdleSlots = 32;  // of a word
inline constexpr std::size_t kIdleWords = kMaxSlots / kIdleSlots;
struct IdleBits {
  sys::Atomic<std::uint64_t> state;    // low half: sleeping on its bell; high half: coming
  sys::Atomic<std::uint32_t> looking;  // awake and looking for work: needs no waking
};
static_assert(kMaxSlots % kIdleSlots == 0);
inline constexpr std::size_t kStopDoorWords = kMaxSlots / 64;

// How those who wait for several tasks learn which have ended: whoever ends a watched task writes
// its name into the completion ring, then rings, and knocks at the task's door if it has one.
//
//   ended --take a position--> --write the entry--> --ring--> told
//
//   The one reader is the caller, which keeps its own position. An entry is a claim: the reader
//   looks at the record. One that is not there yet (its writer is stopped, or died) holds up those
//   behind it; so after a death or repair (SupervisorHeader::lost_completions), after a full round
//   unread, and now and then while it waits, the reader looks at every task that it watches.
// Memory ordering: entry before bell (and `armed`), listening (arming) before the look at the ring;
// all seq_cst, so one of the two sees the other.
struct CompletionHeader {
  sys::Atomic<std::uint64_t> tail;   // positions below it are taken
  Bell bell;                         // the caller's threads sleep on it
  sys::Atomic<std::uint32_t> armed;  // the pool's door is to be knocked at
};
inline constexpr std::uint32_t kCompletionRingLog = 16;

// Of the times that some tasks took, by LatencyHistogram::step_of(). Statistics, no more.
inline constexpr std::size_t kLatencySteps = 160;
using LatencyCounts = std::array<sys::Atomic<std::uint64_t>, kLatencySteps>;

// How soon the supervisor is to look whether the tasks that wait get taken; the stronger wish
// holds.
enum class LookoutWish : std::uint32_t {
  none = 0,
  later = 1,  // somebody was woken for them, or looks
  soon = 2,   // they were left to workers that were coming
};

struct SharedHeader {
  sys::FutexWord control;  // counts calls for the supervisor, which sleeps on it
  // 1: an arena was used since the supervisor last found nothing to give back.
  sys::Atomic<std::uint32_t> trim_wanted;
  sys::Atomic<std::uint64_t> timed_out;  // tasks and elements that ended by a time limit
  // Somebody waits for room in the queue of tasks; 1: the next claim is to wake it.
  sys::FutexWord room_wanted;
  // 1: workers may be at work, so that the supervisor looks at their memory from time to time.
  sys::Atomic<std::uint32_t> watch_wanted;
  sys::Atomic<LookoutWish> lookout_wanted;
  alignas(64) std::array<sys::Atomic<std::uint64_t>, kPriorities> head_hints;
  sys::Atomic<std::uint64_t> retry_head_hint;
  alignas(64) std::array<IdleBits, kIdleWords> idle;
  // Workers whose task polls for being asked to stop, a bit per slot.
  std::array<sys::Atomic<std::uint64_t>, kStopDoorWords> stop_doors;
  alignas(64) CompletionHeader completions;
  alignas(64) LatencyCounts waiting;
  LatencyCounts running;
};

enum class WorkerStage : std::uint32_t {
  idle = 0,
  claimed = 1,   // has the task, reads its arguments
  running = 2,   // inside the user's function
  replying = 3,  // writes the result
};

enum class CrashReport : std::uint32_t {
  none = 0,
  note = 1,   // signal and address, for when the worker's end is seen
  final = 2,  // the thread that runs tasks is in the handler: its task can be settled
};

// Of what runs before the first task.
enum class SetupStage : std::uint32_t {
  none = 0,
  running = 1,
  failed = 2,  // the note of its slot says how
  over = 3,    // all of it
};

// What a worker that has a place asks the supervisor for. It goes on only if told to leave.
enum class LeaveWish : std::uint32_t {
  none = 0,
  idle = 1,    // to leave, if it is not needed
  worn = 2,    // to be replaced; takes no task any more
  yields = 3,  // the same, with a task to be given to another
};

struct alignas(64) WorkerDesk {
  sys::FutexWord bell;  // the worker sleeps on it
  sys::Atomic<WorkerStage> stage;
  sys::Atomic<std::uint64_t> intent;  // RingEntry of the task it claims, has, or had last
  sys::Atomic<std::uint64_t> done;    // tasks it finished
  // Its crash handler's report; `crash` is written last.
  sys::Atomic<CrashReport> crash;
  std::int32_t crash_signal;
  std::uint64_t crash_address;
  // Ready to work: its initializer is over.
  sys::Atomic<std::uint32_t> prepared;
  sys::Atomic<SetupStage> setup;
  sys::Atomic<LeaveWish> wish;
  std::uint32_t crash_causes;  // with crash_signal
  // When the task or element it runs will have run for too long; 0: it runs none that is limited.
  sys::Atomic<std::int64_t> limit_ns;
};
static_assert(sizeof(WorkerDesk) == 64);

}  // namespace brood::shm
