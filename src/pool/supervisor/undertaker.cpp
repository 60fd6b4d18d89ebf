#include "pool/supervisor/undertaker.hpp"

#include "pool/protocol/stop_door.hpp"
#include "sys/clock.hpp"
#include "sys/procfs.hpp"
#include "sys/signals.hpp"

namespace brood::pool {

namespace {

constexpr std::int64_t kOrphanNs = 200'000'000;
constexpr std::int64_t kOrphanPauseNs = 100'000;

}  // namespace

Undertaker::Undertaker(Places& places, Births& births, DeathWatch& deaths, Audit& audit,
                       shm::Arena& outbox, const Template& origin, const Ending& ending) noexcept
    : places_(places),
      births_(births),
      deaths_(deaths),
      audit_(audit),
      outbox_(outbox),
      template_(origin),
      ending_(ending) {}

void Undertaker::reap(std::int64_t now) noexcept {
  for (int pid = sys::peek_ended_child(); pid > 0; pid = sys::peek_ended_child()) {
    Tenant* const tenant = places_.tenants.find(pid);
    const bool is_template = pid == template_.pid();
    // Not reaped yet, so its number is still its own, and its group's.
    if (tenant != nullptr || is_template) places_.registrar.end_group(pid);
    sys::ExitStatus status;
    if (sys::reap_child(pid, status) != 1) return;
    if (tenant != nullptr) bury(*tenant, status, now);
    if (is_template) births_.bury_template(status, ending_.has_begun(), now);
    // Its children, or those of an orphan that it was, are ours from now on.
    kill_orphans();
  }
}

void Undertaker::bury(Tenant& tenant, const sys::ExitStatus& status, std::int64_t now) noexcept {
  const std::uint16_t slot = tenant.id.slot;
  deaths_.conclude(tenant, status.signal != 0 ? status.signal : status.code << 8, now);
  places_.seats.vacate(tenant);
  places_.view.supervisor().retired_done.fetch_add(
      places_.view.desk(slot).done.load(std::memory_order_relaxed), std::memory_order_relaxed);
  places_.view.entry(slot).role.store(shm::WorkerRole::none, std::memory_order_relaxed);
  // What it held among the family's objects is the warden's to give back.
  if (!tenant.announced) {
    places_.registrar.announce(tenant.pid, tenant.pidfd.get(), tenant.member);
  }
  set_stop_door(places_.view, tenant.id, false);
  places_.relay.close(slot);
  outbox_.sweep(tenant.id);
  places_.owners.mark_dead(tenant.id);
  places_.owners.release(tenant.id);
  const bool expected = tenant.expected;
  places_.tenants.move_out(tenant);
  // At the end the tasks of the killed stay as they are: the caller knows why they never end.
  if (!expected && !ending_.has_begun()) audit_.run();
}

// What workers' children left behind is ours, as a subreaper's. The groups of workers that live
// are spared: those are jobs that a task has put into the background.
void Undertaker::kill_orphans() noexcept {
  sys::signal_children(
      sys::signal_number::kKill,
      [](int pid, void* context) {
        auto* const self = static_cast<Undertaker*>(context);
        if (self->is_ours(pid)) return true;
        return !self->ending_.has_begun() && self->is_ours(sys::group_of(pid));
      },
      this);
}

bool Undertaker::is_ours(int pid) noexcept {
  return pid == template_.pid() || places_.tenants.find(pid) != nullptr;
}

void Undertaker::finish() noexcept {
  const std::int64_t until = sys::now_ns() + kOrphanNs;
  sys::ExitStatus status;
  while (sys::now_ns() < until) {
    kill_orphans();
    const int pid = sys::peek_ended_child();
    if (pid < 0) break;
    if (pid == 0) {
      sys::sleep_ns(kOrphanPauseNs);
    } else {
      sys::reap_child(pid, status);
    }
  }
}

}  // namespace brood::pool
