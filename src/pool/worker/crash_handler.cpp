#include "pool/worker/crash_handler.hpp"

#include "pool/protocol/call.hpp"
#include "shm/trace.hpp"
#include "sys/identity.hpp"
#include "sys/process.hpp"
#include "sys/signals.hpp"
#include "sys/stack.hpp"

namespace brood::pool {

constinit std::atomic<std::uintptr_t> task_stack{0};

namespace {

// For the crash handler, which gets no argument.
int crash_pid = 0;
shm::WorkerDesk* crash_desk = nullptr;
const PoolView* crash_view = nullptr;
shm::CrashNote* crash_note = nullptr;
std::atomic<bool> crash_traced{false};

// A frame of usual size that has no room any more; what lies above the library's own frames is no
// stack of the task's.
bool is_stack_overflow(const sys::Crash& crash, std::uintptr_t top) noexcept {
  constexpr std::uintptr_t kNear = 64 * 1024;
  const std::uintptr_t pointer = sys::stack_pointer(crash);
  const std::uintptr_t fault = crash.fault_address;
  if (crash.signal != sys::signal_number::kBadAddress || pointer == 0 || fault == 0) return false;
  return fault + kNear > pointer && fault < pointer + kNear && (top == 0 || fault < top);
}

// Tells the supervisor at once: the core file that may follow takes long.
void report_crash(const sys::Crash& crash) {
  // A child that a task has forked is not the worker.
  if (sys::process_id() != crash_pid) return;
  crash_desk->crash_signal = crash.signal;
  crash_desk->crash_address = crash.fault_address;
  // While another thread crashes, the one that runs tasks may still write a reply.
  const bool task_stands_still = sys::thread_id() == crash_pid;
  const std::uintptr_t top = task_stands_still ? task_stack.load(std::memory_order_relaxed) : 0;
  crash_desk->crash_causes = is_stack_overflow(crash, top) ? shm::kStackOverflow : 0;
  // First, for the stack may be such that looking at it is another crash.
  crash_desk->crash.store(shm::CrashReport::note, std::memory_order_release);
  if (!crash_traced.exchange(true)) {
    shm::TraceWriter writer(crash_note->trace, crash_note->bytes);
    writer.write_crashed(crash, top);
  }
  if (task_stands_still) {
    crash_desk->crash.store(shm::CrashReport::final, std::memory_order_release);
  }
  call_supervisor(*crash_view);
}

}  // namespace

void report_crashes(const PoolView& view, shm::OwnerId me) noexcept {
  crash_pid = sys::process_id();
  crash_desk = &view.desk(me.slot);
  crash_view = &view;
  crash_note = &view.crash_note(me.slot);
  crash_traced.store(false);
  // Whatever has to be loaded to walk a stack is from now on.
  sys::walk_stack([](std::uintptr_t address,
                     void* /*context*/) noexcept { return sys::code_at(address).name == nullptr; },
                  nullptr, 0);
  sys::on_crash(report_crash);
}

}  // namespace brood::pool
