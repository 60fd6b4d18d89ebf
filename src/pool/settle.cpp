#include "pool/settle.hpp"

#include <algorithm>
#include <cstring>

#include "pool/task.hpp"

namespace brood::pool {

using shm::OwnerId;
using shm::ReplyKind;
using shm::RingEntry;
using shm::TaskPhase;
using shm::TaskRequest;
using shm::TaskState;
using shm::TaskWord;

namespace {

// seq_cst: see raise_order.
TaskWord word_of(const TaskState& state) noexcept {
  return TaskWord::unpack(state.word.load(std::memory_order_seq_cst));
}

bool in_block(ReplyKind kind) noexcept {
  return kind == ReplyKind::value_block || kind == ReplyKind::exception_block;
}

}  // namespace

bool Settler::is_task_of(std::uint32_t index, OwnerId worker) const noexcept {
  const TaskWord word = word_of(view_.state(index));
  return word.phase == TaskPhase::claimed && word.owner.slot == worker.slot &&
         word.owner.epoch == worker.epoch;
}

bool Settler::has_task(OwnerId worker) const noexcept {
  const RingEntry intent =
      RingEntry::unpack(view_.desk(worker.slot).intent.load(std::memory_order_relaxed));
  return intent.index < view_.records() && is_task_of(intent.index, worker);
}

void Settler::hand_on(OwnerId worker) noexcept {
  const RingEntry intent =
      RingEntry::unpack(view_.desk(worker.slot).intent.load(std::memory_order_relaxed));
  if (has_task(worker)) start_again(intent.index, worker);
}

void Settler::settle_task_of(OwnerId worker, const WorkerDeath& death) noexcept {
  const std::uint32_t records = view_.records();
  const RingEntry intent =
      RingEntry::unpack(view_.desk(worker.slot).intent.load(std::memory_order_relaxed));
  if (intent.index < records && is_task_of(intent.index, worker)) {
    settle(intent.index, worker, death);
  } else {
    settle_all_of(worker, death);
  }
  // It may have died after it ended its task and before it woke who waits for that.
  if (intent.index < records) {
    sys::futex_wake(sleeping_half(view_.state(intent.index)), sys::kWakeAll);
  }
}

// It had none, or its desk was overwritten, and maybe its name written all over the records. Were
// all these started again, they would overwrite one another in the ring.
void Settler::settle_all_of(OwnerId worker, const WorkerDeath& death) noexcept {
  constexpr std::uint32_t kMostBelieved = (1U << shm::kRetryRingLog) / shm::kMaxSlots;
  const std::uint32_t records = view_.records();
  std::uint32_t found = 0;
  for (std::uint32_t index = 0; index < records; ++index) {
    if (!is_task_of(index, worker)) continue;
    if (++found <= kMostBelieved) {
      settle(index, worker, death);
    } else {
      condemn(index);
    }
  }
}

void Settler::condemn(std::uint32_t index) noexcept {
  const std::uint64_t bits = view_.state(index).word.load(std::memory_order_acquire);
  const std::uint32_t generation = view_.request(index).generation.load(std::memory_order_acquire);
  condemn_task(view_.state(index), bits, generation);
}

void Settler::settle(std::uint32_t index, OwnerId worker, const WorkerDeath& death) noexcept {
  if (view_.request(index).cells) {
    settle_chunk(index, worker, death);
  } else {
    settle_single(index, worker, death);
  }
}

void Settler::settle_single(std::uint32_t index, OwnerId worker,
                            const WorkerDeath& death) noexcept {
  TaskState& state = view_.state(index);
  take_back_block(state.kind, state.reply.data(), worker);
  const std::uint32_t attempts = state.attempts + 1;
  if (attempts <= view_.request(index).retries) {
    state.attempts = attempts;
    state.kind = ReplyKind::none;
    view_.supervisor().retried.fetch_add(1, std::memory_order_relaxed);
    start_again(index, worker);
    return;
  }
  const shm::DeathNote note{death.pid, death.wait_status, death.fault_address, attempts,
                            death.out_of_memory ? 1U : 0U};
  std::memcpy(state.reply.data(), &note, sizeof note);
  state.length = sizeof note;
  state.kind = ReplyKind::died;
  finish_task(state, worker);
  view_.supervisor().settled.fetch_add(1, std::memory_order_relaxed);
}

void Settler::settle_chunk(std::uint32_t index, OwnerId worker, const WorkerDeath& death) noexcept {
  const TaskRequest& request = view_.request(index);
  TaskState& state = view_.state(index);
  const std::span<std::byte> cells = outbox_.resolve(request.cells);
  const std::size_t cells_bytes = std::size_t{request.count} * request.cell_bytes;
  const std::uint32_t element = state.progress.load(std::memory_order_acquire);
  if (cells.size() < cells_bytes + request.count || element > request.count) {
    state.kind = ReplyKind::corrupt;
    finish_task(state, worker);
    return;
  }
  state.kind = ReplyKind::cells;
  // It may have died between its last element and the end of the task.
  if (element == request.count) {
    finish_task(state, worker);
    return;
  }
  auto* kinds = reinterpret_cast<ReplyKind*>(cells.data() + cells_bytes);
  std::byte* cell = cells.data() + std::size_t{element} * request.cell_bytes;
  take_back_block(kinds[element], cell, worker);
  const std::uint32_t attempts = state.attempts + 1;
  if (attempts <= request.retries) {
    state.attempts = attempts;
    kinds[element] = ReplyKind::none;
    view_.supervisor().retried.fetch_add(1, std::memory_order_relaxed);
    start_again(index, worker);
    return;
  }
  const std::uint32_t counted = std::min<std::uint32_t>(attempts, shm::kCellOutOfMemory - 1U);
  const shm::CellDeathNote note{
      death.pid, static_cast<std::uint16_t>(death.wait_status),
      static_cast<std::uint16_t>(counted | (death.out_of_memory ? shm::kCellOutOfMemory : 0U))};
  std::memcpy(cell, &note, sizeof note);
  kinds[element] = ReplyKind::died;
  state.attempts = 0;
  state.progress.store(element + 1, std::memory_order_release);
  view_.supervisor().settled.fetch_add(1, std::memory_order_relaxed);
  if (element + 1 == request.count) {
    finish_task(state, worker);
  } else {
    start_again(index, worker);
  }
}

void Settler::start_again(std::uint32_t index, OwnerId worker) noexcept {
  const std::uint32_t generation = view_.request(index).generation.load(std::memory_order_relaxed);
  if (return_task(view_.state(index), worker)) retry_ring_.push({index, generation});
}

// The worker may have died between naming its block in the reply and handing it over, or after. Its
// memory is not proven dead yet, so the block is only made its own again: the sweep takes it.
void Settler::take_back_block(ReplyKind kind, const std::byte* place, OwnerId worker) noexcept {
  if (!in_block(kind)) return;
  shm::BlockRef ref;
  std::memcpy(&ref, place, sizeof ref);
  outbox_.transfer(ref, OwnerId{shm::kCallerSlot, shm::kCallerEpoch}, worker);
}

bool Settler::makes_sense(std::uint32_t index, std::uint64_t bits, std::uint32_t generation,
                          IsLive is_live, const void* context) const noexcept {
  const TaskWord word = TaskWord::unpack(bits);
  if (!is_plausible(word, generation) || word.pack() != bits) return false;
  const bool owned = word.owner.slot != 0 || word.owner.epoch != 0;
  if (word.phase != TaskPhase::claimed) return !owned;
  if (!is_live(word.owner, context)) return false;
  // A worker names a task before it claims it, and no other until it has finished it.
  return RingEntry::unpack(view_.desk(word.owner.slot).intent.load(std::memory_order_relaxed))
             .index == index;
}

std::size_t Settler::audit(IsLive is_live, const void* context) noexcept {
  std::size_t condemned = 0;
  const std::uint32_t records = view_.records();
  for (std::uint32_t index = 0; index < records; ++index) {
    TaskState& state = view_.state(index);
    // In this order: a word that was committed meanwhile is seen with its generation.
    const std::uint64_t bits = state.word.load(std::memory_order_acquire);
    const std::uint32_t generation =
        view_.request(index).generation.load(std::memory_order_relaxed);
    // Free is written as zero; everything else names the generation that the caller gave.
    if (bits == 0 || generation == 0) continue;
    if (makes_sense(index, bits, generation, is_live, context)) continue;
    // Fails if the record has gone on since.
    if (condemn_task(state, bits, generation)) ++condemned;
  }
  return condemned;
}

bool Settler::all_done() const noexcept {
  const std::uint32_t records = view_.records();
  for (std::uint32_t index = 0; index < records; ++index) {
    const TaskPhase phase = word_of(view_.state(index)).phase;
    if (phase == TaskPhase::pending || phase == TaskPhase::claimed) return false;
  }
  return true;
}

void Settler::wake_waiters() noexcept {
  const std::uint32_t records = view_.records();
  for (std::uint32_t index = 0; index < records; ++index) {
    const TaskState& state = view_.state(index);
    if (word_of(state).waited) sys::futex_wake(sleeping_half(state), sys::kWakeAll);
  }
}

}  // namespace brood::pool
