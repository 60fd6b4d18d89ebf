#include "pool/protocol/task.hpp"

#include <bit>

namespace brood::pool {

using shm::ReplyKind;
using shm::TaskPhase;
using shm::TaskState;
using shm::TaskWord;

static_assert(std::endian::native == std::endian::little,
              "sleepers sleep on the first four bytes of the word");

namespace {

// Swaps the word as long as `step` finds a next one for it; the word that was replaced, or nullopt.
// seq_cst: see raise_order.
template <class Find>
std::optional<TaskWord> change(TaskState& state, Find&& step) noexcept {
  std::uint64_t bits = state.word.load(std::memory_order_relaxed);
  for (;;) {
    const TaskWord now = TaskWord::unpack(bits);
    const std::optional<TaskWord> next = step(now);
    if (!next) return std::nullopt;
    if (state.word.compare_exchange_weak(bits, next->pack(), std::memory_order_seq_cst,
                                         std::memory_order_relaxed)) {
      return now;
    }
  }
}

// The same; if that gives the task its outcome, nobody waits for that any more.
template <class Find>
Step change_and_wake(TaskState& state, Find&& step) noexcept {
  bool is_outcome = false;
  const auto replaced = change(state, [&](const TaskWord& now) -> std::optional<TaskWord> {
    std::optional<TaskWord> next = step(now);
    is_outcome = next && has_outcome(*next) && !has_outcome(now);
    if (is_outcome) next->waited = next->watched = false;
    return next;
  });
  if (!replaced) return {};
  if (is_outcome && replaced->waited) sys::futex_wake(sleeping_half(state), sys::kWakeAll);
  return {true, is_outcome && replaced->watched, replaced->generation};
}

// Of a task that `worker` has.
template <class Find>
Step change_own(TaskState& state, shm::OwnerId worker, Find&& step) noexcept {
  return change_and_wake(state, [&](const TaskWord& now) -> std::optional<TaskWord> {
    if (!is_claimed_by(now, worker)) return std::nullopt;
    return step(now);
  });
}

TaskWord with(TaskWord word, TaskPhase phase, shm::OwnerId owner) noexcept {
  word.phase = phase;
  word.owner = owner;
  word.doomed = false;
  return word;
}

TaskWord ended(TaskWord word, bool settled, bool expired) noexcept {
  word = with(word, TaskPhase::done, {});
  word.settled = settled;
  word.expired = expired;
  return word;
}

// Owner of a record that is being condemned; no worker has it.
constexpr std::uint16_t kNobody = shm::kMaxSlots - 1;

}  // namespace

void publish_task(TaskState& state, std::uint32_t generation) noexcept {
  state.word.store(TaskWord{TaskPhase::pending, false, {}, generation}.pack(),
                   std::memory_order_release);
}

void publish_ended_task(TaskState& state, std::uint32_t generation, bool late) noexcept {
  state.word.store(ended(TaskWord{TaskPhase::pending, false, {}, generation}, true, late).pack(),
                   std::memory_order_release);
}

bool claim_task(TaskState& state, std::uint32_t generation, shm::OwnerId worker) noexcept {
  return change(state,
                [&](const TaskWord& now) -> std::optional<TaskWord> {
                  if (now.phase != TaskPhase::pending || now.generation != generation)
                    return std::nullopt;
                  return with(now, TaskPhase::claimed, worker);
                })
      .has_value();
}

Step finish_task(TaskState& state, shm::OwnerId worker) noexcept {
  return change_own(state, worker, [](const TaskWord& now) -> std::optional<TaskWord> {
    if (now.doomed || (now.expired && !now.settled)) return std::nullopt;
    return ended(now, now.settled, now.expired);
  });
}

Step end_task(TaskState& state, shm::OwnerId worker, bool late) noexcept {
  return change_own(state, worker, [&](const TaskWord& now) -> std::optional<TaskWord> {
    return now.settled ? ended(now, true, now.expired) : ended(now, late, late);
  });
}

bool return_task(TaskState& state, shm::OwnerId worker) noexcept {
  return change_own(state, worker,
                    [](const TaskWord& now) -> std::optional<TaskWord> {
                      if (now.settled) return std::nullopt;
                      TaskWord next = with(now, TaskPhase::pending, {});
                      next.expired = false;
                      return next;
                    })
      .done;
}

CancelStep cancel_task(TaskState& state, std::uint32_t generation, Step& step) noexcept {
  CancelStep kind = CancelStep::too_late;
  step = change_and_wake(state, [&](const TaskWord& now) -> std::optional<TaskWord> {
    kind = CancelStep::too_late;
    if (!is_plausible(now, generation)) return std::nullopt;
    if (now.settled) {
      if (!now.expired) kind = CancelStep::already;
      return std::nullopt;
    }
    if (now.phase == TaskPhase::done) return std::nullopt;
    if (now.phase == TaskPhase::pending) {
      kind = CancelStep::ended;
      return ended(now, true, false);
    }
    kind = CancelStep::stopping;
    TaskWord next = now;
    next.settled = true;
    next.expired = false;
    return next;
  });
  return kind;
}

Step expire_pending(TaskState& state, std::uint32_t generation) noexcept {
  return change_and_wake(state, [&](const TaskWord& now) -> std::optional<TaskWord> {
    if (now.phase != TaskPhase::pending || now.generation != generation) return std::nullopt;
    return ended(now, true, true);
  });
}

Step expire_task(TaskState& state, shm::OwnerId worker, bool last) noexcept {
  return change_own(state, worker, [&](const TaskWord& now) -> std::optional<TaskWord> {
    if (now.settled || now.expired) return std::nullopt;
    TaskWord next = now;
    next.expired = true;
    next.settled = last;
    return next;
  });
}

bool unexpire_task(TaskState& state, shm::OwnerId worker) noexcept {
  return change_own(state, worker,
                    [](const TaskWord& now) -> std::optional<TaskWord> {
                      if (now.settled || now.doomed) return std::nullopt;
                      TaskWord next = now;
                      next.expired = false;
                      return next;
                    })
      .done;
}

bool doom_task(TaskState& state, shm::OwnerId worker, std::uint32_t generation) noexcept {
  return change_own(state, worker,
                    [&](const TaskWord& now) -> std::optional<TaskWord> {
                      if (now.generation != generation || !(now.settled || now.expired))
                        return std::nullopt;
                      TaskWord next = now;
                      next.doomed = true;
                      return next;
                    })
      .done;
}

bool condemn_task(TaskState& state, std::uint64_t nonsense, std::uint32_t generation) noexcept {
  // Claimed by nobody first, so that what is written next disturbs no record that has gone on.
  const TaskWord taken{TaskPhase::claimed, false, {kNobody, 0}, generation};
  if (!state.word.compare_exchange_strong(nonsense, taken.pack(), std::memory_order_acq_rel)) {
    return false;
  }
  state.kind = ReplyKind::corrupt;
  state.length = 0;
  state.word.store(TaskWord{TaskPhase::done, false, {}, generation}.pack(),
                   std::memory_order_release);
  sys::futex_wake(sleeping_half(state), sys::kWakeAll);
  return true;
}

void release_task(TaskState& state) noexcept {
  state.word.store(TaskWord{}.pack(), std::memory_order_relaxed);
}

std::optional<std::uint32_t> announce_waiter(TaskState& state, std::uint32_t generation) noexcept {
  // Relaxed: it only leaves a wish; who reads the reply has to look again.
  std::uint64_t bits = state.word.load(std::memory_order_relaxed);
  for (;;) {
    TaskWord word = TaskWord::unpack(bits);
    if (!is_plausible(word, generation) || has_outcome(word)) return std::nullopt;
    if (word.waited) return static_cast<std::uint32_t>(bits);
    word.waited = true;
    if (state.word.compare_exchange_weak(bits, word.pack(), std::memory_order_relaxed)) {
      return static_cast<std::uint32_t>(word.pack());
    }
  }
}

bool announce_watcher(TaskState& state, std::uint32_t generation) noexcept {
  std::uint64_t bits = state.word.load(std::memory_order_seq_cst);
  for (;;) {
    TaskWord word = TaskWord::unpack(bits);
    if (!is_plausible(word, generation) || has_outcome(word)) return false;
    if (word.watched) return true;
    word.watched = true;
    if (state.word.compare_exchange_weak(bits, word.pack(), std::memory_order_seq_cst)) return true;
  }
}

const void* sleeping_half(const TaskState& state) noexcept { return &state.word; }

bool is_claimed_by(const TaskWord& word, shm::OwnerId worker) noexcept {
  return word.phase == TaskPhase::claimed && word.owner.slot == worker.slot &&
         word.owner.epoch == worker.epoch;
}

bool has_outcome(const TaskWord& word) noexcept {
  return word.phase == TaskPhase::done || (word.phase == TaskPhase::claimed && word.settled);
}

bool is_plausible(const TaskWord& word, std::uint32_t generation) noexcept {
  if (word.generation != generation || word.phase == TaskPhase::free) return false;
  const bool claimed = word.phase == TaskPhase::claimed;
  const bool marked = word.settled || word.expired || word.doomed;
  if (word.phase == TaskPhase::pending && marked) return false;
  if (!claimed && (word.doomed || (word.expired && !word.settled))) return false;
  return claimed || (word.owner.slot == 0 && word.owner.epoch == 0);
}

}  // namespace brood::pool
