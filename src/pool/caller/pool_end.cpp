#include "pool/caller/pool_end.hpp"

#include <algorithm>

#include "brood/error.hpp"
#include "pool/protocol/call.hpp"
#include "start/waits.hpp"
#include "sys/clock.hpp"
#include "sys/process.hpp"
#include "sys/signals.hpp"
#include "sys/syscall.hpp"

namespace brood::pool {

using detail::DeadlineNs;
using shm::PoolOrder;
using shm::WorkerRole;

namespace {

constexpr std::int64_t kMs = 1'000'000;
constexpr std::chrono::milliseconds kTermOnTerminate{100};

}  // namespace

void PoolEnd::terminate() noexcept { order_termination(kTermOnTerminate); }

bool PoolEnd::join_until(DeadlineNs deadline) {
  maker_.require_me();
  if (life_.order() == PoolOrder::run && !life_.is_over()) {
    throw Error("brood: join() waits for a pool to end: call close() or terminate() first");
  }
  const long ended = start::has_ended_serving_signals(life_.pidfd(), deadline);
  return has_ended_now(ended);
}

bool PoolEnd::shutdown(DeadlineNs drain, std::chrono::nanoseconds term) {
  maker_.require_me();
  close();
  if (join_until(drain)) return true;
  order_termination(std::chrono::duration_cast<std::chrono::milliseconds>(term));
  constexpr std::int64_t kReserveNs = 1000 * kMs;
  const DeadlineNs term_end = detail::deadline_after(term);
  if (!join_until(term_end > detail::kNoDeadline - kReserveNs ? detail::kNoDeadline
                                                              : term_end + kReserveNs)) {
    raise_order(PoolOrder::kill);
    if (!join_until(sys::now_ns() + kReserveNs)) {
      throw Error("brood: the kernel would not end these processes: " + living_workers());
    }
  }
  return false;
}

void PoolEnd::end() noexcept {
  try {
    terminate();
    constexpr std::int64_t kMostNs = 2000 * kMs;
    if (ends_within(kMostNs)) return;
    raise_order(PoolOrder::kill);
    if (ends_within(kMostNs)) return;
  } catch (...) {
    // Nothing above throws in the process that made the pool.
  }
  // The warden ends the workers of a supervisor that is gone.
  sys::send_signal(life_.pidfd(), sys::signal_number::kKill);
  if (sys::has_ended(life_.pidfd(), sys::now_ns() + kMs * 1000) == 1) life_.reap();
}

bool PoolEnd::has_ended_now(long ended) {
  if (sys::require(ended, "waiting for a pool to end") == 0) return false;
  life_.reap();
  return true;
}

// Whatever signals arrive.
bool PoolEnd::ends_within(std::int64_t limit_ns) {
  return has_ended_now(sys::has_ended(life_.pidfd(), sys::now_ns() + limit_ns));
}

void PoolEnd::raise_order(PoolOrder to) noexcept {
  if (maker_.is_me()) pool::raise_order(view_, to);
}

void PoolEnd::order_termination(std::chrono::milliseconds term) noexcept {
  if (!maker_.is_me()) return;
  // A day is as good as for ever, and fits.
  const auto ms = std::clamp<std::int64_t>(term.count(), 0, 86'400'000);
  view_.caller().term_ms.store(static_cast<std::uint32_t>(ms), std::memory_order_relaxed);
  raise_order(PoolOrder::terminate);
}

std::string PoolEnd::living_workers() const {
  std::string pids;
  for (std::uint16_t slot = shm::kFirstWorkerSlot; slot < view_.geometry().slots; ++slot) {
    const shm::WorkerEntry& entry = view_.entry(slot);
    if (entry.role.load(std::memory_order_relaxed) == WorkerRole::none) continue;
    pids += (pids.empty() ? "" : ", ") + std::to_string(entry.pid.load());
  }
  return pids;
}

}  // namespace brood::pool
