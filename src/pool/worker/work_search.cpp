#include "pool/worker/work_search.hpp"

#include <atomic>

#include "pool/protocol/call.hpp"
#include "pool/protocol/completions.hpp"
#include "pool/protocol/dormancy.hpp"
#include "pool/protocol/lookout.hpp"
#include "pool/protocol/task.hpp"
#include "sys/clock.hpp"

namespace brood::pool {

using shm::RingEntry;
using shm::WorkerRole;

namespace {
constexpr std::uint32_t kMostRingLog = 31;
}  // namespace

WorkSearch::WorkSearch(const PoolView& view, shm::OwnerId me, int processors, Pace pace) noexcept
    : view_(view),
      me_(me),
      entry_(view.entry(me.slot)),
      desk_(view.desk(me.slot)),
      idle_(view, processors),
      retry_ring_(view.supervisor().retry_ring, view.retry_cells(), shm::kRetryRingLog,
                  view.shared().retry_head_hint, view.supervisor().hint_epoch),
      // The caller needs a processor, too.
      most_looking_(processors - 1),
      pace_(pace) {
  for (std::size_t priority = 0; priority < rings_.size(); ++priority) {
    rings_[priority] = {view.caller().rings[priority], view.ring_cells(priority), kMostRingLog,
                        view.shared().head_hints[priority], view.supervisor().hint_epoch};
  }
}

bool WorkSearch::take(RingEntry& task) noexcept {
  const auto try_claim = [&](RingEntry entry) {
    const RingReader::Offer offer = claim(entry);
    if (offer == RingReader::Offer::taken) task = entry;
    return offer;
  };
  // Tasks whose worker died have waited longest.
  if (!retry_ring_.take(try_claim) &&
      std::ranges::none_of(rings_, [&](RingReader& ring) { return ring.take(try_claim); })) {
    return false;
  }
  make_room_known();
  if (pace_.count_task()) {
    pace_.is_brisk() ? idle_.start_coming(me_.slot) : idle_.stop_coming(me_.slot);
  }
  // The caller wakes nobody while somebody looks: if there is more, it is for us to pass on.
  if (maybe_work()) call_one(view_, idle_);
  return true;
}

RingReader::Offer WorkSearch::claim(RingEntry entry) noexcept {
  using Offer = RingReader::Offer;
  // Read after the tail, so what the ring names has memory.
  if (entry.index >= view_.records()) return Offer::unknown;
  if (is_too_late(entry)) {
    const bool ended = counting_timed_out(view_, entry.index, [&] {
      return expire_pending(view_.state(entry.index), entry.generation);
    });
    if (ended) {
      desk_.done.store(desk_.done.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    }
  }
  // Before the claim, which releases it: a claimed task is always found at its owner's desk.
  desk_.intent.store(entry.pack(), std::memory_order_relaxed);
  const bool claimed = claim_task(view_.state(entry.index), entry.generation, me_);
  return claimed ? Offer::taken : Offer::gone;
}

// The record may have gone on to another task, for which this tells nothing: who acts on it names
// the task.
bool WorkSearch::is_too_late(RingEntry entry) const noexcept {
  shm::TaskRequest& request = view_.request(entry.index);
  const auto flags = std::atomic_ref(request.flags).load(std::memory_order_relaxed);
  if ((flags & static_cast<std::uint16_t>(shm::TaskFlag::limited)) == 0) return false;
  return std::atomic_ref(request.deadline_ns).load(std::memory_order_relaxed) <= sys::now_ns();
}

// Who waits for room looks by itself from time to time, so a death in here costs little.
void WorkSearch::make_room_known() noexcept {
  sys::FutexWord& wanted = view_.shared().room_wanted;
  // seq_cst: see WaitingTasks::want_room.
  if (wanted.load(std::memory_order_seq_cst) == 0) [[likely]]
    return;
  wanted.store(0, std::memory_order_relaxed);
  sys::futex_wake(&wanted, sys::kWakeAll);
}

void WorkSearch::pass_on() noexcept {
  if (maybe_work()) call_another(view_, idle_);
}

void WorkSearch::wait(WorkerRole role, bool takes_tasks, std::int64_t until) noexcept {
  const std::int64_t start = sys::now_ns();
  pace_.pause(start);
  const bool found = role == WorkerRole::active && takes_tasks && most_looking_ > 0 && look();
  if (!found) sleep(role, takes_tasks, until);
  const std::int64_t end = sys::now_ns();
  look_time_.learn(found ? 0 : end - start);
  pace_.resume(end);
}

bool WorkSearch::look() noexcept {
  if (!idle_.start_looking(me_.slot, most_looking_)) return maybe_work();
  const bool found = look_until(sys::now_ns() + look_time_.ns());
  idle_.stop_looking(me_.slot);
  // Who sees nobody look any more wakes; who still saw us look has put the work there before.
  return found || maybe_work();
}

void WorkSearch::sleep(WorkerRole role, bool takes_tasks, std::int64_t until) noexcept {
  const bool active = role == WorkerRole::active && takes_tasks;
  if (pace_.is_brisk()) idle_.stop_coming(me_.slot);
  // Acquired: who reads a new bell also reads the role that it was rung for.
  const std::uint32_t bell = desk_.bell.load(std::memory_order_acquire);
  if (active) idle_.start_sleeping(me_.slot);
  const bool still_nothing =
      entry_.role.load(std::memory_order_relaxed) == role && !(active && maybe_work());
  if (still_nothing) {
    // A draining pool ends when nobody has anything left.
    const auto order = view_.caller().order.load(std::memory_order_seq_cst);
    if (order != shm::PoolOrder::run) call_supervisor(view_);
    sys::futex_wait(&desk_.bell, bell, until);
  }
  if (!active) return;
  idle_.stop_sleeping(me_.slot);
  if (pace_.is_brisk()) idle_.start_coming(me_.slot);
}

bool WorkSearch::look_until(std::int64_t end) noexcept {
  do {
    for (int i = 0; i < 32; ++i) {
      if (maybe_work()) return true;
      sys::cpu_relax();
    }
  } while (sys::now_ns() < end);
  return false;
}

}  // namespace brood::pool
