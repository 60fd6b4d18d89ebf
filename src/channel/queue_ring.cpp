#include "channel/queue_ring.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>

namespace brood::channel {

namespace {

// How far one walks before one asks the shared hint where the others are.
constexpr std::uint32_t kStepsBeforeHint = 8;

// By how many laps the cell is ahead of the position.
std::int32_t ahead(CellWord seen, Position at) noexcept {
  return static_cast<std::int32_t>(seen.lap() - at.lap);
}

}  // namespace

// ---- making and reaching

std::size_t QueueRing::body_bytes(const QueueShape& shape) noexcept {
  return first_ring_offset(shape.counts_tasks != 0) + std::size_t{shape.cells} * shape.cell_bytes;
}

void QueueRing::format(std::span<std::byte> body, const QueueShape& shape) noexcept {
  // All the rest is zero: empty cells of lap 0.
  reinterpret_cast<QueueBody*>(body.data())->shape = shape;
}

bool QueueRing::attach(const shm::ObjectPlace& object, shm::Objects& objects) noexcept {
  if (object.kind != shm::ObjectKind::queue || object.body.size() < sizeof(QueueBody)) return false;
  body_ = reinterpret_cast<QueueBody*>(object.body.data());
  std::memcpy(&shape_, &body_->shape, sizeof shape_);
  asm volatile("" : : "r"(&shape_) : "memory");  // what is checked is what is used
  const std::uint32_t bytes = shape_.cell_bytes;
  if (bytes != 16 && bytes != 32 && bytes != 64 && bytes != 128) return false;
  if (shape_.cells == 0 || shape_.cells > kMaxCells) return false;
  if (body_bytes(shape_) > object.body.size()) return false;
  queue_ = object.ref;
  objects_ = &objects;
  held_ = shape_.counts_tasks != 0 ? reinterpret_cast<HeldTasks*>(body_ + 1) : nullptr;
  for (auto& base : bases_) base.store(nullptr, std::memory_order_relaxed);
  put_at_.store(0, std::memory_order_relaxed);
  get_at_.store(0, std::memory_order_relaxed);
  bases_[0].store(object.body.data() + first_ring_offset(held_ != nullptr),
                  std::memory_order_relaxed);
  // Not at the beginning, whose lap's number may have come round again.
  for (const bool put : {true, false}) {
    const std::uint64_t hint = (put ? body_->tail : body_->head).load(std::memory_order_relaxed);
    if (!is_likely(Position::unpack(hint), put)) continue;
    (put ? put_at_ : get_at_).store(hint, std::memory_order_relaxed);
  }
  return true;
}

// Rings stay as long as the queue does, so one that was seen once may be used from then on.
std::byte* QueueRing::reach(std::uint32_t ring) noexcept {
  if (ring >= kMaxRings) return nullptr;
  std::byte* base = bases_[ring].load(std::memory_order_acquire);
  if (base != nullptr || shape_.bounded != 0) return base;
  if (shape_.cells > kMaxCells >> ring) return nullptr;
  const shm::BlockRef ref{body_->rings[ring].load(std::memory_order_acquire)};
  const shm::FramePlace frame = ref ? objects_->find_frame(ref) : shm::FramePlace{};
  if (!frame || frame.payload.size() < std::size_t{cells_of(ring)} * shape_.cell_bytes) {
    return nullptr;
  }
  if (frame.header->container.load(std::memory_order_relaxed) != queue_.bits) return nullptr;
  bases_[ring].store(frame.payload.data(), std::memory_order_release);
  return frame.payload.data();
}

// ---- walking

// More than that in one attempt: the cells make no sense.
std::uint32_t QueueRing::most_steps(Position at) const noexcept {
  return 2 * cells_of(at.ring) + 1000;
}

bool QueueRing::is_claimed(CellWord seen, Position at) noexcept {
  const std::int32_t laps = ahead(seen, at);
  return laps > 0 || (laps == 0 && !seen.is(CellState::empty));
}

// From a position that is gone to the next that may not be: if the cell is laps ahead, all
// positions before its present life have been claimed, and are gone.
void QueueRing::pass(Position& at, CellWord seen) const noexcept {
  if (ahead(seen, at) > 0) at.lap = seen.lap() - 1;
  step(at);
}

bool QueueRing::is_before(Position a, Position b) const noexcept {
  if (a.ring != b.ring) return a.ring < b.ring;
  return b.minus(a, cells_of(a.ring)) > 0;
}

// Whether the cell before a hint bears it out.
bool QueueRing::is_likely(Position there, bool claimed) noexcept {
  if (reach(there.ring) == nullptr || there.index >= cells_of(there.ring)) return false;
  Position before = there;
  if (there.index == 0) {
    before.index = cells_of(there.ring);
    --before.lap;
  }
  --before.index;
  const CellWord seen = look(before);
  if (claimed) return is_claimed(seen, before);
  return ahead(seen, before) > 0 || (ahead(seen, before) == 0 && seen.is(CellState::taken));
}

// Goes on where the hint says, if that is ahead of us.
void QueueRing::follow(Position& at, const sys::Atomic<std::uint64_t>& hint,
                       bool claimed) noexcept {
  const Position there = Position::unpack(hint.load(std::memory_order_relaxed));
  if (there.ring < kMaxRings && is_likely(there, claimed) && is_before(at, there)) at = there;
}

// Where the others are, after we have been away for so many laps that their numbers have come round
// again: the cell at our position is then neither of its lap nor of the one before.
bool QueueRing::rejoin(Position& at, const sys::Atomic<std::uint64_t>& hint) noexcept {
  const Position there = Position::unpack(hint.load(std::memory_order_relaxed));
  if (reach(there.ring) == nullptr || there.index >= cells_of(there.ring)) return false;
  at = there;
  return true;
}

bool QueueRing::go_to_next_ring(Position& at) noexcept {
  if (reach(at.ring + 1) == nullptr) return false;
  at = {at.ring + 1, 0, 0};
  return true;
}

// The first position that is not claimed, and what its cell holds. `done`: it is empty.
Attempt QueueRing::find_tail(Position& at, CellWord& seen) noexcept {
  at = Position::unpack(put_at_.load(std::memory_order_relaxed));
  bool rejoined = false;
  for (std::uint32_t steps = 0; steps < most_steps(at); ++steps) {
    seen = look(at);
    if (is_claimed(seen, at)) {
      pass(at, seen);
      if (steps == kStepsBeforeHint) follow(at, body_->tail, true);
      continue;
    }
    const std::int32_t laps = ahead(seen, at);
    const bool lost = laps < -1 || (laps == -1 && seen.is(CellState::empty));
    if (lost && !rejoined) {
      rejoined = true;
      if (rejoin(at, body_->tail)) continue;
    }
    if (seen.closed()) return Attempt::closed;
    if (seen.moved()) {
      if (!go_to_next_ring(at)) return Attempt::damaged;
      continue;
    }
    return laps == 0 ? Attempt::done : Attempt::full;
  }
  return Attempt::damaged;
}

// The first position whose value may be had, and what its cell holds. `done`: it is full.
Attempt QueueRing::find_head(Position& at, CellWord& seen) noexcept {
  at = Position::unpack(get_at_.load(std::memory_order_relaxed));
  bool rejoined = false;
  for (std::uint32_t steps = 0; steps < most_steps(at); ++steps) {
    seen = look(at);
    const std::int32_t laps = ahead(seen, at);
    if (laps > 0 || (laps == 0 && seen.is(CellState::taken))) {
      pass(at, seen);
      if (steps == kStepsBeforeHint) follow(at, body_->head, false);
      continue;
    }
    if (laps == 0 && seen.is(CellState::full)) return Attempt::done;
    if (laps == 0 && seen.is(CellState::writing)) return Attempt::busy;
    if (laps == 0 && seen.is(CellState::voided)) {
      pass_void(at, seen);
      continue;
    }
    if (laps == 0 && !seen.is(CellState::empty)) return Attempt::damaged;
    // Not claimed.
    const bool lost = laps < -1 || (laps == -1 && !seen.is(CellState::taken));
    if (lost && !rejoined) {
      rejoined = true;
      if (rejoin(at, body_->head)) continue;
    }
    if (seen.closed()) return Attempt::closed;
    if (!seen.moved()) return Attempt::empty;
    if (!go_to_next_ring(at)) return Attempt::damaged;
  }
  return Attempt::damaged;
}

void QueueRing::pass_void(Position at, CellWord seen) noexcept {
  std::uint64_t bits = seen.bits();
  const std::uint64_t next = CellWord(CellState::empty, at.lap + 1).bits() | seen.marks();
  word(at).compare_exchange_strong(bits, next, std::memory_order_seq_cst);
}

// ---- producers

Attempt QueueRing::claim_slowly(Position& at, shm::OwnerId me) noexcept {
  CellWord seen(0);
  for (int i = 0; i < 1'000'000; ++i) {
    const Attempt found = find_tail(at, seen);
    if (found == Attempt::damaged) return found;
    put_at_.store(at.pack(), std::memory_order_relaxed);
    if (found != Attempt::done) return found;
    std::uint64_t bits = seen.bits();
    const CellWord mine(CellState::writing, at.lap, me);
    // look() has acquired; nothing was written yet that would have to be released.
    if (!word(at).compare_exchange_strong(bits, mine.bits(), std::memory_order_relaxed)) continue;
    note(put_at_, body_->tail, at);
    return Attempt::done;
  }
  return Attempt::damaged;
}

void QueueRing::publish_frame(Position at, shm::OwnerId me, shm::BlockRef frame) noexcept {
  name_in(at).store(frame.bits, std::memory_order_relaxed);
  objects_->give_frame(frame);
  publish(at, me);
}

// Marks the cell at the tail of `ring`. `done`: the ring is ended, by whomever; `closed`.
Attempt QueueRing::end_ring(std::uint32_t ring, std::uint64_t mark) noexcept {
  Position at;
  CellWord seen(0);
  for (int i = 0; i < 1'000'000; ++i) {
    const Attempt found = find_tail(at, seen);
    if (found == Attempt::damaged || found == Attempt::closed) return found;
    if (at.ring > ring) return Attempt::done;
    std::uint64_t bits = seen.bits();
    if (word(at).compare_exchange_strong(bits, bits | mark, std::memory_order_seq_cst)) {
      return Attempt::done;
    }
  }
  return Attempt::damaged;
}

// The frame is nobody's before it is named in the body: named ones are never swept. One that was
// not named because of a death goes with the queue.
int QueueRing::grow() noexcept {
  const std::uint32_t ring = Position::unpack(put_at_.load(std::memory_order_relaxed)).ring;
  const std::uint32_t next = ring + 1;
  if (next >= kMaxRings || shape_.cells > kMaxCells >> next) return ENOSPC;
  if (reach(next) == nullptr) {
    const std::size_t bytes = std::size_t{cells_of(next)} * shape_.cell_bytes;
    const shm::FramePlace frame = objects_->make_frame(queue_, {}, bytes);
    if (!frame) return frame.error;
    std::memset(frame.payload.data(), 0, frame.payload.size());
    objects_->give_frame(frame.ref);
    std::uint64_t none = 0;
    if (!body_->rings[next].compare_exchange_strong(none, frame.ref.bits,
                                                    std::memory_order_acq_rel)) {
      if (objects_->take_frame(frame.ref)) objects_->free_block(frame.ref);
    }
    if (reach(next) == nullptr) return EIO;
  }
  end_ring(ring, CellWord::kMoved);
  return 0;
}

void QueueRing::close() noexcept {
  body_->closed.store(1, std::memory_order_seq_cst);
  end_ring(kMaxRings, CellWord::kClosed);
}

// ---- consumers

Attempt QueueRing::take_slowly(Position& at, shm::OwnerId me) noexcept {
  CellWord seen(0);
  for (int i = 0; i < 1'000'000; ++i) {
    const Attempt found = find_head(at, seen);
    if (found == Attempt::damaged) return found;
    get_at_.store(at.pack(), std::memory_order_relaxed);
    if (found != Attempt::done) return found;
    std::uint64_t bits = seen.bits();
    const std::uint64_t mine = CellWord(CellState::taken, at.lap, me).bits() | seen.marks();
    // As in claim_slowly().
    if (!word(at).compare_exchange_strong(bits, mine, std::memory_order_relaxed)) continue;
    note(get_at_, body_->head, at);
    return Attempt::done;
  }
  return Attempt::damaged;
}

// Of this queue, if there is one.
shm::FramePlace QueueRing::frame_in(Position at) const noexcept {
  const shm::BlockRef name{name_in(at).load(std::memory_order_relaxed)};
  const shm::FramePlace frame = objects_->find_frame(name);
  if (!frame || frame.header->container.load(std::memory_order_relaxed) != queue_.bits) return {};
  return frame;
}

shm::FramePlace QueueRing::accept_frame(Position at) noexcept {
  const shm::FramePlace frame = frame_in(at);
  if (!frame) return {};
  const bool ours = objects_->arena().transfer(frame.ref, shm::arena::kNobody, objects_->me());
  return ours ? frame : shm::FramePlace{};
}

// ---- anybody

Attempt QueueRing::look_at_head() noexcept {
  Position at;
  CellWord seen(0);
  const Attempt found = find_head(at, seen);
  if (found != Attempt::damaged) get_at_.store(at.pack(), std::memory_order_relaxed);
  return found;
}

bool QueueRing::is_ready() noexcept {
  const Attempt head = look_at_head();
  return head == Attempt::done || head == Attempt::closed || head == Attempt::damaged ||
         body_->closed.load(std::memory_order_seq_cst) != 0;
}

std::optional<shm::OwnerId> QueueRing::writer_at_head() noexcept {
  Position at;
  CellWord seen(0);
  if (find_head(at, seen) != Attempt::busy) return std::nullopt;
  return seen.owner();
}

bool QueueRing::is_full() noexcept {
  Position at;
  CellWord seen(0);
  if (shape_.bounded == 0) return false;
  // Cells of the dead at the head are nobody's.
  static_cast<void>(look_at_head());
  return find_tail(at, seen) == Attempt::full;
}

Position QueueRing::tail() noexcept {
  Position at;
  CellWord seen(0);
  if (find_tail(at, seen) != Attempt::damaged) put_at_.store(at.pack(), std::memory_order_relaxed);
  return at;
}

bool QueueRing::is_taking() noexcept {
  for (std::uint32_t ring = 0; ring < kMaxRings && reach(ring) != nullptr; ++ring) {
    for (Position at{ring, 0, 0}; at.index < cells_of(ring); ++at.index) {
      if (look(at).is(CellState::taken)) return true;
    }
  }
  return false;
}

// From `head` to the ring's end, or to `end` if that lies there; void cells only if asked for.
std::uint64_t QueueRing::count(Position head, Position end, bool with_void) const noexcept {
  std::uint64_t count = 0;
  for (std::uint32_t steps = 0; steps < most_steps(head) && head != end; ++steps) {
    const CellWord seen = look(head);
    if (!is_claimed(seen, head)) break;
    if (with_void || !seen.is(CellState::voided)) ++count;
    step(head);
  }
  return count;
}

std::uint64_t QueueRing::size() noexcept {
  Position head;
  CellWord seen(0);
  find_head(head, seen);
  const Position end = tail();
  // Only where somebody died in a put is it necessary to look at each.
  const bool with_void = body_->has_void.load(std::memory_order_relaxed) == 0;
  if (with_void && head.ring == end.ring) {
    return static_cast<std::uint64_t>(
        std::max<std::int64_t>(end.minus(head, cells_of(end.ring)), 0));
  }
  std::uint64_t sum = 0;
  while (head.ring < end.ring) {
    sum += count(head, end, with_void);
    if (!go_to_next_ring(head)) return sum;
  }
  return sum + count(head, end, with_void);
}

// ---- the warden

// The frame named in a cell that nobody can take any more. It may also be the name of an earlier
// lap's frame, which is somebody's by now, or gone.
void QueueRing::drop_frame(Position at) noexcept {
  if (shape_.framed == 0) return;
  if (const shm::FramePlace frame = accept_frame(at)) objects_->free_block(frame.ref);
}

std::uint32_t QueueRing::bury_cell(Position at, shm::OwnerId dead) noexcept {
  for (;;) {
    const CellWord seen = look(at);
    const bool writing = seen.is(CellState::writing);
    if ((!writing && !seen.is(CellState::taken)) || seen.owner() != dead) return 0;
    drop_frame(at);
    if (writing) body_->has_void.store(1, std::memory_order_relaxed);
    const CellWord next = writing ? CellWord(CellState::voided, seen.lap())
                                  : CellWord(CellState::empty, seen.lap() + 1);
    std::uint64_t bits = seen.bits();
    if (word(at).compare_exchange_strong(bits, next.bits() | seen.marks(),
                                         std::memory_order_seq_cst)) {
      return writing ? 0 : 1;
    }
  }
}

std::uint32_t QueueRing::bury(shm::OwnerId dead) noexcept {
  std::uint32_t taken = 0;
  for (std::uint32_t ring = 0; ring < kMaxRings && reach(ring) != nullptr; ++ring) {
    for (Position at{ring, 0, 0}; at.index < cells_of(ring); ++at.index) {
      taken += bury_cell(at, dead);
    }
  }
  return taken;
}

}  // namespace brood::channel
