#include "pool/supervisor/pool_arenas.hpp"

#include <algorithm>

#include "sys/futex.hpp"

namespace brood::pool {

namespace {

constexpr std::int64_t kIdleBeforeTrimNs = 1'000'000'000;
constexpr std::int64_t kLeastPauseNs = 1'000'000;

}  // namespace

PoolArenas::PoolArenas(const SupervisorStart& start) noexcept : view_(start.view) {
  const shm::OwnerId me{shm::kSupervisorSlot, 1};
  inbox_.attach(view_.inbox(start.segment_fd, start.arena_limit_bytes), me);
  outbox_.attach(view_.outbox(start.segment_fd, start.arena_limit_bytes), me);
}

void PoolArenas::trim(std::int64_t now) noexcept {
  sys::Atomic<std::uint32_t>& wanted = view_.shared().trim_wanted;
  if (wanted.load(std::memory_order_relaxed) == 0 || now < next_trim_ns_) return;
  next_trim_ns_ = now + kIdleBeforeTrimNs;
  const std::size_t remaining =
      outbox_.give_back(now, kIdleBeforeTrimNs) + inbox_.give_back(now, kIdleBeforeTrimNs);
  // Twice nothing: one round may just have marked what the next will return.
  quiet_trims_ = remaining == 0 ? quiet_trims_ + 1 : 0;
  if (quiet_trims_ < 2) return;
  quiet_trims_ = 0;
  wanted.store(0, std::memory_order_relaxed);
}

std::int64_t PoolArenas::next_trim_ns(std::int64_t now) const noexcept {
  if (view_.shared().trim_wanted.load(std::memory_order_relaxed) == 0) return sys::kForever;
  return std::max(next_trim_ns_, now + kLeastPauseNs);
}

}  // namespace brood::pool
