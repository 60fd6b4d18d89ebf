#include "pool/supervisor/supervisor.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <new>

#include "pool/protocol/admission.hpp"
#include "pool/protocol/idle.hpp"
#include "pool/protocol/lookout.hpp"
#include "pool/protocol/ring.hpp"
#include "pool/protocol/settle.hpp"
#include "pool/protocol/task_clock.hpp"
#include "pool/supervisor/audit.hpp"
#include "pool/supervisor/births.hpp"
#include "pool/supervisor/death_watch.hpp"
#include "pool/supervisor/ending.hpp"
#include "pool/supervisor/memory_watch.hpp"
#include "pool/supervisor/places.hpp"
#include "pool/supervisor/pool_arenas.hpp"
#include "pool/supervisor/registrar.hpp"
#include "pool/supervisor/seats.hpp"
#include "pool/supervisor/startup_watch.hpp"
#include "pool/supervisor/stderr_relay.hpp"
#include "pool/supervisor/template.hpp"
#include "pool/supervisor/tenants.hpp"
#include "pool/supervisor/undertaker.hpp"
#include "start/child_main.hpp"
#include "sys/clock.hpp"
#include "sys/process.hpp"
#include "sys/signals.hpp"
#include "warden/family.hpp"
#include "warden/protocol.hpp"

namespace brood::pool {

namespace {

using shm::PoolCondition;
using shm::PoolOrder;

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

// One round after the other: it looks at everything, does what there is to do, and sleeps until
// somebody calls, dies, or is to be looked at again. Each of its parts knows one thing:
//
//   Tenants       the worker processes         Seats        which of them works where
//   Births        how they are started         StartupWatch how far they have come
//   DeathWatch    that they die (1st stage)    Undertaker   that they are dead (2nd stage)
//   Settler       what becomes of their tasks  Audit        what they may have overwritten
//   TaskClock     how long a task may run      MemoryWatch  how much memory they may have
//   StderrRelay   what they write              Ending       how the pool ends
//
// Threads: one. Blocking: between two rounds; while a worker is copied. Ownership: of the parts.
// Errors: a pool that can't go on is broken: the condition in its header says why. Uses no heap.
// Death: the kernel ends the workers, else the warden does; the caller sees it by our life word.
class Supervisor {
 public:
  explicit Supervisor(const SupervisorStart& start) noexcept
      : start_(start),
        view_(start.view),
        shared_(start.view.shared()),
        warden_life_(start.family->lives[shm::kWardenSlot].life.word),
        arenas_(start_),
        retry_ring_(view_.supervisor().retry_ring, view_.retry_cells()),
        settler_(view_, arenas_.outbox(), retry_ring_),
        clock_(view_, start.grace_ns),
        idle_(view_),
        waiting_(view_, std::nullopt),
        lookout_(view_),
        registrar_(start_),
        tenants_(view_.geometry().slots),
        seats_(start_, tenants_, settler_, idle_, waiting_),
        ending_(view_, tenants_, template_, settler_, idle_),
        startup_(start_, ending_),
        memory_(start_, tenants_, startup_),
        places_{view_, view_.owners(), tenants_, seats_, registrar_, relay_},
        births_(start_, places_, startup_, memory_, template_),
        deaths_(places_, startup_, memory_, settler_, idle_, ending_),
        audit_(view_, tenants_, settler_, idle_),
        undertaker_(places_, births_, deaths_, audit_, arenas_.outbox(), template_, ending_) {
    retry_ring_.start(shm::kRetryRingLog);
    if (start_.setup->relays_errors) start_relay();
  }

  void run() noexcept {
    ending_.tell(PoolCondition::running);
    for (;;) {
      // Read before looking at what it counts: a call that comes later ends the sleep.
      const std::uint32_t calls = shared_.control.load(std::memory_order_acquire);
      const std::int64_t now = sys::now_ns();
      clock_.take_back_promise();
      deaths_.look(now);
      undertaker_.reap(now);
      template_.listen();
      obey(now);
      stop_late_tasks(now);
      if (ending_.is_complete()) break;
      if (!ending_.has_begun()) {
        audit_.run_if_asked();
        seats_.grant_wishes();
        if (lookout_.look(idle_, waiting_, now)) tenants_.ring(idle_);
        seats_.wake_for_tasks();
        births_.fill_seats(now);
        memory_.look(now);
      }
      arenas_.trim(now);
      relay_.forward(now);
      sleep(calls, now);
    }
    undertaker_.finish();
    relay_.finish();
    ending_.tell_end();
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
    const bool has_surroundings = start_.setup->has_surroundings;
    relay_.start(has_surroundings ? start_.descriptors[2] : 2, shared_.control);
  }

  void obey(std::int64_t now) noexcept {
    PoolOrder order = view_.caller().order.load(std::memory_order_acquire);
    if (asked_to_end.load(std::memory_order_relaxed)) order = PoolOrder::kill;
    if (!ending_.has_begun() && is_warden_dead()) {
      // The kernel has woken one of those who wait for this, no more.
      sys::futex_wake(&warden_life_, sys::kWakeAll);
      ending_.break_pool(PoolCondition::broken_family, now);
    }
    if (!ending_.has_begun()) seats_.resize();
    ending_.obey(order, now);
  }

  [[nodiscard]] bool is_warden_dead() const noexcept {
    return (warden_life_.load(std::memory_order_acquire) & sys::kFutexOwnerDied) != 0;
  }

  void stop_late_tasks(std::int64_t now) noexcept {
    if (ending_.drops_tasks()) return;
    for (Tenant& tenant : tenants_.in_use()) {
      const bool may_run = tenant.at_work() || tenant.state == TenantState::leaving;
      if (may_run && clock_.must_die(tenant.watch, tenant.id, now)) {
        sys::send_signal(tenant.pidfd.get(), sys::signal_number::kKill);
      }
    }
    clock_.expire_pending_tasks(now);
  }

  // ---- waiting

  // When there is something to do though nobody calls. Whatever has a time of its own is here, but
  // for the task clock: it has to know the others' to promise when it will look.
  [[nodiscard]] std::int64_t next_look_ns(std::int64_t now) const noexcept {
    const std::int64_t next = std::min(arenas_.next_trim_ns(now), relay_.next_look_ns());
    if (ending_.has_begun()) return std::min(next, ending_.kill_at_ns());
    return std::min(
        {next, births_.next_start_ns(now), memory_.next_look_ns(), lookout_.next_look_ns()});
  }

  // Until somebody calls or dies, or it is time to look again.
  void sleep(std::uint32_t calls, std::int64_t now) noexcept {
    std::array<sys::FutexWaiter, sys::kMaxFutexWaiters> words;
    std::size_t count = 0;
    words[count++] = {&shared_.control, calls};
    const std::uint32_t warden_life = warden_life_.load(std::memory_order_acquire);
    if ((warden_life & sys::kFutexOwnerDied) == 0) {
      words[count++] = {&warden_life_, warden_life};
    } else if (!ending_.has_begun()) {
      return;  // it died since we looked
    }
    const shm::OwnerTable owners = view_.owners();
    for (const Tenant& tenant : tenants_.in_use()) {
      if (!tenant.may_live()) continue;
      if (count == words.size()) break;
      // Before it is prepared its word may change at any time; a death wakes us all the same.
      const sys::FutexWord& life = owners.life(tenant.id.slot).word;
      const bool is_set = life.load(std::memory_order_acquire) != 0;
      words[count++] = {&life, is_set ? tenant.life_word() : 0};
    }
    const std::int64_t until = clock_.promise(next_look_ns(now));
    const int result = sys::futex_wait_any(std::span(words).first(count), until);
    // Kernels before 5.16: deaths are told by SIGCHLD, which interrupts this.
    if (result == -ENOSYS) sys::futex_wait(&shared_.control, calls, until);
  }

  SupervisorStart start_;
  PoolView view_;
  shm::SharedHeader& shared_;
  const sys::FutexWord& warden_life_;

  PoolArenas arenas_;
  RingWriter retry_ring_;
  Settler settler_;
  TaskClock clock_;
  IdleWorkers idle_;
  WaitingTasks waiting_;
  Lookout lookout_;
  StderrRelay relay_;
  Template template_;
  Registrar registrar_;

  Tenants tenants_;
  Seats seats_;
  Ending ending_;
  StartupWatch startup_;
  MemoryWatch memory_;
  Places places_;
  Births births_;
  DeathWatch deaths_;
  Audit audit_;
  Undertaker undertaker_;
};

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
