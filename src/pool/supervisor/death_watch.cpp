#include "pool/supervisor/death_watch.hpp"

#include <algorithm>
#include <atomic>
#include <optional>
#include <span>

#include "sys/process.hpp"
#include "sys/procfs.hpp"
#include "sys/signals.hpp"

namespace brood::pool {

namespace {

constexpr std::int32_t kSignals = 64;
constexpr std::uint32_t kSignalBits = 0x7f;  // of a wait status

}  // namespace

DeathWatch::DeathWatch(Places& places, StartupWatch& startup, MemoryWatch& memory, Settler& settler,
                       IdleWorkers& idle, const Ending& ending) noexcept
    : places_(places),
      startup_(startup),
      memory_(memory),
      settler_(settler),
      idle_(idle),
      ending_(ending) {}

// ---- signs

void DeathWatch::look(std::int64_t now) noexcept {
  for (Tenant& tenant : places_.tenants.in_use()) {
    startup_.look_at(tenant, now);
    if (tenant.at_work()) look_for_report(tenant, now);
    if (tenant.may_live()) look_at_life(tenant, now);
  }
}

void DeathWatch::look_for_report(Tenant& tenant, std::int64_t now) noexcept {
  const shm::WorkerDesk& desk = places_.view.desk(tenant.id.slot);
  if (desk.crash.load(std::memory_order_acquire) != shm::CrashReport::final) return;
  const WorkerDeath crash = reported_crash(tenant);
  if (crash.wait_status == 0) return;
  // Should it survive (a handler of the user's may repair a fault), it is to leave.
  places_.view.entry(tenant.id.slot)
      .role.store(shm::WorkerRole::leaving, std::memory_order_seq_cst);
  mourn(tenant, crash, now);
  tenant.state = TenantState::reported;
}

void DeathWatch::look_at_life(Tenant& tenant, std::int64_t now) noexcept {
  const std::uint32_t life =
      places_.owners.life(tenant.id.slot).word.load(std::memory_order_acquire);
  if (life == 0 || life == tenant.life_word()) return;
  const std::optional<int> status = sys::status_of_dying(tenant.pid);
  // Its other threads and its children have nobody to work for. (Never sooner: a core file being
  // written would be cut off.)
  sys::send_signal(tenant.pidfd.get(), sys::signal_number::kKill);
  places_.registrar.end_group(tenant.pid);
  if (!status) {
    // The word was overwritten, or the system hides the status until the process is reaped.
    if (tenant.at_work()) tenant.state = TenantState::condemned;
    return;
  }
  if (tenant.at_work()) mourn(tenant, death_of(tenant, *status), now);
  tenant.state = TenantState::dying;
}

void DeathWatch::conclude(Tenant& tenant, int wait_status, std::int64_t now) noexcept {
  // Its report may have come after we looked for one.
  const WorkerDeath death = death_of(tenant, wait_status);
  if (tenant.at_work() || tenant.state == TenantState::condemned) {
    mourn(tenant, death, now);
  } else if (!tenant.expected && !ending_.has_begun()) {
    // After a crash was reported it may have gone on for a moment, and claimed one more.
    settler_.settle_task_of(tenant.id, with_evidence(tenant, death));
  }
}

// ---- what follows

void DeathWatch::mourn(Tenant& tenant, const WorkerDeath& death, std::int64_t now) noexcept {
  places_.seats.vacate(tenant);
  idle_.forget(tenant.id.slot);
  if (ending_.drops_tasks() || tenant.expected) return;
  if (tenant.retiring && death.wait_status == 0 && has_left(tenant)) return;
  if (!tenant.watch.doomed) places_.view.supervisor().died.fetch_add(1, std::memory_order_relaxed);
  const WorkerDeath told = with_evidence(tenant, death);
  if (!startup_.is_set_up(tenant)) startup_.note_death(tenant, told, now);
  settler_.settle_task_of(tenant.id, told);
  if (tenant.index != kNoIndex && !ending_.has_begun()) {
    places_.seats.promote_spare(tenant.index);
  }
  // Whoever was to be woken may be among the dead, and their marks overwritten.
  places_.tenants.ring(idle_);
}

// Whether one that was to leave has done so with nothing left to do.
bool DeathWatch::has_left(Tenant& tenant) noexcept {
  // It may have been told to leave before it was seen that it had stopped at a chunk.
  const bool yields = places_.view.desk(tenant.id.slot).wish.load() == shm::LeaveWish::yields;
  if (yields && !tenant.handed_on) places_.seats.hand_on(tenant);
  tenant.expected = !settler_.has_task(tenant.id);
  return tenant.expected;
}

// ---- how it died

WorkerDeath DeathWatch::death_of(const Tenant& tenant, int wait_status) noexcept {
  WorkerDeath death = reported_crash(tenant);
  const auto status = static_cast<std::uint32_t>(wait_status);
  if (death.wait_status != (status & kSignalBits)) death.causes = 0;
  death.causes |= memory_.causes_of(tenant, wait_status);
  death.pid = tenant.pid;
  death.wait_status = status;
  return death;
}

// What the crash handler wrote, if it did: input.
WorkerDeath DeathWatch::reported_crash(const Tenant& tenant) const noexcept {
  shm::WorkerDesk& desk = places_.view.desk(tenant.id.slot);
  const bool reported = desk.crash.load(std::memory_order_acquire) != shm::CrashReport::none;
  // Read once: what is checked has to be what is used.
  const std::int32_t signal = std::atomic_ref(desk.crash_signal).load(std::memory_order_relaxed);
  if (!reported || signal <= 0 || signal > kSignals) return {};
  return {tenant.pid, static_cast<std::uint32_t>(signal), desk.crash_address,
          std::atomic_ref(desk.crash_causes).load(std::memory_order_relaxed) & shm::kStackOverflow};
}

// What its crash handler saw of its stack, and what it wrote: input.
WorkerDeath DeathWatch::with_evidence(const Tenant& tenant, WorkerDeath death) noexcept {
  death.stderr_tail = places_.relay.tail_of(tenant.id.slot);
  const shm::CrashNote& note = places_.view.crash_note(tenant.id.slot);
  const std::size_t bytes = note.bytes.load(std::memory_order_acquire);
  const bool has_crashed = (death.wait_status & kSignalBits) != 0;
  if (has_crashed) death.trace = std::span(note.trace).first(std::min(bytes, note.trace.size()));
  return death;
}

}  // namespace brood::pool
