#include "pool/caller/watches.hpp"

#include <algorithm>
#include <span>
#include <utility>

#include "brood/error.hpp"
#include "pool/caller/records.hpp"
#include "pool/protocol/call.hpp"
#include "pool/protocol/completions.hpp"
#include "pool/protocol/task.hpp"
#include "sys/datagram.hpp"
#include "sys/process.hpp"
#include "sys/random.hpp"
#include "sys/syscall.hpp"

namespace brood::pool {

using detail::CompletionSink;
using detail::TaskTicket;

Watches::Watches(const shm::Segment& segment, const PoolView& view, std::function<bool()> is_over)
    : segment_(segment), view_(view), idle_(view), is_over_(std::move(is_over)) {}

Watches::~Watches() = default;

void Watches::abandon() noexcept {
  // The numbers may be other files' by now.
  mailbox_.release();
  for (auto& [index, door] : doors_) static_cast<void>(door.release());
}

// ---- who waits for what

// The ring has memory only where somebody ever watched.
void Watches::start_using() {
  if (used_.load(std::memory_order_relaxed)) return;
  const Zone& cells = view_.geometry().completions;
  try {
    segment_.reserve(cells.offset, cells.bytes);
  } catch (const SystemError&) {
    throw ArenaFull("brood: there is no shared memory to watch tasks");
  }
  used_.store(true, std::memory_order_relaxed);
}

std::uint32_t Watches::make_node(TaskTicket task, CompletionSink& sink, std::uint32_t slot) {
  if (first_.size() <= task.index) first_.resize(view_.records());
  if (free_ == 0) {
    nodes_.emplace_back();
    free_ = static_cast<std::uint32_t>(nodes_.size());
  }
  const std::uint32_t number = free_;
  Node& node = nodes_[number - 1];
  free_ = node.next;
  node = {task, first_[task.index], slot, &sink};
  first_[task.index] = number;
  ++watched_;
  return number;
}

void Watches::free_node(std::uint32_t number) noexcept {
  Node& node = nodes_[number - 1];
  node.sink = nullptr;
  node.next = free_;
  free_ = number;
  --watched_;
}

void Watches::watch(TaskTicket task, CompletionSink& sink, std::uint32_t slot) {
  const std::lock_guard lock(mutex_);
  start_using();
  make_node(task, sink, slot);
  // From here on whoever ends the task tells; or it has ended.
  if (!announce_watcher(view_.state(task.index), task.generation) || is_over_()) report(task);
}

void Watches::unwatch(TaskTicket task, CompletionSink& sink, std::uint32_t slot) noexcept {
  const std::lock_guard lock(mutex_);
  if (task.index >= first_.size()) return;
  for (std::uint32_t* link = &first_[task.index]; *link != 0; link = &nodes_[*link - 1].next) {
    const Node& node = nodes_[*link - 1];
    if (node.sink != &sink || node.slot != slot || node.task.generation != task.generation) {
      continue;
    }
    const std::uint32_t number = *link;
    *link = node.next;
    free_node(number);
    return;
  }
}

void Watches::report(TaskTicket task) noexcept {
  if (task.index >= first_.size()) return;
  std::uint32_t* link = &first_[task.index];
  while (*link != 0) {
    const std::uint32_t number = *link;
    Node& node = nodes_[number - 1];
    if (node.task.generation != task.generation) {
      link = &node.next;
      continue;
    }
    *link = node.next;
    CompletionSink* sink = node.sink;
    const std::uint32_t slot = node.slot;
    free_node(number);
    sink->ended(slot);
  }
}

void Watches::forget_watched(TaskTicket task) noexcept {
  const std::lock_guard lock(mutex_);
  report(task);
  const auto door = doors_.find(task.index);
  if (door == doors_.end() || door->second->generation != task.generation) return;
  set_door(view_, task.index, false);
  doors_.erase(door);
}

// ---- what was told

bool Watches::has_news() const noexcept {
  return view_.shared().completions.tail.load(std::memory_order_seq_cst) !=
             position_.load(std::memory_order_relaxed) ||
         view_.supervisor().lost_completions.load(std::memory_order_seq_cst) !=
             seen_losses_.load(std::memory_order_relaxed);
}

// False: there is more that can't be read, and has to be looked for.
bool Watches::collect_told() noexcept {
  constexpr std::uint64_t kCapacity = std::uint64_t{1} << shm::kCompletionRingLog;
  const std::uint64_t tail = view_.shared().completions.tail.load(std::memory_order_seq_cst);
  std::uint64_t position = position_.load(std::memory_order_relaxed);
  if (position == tail) return true;
  // Not so far ahead, and never behind: it has been overwritten or overrun.
  if (tail - position > kCapacity) return false;
  for (; position != tail; ++position) {
    const auto entry = shm::RingEntry::unpack(
        view_.completion_cells()[position & (kCapacity - 1)].load(std::memory_order_seq_cst));
    // Not there yet; its writer will ring, or its death be told.
    if (entry.generation == 0 ||
        entry.lap != shm::RingEntry::lap_of(position, shm::kCompletionRingLog)) {
      break;
    }
    const TaskTicket task{entry.index, entry.generation};
    if (task.index < first_.size() && has_ended(view_, task)) report(task);
  }
  position_.store(position, std::memory_order_relaxed);
  return true;
}

void Watches::report_all(bool over) noexcept {
  for (std::size_t i = 0; i < nodes_.size() && watched_ != 0; ++i) {
    const Node& node = nodes_[i];
    if (node.sink == nullptr) continue;
    const auto word =
        shm::TaskWord::unpack(view_.state(node.task.index).word.load(std::memory_order_seq_cst));
    // One that was overwritten is an error to be got, too.
    if (over || pool::has_outcome(word) || !is_plausible(word, node.task.generation)) {
      report(node.task);
    }
  }
}

bool Watches::finish_if_over() noexcept {
  if (!is_over_()) return false;
  report_all(true);
  return true;
}

bool Watches::look_at_all_locked() noexcept {
  // In this order: what is told from now on is read later, the rest is seen by the look.
  seen_losses_.store(view_.supervisor().lost_completions.load(std::memory_order_seq_cst),
                     std::memory_order_relaxed);
  position_.store(view_.shared().completions.tail.load(std::memory_order_seq_cst),
                  std::memory_order_relaxed);
  report_all(false);
  return finish_if_over();
}

bool Watches::collect() noexcept {
  const std::lock_guard lock(mutex_);
  const std::uint64_t losses = view_.supervisor().lost_completions.load(std::memory_order_seq_cst);
  const bool lost = losses != seen_losses_.load(std::memory_order_relaxed);
  if (!collect_told() || lost) return look_at_all_locked();
  return finish_if_over();
}

bool Watches::look_at_all(bool doubt) noexcept {
  // Whoever was looking for work may have been stopped.
  if (!idle_.anyone_looking()) idle_.wake_one();
  if (doubt) {
    view_.caller().doubts.fetch_add(1, std::memory_order_release);
    call_supervisor(view_);
  }
  const std::lock_guard lock(mutex_);
  return look_at_all_locked();
}

Watches::Bell Watches::listen() noexcept {
  shm::Bell& bell = view_.shared().completions.bell;
  return {&bell.word, bell.listen()};
}

std::int64_t Watches::most_look_ns() const noexcept {
  constexpr std::int64_t kLongNs = 50'000;
  constexpr std::int64_t kShortNs = 2'000;
  // With as many workers awake as processors, looking for long would take one from a worker.
  const std::size_t slots = view_.geometry().slots;
  std::size_t awake = 0;
  for (std::size_t slot = shm::kFirstWorkerSlot; slot < slots; ++slot) {
    const auto role =
        view_.entry(static_cast<std::uint16_t>(slot)).role.load(std::memory_order_relaxed);
    if (role == shm::WorkerRole::active) ++awake;
  }
  awake -= std::min(awake, idle_.count_sleeping());
  static const auto cpus = static_cast<std::size_t>(sys::usable_cpus());
  return awake >= cpus ? kShortNs : kLongNs;
}

// ---- descriptors

void Watches::open_id() {
  sys::Atomic<std::uint64_t>& id = view_.caller().door_id;
  if (id.load(std::memory_order_relaxed) != 0) return;
  std::uint64_t fresh = 0;
  sys::random_bytes(std::as_writable_bytes(std::span(&fresh, 1)));
  id.store(fresh | 1U, std::memory_order_seq_cst);
}

Watches::Descriptors Watches::descriptors() {
  const std::lock_guard lock(mutex_);
  start_using();
  if (!mailbox_) {
    open_id();
    const std::uint64_t id = view_.caller().door_id.load(std::memory_order_relaxed);
    mailbox_.reset(static_cast<int>(
        sys::require(sys::open_mailbox(DoorName(id).text()), "opening the door of a pool")));
  }
  return {mailbox_.get(), end_};
}

void Watches::arm() noexcept {
  const std::lock_guard lock(mutex_);
  if (!mailbox_) return;
  sys::empty_mailbox(mailbox_.get());
  view_.shared().completions.armed.store(1, std::memory_order_seq_cst);
}

void Watches::make_door(TaskTicket task, Door& door) {
  const DoorName name(view_.caller().door_id.load(std::memory_order_relaxed), task.index,
                      task.generation);
  door.generation = task.generation;
  door.mailbox.reset(
      static_cast<int>(sys::require(sys::open_mailbox(name.text()), "opening a future's door")));
  sys::require(door.set.open(), "opening a future's door");
  sys::require(door.set.add(door.mailbox.get(), 0), "opening a future's door");
  // A pool whose supervisor was killed knocks at no door.
  sys::require(door.set.add(end_, 1), "opening a future's door");
  set_door(view_, task.index, true);
  if (!announce_watcher(view_.state(task.index), task.generation) || is_over_()) {
    sys::knock(name.text());
  }
}

int Watches::door(TaskTicket task) {
  const std::lock_guard lock(mutex_);
  start_using();
  open_id();
  const auto known = doors_.find(task.index);
  if (known != doors_.end()) return known->second->set.fd();
  auto door = std::make_unique<Door>();
  Door& made = *(doors_[task.index] = std::move(door));
  try {
    make_door(task, made);
  } catch (...) {
    doors_.erase(task.index);
    throw;
  }
  return made.set.fd();
}

}  // namespace brood::pool
