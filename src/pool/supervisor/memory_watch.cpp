#include "pool/supervisor/memory_watch.hpp"

#include <algorithm>

#include "sys/process.hpp"
#include "sys/procfs.hpp"
#include "sys/signals.hpp"

namespace brood::pool {

namespace {

constexpr std::int64_t kBetweenLooksNs = 10'000'000;
constexpr int kSignalBits = 0x7f;  // of a wait status

}  // namespace

MemoryWatch::MemoryWatch(const SupervisorStart& start, Tenants& tenants,
                         const StartupWatch& startup) noexcept
    : view_(start.view),
      setup_(*start.setup),
      tenants_(tenants),
      startup_(startup),
      kills_(count_kills()) {}

std::uint64_t MemoryWatch::measure(int pid) const noexcept {
  if (setup_.memory_limit_bytes == 0) return 0;
  return sys::own_memory_of(pid).value_or(0);
}

void MemoryWatch::begin(Tenant& tenant, std::uint64_t memory) noexcept {
  tenant.memory_at_start = memory;
  if (setup_.memory_limit_bytes == 0) return;
  view_.shared().watch_wanted.store(1, std::memory_order_relaxed);
}

bool MemoryWatch::is_wanted() const noexcept {
  return setup_.memory_limit_bytes != 0 &&
         view_.shared().watch_wanted.load(std::memory_order_relaxed) != 0;
}

std::int64_t MemoryWatch::next_look_ns() const noexcept {
  return is_wanted() ? next_look_ns_ : sys::kForever;
}

void MemoryWatch::look(std::int64_t now) noexcept {
  if (now < next_look_ns_ || !is_wanted()) return;
  next_look_ns_ = now + kBetweenLooksNs;
  if (look_at_all()) return;
  sys::Atomic<std::uint32_t>& wanted = view_.shared().watch_wanted;
  wanted.store(0, std::memory_order_seq_cst);
  if (look_at_all()) wanted.store(1, std::memory_order_relaxed);
}

// Whether anybody is at work. Who has too much memory is killed.
bool MemoryWatch::look_at_all() noexcept {
  bool anybody = false;
  for (Tenant& tenant : tenants_.in_use()) {
    if (!is_at_work(tenant)) continue;
    anybody = true;
    const std::uint64_t own = sys::own_memory_of(tenant.pid).value_or(0);
    const std::uint64_t grown = own - std::min(own, tenant.memory_at_start);
    if (tenant.out_of_memory || grown <= setup_.memory_limit_bytes) continue;
    tenant.out_of_memory = true;
    sys::send_signal(tenant.pidfd.get(), sys::signal_number::kKill);
  }
  return anybody;
}

bool MemoryWatch::is_at_work(const Tenant& tenant) const noexcept {
  const bool idle =
      view_.desk(tenant.id.slot).stage.load(std::memory_order_seq_cst) == shm::WorkerStage::idle;
  return tenant.at_work() && !(idle && startup_.is_set_up(tenant));
}

std::uint32_t MemoryWatch::causes_of(const Tenant& tenant, int wait_status) noexcept {
  if ((wait_status & kSignalBits) != sys::signal_number::kKill) return 0;
  const std::uint64_t kills = count_kills();
  const bool by_kernel = kills > kills_;
  kills_ = kills;
  if (tenant.out_of_memory) return shm::kOutOfMemory | shm::kOverMemoryLimit;
  return by_kernel ? shm::kOutOfMemory : 0;
}

std::uint64_t MemoryWatch::count_kills() const noexcept {
  if (setup_.memory_events.empty()) return 0;
  return sys::labelled_number(setup_.memory_events.c_str(), "oom_kill").value_or(0);
}

}  // namespace brood::pool
