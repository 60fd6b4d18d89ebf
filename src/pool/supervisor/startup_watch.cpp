#include "pool/supervisor/startup_watch.hpp"

#include <algorithm>
#include <cstring>

#include "sys/signals.hpp"

namespace brood::pool {

using shm::PoolCondition;
using shm::SetupStage;
using shm::SetupStep;

namespace {

constexpr std::int64_t kFirstBackOffNs = 1'000'000;
constexpr std::int64_t kLongestBackOffNs = 1'000'000'000;

}  // namespace

StartupWatch::StartupWatch(const SupervisorStart& start, Ending& ending) noexcept
    : view_(start.view),
      ending_(ending),
      restart_limit_(start.restart_limit),
      has_setup_(start.setup->initializer.thunk != 0 || start.setup->prepare.thunk != 0 ||
                 start.setup->has_surroundings) {}

bool StartupWatch::is_prepared(const Tenant& tenant) const noexcept {
  return view_.desk(tenant.id.slot).prepared.load(std::memory_order_acquire) == 1;
}

SetupStage StartupWatch::stage_of(const Tenant& tenant) const noexcept {
  return view_.desk(tenant.id.slot).setup.load(std::memory_order_acquire);
}

SetupStep StartupWatch::step_of(const Tenant& tenant) const noexcept {
  return is_prepared(tenant) ? SetupStep::prepare : SetupStep::initializer;
}

bool StartupWatch::is_set_up(const Tenant& tenant) const noexcept {
  if (!is_prepared(tenant)) return false;
  return !has_setup_ || tenant.set_up || stage_of(tenant) != SetupStage::running;
}

void StartupWatch::look_at(Tenant& tenant, std::int64_t now) noexcept {
  if (tenant.state == TenantState::starting && is_prepared(tenant)) {
    tenant.state = TenantState::ready;
    if (!has_setup_) failures_ = 0;
  }
  if (has_setup_ && tenant.at_work() && !tenant.set_up) look_at_setup(tenant, now);
}

void StartupWatch::look_at_setup(Tenant& tenant, std::int64_t now) noexcept {
  const SetupStage stage = stage_of(tenant);
  if (stage == SetupStage::failed) {
    fail_setup(step_of(tenant), {tenant.pid}, &view_.note(tenant.id.slot), now);
  }
  // A spare has done all that it can do as yet, too.
  if (tenant.state == TenantState::ready && stage != SetupStage::failed &&
      (stage == SetupStage::over || tenant.index == kNoIndex)) {
    failures_ = 0;
  }
  tenant.set_up = stage == SetupStage::over;
}

void StartupWatch::note_death(const Tenant& tenant, const WorkerDeath& death,
                              std::int64_t now) noexcept {
  const bool in_setup = has_setup_ && stage_of(tenant) == SetupStage::running;
  note_failure(in_setup ? step_of(tenant) : SetupStep::none, death, now);
}

void StartupWatch::note_end_of_template(bool was_ready, const WorkerDeath& death,
                                        std::int64_t now) noexcept {
  const shm::SetupNote& note = view_.note(shm::kSupervisorSlot);
  if (was_ready) {
    back_off(now);
  } else if (note.length.load() != 0) {
    fail_setup(SetupStep::preload, death, &note, now);
  } else {
    note_failure(SetupStep::preload, death, now);
  }
}

void StartupWatch::note_refusal(bool can_wait, std::int64_t now) noexcept {
  back_off(now);
  if (failures_ >= restart_limit_ && !can_wait) {
    ending_.break_pool(PoolCondition::broken_startup, now);
  }
}

void StartupWatch::note_failure(SetupStep step, const WorkerDeath& death,
                                std::int64_t now) noexcept {
  back_off(now);
  const bool too_often = failures_ >= restart_limit_;
  if (step == SetupStep::none) {
    if (too_often) ending_.break_pool(PoolCondition::broken_startup, now);
    return;
  }
  // SIGKILL comes from outside, and may not come again.
  const bool may_recover = death.causes == 0 && death.wait_status == sys::signal_number::kKill;
  if (too_often || !may_recover) fail_setup(step, death, nullptr, now);
}

// The pool ends, and its tasks are told why. What is in the note is input; nullptr: it died.
void StartupWatch::fail_setup(SetupStep step, const WorkerDeath& death, const shm::SetupNote* note,
                              std::int64_t now) noexcept {
  if (ending_.has_begun()) return;
  shm::SetupCause& cause = view_.supervisor().setup_cause;
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
  ending_.break_pool(PoolCondition::broken_setup, now);
}

void StartupWatch::back_off(std::int64_t now) noexcept {
  ++failures_;
  const std::uint32_t doublings = std::min(failures_, 10U);
  next_start_ns_ = now + std::min(kFirstBackOffNs << doublings, kLongestBackOffNs);
}

}  // namespace brood::pool
