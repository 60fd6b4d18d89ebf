#include "support/stepper.hpp"

#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstring>
#include <stdexcept>
#include <string>

#include "support/processes.hpp"
#include "support/time.hpp"

namespace brood::test {

namespace {

constexpr int kEventStop = 128;  // PTRACE_EVENT_STOP, which older headers lack

// Calls that may wait for something that this thread has yet to do.
bool may_block(long number) {
  switch (number) {
    case SYS_futex:
    case SYS_futex_waitv:
    case SYS_epoll_pwait:
    case SYS_epoll_wait:
    case SYS_ppoll:
    case SYS_poll:
    case SYS_pause:
    case SYS_read:
    case SYS_restart_syscall:
    case SYS_clock_nanosleep:
    case SYS_nanosleep:
    case SYS_waitid:
    case SYS_wait4:
      return true;
    default:
      return false;
  }
}

}  // namespace

OnOneProcessor::OnOneProcessor() {
  sched_getaffinity(0, sizeof before_, &before_);
  CPU_ZERO(&here_);
  CPU_SET(static_cast<unsigned>(sched_getcpu()), &here_);
  sched_setaffinity(0, sizeof here_, &here_);
}
OnOneProcessor::~OnOneProcessor() { sched_setaffinity(0, sizeof before_, &before_); }
void OnOneProcessor::bring(int pid) const { sched_setaffinity(pid, sizeof here_, &here_); }

Stepper::Stepper(int pid) : pid_(pid), is_child_(false) {
  if (const auto process = look_at(pid)) is_child_ = process->parent == getpid();
  if (ptrace(PTRACE_SEIZE, pid, nullptr, PTRACE_O_EXITKILL) != 0 ||
      ptrace(PTRACE_INTERRUPT, pid, nullptr, nullptr) != 0) {
    throw std::runtime_error("can't trace " + std::to_string(pid) + ": " + std::strerror(errno));
  }
  int status = 0;
  if (waitpid(pid, &status, __WALL) != pid || !WIFSTOPPED(status)) {
    throw std::runtime_error("process " + std::to_string(pid) + " ended before it was traced");
  }
  if (status >> 16 != kEventStop && WSTOPSIG(status) != SIGSTOP) signal_ = WSTOPSIG(status);
}

Stepper::~Stepper() {
  if (!ended_) kill();
}

void Stepper::kill() {
  if (ended_) return;
  ::kill(pid_, SIGKILL);
  // The tracer is told first; only then is it its parent's to reap.
  siginfo_t info{};
  while (waitid(P_PID, static_cast<id_t>(pid_), &info,
                WEXITED | __WALL | (is_child_ ? WNOWAIT : 0)) != 0 &&
         errno == EINTR) {
  }
  ended_ = true;
}

void Stepper::release() {
  if (ended_) return;
  if (under_way_) release_call();
  if (ended_) return;
  ptrace(PTRACE_DETACH, pid_, nullptr, reinterpret_cast<void*>(std::intptr_t{signal_}));
  ended_ = true;
}

bool Stepper::resume(int request) {
  const auto signal = reinterpret_cast<void*>(std::intptr_t{signal_});
  signal_ = 0;
  return ptrace(static_cast<__ptrace_request>(request), pid_, nullptr, signal) == 0;
}

Stepper::Seen Stepper::look(int status) {
  under_way_ = false;
  if (!WIFSTOPPED(status)) {
    ended_ = true;
    return Seen::ended;
  }
  if (status >> 16 == kEventStop) return step();
  const int signal = WSTOPSIG(status);
  if (signal == SIGTRAP) {
    ++taken_;
    if (addresses_ != nullptr) addresses_->push_back(address_);
    if (in_call_ && told_) {
      user_regs_struct registers{};
      ptrace(PTRACE_GETREGS, pid_, nullptr, &registers);
      call_.result = static_cast<long>(registers.rax);
      told_(call_);
    }
    in_call_ = false;
    return Seen::step;
  }
  if (signal == SIGSTOP) return Seen::mark;
  signal_ = signal;
  return step();
}

Stepper::Seen Stepper::wait_for_blocking_call() {
  int looks_asleep = 0;
  for (int looks = 0;; ++looks) {
    int status = 0;
    if (waitpid(pid_, &status, __WALL | WNOHANG) == pid_) return look(status);
    if (looks < 3) {
      sched_yield();
      continue;
    }
    const auto process = look_at(pid_);
    looks_asleep = process && process->state == 'S' ? looks_asleep + 1 : 0;
    if (looks_asleep > 3) return Seen::asleep;
    usleep(20);
  }
}

Stepper::Seen Stepper::step() {
  if (ended_) return Seen::ended;
  if (under_way_) return wait_for_blocking_call();
  user_regs_struct registers{};
  if (ptrace(PTRACE_GETREGS, pid_, nullptr, &registers) != 0) registers = {};
  address_ = registers.rip;
  std::uint16_t code = 0;
  if (registers.rip != 0) std::memcpy(&code, reinterpret_cast<const void*>(registers.rip), 2);
  constexpr std::uint16_t kSyscall = 0x050f;
  const auto at = [](unsigned long long value) { return static_cast<long>(value); };
  // Stopped amid a call, which the kernel is about to make again.
  const bool restarts =
      at(registers.orig_rax) >= 0 && at(registers.rax) <= -512 && at(registers.rax) >= -516;
  in_call_ = restarts || code == kSyscall;
  if (in_call_) {
    call_ = {at(restarts ? registers.orig_rax : registers.rax),
             {at(registers.rdi), at(registers.rsi), at(registers.rdx), at(registers.r10),
              at(registers.r8), at(registers.r9)},
             0};
  }
  if (!resume(PTRACE_SINGLESTEP)) {
    // It was killed by someone else: its end is there to be seen.
    under_way_ = true;
  }
  under_way_ = true;
  if (in_call_ && may_block(call_.number)) return wait_for_blocking_call();
  int status = 0;
  if (waitpid(pid_, &status, __WALL) != pid_) status = 0;
  return look(status);
}

// By the processor's own breakpoint: the code stays as it is, for its other users.
Stepper::Seen Stepper::run_to(std::uint64_t address, long times, long instructions) {
  const auto set = [&](std::size_t number, std::uint64_t value) {
    ptrace(PTRACE_POKEUSER, pid_, offsetof(user, u_debugreg) + number * sizeof(long), value);
  };
  if (under_way_) release_call();
  if (ended_) return Seen::ended;
  set(0, address);
  set(7, 1);
  if (!resume(PTRACE_CONT)) return Seen::ended;
  int looks = 0;
  int looks_asleep = 0;
  for (;;) {
    int status = 0;
    sched_yield();
    if (waitpid(pid_, &status, __WALL | WNOHANG) != pid_) {
      if (++looks < 50) continue;
      const auto process = look_at(pid_);
      looks_asleep = process && process->state == 'S' ? looks_asleep + 1 : 0;
      if (looks_asleep > 200) return Seen::asleep;
      usleep(20);
      continue;
    }
    if (!WIFSTOPPED(status)) {
      ended_ = true;
      return Seen::ended;
    }
    looks = looks_asleep = 0;
    const bool arrived = status >> 16 != kEventStop && WSTOPSIG(status) == SIGTRAP;
    if (arrived && --times == 0) break;
    if (!arrived && status >> 16 != kEventStop && WSTOPSIG(status) == SIGSTOP) {
      set(7, 0);
      return Seen::mark;
    }
    if (!arrived && status >> 16 != kEventStop) signal_ = WSTOPSIG(status);
    resume(PTRACE_CONT);
  }
  set(7, 0);
  taken_ += instructions;
  return Seen::step;
}

// Stops a step that has not ended: its call will be made again.
void Stepper::release_call() {
  ptrace(PTRACE_INTERRUPT, pid_, nullptr, nullptr);
  int status = 0;
  waitpid(pid_, &status, __WALL);
  under_way_ = false;
  ended_ = !WIFSTOPPED(status);
}

bool Stepper::run_to_mark() {
  if (ended_) return false;
  for (;;) {
    if (!under_way_ && !resume(PTRACE_CONT)) return false;
    under_way_ = false;
    int status = 0;
    const bool told = wait_until([&] { return waitpid(pid_, &status, __WALL | WNOHANG) == pid_; });
    if (!told) return false;
    if (!WIFSTOPPED(status)) {
      ended_ = true;
      return false;
    }
    if (status >> 16 == kEventStop) continue;
    if (WSTOPSIG(status) == SIGSTOP) return true;
    if (WSTOPSIG(status) != SIGTRAP) signal_ = WSTOPSIG(status);
  }
}

Gate::Gate() {
  if (pipe(ends_) != 0) throw std::runtime_error("no pipe for a gate");
}
Gate::~Gate() {
  close(ends_[0]);
  close(ends_[1]);
}
void Gate::open() const {
  const char byte = 0;
  if (write(ends_[1], &byte, 1) != 1) throw std::runtime_error("a gate is closed for ever");
}
void Gate::pass() const {
  char byte = 0;
  while (read(ends_[0], &byte, 1) < 0 && errno == EINTR) {
  }
}

void mark() { syscall(SYS_tgkill, getpid(), getpid(), SIGSTOP); }

}  // namespace brood::test
