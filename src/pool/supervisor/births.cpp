#include "pool/supervisor/births.hpp"

#include <utility>

#include "pool/protocol/worker_setup.hpp"
#include "pool/worker/worker.hpp"
#include "sys/signals.hpp"

namespace brood::pool {

using shm::OwnerId;

// Word by word and not made anew: others look at it meanwhile, and who meant to wake the slot's
// last worker may still ring its bell.
void clear_desk(shm::WorkerDesk& desk) noexcept {
  desk.stage.store(shm::WorkerStage::idle, std::memory_order_relaxed);
  desk.intent.store(0, std::memory_order_relaxed);
  desk.done.store(0, std::memory_order_relaxed);
  desk.crash.store(shm::CrashReport::none, std::memory_order_relaxed);
  desk.prepared.store(0, std::memory_order_relaxed);
  desk.setup.store(shm::SetupStage::none, std::memory_order_relaxed);
  desk.wish.store(shm::LeaveWish::none, std::memory_order_relaxed);
  // That of who died in the midst of a task is over long before the next task's.
  desk.limit_ns.store(0, std::memory_order_relaxed);
}

Births::Births(const SupervisorStart& start, Places& places, StartupWatch& startup,
               MemoryWatch& memory, Template& origin) noexcept
    : start_(start), places_(places), startup_(startup), memory_(memory), template_(origin) {}

void Births::fill_seats(std::int64_t now) noexcept {
  if (now < startup_.next_start_ns()) return;
  if (needs_template() && template_.state() != Template::State::ready) {
    if (template_.pid() == 0) start_template(now);
    return;
  }
  for (std::uint32_t index = 0; index < places_.seats.count(); ++index) {
    if (!places_.seats.is_vacant(index) || places_.seats.promote_spare(index)) continue;
    if (!start_worker(index, now)) return;
  }
  // Parked, so that a dead worker's place is taken without the time of a fork.
  if (!places_.seats.has_spare()) start_worker(kNoIndex, now);
}

std::int64_t Births::next_start_ns(std::int64_t now) const noexcept {
  const std::int64_t next = startup_.next_start_ns();
  return next > now ? next : sys::kForever;
}

bool Births::start_worker(std::uint32_t index, std::int64_t now) noexcept {
  const std::uint16_t slot = places_.tenants.free_slot();
  if (slot == 0) return false;
  const std::optional<OwnerId> id = places_.owners.claim_slot(slot, sys::process_id());
  if (!id) return false;
  const std::optional<OwnerId> member = places_.registrar.claim();
  prepare_slot(slot);
  const int parent = needs_template() ? template_.pid() : sys::process_id();
  const std::uint64_t memory = memory_.measure(parent);
  sys::Fd pidfd;
  const long result = copy_for_worker(*id, member, places_.relay.open(slot).get(), pidfd);
  if (result < 0) {
    places_.relay.close(slot);
    places_.owners.release(*id);
    places_.registrar.give_back(member);
    places_.view.entry(slot).role.store(shm::WorkerRole::none, std::memory_order_relaxed);
    // A pool that has workers goes on with them.
    startup_.note_refusal(places_.tenants.count() != 0, now);
    return false;
  }
  const auto pid = static_cast<std::int32_t>(result);
  places_.owners.settle(*id, pid);
  places_.view.entry(slot).pid.store(pid, std::memory_order_relaxed);
  const bool announced = places_.registrar.enter(pid, pidfd.get(), member);
  Tenant& tenant = places_.tenants.move_in(*id, pid, std::move(pidfd));
  tenant.member = member;
  tenant.announced = announced;
  memory_.begin(tenant, memory);
  if (index == kNoIndex) {
    places_.seats.park(tenant);
  } else {
    places_.seats.take(tenant, index);
  }
  return true;
}

void Births::prepare_slot(std::uint16_t slot) noexcept {
  clear_desk(places_.view.desk(slot));
  places_.view.entry(slot).role.store(shm::WorkerRole::parked, std::memory_order_relaxed);
  places_.view.note(slot).length.store(0, std::memory_order_relaxed);
  places_.view.crash_note(slot).bytes.store(0, std::memory_order_relaxed);
}

// `errors` is its stderr, -1: that of the pool.
long Births::copy_for_worker(OwnerId id, std::optional<OwnerId> member, int errors,
                             sys::Fd& pidfd) noexcept {
  if (needs_template()) return template_.bear(id, member, errors, pidfd);
  const WorkerStart worker{start_, id, member, sys::process_id(), errors};
  // Until the worker has dispositions of its own, ours would swallow a SIGTERM meant for it.
  sys::SignalsBlocked blocked;
  const long pid = sys::clone_quiet(pidfd, sys::signal_number::kChildEnded);
  if (pid == 0) {
    blocked.keep();
    worker_main(worker);
  }
  return pid;
}

// ---- the template

bool Births::needs_template() const noexcept { return start_.setup->preload.thunk != 0; }

void Births::start_template(std::int64_t now) noexcept {
  const std::optional<OwnerId> member = places_.registrar.claim();
  if (template_.start(start_, member) < 0) {
    places_.registrar.give_back(member);
    startup_.note_refusal(false, now);
    return;
  }
  template_announced_ = places_.registrar.enter(template_.pid(), template_.pidfd(), member);
}

void Births::bury_template(const sys::ExitStatus& status, bool pool_ends,
                           std::int64_t now) noexcept {
  const bool was_ready = template_.state() == Template::State::ready;
  const WorkerDeath death{template_.pid(), static_cast<std::uint32_t>(status.to_wait_status())};
  // What it held among the family's objects is the warden's to give back.
  if (!template_announced_) {
    places_.registrar.announce(template_.pid(), template_.pidfd(), template_.member());
  }
  template_.gone();
  if (!pool_ends) startup_.note_end_of_template(was_ready, death, now);
}

}  // namespace brood::pool
