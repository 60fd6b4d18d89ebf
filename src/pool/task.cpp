#include "pool/task.hpp"

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
template <class Step>
std::optional<TaskWord> change(TaskState& state, Step&& step) noexcept {
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

// Owner of a record that is being condemned; no worker has it.
constexpr std::uint16_t kNobody = shm::kMaxSlots - 1;

bool owned_by(const TaskWord& word, shm::OwnerId worker) noexcept {
  return word.phase == TaskPhase::claimed && word.owner.slot == worker.slot &&
         word.owner.epoch == worker.epoch;
}

}  // namespace

void publish_task(TaskState& state, std::uint32_t generation) noexcept {
  state.word.store(TaskWord{TaskPhase::pending, false, {}, generation}.pack(),
                   std::memory_order_release);
}

bool claim_task(TaskState& state, std::uint32_t generation, shm::OwnerId worker) noexcept {
  return change(state,
                [&](const TaskWord& now) -> std::optional<TaskWord> {
                  if (now.phase != TaskPhase::pending || now.generation != generation)
                    return std::nullopt;
                  return TaskWord{TaskPhase::claimed, now.waited, worker, generation, now.watched};
                })
      .has_value();
}

Finished finish_task(TaskState& state, shm::OwnerId worker) noexcept {
  const auto replaced = change(state, [&](const TaskWord& now) -> std::optional<TaskWord> {
    if (!owned_by(now, worker)) return std::nullopt;
    return TaskWord{TaskPhase::done, false, {}, now.generation};
  });
  if (replaced && replaced->waited) sys::futex_wake(sleeping_half(state), sys::kWakeAll);
  if (!replaced) return {};
  return {true, replaced->watched, replaced->generation};
}

bool return_task(TaskState& state, shm::OwnerId worker) noexcept {
  return change(state,
                [&](const TaskWord& now) -> std::optional<TaskWord> {
                  if (!owned_by(now, worker)) return std::nullopt;
                  return TaskWord{TaskPhase::pending, now.waited, {}, now.generation, now.watched};
                })
      .has_value();
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
    if (!is_plausible(word, generation) || word.phase == TaskPhase::done) return std::nullopt;
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
    if (!is_plausible(word, generation) || word.phase == TaskPhase::done) return false;
    if (word.watched) return true;
    word.watched = true;
    if (state.word.compare_exchange_weak(bits, word.pack(), std::memory_order_seq_cst)) return true;
  }
}

const void* sleeping_half(const TaskState& state) noexcept { return &state.word; }

bool is_plausible(const TaskWord& word, std::uint32_t generation) noexcept {
  return word.generation == generation && word.phase != TaskPhase::free &&
         word.owner.slot < shm::kMaxSlots;
}

}  // namespace brood::pool
