#include "pool/protocol/lookout.hpp"

#include <algorithm>

#include "pool/protocol/call.hpp"
#include "sys/clock.hpp"

namespace brood::pool {

using shm::LookoutWish;

namespace {

// Long beside a short task, short beside a long one.
constexpr std::int64_t kBetweenLooksNs = 2'000'000;
// Long beside a task for which waking a worker is not worth while, even on a slow machine.
constexpr std::int64_t kLongTaskNs = 50'000;

void want(const PoolView& view, LookoutWish wish) noexcept {
  sys::Atomic<LookoutWish>& wanted = view.shared().lookout_wanted;
  LookoutWish before = wanted.load(std::memory_order_seq_cst);
  while (before < wish) {
    if (!wanted.compare_exchange_strong(before, wish, std::memory_order_relaxed)) continue;
    return call_supervisor(view);
  }
}

}  // namespace

bool call_one(const PoolView& view, IdleWorkers& idle) noexcept {
  const IdleWorkers::Call call = idle.call_one();
  if (call == IdleWorkers::Call::left_to_them) want(view, LookoutWish::soon);
  return call != IdleWorkers::Call::nobody;
}

void look_out_later(const PoolView& view) noexcept { want(view, LookoutWish::later); }

bool Lookout::look(IdleWorkers& idle, WaitingTasks& waiting, std::int64_t now) noexcept {
  sys::Atomic<LookoutWish>& wanted = view_.shared().lookout_wanted;
  const LookoutWish wish = wanted.load(std::memory_order_relaxed);
  if (wish == LookoutWish::none) {
    // It was on only if somebody has overwritten the wish: a time that stays past would be one that
    // the supervisor always has to look at.
    rest();
    return false;
  }
  const bool at_once = wish != LookoutWish::later && !is_at_it_;
  if (!at_once && next_look_ns_ == sys::kForever) begin_later(idle, waiting, now);
  if (!at_once && now < next_look_ns_) return false;
  note_who_comes(idle, at_once);
  wanted.store(LookoutWish::none, std::memory_order_seq_cst);
  const WaitingTasks::Change change = waiting.change();
  const bool nobody_sleeps = idle.count_sleeping() == 0;
  const bool has_waited = !at_once && change.any_left;
  // Nor is a place left empty for who is said to look.
  if (has_waited) idle.nobody_looks();
  if (change.count == 0 || (nobody_sleeps && has_waited)) {
    rest();
    return has_waited;
  }
  // Whoever has brought what came since the last look found the wish standing.
  if (nobody_sleeps || (!at_once && !is_at_it_ && !change.any_left)) {
    go_on_later(now);
    return false;
  }
  wanted.store(LookoutWish::soon, std::memory_order_relaxed);
  call(idle, change, at_once ? 0 : now - last_look_ns_);
  is_at_it_ = true;
  last_look_ns_ = now;
  next_look_ns_ = now + kBetweenLooksNs;
  return false;
}

void Lookout::begin_later(IdleWorkers& idle, WaitingTasks& waiting, std::int64_t now) noexcept {
  note_who_comes(idle, true);
  static_cast<void>(waiting.change());
  last_look_ns_ = now;
  next_look_ns_ = now + sys::kLookUpNs;
}

// What was there has been taken, and what has come since may be.
void Lookout::go_on_later(std::int64_t now) noexcept {
  auto none = LookoutWish::none;
  // Unless somebody wants more by now.
  view_.shared().lookout_wanted.compare_exchange_strong(none, LookoutWish::later,
                                                        std::memory_order_relaxed);
  is_at_it_ = false;
  last_look_ns_ = now;
  next_look_ns_ = now + sys::kLookUpNs;
}

void Lookout::rest() noexcept {
  is_at_it_ = false;
  next_look_ns_ = sys::kForever;
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
