// The task that a worker has, from its claim to its end, attempt by attempt: its time limit, its
// retries, and which outcome counts (shm/pool_layout.hpp: stopping a task).
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "pool/protocol/completions.hpp"
#include "pool/protocol/task.hpp"
#include "pool/protocol/task_clock.hpp"
#include "pool/protocol/view.hpp"
#include "pool/worker/stop_signs.hpp"
#include "pool/worker/worker_arenas.hpp"
#include "sys/clock.hpp"

namespace brood::pool {

// Threads: the one that runs tasks. Blocking: never, unless the worker is doomed. Ownership: of the
// record while its word names this worker; what it is given must outlive it. Errors: none: a word
// that says something else has been overwritten, and the supervisor's audit ends that task.
// Death: at any instruction the record names the worker, or has its outcome: what counts is the one
// swap of its word. In between the supervisor settles it by what it says.
class ClaimedTask {
 public:
  ClaimedTask(const PoolView& view, shm::OwnerId me, StopSigns& signs, WorkerArenas& arenas)
      : view_(view), me_(me), desk_(view_.desk(me_.slot)), signs_(signs), arenas_(arenas) {}

  // From here on, all is about this task ...
  void begin(shm::RingEntry task) noexcept {
    request_ = &view_.request(task.index);
    state_ = &view_.state(task.index);
    index_ = task.index;
    undisturbed_ = shm::TaskWord{shm::TaskPhase::claimed, false, me_, task.generation}.pack();
    signs_.begin_task(*state_);
  }
  // ... until here, when its record may be another's already.
  void end() noexcept { signs_.end_task(); }

  [[nodiscard]] const shm::TaskRequest& request() const noexcept { return *request_; }
  [[nodiscard]] shm::TaskState& state() const noexcept { return *state_; }

  // ---- an attempt

  // What ends it by its limit may do so before it is told of this attempt's end.
  void count_run() noexcept {
    if (!request_->has(shm::TaskFlag::limited)) return;
    const std::atomic_ref runs(state_->runs);
    const std::uint16_t before = runs.load(std::memory_order_relaxed);
    if (before != UINT16_MAX) {
      runs.store(static_cast<std::uint16_t>(before + 1), std::memory_order_relaxed);
    }
  }

  void begin_attempt() noexcept {
    failed_ = false;
    signs_.begin_attempt();
    if (!request_->has(shm::TaskFlag::limited)) return;
    const std::int64_t now = sys::now_ns();
    const std::int64_t run = request_->timeout_ns;
    const std::int64_t limit =
        std::min(request_->deadline_ns, run > shm::kNoLimitNs - now ? shm::kNoLimitNs : now + run);
    signs_.set_limit(limit);
    announce_limit(view_, me_, limit);
  }

  // It ended with an exception.
  void note_failure() noexcept { failed_ = true; }
  // Including this one, of the element that it is at.
  [[nodiscard]] std::uint32_t count_attempts() const noexcept {
    return state_->attempts.load(std::memory_order_relaxed) + 1;
  }

  // Before the next task is claimed, whose limit this is not.
  void end_attempt() noexcept {
    if (!request_->has(shm::TaskFlag::limited)) return;
    signs_.set_limit(shm::kNoLimitNs);
    desk_.limit_ns.store(0, std::memory_order_relaxed);
  }

  // ---- what counts

  enum class Judgement {
    stands,     // what the attempt has given is the outcome
    late,       // its being too late is
    again,      // it failed, but there are retries left
    withdrawn,  // the outcome has been settled meanwhile
  };

  // Of the attempt that has just ended.
  [[nodiscard]] Judgement judge() noexcept {
    const bool may_fail = failed_ || signs_.has_told_late();
    const std::uint64_t bits = state_->word.load(std::memory_order_acquire);
    if (!may_fail && shm::TaskWord::without_waiters(bits) == undisturbed_) return Judgement::stands;
    for (;;) {
      const shm::TaskWord now = word();
      if (!is_claimed_by(now, me_)) return Judgement::stands;
      if (now.settled) return Judgement::withdrawn;
      if (now.doomed) await_death();
      const bool late = is_late();
      // Put off until after `late` was told: a mark may be that of an element before this one.
      if (now.expired && !unexpire_task(*state_, me_)) continue;
      const bool failed = late || (failed_ && request_->has(shm::TaskFlag::retry_exceptions));
      if (!failed) return Judgement::stands;
      const std::uint32_t attempts = state_->attempts.load(std::memory_order_relaxed) + 1;
      state_->attempts.store(attempts, std::memory_order_relaxed);
      if (request_->may_be_tried_again(attempts)) return Judgement::again;
      return late ? Judgement::late : Judgement::stands;
    }
  }

  // The end of a task; false: it is to be run again. Its elements have been judged one by one.
  [[nodiscard]] bool conclude() noexcept {
    for (;;) {
      const Judgement judgement = request_->cells ? Judgement::stands : judge();
      if (judgement == Judgement::again) {
        arenas_.drop_block();
        state_->kind = shm::ReplyKind::none;
        return false;
      }
      if (judgement == Judgement::late) {
        counting_timed_out(view_, index_, [&] { return expire_task(*state_, me_, true); });
      }
      end_attempt();
      const shm::BlockRef result = arenas_.block();
      arenas_.hand_over_block();
      if (tell_if_watched(view_, index_, finish_task(*state_, me_))) return true;
      const shm::TaskWord now = word();
      if (!is_claimed_by(now, me_)) {
        // Our word was overwritten: the supervisor's audit ends the task, and nobody knows of the
        // result.
        arenas_.free_handed_over(result);
        return true;
      }
      if (now.doomed) await_death();
      // It was found late in this very moment.
      arenas_.take_back(result);
      if (request_->cells) static_cast<void>(unexpire_task(*state_, me_));
    }
  }

  void end_element(std::uint32_t index) noexcept {
    arenas_.hand_over_block();
    state_->attempts.store(0, std::memory_order_relaxed);
    state_->progress.store(index + 1, std::memory_order_release);
    count_done();
  }

  // After the end: one that dies in between is missing in the count, never there twice.
  void count_done() noexcept {
    desk_.done.store(desk_.done.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  }

 private:
  [[nodiscard]] bool is_late() noexcept {
    if (signs_.has_told_late()) return true;
    return word().expired && sys::now_ns() >= signs_.limit_ns();
  }

  [[nodiscard]] shm::TaskWord word() const noexcept {
    return shm::TaskWord::unpack(state_->word.load(std::memory_order_acquire));
  }

  [[noreturn]] void await_death() noexcept;

  PoolView view_;
  shm::OwnerId me_;
  shm::WorkerDesk& desk_;
  StopSigns& signs_;
  WorkerArenas& arenas_;

  const shm::TaskRequest* request_ = nullptr;
  shm::TaskState* state_ = nullptr;
  std::uint32_t index_ = 0;        // of the record
  std::uint64_t undisturbed_ = 0;  // its word while nothing is to be stopped
  bool failed_ = false;            // the attempt ended with an exception
};

}  // namespace brood::pool
