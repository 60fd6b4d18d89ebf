#include "pool/worker/worker_startup.hpp"

#include <array>
#include <cstdio>

#include "pool/protocol/call.hpp"
#include "pool/worker/crash_handler.hpp"
#include "start/process_name.hpp"
#include "start/surroundings.hpp"
#include "sys/fd.hpp"
#include "sys/process.hpp"
#include "sys/thrown.hpp"

namespace brood::pool {

using shm::SetupStage;

WorkerStartup::WorkerStartup(const SupervisorStart& start, shm::OwnerId me, bool has_own_errors,
                             const UserCode& user_code) noexcept
    : view_(start.view),
      start_(start),
      setup_(*start.setup),
      has_own_errors_(has_own_errors),
      user_code_(user_code),
      me_(me),
      entry_(view_.entry(me_.slot)),
      desk_(view_.desk(me_.slot)) {}

// Has `step` done; false: it failed, and our note says how.
template <class Step>
bool WorkerStartup::set_up(Step&& step) noexcept {
  desk_.setup.store(SetupStage::running, std::memory_order_release);
  bool failed = false;
  task_stack.store(reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0)),
                   std::memory_order_relaxed);
  sys::try_watched(step, [&] {
    failed = true;
    user_code_.come_back();
    write_note(view_.note(me_.slot));
    desk_.setup.store(SetupStage::failed, std::memory_order_release);
    call_supervisor(view_);
  });
  task_stack.store(0, std::memory_order_relaxed);
  user_code_.come_back();
  return !failed;
}

bool WorkerStartup::initialize() noexcept {
  const auto steps = [this] {
    if (setup_.has_surroundings) take_surroundings();
    limit_inner_threads(setup_);
    become_worker(view_.caller().seed, setup_.share);
    if (setup_.initializer.thunk != 0) run_setup_call(setup_.initializer);
  };
  if (!set_up(steps)) return false;
  if (setup_.prepare.thunk == 0) desk_.setup.store(SetupStage::over);
  desk_.prepared.store(1, std::memory_order_release);
  call_supervisor(view_);
  return true;
}

void WorkerStartup::take_surroundings() const {
  start::StartDescriptors wanted;
  const auto& [directory, output, errors] = start_.descriptors;
  wanted.directory.reset(directory);
  wanted.output = output;
  wanted.errors = has_own_errors_ ? 2 : errors;
  start::take_descriptors(wanted);
  for (const int fd : {output, errors}) {
    if (fd > 2) sys::close_fd(fd);
  }
  start::take_limits(setup_.surroundings);
  start::take_on(setup_.surroundings);
}

bool WorkerStartup::take_place() noexcept {
  take_name();
  context_.index = entry_.index.load(std::memory_order_relaxed);
  if (setup_.prepare.thunk == 0) return true;
  if (!set_up([this] { run_setup_call(setup_.prepare); })) return false;
  desk_.setup.store(SetupStage::over, std::memory_order_release);
  call_supervisor(view_);
  return true;
}

void WorkerStartup::take_name() noexcept {
  std::array<char, 64> name;
  std::snprintf(name.data(), name.size(), "%s/%u", start_.process_name,
                entry_.index.load(std::memory_order_relaxed));
  sys::set_process_name(name.data());
  start::set_process_name(name.data());
  named_ = true;
}

}  // namespace brood::pool
