#include "pool/protocol/lookout.hpp"

#include <algorithm>

#include "pool/protocol/call.hpp"

namespace brood::pool {

namespace {

// Long beside a short task, short beside a long one.
constexpr std::int64_t kBetweenLooksNs = 2'000'000;
// Long beside a task for which waking a worker is not worth while, even on a slow machine.
constexpr std::int64_t kLongTaskNs = 50'000;

void want_lookout(const PoolView& view) noexcept {
  sys::Atomic<std::uint32_t>& wanted = view.shared().lookout_wanted;
  if (wanted.load(std::memory_order_seq_cst) != 0) return;
  wanted.store(1, std::memory_order_relaxed);
  call_supervisor(view);
}

}  // namespace

bool call_one(const PoolView& view, IdleWorkers& idle) noexcept {
  const IdleWorkers::Call call = idle.call_one();
  if (call == IdleWorkers::Call::left_to_them) want_lookout(view);
  return call != IdleWorkers::Call::nobody;
}

void Lookout::look(IdleWorkers& idle, WaitingTasks& waiting, std::int64_t now) noexcept {
  sys::Atomic<std::uint32_t>& wanted = view_.shared().lookout_wanted;
  if (wanted.load(std::memory_order_relaxed) == 0) return;
  const bool first = next_look_ns_ == sys::kForever;
  if (!first && now < next_look_ns_) return;
  note_who_comes(idle, first);
  wanted.store(0, std::memory_order_seq_cst);
  const WaitingTasks::Change change = waiting.change();
  if (change.count == 0 || idle.count_sleeping() == 0) {
    next_look_ns_ = sys::kForever;
    return;
  }
  wanted.store(1, std::memory_order_relaxed);
  call(idle, change, first ? 0 : now - last_look_ns_);
  last_look_ns_ = now;
  next_look_ns_ = now + kBetweenLooksNs;
}

// `ns`: since the last look; 0: this is the first.
void Lookout::call(IdleWorkers& idle, const WaitingTasks::Change& change,
                   std::int64_t ns) noexcept {
  const auto taken = static_cast<std::int64_t>(change.taken);
  if (!change.any_left || taken >= ns / kLongTaskNs) {
    most_at_once_ = 1;
    // The caller may be waiting for what waits so long, and leave its processor to one more.
    (void)(change.any_left ? idle.call_one_more() : idle.call_one());
    return;
  }
  for (std::size_t i = 0; i < std::min(change.count, most_at_once_) && idle.wake_one(); ++i) {
  }
  most_at_once_ = std::min(2 * most_at_once_, seen_.size());
}

void Lookout::note_who_comes(IdleWorkers& idle, bool first) noexcept {
  for (std::uint16_t slot = shm::kFirstWorkerSlot; slot < view_.geometry().slots; ++slot) {
    std::uint64_t& seen = seen_[slot];
    if (!idle.is_coming(slot)) {
      seen = 0;
      continue;
    }
    // One more, for a task's name may be 0.
    const std::uint64_t last = view_.desk(slot).intent.load(std::memory_order_relaxed) + 1;
    if (!first && seen == last) {
      idle.stop_coming(slot);
      seen = 0;
    } else {
      seen = last;
    }
  }
}

}  // namespace brood::pool
