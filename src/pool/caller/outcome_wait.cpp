#include "pool/caller/outcome_wait.hpp"

#include <exception>
#include <optional>

#include "pool/caller/reply.hpp"
#include "pool/protocol/call.hpp"
#include "pool/protocol/dormancy.hpp"
#include "pool/protocol/lookout.hpp"
#include "pool/protocol/task.hpp"

namespace brood::pool {

using detail::DeadlineNs;
using detail::TaskTicket;
using shm::TaskPhase;

namespace {

constexpr std::int64_t kMs = 1'000'000;
// A caller that has waited so long has the pool looked over; the next time after twice as long.
constexpr std::int64_t kFirstDoubtNs = 1000 * kMs;

}  // namespace

bool OutcomeWait::sleep_until(TaskTicket task, DeadlineNs deadline) {
  shm::TaskState& state = view_.state(task.index);
  const auto is_pending = [&state] {
    const auto word = shm::TaskWord::unpack(state.word.load(std::memory_order_acquire));
    return word.phase == TaskPhase::pending;
  };
  // Whoever was looking may have been stopped before it found this one.
  if (is_pending()) call_one(view_, idle_);
  std::int64_t doubt_ns = sys::now_ns() + kFirstDoubtNs;
  std::int64_t patience_ns = kFirstDoubtNs;
  for (;;) {
    const std::optional<std::uint32_t> half = announce_waiter(state, task.generation);
    if (has_ended(view_, task)) return true;
    if (!half) throw_overwritten();
    // In this order: a task that ended before the pool did has its result.
    if (std::exception_ptr failure = life_.failure()) {
      if (has_ended(view_, task)) return true;
      std::rethrow_exception(failure);
    }
    const std::int64_t now = sys::now_ns();
    if (now >= deadline) return false;
    if (now >= doubt_ns) {
      // Most likely the task is just long; but a worker that lives on may have overwritten what
      // this waits for, or been stopped when it was to pass work on.
      view_.caller().doubts.fetch_add(1, std::memory_order_release);
      call_supervisor(view_);
      patience_ns *= 2;
      doubt_ns = now + patience_ns;
    }
    start::futex_wait_serving_signals(sleeping_half(state), *half,
                                      std::min(deadline, now + sys::kLookUpNs));
    if (has_ended(view_, task)) return true;
    // It was left to workers that don't come, and the supervisor does not look out either: it may
    // be stopped, too.
    if (is_pending()) idle_.wake_one();
  }
}

}  // namespace brood::pool
