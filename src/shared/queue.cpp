#include "shared/queue.hpp"

#include <cstring>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

#include "brood/error.hpp"
#include "brood/queue.hpp"
#include "shared/waiting.hpp"
#include "start/waits.hpp"
#include "sys/clock.hpp"
#include "sys/identity.hpp"
#include "warden/object_space.hpp"

namespace brood::shared {

using channel::QueueRing;
using detail::DeadlineNs;
using detail::kNoWait;
using detail::QueueCore;
using detail::QueueElement;
using detail::QueueFrame;

namespace {

static_assert(static_cast<std::uint32_t>(shm::ObjectKind::queue) == detail::kQueueKind);
static_assert(channel::kCellHead == detail::kCellHeadBytes);

constexpr int kPatience = 16;

[[noreturn]] void throw_damaged() {
  throw Error("brood: what lies in this queue's shared memory makes no sense: it was overwritten");
}

// The queues that this process has handles of. A forked child begins with none.
class Queues {
 public:
  static Queues& here() noexcept {
    static Queues queues;
    return queues;
  }

  template <class Make>
  std::shared_ptr<SharedQueue> of(std::uint64_t name, Make&& make) {
    const std::lock_guard lock(mutex_);
    if (all_ == nullptr || token_ != sys::process_token()) {
      all_ = new All;  // for the rest of the process's life
      token_ = sys::process_token();
    }
    // Once in a while: those that are gone.
    if (all_->size() >= sweep_at_) {
      std::erase_if(*all_, [](const auto& entry) { return entry.second.expired(); });
      sweep_at_ = 2 * all_->size() + 16;
    }
    std::weak_ptr<SharedQueue>& known = (*all_)[name];
    std::shared_ptr<SharedQueue> queue = known.lock();
    if (queue == nullptr) known = queue = make();
    return queue;
  }

 private:
  using All = std::map<std::uint64_t, std::weak_ptr<SharedQueue>>;
  sys::ProcessMutex mutex_;
  All* all_ = nullptr;
  std::size_t sweep_at_ = 16;
  std::uint64_t token_ = 0;
};

// What a cell holds besides its word, in one of four sizes that the compiler knows.
void copy_room(std::byte* to, const std::byte* from, std::uint32_t cell_bytes) noexcept {
  const auto copy = [&]<std::size_t bytes>(std::integral_constant<std::size_t, bytes> /*size*/) {
    std::memcpy(to, from, bytes - channel::kCellHead);
  };
  switch (cell_bytes) {
    case 16:
      return copy(std::integral_constant<std::size_t, 16>());
    case 32:
      return copy(std::integral_constant<std::size_t, 32>());
    case 64:
      return copy(std::integral_constant<std::size_t, 64>());
    default:
      return copy(std::integral_constant<std::size_t, 128>());
  }
}

channel::QueueShape shape_of(const QueueElement& element, const QueueOptions& options) {
  constexpr std::uint32_t kFirstCells = 64;
  channel::QueueShape shape;
  shape.cell_bytes = element.cell_bytes;
  shape.framed = element.framed ? 1 : 0;
  shape.counts_tasks = element.counts_tasks ? 1 : 0;
  shape.drops_oldest = options.on_full == OnFull::drop_oldest ? 1 : 0;
  shape.wait = static_cast<channel::QueueWait>(options.wait);
  std::size_t items = options.max_items;
  if (element.framed) {
    shape.max_bytes = options.max_bytes;
  } else if (options.max_bytes != 0) {
    const std::size_t fit = options.max_bytes / std::max<std::size_t>(element.value_bytes, 1);
    if (fit == 0) throw Error("brood: QueueOptions::max_bytes has no room for a single item");
    items = items == 0 ? fit : std::min(items, fit);
  }
  if (shape.drops_oldest != 0 && items == 0 && shape.max_bytes == 0) {
    throw Error("brood: a queue that drops the oldest item when it is full needs a limit");
  }
  if (items > channel::kMaxCells) {
    throw ArenaFull("brood: a queue of " + std::to_string(items) +
                    " items would take too much memory, which is taken when it is made: 0 is a "
                    "queue that grows");
  }
  shape.bounded = items != 0 ? 1 : 0;
  shape.cells = items != 0 ? static_cast<std::uint32_t>(items) : kFirstCells;
  return shape;
}

}  // namespace

// ---- having it

SharedQueue::SharedQueue(detail::ObjectHandle handle, const QueueElement& element)
    : handle_(std::move(handle)), element_(element) {}

SharedQueue::~SharedQueue() { abandon_tasks(); }

void SharedQueue::enter() {
  const std::lock_guard lock(entering_);
  if (token_.load(std::memory_order_acquire) == sys::process_token()) return;
  const shm::ObjectPlace& place = handle_.hold()->use();
  objects_ = &detail::objects_here();
  me_ = objects_->me();
  header_ = place.header;
  open_tasks_.store(0, std::memory_order_relaxed);
  if (!ring_.attach(place, *objects_)) throw_damaged();
  const channel::QueueShape& shape = ring_.shape();
  if ((shape.framed != 0) != element_.framed || shape.cell_bytes != element_.cell_bytes) {
    throw_damaged();
  }
  token_.store(sys::process_token(), std::memory_order_release);
}

// ---- putting

SharedQueue::Attempt SharedQueue::try_claim(Position& at) {
  // Each turn somebody made progress, or what lies here makes no sense.
  for (int i = 0; i < 1000; ++i) {
    const Attempt attempt = ring_.claim(at, me_);
    if (attempt != Attempt::full) return attempt;
    if (ring_.shape().bounded == 0) {
      if (const int error = ring_.grow(); error != 0) {
        throw ArenaFull("brood: no shared memory for more items in this queue (" +
                        std::generic_category().message(error) +
                        "): take some out, or raise InitOptions::arena_limit_bytes");
      }
      continue;
    }
    // Cells of the dead at the head are room, and if it is to drop something, it is that.
    static_cast<void>(ring_.look_at_head());
    const Attempt again = ring_.claim(at, me_);
    if (again != Attempt::full || ring_.shape().drops_oldest == 0) return again;
    if (!drop_oldest()) return again;
  }
  return Attempt::damaged;
}

void SharedQueue::published() noexcept {
  header_->bells[0].ring();
  channel::ring_doorbells(body().board, *objects_);
}

QueueCore::Outcome SharedQueue::claim_slowly(Position& at, DeadlineNs deadline, std::size_t bytes,
                                             Attempt attempt) {
  bool reserved = bytes == 0;
  const auto give_up = [&] {
    if (reserved) unreserve(bytes);
    // Perhaps we alone were woken for room that we leave to others.
    header_->bells[1].ring();
  };
  const auto claimed = [&] {
    if (is_closed()) {
      attempt = Attempt::closed;
      return true;
    }
    if (!reserved) reserved = reserve(bytes);
    if (!reserved) return false;
    attempt = try_claim(at);
    return attempt != Attempt::full;
  };
  try {
    if (!claimed() && !wait(header_->bells[1], deadline, look_for_room_, claimed)) {
      give_up();
      return Outcome::late;
    }
  } catch (...) {
    give_up();
    throw;
  }
  if (attempt == Attempt::done) {
    // Whoever freed more than one place woke one of us.
    if (ring_.shape().bounded != 0 && !ring_.is_full()) header_->bells[1].ring();
    return Outcome::done;
  }
  give_up();
  if (attempt == Attempt::closed) return Outcome::closed;
  throw_damaged();
}

QueueCore::Outcome SharedQueue::put_cell(const std::byte* room, DeadlineNs deadline) {
  ready_here();
  Position at;
  const Attempt attempt = is_closed() ? Attempt::closed : ring_.claim(at, me_);
  if (attempt != Attempt::done) [[unlikely]] {
    const Outcome outcome = claim_slowly(at, deadline, 0, attempt);
    if (outcome != Outcome::done) return outcome;
  }
  copy_room(ring_.room(at), room, ring_.shape().cell_bytes);
  ring_.publish(at, me_);
  published();
  return Outcome::done;
}

// ---- getting

SharedQueue::Attempt SharedQueue::try_take(Position& at) {
  Attempt attempt = ring_.take(at, me_);
  if (attempt == Attempt::empty && is_closed()) [[unlikely]] {
    // Whoever closed it may not have come to the end.
    ring_.close();
    attempt = ring_.take(at, me_);
  }
  return attempt;
}

// A put by a member that has left, and that the warden did not find here, would never end.
void SharedQueue::look_after_head() noexcept {
  const warden::ObjectSpace* space = warden::ObjectSpace::current();
  const std::optional<shm::OwnerId> writer = ring_.writer_at_head();
  if (space != nullptr && writer && space->has_left(*writer)) ring_.bury(*writer);
}

QueueCore::Outcome SharedQueue::take_slowly(Position& at, DeadlineNs deadline, Attempt attempt) {
  const auto taken = [&] {
    attempt = try_take(at);
    if (attempt == Attempt::busy) look_after_head();
    return attempt != Attempt::empty && attempt != Attempt::busy;
  };
  // Who takes each item as it comes has its line and the producer's attention fetched for each:
  // a moment later there are several.
  for (int i = 0; i < kPatience && deadline != kNoWait; ++i) sys::cpu_relax();
  if (!taken()) {
    doorbell_.settle(body().board, [&] { return ring_.is_ready(); });
    bool came = false;
    try {
      came = wait(header_->bells[0], deadline, look_for_value_, taken);
    } catch (...) {
      header_->bells[0].ring();
      throw;
    }
    if (!came) {
      // Perhaps we alone were woken for what we leave to others.
      if (deadline != kNoWait) header_->bells[0].ring();
      return Outcome::late;
    }
    // Whoever finished a cell that others waited behind woke one of us.
    if (attempt == Attempt::done && ring_.look_at_head() == Attempt::done) {
      header_->bells[0].ring();
    }
  }
  if (attempt == Attempt::done) return Outcome::done;
  if (attempt == Attempt::closed) return Outcome::closed;
  throw_damaged();
}

// After clear(): there is room for others.
void SharedQueue::cleared(std::size_t bytes) noexcept {
  if (bytes != 0) unreserve(bytes);
  if (ring_.shape().bounded != 0) header_->bells[1].ring();
  doorbell_.settle(body().board, [&] { return ring_.is_ready(); });
}

QueueCore::Outcome SharedQueue::get_cell(std::byte* room, DeadlineNs deadline) {
  ready_here();
  Position at;
  const Attempt attempt = ring_.take(at, me_);
  if (attempt != Attempt::done) [[unlikely]] {
    const Outcome outcome = take_slowly(at, deadline, attempt);
    if (outcome != Outcome::done) return outcome;
  }
  copy_room(room, ring_.room(at), ring_.shape().cell_bytes);
  if (ring_.held() != nullptr) begin_task();
  ring_.clear(at, me_);
  cleared(0);
  return Outcome::done;
}

// ---- looking and closing

std::size_t SharedQueue::size() {
  ready_here();
  return ring_.size();
}

bool SharedQueue::empty() {
  ready_here();
  return ring_.look_at_head() != Attempt::done;
}

bool SharedQueue::full() {
  ready_here();
  if (ring_.is_full()) return true;
  const auto limit = static_cast<std::int64_t>(ring_.shape().max_bytes);
  return limit != 0 && body().bytes.load(std::memory_order_seq_cst) >= limit;
}

void SharedQueue::close() {
  ready_here();
  ring_.close();
  shm::ring_all_bells(*header_);
  channel::ring_doorbells(body().board, *objects_);
}

bool SharedQueue::closed() {
  ready_here();
  return is_closed();
}

bool SharedQueue::is_ready() {
  ready_here();
  return ring_.is_ready();
}

int SharedQueue::fileno() {
  ready_here();
  return doorbell_.descriptor(handle_.hold(), body().board, [&] { return ring_.is_ready(); });
}

}  // namespace brood::shared

namespace brood::detail {

using shared::SharedQueue;

std::shared_ptr<QueueCore> QueueCore::make(const QueueElement& element,
                                           const QueueOptions& options) {
  const channel::QueueShape shape = shared::shape_of(element, options);
  const std::shared_ptr<ObjectHold> hold =
      ObjectHold::make(shm::ObjectKind::queue, element.type, channel::QueueRing::body_bytes(shape));
  channel::QueueRing::format(hold->use().body, shape);
  hold->publish();
  return of(ObjectHandle(hold), element);
}

std::shared_ptr<QueueCore> QueueCore::of(const ObjectHandle& handle, const QueueElement& element) {
  if (!handle) return nullptr;
  std::shared_ptr<SharedQueue> queue = shared::Queues::here().of(handle.name(), [&] {
    auto made = std::make_shared<SharedQueue>(handle, element);
    made->enter();
    return made;
  });
  if (element.counts_tasks && !queue->counts_tasks()) {
    throw TypeMismatch("brood: this queue counts no tasks: it is no JoinableQueue");
  }
  return queue;
}

void throw_queue_closed() { throw Closed("brood: the queue is closed"); }
void throw_no_queue() { throw Error("brood: this handle names no queue"); }

}  // namespace brood::detail
