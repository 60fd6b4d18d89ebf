#include "pool/supervisor.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <memory>
#include <string_view>

#include "brood/codec.hpp"
#include "brood/detail/thunk.hpp"
#include "pool/admission.hpp"
#include "pool/dormancy.hpp"
#include "pool/idle.hpp"
#include "pool/lookout.hpp"
#include "pool/ring.hpp"
#include "pool/settle.hpp"
#include "pool/stderr_relay.hpp"
#include "pool/stop_door.hpp"
#include "pool/task_clock.hpp"
#include "pool/template.hpp"
#include "pool/worker.hpp"
#include "shm/owner_table.hpp"
#include "shm/segment.hpp"
#include "start/birth.hpp"
#include "start/child_main.hpp"
#include "sys/cgroup.hpp"
#include "sys/clock.hpp"
#include "sys/memory.hpp"
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
constexpr std::int64_t kLongestBackOffNs = 1000 * kMs;
constexpr std::int64_t kIdleBeforeTrimNs = 1000 * kMs;
constexpr std::int64_t kGraceToLeaveNs = 5000 * kMs;  // exit handlers of a worker that may go
constexpr std::int64_t kOrphanNs = 200 * kMs;
constexpr std::int64_t kBetweenWatchesNs = 10 * kMs;

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

constexpr int kSignalBits = 0x7f;  // of a wait status
constexpr std::uint32_t kNoIndex = UINT32_MAX;

// The supervisor's own book about one worker process; what the worker says of itself is only input.
//
//             prepared           pool drained
//   starting ----------> ready --------------> leaving
//      |  |                | |                    |
//      |  +--- reported <--+ |  crash handler     |       the task is settled on entering
//      |          |          |                    |       reported or dying, or when buried
//      +--> dying | condemned+                    |
//             |   |     |                         |
//             +---+--+--+-------------------------+----> buried: reaped, swept, slot free
enum class TenantState : std::uint8_t {
  none,
  starting,
  ready,
  leaving,
  reported,   // crashed by its own word: it may still run, but takes no task any more
  dying,      // the kernel has marked its life word; SIGKILL ends what is left of it
  condemned,  // the same, but how it died is known only when it is reaped
};

struct Tenant {
  TenantState state = TenantState::none;
  bool expected = false;       // its end is no death: it was told to leave
  bool retiring = false;       // the same, once it has ended what it runs
  bool set_up = false;         // nothing that goes before the first task can fail any more
  bool handed_on = false;      // the chunk that it stopped at
  bool out_of_memory = false;  // it is killed for that
  std::int32_t pid = 0;
  OwnerId id;
  std::optional<OwnerId> member;      // its place in the family
  bool announced = false;             // the warden knows of it
  std::uint32_t index = kNoIndex;     // which worker it is; none: the spare, or one that retires
  std::uint64_t memory_at_start = 0;  // its own
  StopWatch watch;
  sys::Fd pidfd;

  [[nodiscard]] bool used() const noexcept { return state != TenantState::none; }
  [[nodiscard]] bool at_work() const noexcept {
    return state == TenantState::starting || state == TenantState::ready;
  }
};

struct Seat {
  std::uint16_t slot = 0;  // 0: vacant
  std::uint32_t restarts = 0;
  bool ever_held = false;
  bool dormant = false;  // vacant for want of work
};

class Supervisor {
 public:
  explicit Supervisor(const SupervisorStart& start) noexcept
      : start_(start),
        view_(start.view),
        owners_(start.view.owners()),
        family_owners_(start.family->owners, start.family->lives),
        header_(start.view.supervisor()),
        shared_(start.view.shared()),
        retry_ring_(header_.retry_ring, view_.retry_cells()),
        settler_(view_, outbox_, retry_ring_),
        clock_(view_, start.grace_ns),
        idle_(view_),
        waiting_(view_, std::nullopt),
        lookout_(view_),
        setup_(*start.setup),
        checks_setup_(setup_.initializer.thunk != 0 || setup_.prepare.thunk != 0 ||
                      setup_.has_surroundings),
        capacity_(std::max<std::uint32_t>(start.workers, kLeastCapacity)),
        target_(start.workers),
        tenants_(static_cast<Tenant*>(sys::map_private(shm::kMaxSlots * sizeof(Tenant)))),
        seats_(static_cast<Seat*>(sys::map_private(shm::kMaxSlots * sizeof(Seat)))) {
    const OwnerId me{shm::kSupervisorSlot, 1};
    inbox_.attach(view_.inbox(start.segment_fd, start.arena_limit_bytes), me);
    outbox_.attach(view_.outbox(start.segment_fd, start.arena_limit_bytes), me);
    retry_ring_.start(shm::kRetryRingLog);
    out_of_memory_kills_ = count_out_of_memory_kills();
    if (setup_.relays_errors) start_relay();
  }

  void run() noexcept {
    if (tenants_ == nullptr || seats_ == nullptr) return end(PoolCondition::broken_startup);
    for (std::size_t i = 0; i < shm::kMaxSlots; ++i) std::construct_at(&tenants_[i]);
    tell(PoolCondition::running);
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
      if (ending_ && count_tenants() == 0 && template_.pid() == 0) return end(final_condition_);
      if (!ending_) {
        grant_wishes();
        lookout_.look(idle_, waiting_, now_);
        wake_seats();
        fill_seats();
        watch_memory();
      }
      trim();
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
    for (std::uint16_t slot = shm::kFirstWorkerSlot; slot < top_slot_; ++slot) {
      Tenant& tenant = tenants_[slot];
      if (tenant.state == TenantState::starting && is_prepared(tenant)) {
        tenant.state = TenantState::ready;
        if (!checks_setup_) failures_ = 0;
      }
      if (checks_setup_ && tenant.at_work() && !tenant.set_up) look_at_setup(tenant);
      if (tenant.at_work()) look_for_report(tenant);
      const bool may_live = tenant.at_work() || tenant.state == TenantState::leaving ||
                            tenant.state == TenantState::reported;
      if (may_live) look_at_life(tenant);
    }
  }

  [[nodiscard]] shm::SetupStage stage_of_setup(const Tenant& tenant) const noexcept {
    return view_.desk(tenant.id.slot).setup.load(std::memory_order_acquire);
  }

  void look_at_setup(Tenant& tenant) noexcept {
    const shm::SetupStage stage = stage_of_setup(tenant);
    if (stage == shm::SetupStage::failed) {
      fail_setup(step_of(tenant), {tenant.pid}, &view_.note(tenant.id.slot));
    }
    // A spare has done all that it can do as yet, too.
    if (tenant.state == TenantState::ready && stage != shm::SetupStage::failed &&
        (stage == shm::SetupStage::over || tenant.index == kNoIndex)) {
      failures_ = 0;
    }
    tenant.set_up = stage == shm::SetupStage::over;
  }

  [[nodiscard]] shm::SetupStep step_of(const Tenant& tenant) const noexcept {
    return is_prepared(tenant) ? shm::SetupStep::prepare : shm::SetupStep::initializer;
  }

  // The pool ends, and its tasks are told why. What is in the note is input; nullptr: it died.
  void fail_setup(shm::SetupStep step, const WorkerDeath& death,
                  const shm::SetupNote* note) noexcept {
    if (ending_) return;
    shm::SetupCause& cause = header_.setup_cause;
    cause.step = step;
    cause.pid = death.pid;
    cause.wait_status = death.wait_status;
    cause.causes = death.causes;
    cause.fault_address = death.fault_address;
    cause.length = 0;
    cause.stderr_bytes = static_cast<std::uint32_t>(death.stderr_tail.size());
    std::ranges::copy(death.stderr_tail, cause.stderr_tail.begin());
    if (note != nullptr) {
      const std::size_t length = note->length.load(std::memory_order_acquire);
      cause.length = static_cast<std::uint32_t>(std::min(length, cause.exception.size()));
      std::memcpy(cause.exception.data(), note->exception.data(), cause.length);
    }
    break_pool(PoolCondition::broken_setup);
  }

  [[nodiscard]] bool is_prepared(const Tenant& tenant) const noexcept {
    return view_.desk(tenant.id.slot).prepared.load(std::memory_order_acquire) == 1;
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
    if (life == 0 || life == living(tenant)) return;
    const std::optional<int> status = sys::status_of_dying(tenant.pid);
    // Its other threads and its children have nobody to work for. (Never sooner: a core file being
    // written would be cut off.)
    end_group(tenant);
    if (!status) {
      // The word was overwritten, or the system hides the status until the process is reaped.
      if (tenant.at_work()) tenant.state = TenantState::condemned;
      return;
    }
    if (tenant.at_work()) {
      mourn(tenant, death_of(tenant, *status));
    }
    tenant.state = TenantState::dying;
  }

  // Not reaped yet, so its number is still its own, and its group's. What it had the warden make
  // for it is not of its group.
  void end_group(const Tenant& tenant) const noexcept {
    sys::send_signal(tenant.pidfd.get(), sys::signal_number::kKill);
    end_group_of(tenant.pid);
  }
  void end_group_of(int pid) const noexcept {
    sys::kill_group(pid);
    warden::Announcement said;
    said.request = warden::Request::end_children;
    said.parent_pid = pid;
    sys::send_packet(start_.warden_socket, std::as_bytes(std::span(&said, 1)), -1, false);
  }

  // What the crash handler wrote, if it did: input.
  [[nodiscard]] WorkerDeath reported_crash(const Tenant& tenant) const noexcept {
    shm::WorkerDesk& desk = view_.desk(tenant.id.slot);
    constexpr std::int32_t kSignals = 64;
    const bool reported = desk.crash.load(std::memory_order_acquire) != shm::CrashReport::none;
    // Read once: what is checked has to be what is used.
    const std::int32_t signal = std::atomic_ref(desk.crash_signal).load(std::memory_order_relaxed);
    if (!reported || signal <= 0 || signal > kSignals) return {};
    return {
        tenant.pid, static_cast<std::uint32_t>(signal), desk.crash_address,
        std::atomic_ref(desk.crash_causes).load(std::memory_order_relaxed) & shm::kStackOverflow};
  }

  // Of one whose end was seen.
  [[nodiscard]] WorkerDeath death_of(const Tenant& tenant, int wait_status) noexcept {
    WorkerDeath death = reported_crash(tenant);
    const auto status = static_cast<std::uint32_t>(wait_status);
    if (death.wait_status != (status & kSignalBits)) death.causes = 0;
    death.causes |= memory_causes(tenant, wait_status);
    death.pid = tenant.pid;
    death.wait_status = status;
    return death;
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

  static std::uint32_t living(const Tenant& tenant) noexcept {
    return static_cast<std::uint32_t>(tenant.pid) | sys::kFutexWaiters;
  }

  void mourn(Tenant& tenant, const WorkerDeath& death) noexcept {
    if (spare_ == tenant.id.slot) spare_ = 0;
    idle_.forget(tenant.id.slot);
    // What the pool's end kills is PoolClosed, not WorkerDied.
    if ((ending_ && !draining_) || tenant.expected) return;
    if (tenant.retiring && death.wait_status == 0) {
      // It may have been told to leave before it was seen that it had stopped at a chunk.
      const bool yields = view_.desk(tenant.id.slot).wish.load() == shm::LeaveWish::yields;
      if (yields && !tenant.handed_on) hand_on(tenant);
      tenant.expected = !settler_.has_task(tenant.id);
      if (tenant.expected) return;
    }
    if (!tenant.watch.doomed) header_.died.fetch_add(1, std::memory_order_relaxed);
    const WorkerDeath told = with_evidence(tenant, death);
    if (!is_set_up(tenant)) note_failure(tenant, told);
    settler_.settle_task_of(tenant.id, told);
    if (tenant.index != kNoIndex) {
      seats_[tenant.index].slot = 0;
      promote_spare(tenant.index);
    }
    ring_sleepers();
  }

  [[nodiscard]] bool is_set_up(const Tenant& tenant) const noexcept {
    if (!is_prepared(tenant)) return false;
    return !checks_setup_ || tenant.set_up || stage_of_setup(tenant) != shm::SetupStage::running;
  }

  // It died before it could run a task.
  void note_failure(const Tenant& tenant, const WorkerDeath& death) noexcept {
    const bool in_setup = checks_setup_ && stage_of_setup(tenant) == shm::SetupStage::running;
    note_failure(in_setup ? step_of(tenant) : shm::SetupStep::none, death);
  }
  // SIGKILL comes from outside, and may not come again.
  void note_failure(shm::SetupStep step, const WorkerDeath& death) noexcept {
    back_off();
    const bool too_often = failures_ >= start_.restart_limit;
    if (step == shm::SetupStep::none) {
      if (too_often) break_pool(PoolCondition::broken_startup);
    } else if (too_often || death.causes != 0 || death.wait_status != sys::signal_number::kKill) {
      fail_setup(step, death, nullptr);
    }
  }

  // ---- memory

  [[nodiscard]] std::uint64_t count_out_of_memory_kills() const noexcept {
    if (setup_.memory_events.empty()) return 0;
    return sys::labelled_number(setup_.memory_events.c_str(), "oom_kill").value_or(0);
  }

  [[nodiscard]] std::uint32_t memory_causes(const Tenant& tenant, int wait_status) noexcept {
    if ((wait_status & kSignalBits) != sys::signal_number::kKill) return 0;
    const std::uint64_t kills = count_out_of_memory_kills();
    const bool by_kernel = kills > out_of_memory_kills_;
    out_of_memory_kills_ = kills;
    if (tenant.out_of_memory) return shm::kOutOfMemory | shm::kOverMemoryLimit;
    return by_kernel ? shm::kOutOfMemory : 0;
  }

  // As long as somebody is at work.
  void watch_memory() noexcept {
    if (setup_.memory_limit_bytes == 0 || now_ < next_watch_ns_) return;
    if (shared_.watch_wanted.load(std::memory_order_relaxed) == 0) return;
    next_watch_ns_ = now_ + kBetweenWatchesNs;
    if (look_at_memory()) return;
    shared_.watch_wanted.store(0, std::memory_order_seq_cst);
    if (look_at_memory()) shared_.watch_wanted.store(1, std::memory_order_relaxed);
  }

  // Whether anybody is at work. Who has too much memory is killed.
  bool look_at_memory() noexcept {
    bool at_work = false;
    for (std::uint16_t slot = shm::kFirstWorkerSlot; slot < top_slot_; ++slot) {
      Tenant& tenant = tenants_[slot];
      const bool idle =
          view_.desk(slot).stage.load(std::memory_order_seq_cst) == shm::WorkerStage::idle;
      if (!tenant.at_work() || (idle && is_set_up(tenant))) continue;
      at_work = true;
      const std::uint64_t own = sys::own_memory_of(tenant.pid).value_or(0);
      if (own <= tenant.memory_at_start || tenant.out_of_memory ||
          own - tenant.memory_at_start <= setup_.memory_limit_bytes) {
        continue;
      }
      tenant.out_of_memory = true;
      sys::send_signal(tenant.pidfd.get(), sys::signal_number::kKill);
    }
    return at_work;
  }

  void back_off() noexcept {
    ++failures_;
    const std::uint32_t doublings = std::min(failures_, 10U);
    next_start_ns_ = now_ + std::min(kMs << doublings, kLongestBackOffNs);
  }

  // Second stage: proof. What the dead owned is free again.
  void reap() noexcept {
    for (int pid = sys::peek_ended_child(); pid > 0; pid = sys::peek_ended_child()) {
      Tenant* tenant = nullptr;
      for (std::uint16_t slot = shm::kFirstWorkerSlot; slot < top_slot_; ++slot) {
        if (tenants_[slot].used() && tenants_[slot].pid == pid) tenant = &tenants_[slot];
      }
      if (tenant != nullptr) end_group(*tenant);
      if (pid == template_.pid()) end_group_of(pid);
      sys::ExitStatus status;
      if (sys::reap_child(pid, status) != 1) return;
      if (tenant != nullptr) bury(*tenant, status);
      if (pid == template_.pid()) bury_template(status);
      // Its children, or those of an orphan that it was, are ours from now on.
      kill_orphans();
    }
  }

  void bury(Tenant& tenant, const sys::ExitStatus& status) noexcept {
    const std::uint16_t slot = tenant.id.slot;
    const int wait_status = status.signal != 0 ? status.signal : status.code << 8;
    // Its report may have come after we looked for one.
    const WorkerDeath death = death_of(tenant, wait_status);
    const bool unheard_of = tenant.at_work() || tenant.state == TenantState::condemned;
    if (unheard_of) {
      mourn(tenant, death);
    } else if (!tenant.expected && !ending_) {
      // After a crash was reported it may have gone on for a moment, and claimed one more.
      settler_.settle_task_of(tenant.id, with_evidence(tenant, death));
    }
    if (tenant.index != kNoIndex && seats_[tenant.index].slot == slot) {
      seats_[tenant.index].slot = 0;
    }
    if (spare_ == slot) spare_ = 0;
    header_.retired_done.fetch_add(view_.desk(slot).done.load(std::memory_order_relaxed),
                                   std::memory_order_relaxed);
    view_.entry(slot).role.store(WorkerRole::none, std::memory_order_relaxed);
    // What it held among the family's objects is the warden's to give back.
    if (!tenant.announced) announce(tenant.pid, tenant.pidfd.get(), tenant.member);
    set_stop_door(view_, tenant.id, false);
    relay_.close(slot);
    outbox_.sweep(tenant.id);
    owners_.mark_dead(tenant.id);
    owners_.release(tenant.id);
    const bool expected = tenant.expected;
    tenant = Tenant{};
    // At the end the tasks of the killed stay as they are: the caller knows why they never end.
    if (!expected && !ending_) doubt_shared_memory();
  }

  void bury_template(const sys::ExitStatus& status) noexcept {
    const bool failed = view_.note(shm::kSupervisorSlot).length.load() != 0;
    const bool was_ready = template_.state() == Template::State::ready;
    const WorkerDeath death{template_.pid(), static_cast<std::uint32_t>(status.to_wait_status())};
    if (!template_announced_) announce(template_.pid(), template_.pidfd(), template_.member());
    template_.gone();
    if (ending_) return;
    if (was_ready) {
      back_off();  // it loads once more
    } else if (failed) {
      fail_setup(shm::SetupStep::preload, death, &view_.note(shm::kSupervisorSlot));
    } else {
      note_failure(shm::SetupStep::preload, death);
    }
  }

  // The dead may have written anywhere that workers can write: what makes no sense is put right,
  // what can't be checked is forgotten, and everybody looks again.
  void doubt_shared_memory() noexcept {
    settler_.audit(
        [](OwnerId owner, const void* context) {
          const auto* self = static_cast<const Supervisor*>(context);
          const Tenant& tenant = self->tenants_[owner.slot];
          return tenant.used() && tenant.id.slot == owner.slot && tenant.id.epoch == owner.epoch;
        },
        this);
    idle_.keep_only([this](std::uint16_t slot) { return tenants_[slot].used(); });
    header_.hint_epoch.fetch_add(1, std::memory_order_release);
    ring_sleepers();
  }

  void answer_doubts() noexcept {
    const std::uint32_t doubts = view_.caller().doubts.load(std::memory_order_acquire);
    if (doubts == answered_doubts_ || ending_) return;
    answered_doubts_ = doubts;
    doubt_shared_memory();
  }

  // ---- time limits

  void look_at_clocks() noexcept {
    if (ending_ && !draining_) return;
    for (std::uint16_t slot = shm::kFirstWorkerSlot; slot < top_slot_; ++slot) {
      Tenant& tenant = tenants_[slot];
      const bool may_run = tenant.state == TenantState::ready ||
                           tenant.state == TenantState::starting ||
                           tenant.state == TenantState::leaving;
      if (may_run && clock_.must_die(tenant.watch, tenant.id, now_)) {
        sys::send_signal(tenant.pidfd.get(), sys::signal_number::kKill);
      }
    }
    clock_.expire_pending_tasks(now_);
  }

  // ---- workers

  void fill_seats() noexcept {
    if (now_ < next_start_ns_) return;
    if (needs_template() && template_.state() != Template::State::ready) {
      if (template_.pid() == 0) start_template();
      return;
    }
    for (std::uint32_t index = 0; index < target_; ++index) {
      const Seat& seat = seats_[index];
      if (seat.slot == 0 && !seat.dormant && !promote_spare(index) && !start_worker(index)) return;
    }
    // Parked, so that a dead worker's place is taken without the time of a fork.
    if (spare_ == 0) start_worker(kNoIndex);
  }

  bool promote_spare(std::uint32_t index) noexcept {
    if (spare_ == 0 || ending_) return false;
    take_seat(tenants_[spare_], index);
    spare_ = 0;
    return true;
  }

  void take_seat(Tenant& tenant, std::uint32_t index) noexcept {
    Seat& seat = seats_[index];
    const std::uint16_t slot = tenant.id.slot;
    if (seat.ever_held) ++seat.restarts;
    seat.ever_held = true;
    seat.slot = slot;
    tenant.index = index;
    shm::WorkerEntry& entry = view_.entry(slot);
    entry.index.store(index, std::memory_order_relaxed);
    entry.restarts.store(seat.restarts, std::memory_order_relaxed);
    entry.role.store(WorkerRole::active, std::memory_order_seq_cst);
    idle_.ring(slot);
  }

  [[nodiscard]] bool needs_template() const noexcept { return setup_.preload.thunk != 0; }

  void start_template() noexcept {
    const std::optional<OwnerId> member = family_owners_.claim(sys::process_id());
    if (template_.start(start_, member) < 0) {
      if (member) family_owners_.release(*member);
      back_off();
      if (failures_ >= start_.restart_limit) break_pool(PoolCondition::broken_startup);
      return;
    }
    if (member) family_owners_.settle(*member, template_.pid());
    template_announced_ = announce(template_.pid(), template_.pidfd(), member);
  }

  // ---- how many workers

  // What workers ask for by themselves. After all deaths are known: a spare is used as it is now.
  void grant_wishes() noexcept {
    for (std::uint16_t slot = shm::kFirstWorkerSlot; slot < top_slot_; ++slot) {
      Tenant& tenant = tenants_[slot];
      if (tenant.state != TenantState::ready || tenant.retiring || tenant.index == kNoIndex) {
        continue;
      }
      const shm::LeaveWish wish = view_.desk(slot).wish.load(std::memory_order_acquire);
      if (wish == shm::LeaveWish::yields && !tenant.handed_on) hand_on(tenant);
      if (wish == shm::LeaveWish::worn || wish == shm::LeaveWish::yields) replace(tenant);
      if (wish == shm::LeaveWish::idle && count_active() > least_workers()) {
        Seat& seat = seats_[tenant.index];
        retire(tenant);
        leave_empty(view_, idle_, slot);
        seat.dormant = true;
      }
    }
  }

  // The chunk that it has stopped at.
  void hand_on(Tenant& tenant) noexcept {
    tenant.handed_on = true;
    settler_.hand_on(tenant.id);
    idle_.wake_one();
  }

  // Once there is somebody for its place.
  void replace(Tenant& tenant) noexcept {
    if (spare_ == 0 || tenants_[spare_].state != TenantState::ready) return;
    const std::uint32_t index = tenant.index;
    retire(tenant);
    promote_spare(index);
  }

  // It leaves when it has ended what it runs.
  void retire(Tenant& tenant) noexcept {
    seats_[tenant.index].slot = 0;
    tenant.index = kNoIndex;
    tenant.retiring = true;
    shm::WorkerEntry& entry = view_.entry(tenant.id.slot);
    entry.index.store(kNoIndex, std::memory_order_relaxed);
    entry.role.store(WorkerRole::leaving, std::memory_order_seq_cst);
    idle_.ring(tenant.id.slot);
  }

  [[nodiscard]] std::uint32_t count_active() const noexcept {
    std::uint32_t count = 0;
    for (std::uint32_t index = 0; index < target_; ++index) {
      count += seats_[index].slot != 0 ? 1U : 0U;
    }
    return count;
  }
  [[nodiscard]] std::uint32_t least_workers() const noexcept {
    return std::clamp<std::uint32_t>(setup_.min_workers, 1, target_);
  }

  // For tasks that nobody comes to.
  void wake_seats() noexcept {
    std::size_t wanted = count_wanted(view_, idle_, waiting_);
    for (std::uint32_t index = 0; index < target_ && wanted > 0; ++index) {
      if (!seats_[index].dormant) continue;
      wake_seat(seats_[index]);
      --wanted;
    }
  }

  void wake_seat(Seat& seat) noexcept {
    seat.dormant = false;
    fill_empty(view_);
  }

  void obey_size() noexcept {
    const std::uint32_t wanted = std::clamp<std::uint32_t>(
        view_.caller().workers.load(std::memory_order_acquire), 1, capacity_);
    if (wanted == target_) return;
    for (std::uint32_t index = 0; index < std::max(wanted, target_); ++index) {
      Seat& seat = seats_[index];
      if (seat.dormant) wake_seat(seat);
      if (index >= wanted && seat.slot != 0) retire(tenants_[seat.slot]);
    }
    target_ = wanted;
  }

  // A copy of this process, or of the template.
  long copy_for_worker(const WorkerStart& worker, sys::Fd& pidfd) noexcept {
    if (needs_template()) return template_.bear(worker.me, worker.member, worker.errors, pidfd);
    // Until the worker has dispositions of its own, ours would swallow a SIGTERM meant for it.
    sys::SignalsBlocked blocked;
    const long pid = sys::clone_quiet(pidfd, sys::signal_number::kChildEnded);
    if (pid == 0) {
      blocked.keep();
      worker_main(worker);
    }
    return pid;
  }

  [[nodiscard]] std::uint64_t memory_of_a_copy() const noexcept {
    if (setup_.memory_limit_bytes == 0) return 0;
    const int of = needs_template() ? template_.pid() : sys::process_id();
    return sys::own_memory_of(of).value_or(0);
  }

  bool start_worker(std::uint32_t index) noexcept {
    const std::uint16_t slot = free_slot();
    if (slot == 0) return false;
    const std::optional<OwnerId> id = owners_.claim_slot(slot, sys::process_id());
    if (!id) return false;
    const std::optional<OwnerId> member = family_owners_.claim(sys::process_id());
    clear_desk(view_.desk(slot));
    shm::WorkerEntry& entry = view_.entry(slot);
    entry.role.store(WorkerRole::parked, std::memory_order_relaxed);
    view_.note(slot).length.store(0, std::memory_order_relaxed);
    view_.crash_note(slot).bytes.store(0, std::memory_order_relaxed);
    const std::uint64_t memory = memory_of_a_copy();
    sys::Fd pidfd;
    const sys::Fd errors = relay_.open(slot);
    const WorkerStart worker{start_, *id, member, sys::process_id(), errors.get()};
    const long pid = copy_for_worker(worker, pidfd);
    if (pid < 0) {
      relay_.close(slot);
      owners_.release(*id);
      if (member) family_owners_.release(*member);
      entry.role.store(WorkerRole::none, std::memory_order_relaxed);
      // The system may recover; a pool that has workers goes on with them.
      back_off();
      if (failures_ >= start_.restart_limit && count_tenants() == 0) {
        break_pool(PoolCondition::broken_startup);
      }
      return false;
    }
    owners_.settle(*id, static_cast<std::int32_t>(pid));
    entry.pid.store(static_cast<std::int32_t>(pid), std::memory_order_relaxed);
    top_slot_ = std::max<std::uint16_t>(top_slot_, static_cast<std::uint16_t>(slot + 1));
    if (member) family_owners_.settle(*member, static_cast<std::int32_t>(pid));
    const bool announced = announce(static_cast<std::int32_t>(pid), pidfd.get(), member);
    Tenant& tenant = tenants_[slot];
    tenant = Tenant{};
    tenant.state = TenantState::starting;
    tenant.pid = static_cast<std::int32_t>(pid);
    tenant.id = *id;
    tenant.member = member;
    tenant.announced = announced;
    tenant.memory_at_start = memory;
    tenant.pidfd = std::move(pidfd);
    if (setup_.memory_limit_bytes != 0) shared_.watch_wanted.store(1, std::memory_order_relaxed);
    if (index == kNoIndex) {
      spare_ = slot;
    } else {
      take_seat(tenant, index);
    }
    return true;
  }

  // If we die, the warden ends the workers that the kernel does not end for us.
  bool announce(std::int32_t pid, int pidfd, std::optional<OwnerId> member) const noexcept {
    warden::Announcement said;
    said.kind = warden::MemberKind::worker;
    said.pid = pid;
    said.parent_pid = sys::process_id();
    said.owner = member.value_or(OwnerId{});
    said.has_owner = member ? 1 : 0;
    return sys::send_packet(start_.warden_socket, std::as_bytes(std::span(&said, 1)), pidfd,
                            false) == 0;
  }

  [[nodiscard]] std::uint16_t free_slot() const noexcept {
    for (std::uint16_t slot = shm::kFirstWorkerSlot; slot < view_.geometry().slots; ++slot) {
      if (!tenants_[slot].used()) return slot;
    }
    return 0;
  }

  [[nodiscard]] std::size_t count_tenants() const noexcept {
    std::size_t count = 0;
    for (std::uint16_t slot = shm::kFirstWorkerSlot; slot < top_slot_; ++slot) {
      count += tenants_[slot].used() ? 1U : 0U;
    }
    return count;
  }

  // Whoever was to be woken may be among the dead, and their marks overwritten.
  void ring_sleepers() noexcept {
    for (std::uint16_t slot = shm::kFirstWorkerSlot; slot < top_slot_; ++slot) {
      if (tenants_[slot].used()) idle_.ring(slot);
    }
  }

  // What workers' children left behind is ours, as a subreaper's. The groups of workers that live
  // are spared: those are jobs that a task has put into the background.
  void kill_orphans() noexcept {
    sys::signal_children(
        sys::signal_number::kKill,
        [](int pid, void* context) {
          const auto* self = static_cast<const Supervisor*>(context);
          return self->is_tenant(pid) || (!self->ending_ && self->is_tenant(sys::group_of(pid)));
        },
        this);
  }

  [[nodiscard]] bool is_tenant(int pid) const noexcept {
    if (pid == template_.pid()) return true;
    for (std::uint16_t slot = shm::kFirstWorkerSlot; slot < top_slot_; ++slot) {
      if (tenants_[slot].used() && tenants_[slot].pid == pid) return true;
    }
    return false;
  }

  // ---- the end

  void obey() noexcept {
    PoolOrder order = view_.caller().order.load(std::memory_order_acquire);
    if (asked_to_end.load(std::memory_order_relaxed)) order = PoolOrder::kill;
    const std::uint32_t warden =
        start_.family->lives[shm::kWardenSlot].life.word.load(std::memory_order_acquire);
    if ((warden & sys::kFutexOwnerDied) != 0 && !ending_) {
      // The kernel has woken one of those who wait for this, no more.
      sys::futex_wake(&start_.family->lives[shm::kWardenSlot].life.word, sys::kWakeAll);
      break_pool(PoolCondition::broken_family);
    }
    if (!ending_) obey_size();
    if (order == PoolOrder::drain && !ending_ && settler_.all_done()) {
      ending_ = draining_ = true;
      kill_at_ns_ = now_ + kGraceToLeaveNs;
      for (std::uint16_t slot = shm::kFirstWorkerSlot; slot < top_slot_; ++slot) {
        Tenant& tenant = tenants_[slot];
        if (!tenant.used()) continue;
        tenant.expected = true;
        if (tenant.at_work()) tenant.state = TenantState::leaving;
        view_.entry(slot).role.store(WorkerRole::leaving, std::memory_order_seq_cst);
        idle_.ring(slot);
      }
    }
    if (order == PoolOrder::terminate && !terminating_) {
      ending_ = terminating_ = true;
      kill_at_ns_ = now_ + view_.caller().term_ms.load(std::memory_order_relaxed) * kMs;
      signal_workers(sys::signal_number::kTerminate);
      for (std::uint16_t slot = shm::kFirstWorkerSlot; slot < top_slot_; ++slot) {
        if (tenants_[slot].used()) knock_at_stop_door(view_, tenants_[slot].id);
      }
      signal_workers(sys::signal_number::kContinue);
    }
    if (order >= PoolOrder::kill && !ending_) ending_ = true;
    if (ending_) template_.dismiss();
    if (ending_ && (order >= PoolOrder::kill || now_ >= kill_at_ns_)) {
      signal_workers(sys::signal_number::kKill);
      kill_at_ns_ = now_ + 100 * kMs;
    }
  }

  void break_pool(PoolCondition why) noexcept {
    ending_ = true;
    final_condition_ = why;
    kill_at_ns_ = now_;
    tell(why);
    settler_.wake_waiters();
  }

  void signal_workers(int signal) noexcept {
    for (std::uint16_t slot = shm::kFirstWorkerSlot; slot < top_slot_; ++slot) {
      if (tenants_[slot].used()) sys::send_signal(tenants_[slot].pidfd.get(), signal);
    }
    if (template_.pid() != 0) sys::send_signal(template_.pidfd(), signal);
  }

  void tell(PoolCondition condition) noexcept {
    header_.condition.store(condition, std::memory_order_release);
    sys::futex_wake(condition_word(), sys::kWakeAll);
  }

  [[nodiscard]] const void* condition_word() const noexcept {
    static_assert(sizeof(header_.condition) == sizeof(sys::FutexWord));
    return &header_.condition;
  }

  void end(PoolCondition condition) noexcept {
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
    tell(condition);
    settler_.wake_waiters();
  }

  // ---- waiting

  void trim() noexcept {
    if (shared_.trim_wanted.load(std::memory_order_relaxed) == 0 || now_ < next_trim_ns_) return;
    next_trim_ns_ = now_ + kIdleBeforeTrimNs;
    const std::size_t remaining =
        outbox_.give_back(now_, kIdleBeforeTrimNs) + inbox_.give_back(now_, kIdleBeforeTrimNs);
    // Twice nothing: one round may just have marked what the next will return.
    quiet_trims_ = remaining == 0 ? quiet_trims_ + 1 : 0;
    if (quiet_trims_ < 2) return;
    quiet_trims_ = 0;
    shared_.trim_wanted.store(0, std::memory_order_relaxed);
  }

  void sleep(std::uint32_t calls) noexcept {
    std::array<sys::FutexWaiter, sys::kMaxFutexWaiters> words;
    std::size_t count = 0;
    const sys::FutexWord& warden = start_.family->lives[shm::kWardenSlot].life.word;
    const std::uint32_t warden_life = warden.load(std::memory_order_acquire);
    words[count++] = {&shared_.control, calls};
    if ((warden_life & sys::kFutexOwnerDied) == 0) {
      words[count++] = {&warden, warden_life};
    } else if (!ending_) {
      return;  // it died since we looked
    }
    std::int64_t wake_ns = sys::kForever;
    for (std::uint16_t slot = shm::kFirstWorkerSlot; slot < top_slot_; ++slot) {
      const Tenant& tenant = tenants_[slot];
      const bool may_live = tenant.at_work() || tenant.state == TenantState::leaving ||
                            tenant.state == TenantState::reported;
      if (!may_live) continue;
      if (count == words.size()) break;
      // Before it is prepared its word may change at any time; a death wakes us all the same.
      const sys::FutexWord& life = owners_.life(slot).word;
      std::uint32_t expected = life.load(std::memory_order_acquire);
      if (expected != 0) expected = living(tenant);
      words[count++] = {&life, expected};
    }
    if (ending_) wake_ns = std::min(wake_ns, kill_at_ns_);
    if (!ending_ && shared_.watch_wanted.load(std::memory_order_relaxed) != 0 &&
        setup_.memory_limit_bytes != 0) {
      wake_ns = std::min(wake_ns, next_watch_ns_);
    }
    if (!ending_ && next_start_ns_ > now_) wake_ns = std::min(wake_ns, next_start_ns_);
    if (shared_.trim_wanted.load(std::memory_order_relaxed) != 0) {
      wake_ns = std::min(wake_ns, std::max(next_trim_ns_, now_ + kMs));
    }
    if (!ending_) wake_ns = std::min(wake_ns, lookout_.next_look_ns());
    wake_ns = std::min(wake_ns, relay_.next_look_ns());
    wake_ns = std::min(wake_ns, clock_.promise(wake_ns));
    const int result = sys::futex_wait_any(std::span(words).first(count), wake_ns);
    // Kernels before 5.16: deaths are told by SIGCHLD, which interrupts this.
    if (result == -ENOSYS) sys::futex_wait(&shared_.control, calls, wake_ns);
  }

  SupervisorStart start_;
  PoolView view_;
  shm::OwnerTable owners_;
  shm::OwnerTable family_owners_;
  shm::SupervisorHeader& header_;
  shm::SharedHeader& shared_;
  shm::Arena inbox_;
  shm::Arena outbox_;
  RingWriter retry_ring_;
  Settler settler_;
  TaskClock clock_;
  IdleWorkers idle_;
  WaitingTasks waiting_;
  Lookout lookout_;
  const WorkerSetup& setup_;
  const bool checks_setup_;
  const std::uint32_t capacity_;  // the most workers that there may ever be
  std::uint32_t target_;          // how many there are to be
  StderrRelay relay_;
  Template template_;
  bool template_announced_ = false;
  Tenant* tenants_;
  Seat* seats_;
  std::uint16_t top_slot_ = shm::kFirstWorkerSlot;  // slots from here on were never used
  std::uint16_t spare_ = 0;
  std::int64_t now_ = 0;

  std::uint32_t failures_ = 0;  // workers in a row that died before they were ready
  std::int64_t next_start_ns_ = 0;
  std::int64_t next_trim_ns_ = 0;
  int quiet_trims_ = 0;
  std::uint32_t answered_doubts_ = 0;
  std::int64_t next_watch_ns_ = 0;
  std::uint64_t out_of_memory_kills_ = 0;  // that are known, in our control group

  bool ending_ = false;
  bool draining_ = false;
  bool terminating_ = false;
  std::int64_t kill_at_ns_ = sys::kForever;
  PoolCondition final_condition_ = PoolCondition::ended;
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

namespace {

struct SupervisorJob {
  static constexpr std::string_view name() { return "a pool's supervisor"; }

  static void run(detail::TaskFrame& frame) {
    // Both live as long as the process.
    static auto* const order = new SupervisorOrder(decode<SupervisorOrder>(frame.arguments()));
    find_inner_threads();
    // Its control group need not be the caller's.
    order->setup.memory_events = sys::cgroup_memory_events();
    const std::vector<int>& passed = start::passed_descriptors();
    const int fd = passed.at(0);
    std::array descriptors = {-1, -1, -1};
    if (order->setup.has_surroundings) {
      std::size_t next = 1;
      descriptors[0] = passed.at(next++);
      if (order->setup.has_output) descriptors[1] = passed.at(next++);
      if (order->setup.has_errors) descriptors[2] = passed.at(next++);
    }
    const PoolGeometry geometry =
        PoolGeometry::make(order->max_tasks, order->workers, order->payload_bytes);
    static const auto* const segment = new shm::Segment(sys::Fd(fd), geometry.end);
    warden::Family& family = *warden::Family::current();
    supervisor_main({PoolView(segment->base(), geometry), fd, order->arena_limit_bytes,
                     order->workers, order->restart_limit, &family.layout(), family.socket(),
                     order->caller_pid, order->grace_ns, order->process_name.c_str(), 0, true,
                     &order->setup, descriptors});
  }
};

}  // namespace

detail::SentCall send_supervisor(const SupervisorOrder& order) {
  return {detail::thunk_of<SupervisorJob>(), nullptr, encode(order), {}};
}

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
}

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
