#include "pool/protocol/admission.hpp"

#include <algorithm>

#include "pool/protocol/task.hpp"

namespace brood::pool {

namespace {
constexpr std::uint32_t kMostRingLog = 31;
}  // namespace

WaitingTasks::WaitingTasks(const PoolView& view, std::optional<std::size_t> most) noexcept
    : view_(view), most_(most) {
  for (std::size_t priority = 0; priority < rings_.size(); ++priority) {
    rings_[priority] = {view.caller().rings[priority], view.ring_cells(priority), kMostRingLog,
                        view.shared().head_hints[priority], view.supervisor().hint_epoch};
  }
}

std::size_t WaitingTasks::count_all() noexcept {
  const std::lock_guard lock(mutex_);
  return count();
}

WaitingTasks::Change WaitingTasks::change() noexcept {
  const std::lock_guard lock(mutex_);
  Change change{count(), false, 0};
  for (std::size_t i = 0; i < rings_.size(); ++i) {
    const RingReader::Left left = rings_[i].left();
    change.any_left = change.any_left || left.first < last_[i].end;
    change.taken += left.first - std::min(left.first, last_[i].first);
    last_[i] = left;
  }
  return change;
}

bool WaitingTasks::take_place() noexcept {
  const std::lock_guard lock(mutex_);
  if (places_ + count() >= *most_) return false;
  ++places_;
  return true;
}

void WaitingTasks::give_place_back() noexcept {
  const std::lock_guard lock(mutex_);
  --places_;
}

const sys::FutexWord& WaitingTasks::want_room() noexcept {
  sys::FutexWord& wanted = view_.shared().room_wanted;
  // seq_cst, before the tasks are counted again: a worker claims first, then looks at this.
  wanted.store(1, std::memory_order_seq_cst);
  return wanted;
}

void WaitingTasks::wake_all() noexcept {
  sys::FutexWord& wanted = view_.shared().room_wanted;
  // Who sleeps wants it known again; who is about to sleep finds another value than it left.
  wanted.store(0, std::memory_order_seq_cst);
  sys::futex_wake(&wanted, sys::kWakeAll);
}

std::size_t WaitingTasks::count() noexcept {
  using Offer = RingReader::Offer;
  const auto is_past = [this](shm::RingEntry entry) {
    if (entry.index >= view_.records()) return Offer::unknown;
    const auto word =
        shm::TaskWord::unpack(view_.state(entry.index).word.load(std::memory_order_seq_cst));
    const bool waits = word.phase == shm::TaskPhase::pending && word.generation == entry.generation;
    return waits ? Offer::unknown : Offer::gone;
  };
  std::size_t count = 0;
  for (RingReader& ring : rings_) {
    static_cast<void>(ring.take(is_past));
    count += ring.left().count();
  }
  return count;
}

}  // namespace brood::pool
