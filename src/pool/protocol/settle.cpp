#include "pool/protocol/settle.hpp"

#include <algorithm>
#include <cstring>

#include "pool/protocol/call.hpp"
#include "pool/protocol/completions.hpp"
#include "pool/protocol/task.hpp"

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

// The one that has failed now included.
std::uint32_t count_attempt(TaskState& state) noexcept {
  const std::uint32_t attempts = state.attempts.load(std::memory_order_relaxed) + 1;
  state.attempts.store(attempts, std::memory_order_relaxed);
  return attempts;
}

bool in_block(ReplyKind kind) noexcept {
  return kind == ReplyKind::value_block || kind == ReplyKind::exception_block;
}

}  // namespace

bool Settler::is_task_of(std::uint32_t index, OwnerId worker) const noexcept {
  return is_claimed_by(word_of(view_.state(index)), worker);
}

bool Settler::has_task(OwnerId worker) const noexcept {
  const RingEntry intent =
      RingEntry::unpack(view_.desk(worker.slot).intent.load(std::memory_order_relaxed));
  return intent.index < view_.records() && is_task_of(intent.index, worker);
}

void Settler::hand_on(OwnerId worker) noexcept {
  const RingEntry intent =
      RingEntry::unpack(view_.desk(worker.slot).intent.load(std::memory_order_relaxed));
  if (has_task(worker) && !start_again(intent.index, worker, false)) {
    end(intent.index, worker, false);
  }
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
  tell_watchers_to_look(view_, false);
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
  state.kind = ReplyKind::none;
  const TaskWord word = word_of(state);
  const std::uint32_t attempts = count_attempt(state);
  if (!word.settled && view_.request(index).may_be_tried_again(attempts)) {
    if (start_again(index, worker)) return;
  }
  if (!word.settled && !word.expired) {
    tell_death(state.kind, state.reply, death, attempts);
  }
  if (word.expired && !word.settled) count_timed_out(view_);
  end(index, worker, word.expired);
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
    end(index, worker, false);
    return;
  }
  state.kind = ReplyKind::cells;
  // It may have died between its last element and the end of the task.
  if (element == request.count) {
    end(index, worker, false);
    return;
  }
  auto* kinds = reinterpret_cast<ReplyKind*>(cells.data() + cells_bytes);
  std::byte* cell = cells.data() + std::size_t{element} * request.cell_bytes;
  take_back_block(kinds[element], cell, worker);
  kinds[element] = ReplyKind::none;
  const bool late = word_of(state).expired;
  const std::uint32_t attempts = count_attempt(state);
  if (request.may_be_tried_again(attempts) && start_again(index, worker)) return;
  if (late) {
    const shm::LateNote note{attempts, 0};
    std::memcpy(cell, &note, sizeof note);
    kinds[element] = ReplyKind::expired;
    count_timed_out(view_);
  } else {
    tell_death(kinds[element], std::span(cell, request.cell_bytes), death, attempts);
  }
  state.attempts.store(0, std::memory_order_relaxed);
  state.progress.store(element + 1, std::memory_order_release);
  view_.supervisor().settled.fetch_add(1, std::memory_order_relaxed);
  if (element + 1 == request.count || !start_again(index, worker, false)) {
    end(index, worker, false);
  }
}

// In a block if there is more to tell than has room in place, and memory for it.
void Settler::tell_death(ReplyKind& kind, std::span<std::byte> place, const WorkerDeath& death,
                         std::uint32_t attempts) noexcept {
  const shm::DeathNote note{death.pid, death.wait_status, death.fault_address, attempts,
                            death.causes};
  const bool fits = place.size() >= sizeof note || death.fault_address == 0;
  const bool is_all = fits && death.trace.empty() && death.stderr_tail.empty();
  if (!is_all && tell_in_block(place, death, note)) {
    kind = ReplyKind::died_block;
    return;
  }
  kind = ReplyKind::died;
  if (place.size() >= sizeof note) {
    std::memcpy(place.data(), &note, sizeof note);
    return;
  }
  const std::uint32_t counted = std::min(attempts, shm::kCellAttempts);
  const shm::CellDeathNote short_note{
      death.pid, static_cast<std::uint16_t>(death.wait_status),
      static_cast<std::uint16_t>(counted | death.causes << shm::kCellCausesShift)};
  std::memcpy(place.data(), &short_note, sizeof short_note);
}

bool Settler::tell_in_block(std::span<std::byte> place, const WorkerDeath& death,
                            const shm::DeathNote& note) noexcept {
  const shm::DeathEvidence evidence{static_cast<std::uint32_t>(death.trace.size()),
                                    static_cast<std::uint32_t>(death.stderr_tail.size())};
  const shm::PacketHeader header{
      sizeof note + sizeof evidence + death.trace.size() + death.stderr_tail.size(), 0};
  const shm::Arena::Allocation block =
      outbox_.allocate(sizeof header + static_cast<std::size_t>(header.length));
  if (block.error != 0) return false;
  std::byte* to = block.bytes.data();
  const auto append = [&to](const void* bytes, std::size_t count) {
    if (count != 0) std::memcpy(to, bytes, count);
    to += count;
  };
  append(&header, sizeof header);
  append(&note, sizeof note);
  append(&evidence, sizeof evidence);
  append(death.trace.data(), death.trace.size());
  append(death.stderr_tail.data(), death.stderr_tail.size());
  std::memcpy(place.data(), &block.ref, sizeof block.ref);
  return outbox_.transfer(block.ref, OwnerId{shm::kSupervisorSlot, 1},
                          OwnerId{shm::kCallerSlot, shm::kCallerEpoch});
}

void Settler::end(std::uint32_t index, OwnerId worker, bool late) noexcept {
  tell_if_watched(view_, index, end_task(view_.state(index), worker, late));
}

// False: it was cancelled meanwhile.
bool Settler::start_again(std::uint32_t index, OwnerId worker, bool counts) noexcept {
  const std::uint32_t generation = view_.request(index).generation.load(std::memory_order_relaxed);
  if (!return_task(view_.state(index), worker)) return false;
  retry_ring_.push({index, generation});
  if (counts) view_.supervisor().retried.fetch_add(1, std::memory_order_relaxed);
  return true;
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
  if (!is_plausible(word, generation)) return false;
  if (word.phase != TaskPhase::claimed) return true;
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
  // Those it ended, and those whose end was told in what was overwritten.
  tell_watchers_to_look(view_, false);
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
  tell_watchers_to_look(view_, true);
}

}  // namespace brood::pool
