#include "pool/protocol/task_clock.hpp"

#include <algorithm>
#include <atomic>

#include "pool/protocol/call.hpp"
#include "pool/protocol/completions.hpp"
#include "pool/protocol/stop_door.hpp"
#include "pool/protocol/task.hpp"
#include "sys/clock.hpp"

namespace brood::pool {

using shm::RingEntry;
using shm::TaskWord;

namespace {

TaskWord word_of(const shm::TaskState& state) noexcept {
  return TaskWord::unpack(state.word.load(std::memory_order_acquire));
}

std::int64_t sum(std::int64_t time, std::int64_t duration) noexcept {
  return duration > shm::kNoLimitNs - time ? shm::kNoLimitNs : time + duration;
}

void call_if_sooner(const PoolView& view, std::int64_t time) noexcept {
  if (time < view.supervisor().next_look_ns.load(std::memory_order_seq_cst)) call_supervisor(view);
}

}  // namespace

void announce_limit(const PoolView& view, shm::OwnerId worker, std::int64_t limit) noexcept {
  view.desk(worker.slot).limit_ns.store(limit, std::memory_order_seq_cst);
  call_if_sooner(view, limit);
}

void announce_deadline(const PoolView& view, std::int64_t deadline, std::int64_t now) noexcept {
  sys::Atomic<std::int64_t>& earliest = view.caller().deadline_ns;
  std::int64_t known = earliest.load(std::memory_order_relaxed);
  // One that is over has been looked at, or is going to be.
  while ((known <= now || deadline < known) &&
         !earliest.compare_exchange_weak(known, deadline, std::memory_order_seq_cst)) {
  }
  call_if_sooner(view, deadline);
}

void TaskClock::take_back_promise() noexcept {
  wake_ns_ = shm::kNoLimitNs;
  view_.supervisor().next_look_ns.store(shm::kNoLimitNs, std::memory_order_seq_cst);
}

std::int64_t TaskClock::promise(std::int64_t wake_ns) noexcept {
  wake_ns = std::min(wake_ns, wake_ns_);
  view_.supervisor().next_look_ns.store(wake_ns, std::memory_order_seq_cst);
  return wake_ns;
}

void TaskClock::wake_at(std::int64_t time) noexcept { wake_ns_ = std::min(wake_ns_, time); }

bool TaskClock::must_die(StopWatch& watch, shm::OwnerId worker, std::int64_t now) noexcept {
  // Only for what it orders: who has set a limit before the promise was taken back has named its
  // task before. The limit itself is read when it is known whose it is.
  static_cast<void>(view_.desk(worker.slot).limit_ns.load(std::memory_order_seq_cst));
  const RingEntry task =
      RingEntry::unpack(view_.desk(worker.slot).intent.load(std::memory_order_relaxed));
  if (task.generation == 0 || task.index >= view_.records()) return false;
  shm::TaskState& state = view_.state(task.index);
  TaskWord word = word_of(state);
  if (!is_claimed_by(word, worker)) return false;
  // By us a moment ago; or by a stray write, which leaves the worker no way out either.
  if (word.doomed) return watch.doomed = true;
  const std::uint32_t element = state.progress.load(std::memory_order_relaxed);
  const std::uint32_t attempts = state.attempts.load(std::memory_order_relaxed);
  if (watch.entry != task.pack() || watch.element != element || watch.attempts != attempts) {
    const bool same_task = watch.entry == task.pack();
    watch = {task.pack(), element, attempts, now, same_task ? watch.settled_ns : 0, false, false};
  }
  const shm::TaskRequest& request = view_.request(task.index);
  std::int64_t limit = shm::kNoLimitNs;
  if (request.has(shm::TaskFlag::limited)) {
    limit = limit_of(watch, request, worker);
    if (now < limit) {
      wake_at(limit);
    } else if (!word.settled && !word.expired) {
      const bool over_for_all = now >= request.deadline_ns && !request.cells;
      const bool last =
          !request.cells && (over_for_all || !request.may_be_tried_again(attempts + 1));
      if (last) {
        counting_timed_out(view_, task.index, [&] { return expire_task(state, worker, true); });
      } else {
        expire_task(state, worker, false);
      }
      word = word_of(state);
    }
  }
  if (!word.settled && !word.expired) return false;
  if (!watch.told) knock_at_stop_door(view_, worker);
  watch.told = true;
  if (word.settled && watch.settled_ns == 0) watch.settled_ns = now;
  // A mark that the last element left does not shorten the time of this one.
  const std::int64_t kill_ns = sum(word.settled ? watch.settled_ns : limit, grace_ns_);
  if (now < kill_ns) {
    wake_at(kill_ns);
    return false;
  }
  return watch.doomed = doom_task(state, worker, task.generation);
}

// When the task or element will have run for too long, by what its worker says, within reason.
std::int64_t TaskClock::limit_of(const StopWatch& watch, const shm::TaskRequest& request,
                                 shm::OwnerId worker) const noexcept {
  // No older than the claim: before that, the worker took its last limit back.
  const std::int64_t said = view_.desk(worker.slot).limit_ns.load(std::memory_order_relaxed);
  const std::int64_t latest =
      std::min(sum(watch.since_ns, request.timeout_ns), request.deadline_ns);
  return said <= 0 || said > latest ? latest : said;
}

// Looks at all records: deadlines stand in no order. How often that may be depends on how long it
// takes, so that many tasks with many deadlines end a little late rather than cost a processor.
void TaskClock::expire_pending_tasks(std::int64_t now) noexcept {
  const std::int64_t told = view_.caller().deadline_ns.load(std::memory_order_seq_cst);
  // One that lies in the future stands for later ones, too, even if its own task has ended.
  if (told != seen_deadline_ns_ || told > last_scan_ns_) {
    seen_deadline_ns_ = told;
    next_scan_ns_ = std::min(next_scan_ns_, told);
  }
  const std::int64_t due = std::max(next_scan_ns_, not_before_ns_);
  if (next_scan_ns_ == shm::kNoLimitNs) return;
  if (now < due) return wake_at(due);
  std::int64_t earliest = shm::kNoLimitNs;
  const std::uint32_t records = view_.records();
  for (std::uint32_t index = 0; index < records; ++index) {
    shm::TaskState& state = view_.state(index);
    // The word first: a limit that is read for another task ends nothing, since the word has gone
    // on as well.
    const TaskWord word = word_of(state);
    const bool pending = word.phase == shm::TaskPhase::pending;
    // One that runs may come back.
    if (!pending && word.phase != shm::TaskPhase::claimed) continue;
    const std::int64_t deadline =
        std::atomic_ref(view_.request(index).deadline_ns).load(std::memory_order_relaxed);
    if (deadline > now) {
      earliest = std::min(earliest, deadline);
    } else if (pending) {
      const bool ended =
          counting_timed_out(view_, index, [&] { return expire_pending(state, word.generation); });
      if (ended) view_.supervisor().settled.fetch_add(1, std::memory_order_relaxed);
    }
  }
  constexpr std::int64_t kShareOfTime = 20;
  constexpr std::int64_t kShortestPauseNs = 1'000'000;
  const std::int64_t end = sys::now_ns();
  last_scan_ns_ = now;
  next_scan_ns_ = earliest;
  not_before_ns_ = end + std::max(kShortestPauseNs, kShareOfTime * (end - now));
  if (earliest != shm::kNoLimitNs) wake_at(std::max(earliest, not_before_ns_));
}

}  // namespace brood::pool
