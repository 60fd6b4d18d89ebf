#include "pool/supervisor.hpp"

#include <algorithm>
#include <array>
#include <atomic>

#include "pool/admission.hpp"
#include "pool/births.hpp"
#include "pool/ending.hpp"
#include "pool/idle.hpp"
#include "pool/memory_watch.hpp"
#include "pool/pool_arenas.hpp"
#include "pool/registrar.hpp"
#include "pool/ring.hpp"
#include "pool/seats.hpp"
#include "pool/settle.hpp"
#include "pool/startup_watch.hpp"
#include "pool/stderr_relay.hpp"
#include "pool/stop_door.hpp"
#include "pool/task_clock.hpp"
#include "pool/template.hpp"
#include "pool/tenants.hpp"
#include "shm/owner_table.hpp"
#include "start/child_main.hpp"
#include "sys/clock.hpp"
#include "sys/process.hpp"
#include "sys/procfs.hpp"
#include "sys/signals.hpp"
#include "warden/family.hpp"
#include "warden/protocol.hpp"

namespace brood::pool {

namespace {

using shm::OwnerId;
using shm::PoolCondition;
using shm::PoolOrder;
using shm::WorkerRole;

constexpr std::int64_t kMs = 1'000'000;
constexpr std::int64_t kOrphanNs = 200 * kMs;

// For the signal handlers.
std::atomic<sys::FutexWord*> handler_control{nullptr};
std::atomic<bool> asked_to_end{false};

void on_child_ended(int /*signal*/) {
  handler_control.load(std::memory_order_relaxed)->fetch_add(1, std::memory_order_relaxed);
}
void on_terminate(int /*signal*/) {
  asked_to_end.store(true, std::memory_order_relaxed);
  handler_control.load(std::memory_order_relaxed)->fetch_add(1, std::memory_order_relaxed);
}

constexpr std::uint32_t kSignalBits = 0x7f;  // of a wait status

class Supervisor {
 public:
  explicit Supervisor(const SupervisorStart& start) noexcept
      : start_(start),
        view_(start.view),
        owners_(start.view.owners()),
        header_(start.view.supervisor()),
        shared_(start.view.shared()),
        arenas_(start_),
        retry_ring_(header_.retry_ring, view_.retry_cells()),
        settler_(view_, arenas_.outbox(), retry_ring_),
        clock_(view_, start.grace_ns),
        idle_(view_),
        registrar_(start_),
        waiting_(view_, std::nullopt),
        setup_(*start.setup),
        tenants_(view_.geometry().slots),
        seats_(start_, tenants_, settler_, idle_, waiting_),
        ending_(view_, tenants_, template_, settler_, idle_),
        startup_(start_, ending_),
        memory_(start_, tenants_, startup_),
        births_(start_, tenants_, seats_, startup_, memory_, registrar_, relay_, template_) {
    retry_ring_.start(shm::kRetryRingLog);
    if (setup_.relays_errors) start_relay();
  }

  void run() noexcept {
    ending_.tell(PoolCondition::running);
    for (;;) {
      // Read before looking at what it counts: a call that comes later ends the sleep.
      const std::uint32_t calls = shared_.control.load(std::memory_order_acquire);
      now_ = sys::now_ns();
      clock_.take_back_promise();
      look_at_lives();
      reap();
      template_.listen();
      obey();
      look_at_clocks();
      answer_doubts();
      if (ending_.is_complete()) return end();
      if (!ending_.has_begun()) {
        seats_.grant_wishes();
        seats_.wake_for_tasks();
        births_.fill_seats(now_);
        memory_.look(now_);
      }
      arenas_.trim(now_);
      relay_.forward(now_);
      sleep(calls);
    }
  }

 private:
  void start_relay() noexcept {
    int& output = start_.descriptors[1];
    // Their stdout is to be the pool's stderr, not their own.
    if (output == 2) {
      const int copy = sys::copy_above_streams(output);
      if (copy < 0) return;
      output = copy;
    }
    relay_.start(setup_.has_surroundings ? start_.descriptors[2] : 2, shared_.control);
  }

  // ---- deaths

  // First stage: the kernel or a crash handler says that a worker is dying. Its task is settled;
  // its slot, locks and memory are not touched yet.
  void look_at_lives() noexcept {
    for (Tenant& tenant : tenants_.in_use()) {
      startup_.look_at(tenant, now_);
      if (tenant.at_work()) look_for_report(tenant);
      if (tenant.may_live()) look_at_life(tenant);
    }
  }

  void look_for_report(Tenant& tenant) noexcept {
    const shm::WorkerDesk& desk = view_.desk(tenant.id.slot);
    if (desk.crash.load(std::memory_order_acquire) != shm::CrashReport::final) return;
    const WorkerDeath crash = reported_crash(tenant);
    if (crash.wait_status == 0) return;
    // Should it survive (a handler of the user's may repair a fault), it is to leave.
    view_.entry(tenant.id.slot).role.store(WorkerRole::leaving, std::memory_order_seq_cst);
    mourn(tenant, crash);
    tenant.state = TenantState::reported;
  }

  void look_at_life(Tenant& tenant) noexcept {
    const std::uint32_t life = owners_.life(tenant.id.slot).word.load(std::memory_order_acquire);
    if (life == 0 || life == tenant.life_word()) return;
    const std::optional<int> status = sys::status_of_dying(tenant.pid);
    // Its other threads and its children have nobody to work for. (Never sooner: a core file being
    // written would be cut off.)
    sys::send_signal(tenant.pidfd.get(), sys::signal_number::kKill);
    registrar_.end_group(tenant.pid);
    if (!status) {
      // The word was overwritten, or the system hides the status until the process is reaped.
      if (tenant.at_work()) tenant.state = TenantState::condemned;
      return;
    }
    if (tenant.at_work()) {
      mourn(tenant,
            {tenant.pid, static_cast<std::uint32_t>(*status), reported_crash(tenant).fault_address,
             memory_.is_out_of_memory(tenant, *status)});
    }
    tenant.state = TenantState::dying;
  }

  // What the crash handler wrote, if it did: input.
  [[nodiscard]] WorkerDeath reported_crash(const Tenant& tenant) const noexcept {
    shm::WorkerDesk& desk = view_.desk(tenant.id.slot);
    constexpr std::int32_t kSignals = 64;
    const bool reported = desk.crash.load(std::memory_order_acquire) != shm::CrashReport::none;
    // Read once: what is checked has to be what is used.
    const std::int32_t signal = std::atomic_ref(desk.crash_signal).load(std::memory_order_relaxed);
    if (!reported || signal <= 0 || signal > kSignals) return {};
    return {tenant.pid, static_cast<std::uint32_t>(signal), desk.crash_address};
  }

  // What its crash handler saw of its stack, and what it wrote: input.
  [[nodiscard]] WorkerDeath with_evidence(const Tenant& tenant, WorkerDeath death) noexcept {
    death.stderr_tail = relay_.tail_of(tenant.id.slot);
    const shm::CrashNote& note = view_.crash_note(tenant.id.slot);
    const std::size_t bytes = note.bytes.load(std::memory_order_acquire);
    const bool has_crashed = (death.wait_status & kSignalBits) != 0;
    if (has_crashed) death.trace = std::span(note.trace).first(std::min(bytes, note.trace.size()));
    return death;
  }

  void mourn(Tenant& tenant, const WorkerDeath& death) noexcept {
    seats_.vacate(tenant);
    idle_.forget(tenant.id.slot);
    // What the pool's end kills is PoolClosed, not WorkerDied.
    if (ending_.drops_tasks() || tenant.expected) return;
    if (tenant.retiring && death.wait_status == 0) {
      // It may have been told to leave before it was seen that it had stopped at a chunk.
      const bool yields = view_.desk(tenant.id.slot).wish.load() == shm::LeaveWish::yields;
      if (yields && !tenant.handed_on) seats_.hand_on(tenant);
      tenant.expected = !settler_.has_task(tenant.id);
      if (tenant.expected) return;
    }
    if (!tenant.watch.doomed) header_.died.fetch_add(1, std::memory_order_relaxed);
    const WorkerDeath told = with_evidence(tenant, death);
    if (!startup_.is_set_up(tenant)) startup_.note_death(tenant, told, now_);
    settler_.settle_task_of(tenant.id, told);
    if (tenant.index != kNoIndex && !ending_.has_begun()) seats_.promote_spare(tenant.index);
    // Whoever was to be woken may be among the dead, and their marks overwritten.
    tenants_.ring(idle_);
  }

  // Second stage: proof. What the dead owned is free again.
  void reap() noexcept {
    for (int pid = sys::peek_ended_child(); pid > 0; pid = sys::peek_ended_child()) {
      Tenant* tenant = tenants_.find(pid);
      // Not reaped yet, so its number is still its own, and its group's.
      if (is_tenant(pid)) registrar_.end_group(pid);
      sys::ExitStatus status;
      if (sys::reap_child(pid, status) != 1) return;
      if (tenant != nullptr) bury(*tenant, status);
      if (pid == template_.pid()) births_.bury_template(status, ending_.has_begun(), now_);
      // Its children, or those of an orphan that it was, are ours from now on.
      kill_orphans();
    }
  }

  void bury(Tenant& tenant, const sys::ExitStatus& status) noexcept {
    const std::uint16_t slot = tenant.id.slot;
    const int wait_status = status.signal != 0 ? status.signal : status.code << 8;
    // Its report may have come after we looked for one.
    const WorkerDeath death{tenant.pid, static_cast<std::uint32_t>(wait_status),
                            reported_crash(tenant).fault_address,
                            memory_.is_out_of_memory(tenant, wait_status)};
    const bool unheard_of = tenant.at_work() || tenant.state == TenantState::condemned;
    if (unheard_of) {
      mourn(tenant, death);
    } else if (!tenant.expected && !ending_.has_begun()) {
      // After a crash was reported it may have gone on for a moment, and claimed one more.
      settler_.settle_task_of(tenant.id, with_evidence(tenant, death));
    }
    seats_.vacate(tenant);
    header_.retired_done.fetch_add(view_.desk(slot).done.load(std::memory_order_relaxed),
                                   std::memory_order_relaxed);
    view_.entry(slot).role.store(WorkerRole::none, std::memory_order_relaxed);
    // What it held among the family's objects is the warden's to give back.
    if (!tenant.announced) registrar_.announce(tenant.pid, tenant.pidfd.get(), tenant.member);
    set_stop_door(view_, tenant.id, false);
    relay_.close(slot);
    arenas_.outbox().sweep(tenant.id);
    owners_.mark_dead(tenant.id);
    owners_.release(tenant.id);
    const bool expected = tenant.expected;
    tenants_.move_out(tenant);
    // At the end the tasks of the killed stay as they are: the caller knows why they never end.
    if (!expected && !ending_.has_begun()) doubt_shared_memory();
  }

  // The dead may have written anywhere that workers can write: what makes no sense is put right,
  // what can't be checked is forgotten, and everybody looks again.
  void doubt_shared_memory() noexcept {
    settler_.audit(
        [](OwnerId owner, const void* context) {
          const auto* self = static_cast<const Supervisor*>(context);
          return self->tenants_.knows(owner);
        },
        this);
    idle_.keep_only([this](std::uint16_t slot) { return tenants_.is_used(slot); });
    header_.hint_epoch.fetch_add(1, std::memory_order_release);
    tenants_.ring(idle_);
  }

  void answer_doubts() noexcept {
    const std::uint32_t doubts = view_.caller().doubts.load(std::memory_order_acquire);
    if (doubts == answered_doubts_ || ending_.has_begun()) return;
    answered_doubts_ = doubts;
    doubt_shared_memory();
  }

  // ---- time limits

  void look_at_clocks() noexcept {
    if (ending_.drops_tasks()) return;
    for (Tenant& tenant : tenants_.in_use()) {
      const bool may_run = tenant.at_work() || tenant.state == TenantState::leaving;
      if (may_run && clock_.must_die(tenant.watch, tenant.id, now_)) {
        sys::send_signal(tenant.pidfd.get(), sys::signal_number::kKill);
      }
    }
    clock_.expire_pending_tasks(now_);
  }

  // What workers' children left behind is ours, as a subreaper's. The groups of workers that live
  // are spared: those are jobs that a task has put into the background.
  void kill_orphans() noexcept {
    sys::signal_children(
        sys::signal_number::kKill,
        [](int pid, void* context) {
          auto* const self = static_cast<Supervisor*>(context);
          return self->is_tenant(pid) ||
                 (!self->ending_.has_begun() && self->is_tenant(sys::group_of(pid)));
        },
        this);
  }

  [[nodiscard]] bool is_tenant(int pid) noexcept {
    return pid == template_.pid() || tenants_.find(pid) != nullptr;
  }

  // ---- the end

  void obey() noexcept {
    PoolOrder order = view_.caller().order.load(std::memory_order_acquire);
    if (asked_to_end.load(std::memory_order_relaxed)) order = PoolOrder::kill;
    const std::uint32_t warden =
        start_.family->lives[shm::kWardenSlot].life.word.load(std::memory_order_acquire);
    if ((warden & sys::kFutexOwnerDied) != 0 && !ending_.has_begun()) {
      // The kernel has woken one of those who wait for this, no more.
      sys::futex_wake(&start_.family->lives[shm::kWardenSlot].life.word, sys::kWakeAll);
      ending_.break_pool(PoolCondition::broken_family, now_);
    }
    if (!ending_.has_begun()) seats_.resize();
    ending_.obey(order, now_);
  }

  void end() noexcept {
    const std::int64_t until = sys::now_ns() + kOrphanNs;
    sys::ExitStatus status;
    while (sys::now_ns() < until) {
      kill_orphans();
      const int pid = sys::peek_ended_child();
      if (pid < 0) break;
      if (pid == 0) {
        sys::sleep_ns(kMs / 10);
      } else {
        sys::reap_child(pid, status);
      }
    }
    relay_.finish();
    ending_.tell_end();
  }

  // ---- waiting

  void sleep(std::uint32_t calls) noexcept {
    std::array<sys::FutexWaiter, sys::kMaxFutexWaiters> words;
    std::size_t count = 0;
    const sys::FutexWord& warden = start_.family->lives[shm::kWardenSlot].life.word;
    const std::uint32_t warden_life = warden.load(std::memory_order_acquire);
    words[count++] = {&shared_.control, calls};
    if ((warden_life & sys::kFutexOwnerDied) == 0) {
      words[count++] = {&warden, warden_life};
    } else if (!ending_.has_begun()) {
      return;  // it died since we looked
    }
    std::int64_t wake_ns = sys::kForever;
    for (const Tenant& tenant : tenants_.in_use()) {
      if (!tenant.may_live()) continue;
      if (count == words.size()) break;
      // Before it is prepared its word may change at any time; a death wakes us all the same.
      const sys::FutexWord& life = owners_.life(tenant.id.slot).word;
      std::uint32_t expected = life.load(std::memory_order_acquire);
      if (expected != 0) expected = tenant.life_word();
      words[count++] = {&life, expected};
    }
    if (ending_.has_begun()) wake_ns = std::min(wake_ns, ending_.kill_at_ns());
    if (!ending_.has_begun()) wake_ns = std::min(wake_ns, memory_.next_look_ns());
    if (!ending_.has_begun()) wake_ns = std::min(wake_ns, births_.next_start_ns(now_));
    wake_ns = std::min(wake_ns, arenas_.next_trim_ns(now_));
    wake_ns = std::min(wake_ns, relay_.next_look_ns());
    wake_ns = std::min(wake_ns, clock_.promise(wake_ns));
    const int result = sys::futex_wait_any(std::span(words).first(count), wake_ns);
    // Kernels before 5.16: deaths are told by SIGCHLD, which interrupts this.
    if (result == -ENOSYS) sys::futex_wait(&shared_.control, calls, wake_ns);
  }

  SupervisorStart start_;
  PoolView view_;
  shm::OwnerTable owners_;
  shm::SupervisorHeader& header_;
  shm::SharedHeader& shared_;
  PoolArenas arenas_;
  RingWriter retry_ring_;
  Settler settler_;
  TaskClock clock_;
  IdleWorkers idle_;
  Registrar registrar_;
  WaitingTasks waiting_;
  const WorkerSetup& setup_;
  StderrRelay relay_;
  Template template_;
  Tenants tenants_;
  Seats seats_;
  Ending ending_;
  StartupWatch startup_;
  MemoryWatch memory_;
  Births births_;
  std::int64_t now_ = 0;

  std::uint32_t answered_doubts_ = 0;
};

}  // namespace

namespace {

// It tells the warden itself: a caller killed now would leave a supervisor that nobody knows of.
bool announce(const SupervisorStart& start) noexcept {
  warden::Announcement said;
  said.kind = warden::MemberKind::supervisor;
  said.pid = sys::process_id();
  said.parent_pid = start.caller_pid;
  return warden::announce_self(said, start.warden_socket, *start.family);
}

}  // namespace

void supervisor_main(const SupervisorStart& start) noexcept {
  handler_control.store(&start.view.shared().control, std::memory_order_relaxed);
  asked_to_end.store(false, std::memory_order_relaxed);
  // The rest is for the workers, which may want to start processes of their own.
  const warden::Family& family = *warden::Family::inherited();
  const auto& [directory, output, errors] = start.descriptors;
  const std::array keep = {start.segment_fd,
                           start.warden_socket,
                           family.segment_fd(),
                           family.objects_fd(),
                           family.warden_pidfd(),
                           directory,
                           output,
                           errors};
  start::become_child({.process_name = start.process_name,
                       .close_fds = true,
                       .keep = keep,
                       .host_handles_terminal = true});
  sys::on_signal(sys::signal_number::kChildEnded, on_child_ended);
  sys::on_signal(sys::signal_number::kTerminate, on_terminate);
  sys::adopt_orphans();
  sys::hold_until_death(start.view.owners().life(shm::kSupervisorSlot));
  if (!start.known_to_warden && !announce(start)) sys::exit_now(1);
  SupervisorStart with_limit = start;
  with_limit.fd_limit = sys::raise_fd_limit();
  // Static: its arenas are too large for the stack of a thread that asked for a pool.
  alignas(Supervisor) static std::byte memory[sizeof(Supervisor)];
  auto* supervisor = new (memory) Supervisor(with_limit);
  supervisor->run();
  sys::exit_now(0);
}

}  // namespace brood::pool
