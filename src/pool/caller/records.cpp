#include "pool/caller/records.hpp"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>
#include <string>
#include <utility>

#include "brood/error.hpp"
#include "pool/protocol/call.hpp"
#include "pool/protocol/task.hpp"
#include "sys/clock.hpp"
#include "warden/object_space.hpp"

namespace brood::pool {

using detail::TaskDraft;
using detail::TaskSpec;
using detail::TaskTicket;
using shm::BlockRef;
using shm::ReplyKind;
using shm::TaskRequest;
using shm::TaskState;
using shm::TaskWord;

namespace {

// Enough to keep up with one abandoned task per task submitted.
constexpr std::size_t kCollectedPerDraft = 2;

std::uint16_t flags_of(const TaskSpec& spec, bool timed) noexcept {
  std::uint16_t flags = 0;
  const auto set = [&](shm::TaskFlag flag) { flags |= static_cast<std::uint16_t>(flag); };
  if (spec.retry_exceptions) set(shm::TaskFlag::retry_exceptions);
  if (timed) set(shm::TaskFlag::timed);
  if (spec.timeout_ns != shm::kNoLimitNs || spec.deadline_ns != shm::kNoLimitNs) {
    set(shm::TaskFlag::limited);
  }
  return flags;
}

}  // namespace

namespace {

bool is_used(const RingWriter& ring) noexcept { return ring.capacity_log() != 0; }

TaskWord word_of(const PoolView& view, TaskTicket task) noexcept {
  return TaskWord::unpack(view.state(task.index).word.load(std::memory_order_acquire));
}

// Whether nobody works on it any more.
bool is_done(const PoolView& view, TaskTicket task) noexcept {
  const TaskWord word = word_of(view, task);
  return word.phase == shm::TaskPhase::done && word.generation == task.generation;
}

}  // namespace

bool has_ended(const PoolView& view, TaskTicket task) noexcept {
  const TaskWord word = word_of(view, task);
  return has_outcome(word) && word.generation == task.generation;
}

// Without an early end, so that the compiler looks at many at once.
bool ElementCells::hold_values_only() const noexcept {
  std::byte difference{};
  for (const std::byte kind : kinds) {
    difference |= kind ^ static_cast<std::byte>(ReplyKind::value_inline);
  }
  return !kinds.empty() && difference == std::byte{};
}

Records::Records(const shm::Segment& segment, const PoolView& view, std::size_t arena_limit_bytes)
    : segment_(segment), view_(view) {
  for (std::size_t priority = 0; priority < rings_.size(); ++priority) {
    rings_[priority] = {view.caller().rings[priority], view.ring_cells(priority)};
  }
  const shm::OwnerId me{shm::kCallerSlot, shm::kCallerEpoch};
  inbox_.attach(view_.inbox(segment.fd(), arena_limit_bytes), me);
  outbox_.attach(view_.outbox(segment.fd(), arena_limit_bytes), me);
  for (shm::Arena* arena : {&inbox_, &outbox_}) {
    if (arena->format() < 0) throw ArenaFull("brood: there is no shared memory for a pool");
  }
  grow();
  static_cast<void>(ring_of(shm::kNormalPriority));
}

// ---- a task's way through

TaskDraft Records::draft(const TaskSpec& spec) {
  const std::lock_guard lock(mutex_);
  collect_abandoned(kCollectedPerDraft);
  const std::uint32_t index = take_record();
  TaskRequest& request = view_.request(index);
  TaskDraft draft{index, spec.priority, spec.ended, {}};
  request.arguments = BlockRef{};
  request.cells = BlockRef{};
  try {
    static_cast<void>(ring_of(spec.priority));
    if (spec.argument_bytes <= shm::kInlineArgumentBytes) {
      draft.arguments = std::span(request.inline_arguments).first(spec.argument_bytes);
    } else {
      const auto block = allocate(inbox_, spec.argument_bytes, false);
      request.arguments = block.ref;
      draft.arguments = block.bytes.first(spec.argument_bytes);
    }
    if (spec.elements != 0) {
      const std::size_t bytes = std::size_t{spec.elements} * (spec.cell_bytes + 1);
      request.cells = allocate(outbox_, bytes, true).ref;
    }
  } catch (...) {
    free_request_blocks(request);
    free_.push_back(index);
    throw;
  }
  // Whoever takes statistics may look at it at any time.
  std::atomic_ref(request.thunk).store(spec.thunk, std::memory_order_relaxed);
  request.count = std::max<std::uint32_t>(spec.elements, 1);
  request.cell_bytes = static_cast<std::uint16_t>(spec.cell_bytes);
  request.argument_bytes = spec.argument_bytes;
  request.retries = static_cast<std::uint16_t>(std::min(spec.retries, 0xffffU));
  request.timeout_ns = spec.timeout_ns;
  // Workers look at these before they know that the task is the one they mean.
  std::atomic_ref(request.deadline_ns).store(spec.deadline_ns, std::memory_order_relaxed);
  const bool timed = is_timed();
  std::atomic_ref(request.flags).store(flags_of(spec, timed), std::memory_order_relaxed);
  TaskState& state = view_.state(index);
  state.progress.store(0, std::memory_order_relaxed);
  state.attempts.store(0, std::memory_order_relaxed);
  state.length = 0;
  state.kind = ReplyKind::none;
  state.busy_us = 0;
  std::atomic_ref(state.runs).store(0, std::memory_order_relaxed);
  if (timed) {
    const std::int64_t now = sys::now_ns();
    std::memcpy(state.reply.data(), &now, sizeof now);
  }
  return draft;
}

void Records::drop(const TaskDraft& draft) noexcept {
  const std::lock_guard lock(mutex_);
  free_request_blocks(view_.request(draft.index));
  free_.push_back(draft.index);
}

TaskTicket Records::commit(const TaskDraft& draft, detail::TaskBaggage baggage) {
  TaskRequest& request = view_.request(draft.index);
  std::uint32_t generation = request.generation.load(std::memory_order_relaxed) + 1;
  if (generation == 0) generation = 1;  // 0 would be no entry
  const std::lock_guard lock(mutex_);
  request.number_low = static_cast<std::uint32_t>(next_number_);
  request.number_high = static_cast<std::uint16_t>(next_number_ >> 32U);
  next_number_ += request.count;
  if (!baggage.empty()) baggage_[draft.index] = std::move(baggage);
  // Released: the supervisor's audit reads the word first, then this.
  request.generation.store(generation, std::memory_order_release);
  if (draft.ended != detail::EndedBefore::no) {
    const bool late = draft.ended == detail::EndedBefore::late;
    publish_ended_task(view_.state(draft.index), generation, late);
    return {draft.index, generation};
  }
  publish_task(view_.state(draft.index), generation);
  rings_[draft.priority].push({draft.index, generation});
  return {draft.index, generation};
}

void Records::attach(TaskTicket task, std::shared_ptr<void> stop) {
  const std::lock_guard lock(mutex_);
  baggage_[task.index].stop = std::move(stop);
}

std::string Records::name_of(std::uint32_t index) {
  const std::lock_guard lock(mutex_);
  const auto found = baggage_.find(index);
  return found == baggage_.end() ? std::string() : found->second.name;
}

TaskTraits Records::traits_of(std::uint32_t index) {
  const std::lock_guard lock(mutex_);
  const auto found = baggage_.find(index);
  if (found == baggage_.end()) return {};
  const detail::TaskBaggage& baggage = found->second;
  const bool bound_handles = baggage.blob != nullptr && baggage.blob->has_handles();
  return {baggage.name, !baggage.handles.empty() || bound_handles};
}

const void* Records::function_of(TaskTicket task) {
  const std::lock_guard lock(mutex_);
  const TaskRequest& request = view_.request(task.index);
  const auto word =
      shm::TaskWord::unpack(view_.state(task.index).word.load(std::memory_order_acquire));
  if (word.generation != task.generation ||
      request.generation.load(std::memory_order_relaxed) != task.generation) {
    return nullptr;
  }
  const detail::Thunk thunk = detail::find_thunk(request.thunk);
  if (!thunk.calls_function) return nullptr;
  try {
    detail::Reader in(arguments_of(request));
    for (std::uint32_t i = 0; i < thunk.bound_fronts; ++i) {
      static_cast<void>(in.read_scalar<detail::BoundRef>());
    }
    return reinterpret_cast<const void*>(
        detail::open_function(in.read_scalar<detail::SealedFunction>()));
  } catch (const Error&) {
    return nullptr;
  }
}

void Records::collect() noexcept {
  const std::lock_guard lock(mutex_);
  collect_abandoned(abandoned_.size());
}

void Records::release(TaskTicket task, bool over) noexcept {
  const std::lock_guard lock(mutex_);
  if (over || is_done(view_, task)) {
    recycle(task);
  } else {
    abandoned_.push_back(task);
  }
}

// ---- which records are free

std::uint32_t Records::take_record() {
  if (free_.empty()) collect_abandoned(abandoned_.size());
  if (free_.empty()) grow();
  const std::uint32_t index = free_.back();
  free_.pop_back();
  return index;
}

bool Records::is_timed() noexcept {
  constexpr std::uint64_t kAllOf = 1000;
  constexpr std::uint64_t kOneOf = 16;
  return ++drafts_ <= kAllOf || drafts_ % kOneOf == 0;
}

// Doubles the records, and with them the ring. Throws ArenaFull.
void Records::grow() {
  const std::uint32_t have = view_.records();
  const std::uint32_t want = have == 0 ? 1U << shm::kFirstRingLog : have * 2;
  if (want > view_.geometry().max_tasks) {
    throw ArenaFull("brood: " + std::to_string(have) +
                    " tasks are unfinished or their results not taken; take some first");
  }
  const PoolGeometry& geometry = view_.geometry();
  const auto reserve = [&](const Zone& zone, std::size_t each, std::size_t from, std::size_t to) {
    segment_.reserve(zone.offset + from * each, (to - from) * each);
  };
  reserve(geometry.requests, sizeof(TaskRequest), have, want);
  reserve(geometry.states, sizeof(TaskState), have, want);
  for (std::size_t priority = 0; priority < rings_.size(); ++priority) {
    if (is_used(rings_[priority])) reserve_ring(priority, want);
  }
  reserve(geometry.doors, 1, have / 8, want / 8);
  free_.reserve(want);
  abandoned_.reserve(want);
  for (RingWriter& ring : rings_) {
    if (is_used(ring)) ring.grow();
  }
  view_.caller().records.store(want, std::memory_order_release);
  // Low indices on top: they are used first, and memory stays compact.
  for (std::uint32_t index = want; index > have; --index) free_.push_back(index - 1);
}

// The ring of capacity n lies at cells n ... 2n-1.
void Records::reserve_ring(std::size_t priority, std::size_t capacity) {
  constexpr std::size_t kCell = sizeof(std::uint64_t);
  segment_.reserve(view_.geometry().rings[priority].offset + capacity * kCell, capacity * kCell);
}

// Throws ArenaFull if this is the first task of its priority and there is no memory for its ring.
RingWriter& Records::ring_of(std::size_t priority) {
  RingWriter& ring = rings_[priority];
  if (!is_used(ring)) {
    const std::uint32_t records = view_.records();
    reserve_ring(priority, records);
    ring.start(static_cast<std::uint32_t>(std::countr_zero(records)));
  }
  return ring;
}

// Looks at up to `most` of them, in turn.
void Records::collect_abandoned(std::size_t most) noexcept {
  for (std::size_t i = 0; i < most && !abandoned_.empty(); ++i) {
    if (next_abandoned_ >= abandoned_.size()) next_abandoned_ = 0;
    TaskTicket& task = abandoned_[next_abandoned_];
    if (is_done(view_, task)) {
      recycle(task);
      task = abandoned_.back();
      abandoned_.pop_back();
    } else {
      ++next_abandoned_;
    }
  }
}

void Records::recycle(TaskTicket task) noexcept {
  if (is_wanted_ && is_done(view_, task) && is_wanted_(task)) {
    try {
      set_aside_.push_back(task);
      any_set_aside_.store(true, std::memory_order_release);
      return;
    } catch (...) {
      // Without memory nothing could be done with it either.
    }
  }
  free_whole(task);
}

std::vector<TaskTicket> Records::take_set_aside() noexcept {
  if (!any_set_aside_.load(std::memory_order_acquire)) return {};
  const std::lock_guard lock(mutex_);
  any_set_aside_.store(false, std::memory_order_relaxed);
  return std::exchange(set_aside_, {});
}

void Records::free_record(TaskTicket task) noexcept {
  const std::lock_guard lock(mutex_);
  free_whole(task);
}

void Records::free_whole(TaskTicket task) noexcept {
  TaskRequest& request = view_.request(task.index);
  if (request.generation.load(std::memory_order_relaxed) != task.generation) return;
  TaskState& state = view_.state(task.index);
  if (is_done(view_, task)) free_reply_blocks(request, state);
  free_request_blocks(request);
  if (!baggage_.empty()) baggage_.erase(task.index);
  release_task(state);
  free_.push_back(task.index);
}

// ---- memory

ElementCells Records::cells_of(const TaskRequest& request) const noexcept {
  const std::span<std::byte> block = outbox_.resolve(request.cells);
  const std::size_t cells_bytes = std::size_t{request.count} * request.cell_bytes;
  if (block.size() < cells_bytes + request.count) return {};
  return {block.first(cells_bytes), block.subspan(cells_bytes, request.count)};
}

void Records::free_reply_blocks(const TaskRequest& request, const TaskState& state) noexcept {
  if (!request.cells) {
    free_reply(state.kind, state.reply.data());
    return;
  }
  const ElementCells all = cells_of(request);
  if (all.hold_values_only()) return;
  for (std::size_t i = 0; i < all.kinds.size(); ++i) {
    free_reply(static_cast<ReplyKind>(all.kinds[i]), all.cells.data() + i * request.cell_bytes);
  }
}

void Records::free_reply(ReplyKind kind, const std::byte* place) noexcept {
  if (kind != ReplyKind::value_block && kind != ReplyKind::exception_block &&
      kind != ReplyKind::died_block) {
    return;
  }
  BlockRef ref;
  std::memcpy(&ref, place, sizeof ref);
  free_kept_handles(outbox_.resolve(ref));
  outbox_.free(ref);
  want_trim();
}

// What a worker keeps alive for us by a frame: by now we hold it ourselves, or don't want it.
void Records::free_kept_handles(std::span<const std::byte> packet) noexcept {
  shm::PacketHeader header{};
  if (packet.size() < sizeof header) return;
  std::memcpy(&header, packet.data(), sizeof header);
  warden::ObjectSpace* space = warden::ObjectSpace::current();
  if (header.handles == 0 || space == nullptr) return;
  shm::Objects& objects = space->objects();
  const shm::FramePlace frame = objects.find_frame({header.handles});
  // Anything else that is ours is not for a worker to name.
  if (!frame || !frame.payload.empty() || objects.arena().owner(frame.ref) != objects.me()) return;
  objects.free_block(frame.ref);
  space->ask_to_collect();
}

void Records::free_request_blocks(TaskRequest& request) noexcept {
  if (request.arguments) {
    inbox_.free(std::exchange(request.arguments, BlockRef{}));
    want_trim();
  }
  if (request.cells) {
    outbox_.free(std::exchange(request.cells, BlockRef{}));
    want_trim();
  }
}

shm::Arena::Allocation Records::allocate(shm::Arena& arena, std::size_t bytes, bool zeroed) {
  const auto attempt = [&] {
    return zeroed ? arena.allocate_zeroed(bytes) : arena.allocate(bytes);
  };
  shm::Arena::Allocation block = attempt();
  if (block.error != 0) {
    // Results that nobody will take may be in the way.
    collect_abandoned(abandoned_.size());
    block = attempt();
  }
  if (block.error != 0) {
    throw ArenaFull("brood: there is no shared memory for " + std::to_string(bytes) +
                    " bytes; take results of earlier tasks, send less at once, or raise "
                    "InitOptions::arena_limit_bytes");
  }
  want_trim();
  return block;
}

std::uint64_t Records::place(const detail::BoundBlob& blob) {
  const shm::PacketHeader header{blob.size(), 0};
  const std::size_t size = sizeof header + blob.size();
  shm::Arena::Allocation block;
  {
    const std::lock_guard lock(mutex_);
    block = allocate(inbox_, size, false);
  }
  std::memcpy(block.bytes.data(), &header, sizeof header);
  try {
    // The blob itself keeps what its values refer to.
    const detail::HandleCollector collector;
    blob.encode(block.bytes.subspan(sizeof header, blob.size()));
    if (!collector.handles().empty()) blob.remember_handles();
  } catch (...) {
    inbox_.free(block.ref);
    throw;
  }
  return block.ref.bits;
}

std::span<const std::byte> Records::arguments_of(const TaskRequest& request) const {
  std::span<const std::byte> all = request.inline_arguments;
  if (request.arguments) all = inbox_.resolve(request.arguments);
  if (all.size() < request.argument_bytes) return {};
  return all.first(static_cast<std::size_t>(request.argument_bytes));
}

std::span<const std::byte> Records::bound_values(std::uint64_t block) const {
  const std::span<const std::byte> packet = inbox_.resolve(BlockRef{block});
  shm::PacketHeader header{};
  if (packet.size() < sizeof header) return {};
  std::memcpy(&header, packet.data(), sizeof header);
  if (header.length > packet.size() - sizeof header) return {};
  return packet.subspan(sizeof header, static_cast<std::size_t>(header.length));
}

void Records::free_in_inbox(std::uint64_t block) noexcept {
  inbox_.free(BlockRef{block});
  want_trim();
}

// The arenas are looked through for idle memory only after they were used.
void Records::want_trim() noexcept {
  sys::Atomic<std::uint32_t>& wanted = view_.shared().trim_wanted;
  if (wanted.load(std::memory_order_relaxed) != 0) return;
  wanted.store(1, std::memory_order_relaxed);
  call_supervisor(view_);
}

}  // namespace brood::pool
