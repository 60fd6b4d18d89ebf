#include "pool/supervisor/ending.hpp"

#include "pool/protocol/stop_door.hpp"
#include "sys/process.hpp"
#include "sys/signals.hpp"

namespace brood::pool {

using shm::PoolCondition;
using shm::PoolOrder;

namespace {

constexpr std::int64_t kMs = 1'000'000;
constexpr std::int64_t kGraceToLeaveNs = 5000 * kMs;  // exit handlers of a worker that may go
constexpr std::int64_t kBetweenKillsNs = 100 * kMs;

}  // namespace

void Ending::obey(PoolOrder order, std::int64_t now) noexcept {
  if (order == PoolOrder::drain && !begun_ && settler_.all_done()) drain(now);
  if (order == PoolOrder::terminate && !terminating_) terminate(now);
  if (order >= PoolOrder::kill) begun_ = true;
  if (!begun_) return;
  template_.dismiss();
  if (order >= PoolOrder::kill || now >= kill_at_ns_) {
    signal_all(sys::signal_number::kKill);
    kill_at_ns_ = now + kBetweenKillsNs;
  }
}

void Ending::drain(std::int64_t now) noexcept {
  begun_ = draining_ = true;
  kill_at_ns_ = now + kGraceToLeaveNs;
  for (Tenant& tenant : tenants_.in_use()) {
    tenant.expected = true;
    if (tenant.at_work()) tenant.state = TenantState::leaving;
    view_.entry(tenant.id.slot).role.store(shm::WorkerRole::leaving, std::memory_order_seq_cst);
    idle_.ring(tenant.id.slot);
  }
}

void Ending::terminate(std::int64_t now) noexcept {
  begun_ = terminating_ = true;
  kill_at_ns_ = now + view_.caller().term_ms.load(std::memory_order_relaxed) * kMs;
  signal_all(sys::signal_number::kTerminate);
  for (const Tenant& tenant : tenants_.in_use()) knock_at_stop_door(view_, tenant.id);
  signal_all(sys::signal_number::kContinue);
}

void Ending::break_pool(PoolCondition why, std::int64_t now) noexcept {
  begun_ = true;
  final_condition_ = why;
  kill_at_ns_ = now;
  tell(why);
  settler_.wake_waiters();
}

void Ending::signal_all(int signal) const noexcept {
  tenants_.signal(signal);
  if (template_.pid() != 0) sys::send_signal(template_.pidfd(), signal);
}

void Ending::tell(PoolCondition condition) noexcept {
  sys::Atomic<PoolCondition>& word = view_.supervisor().condition;
  static_assert(sizeof(word) == sizeof(sys::FutexWord));
  word.store(condition, std::memory_order_release);
  sys::futex_wake(&word, sys::kWakeAll);
}

void Ending::tell_end() noexcept {
  tell(final_condition_);
  settler_.wake_waiters();
}

}  // namespace brood::pool
