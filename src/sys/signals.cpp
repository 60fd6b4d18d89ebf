#include "sys/signals.hpp"

#include <signal.h>

#include <array>
#include <cstddef>
#include <cstring>

#include "sys/memory.hpp"
#include "sys/syscall.hpp"

namespace brood::sys {

namespace {

static_assert(signal_number::kKill == SIGKILL && signal_number::kTerminate == SIGTERM &&
              signal_number::kInterrupt == SIGINT && signal_number::kChildEnded == SIGCHLD &&
              signal_number::kStop == SIGSTOP && signal_number::kContinue == SIGCONT);

constexpr int kSignals = 64;
constexpr std::array kCrashSignals = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS};

void (*crash_report)(const Crash&) = nullptr;
std::array<struct sigaction, kSignals + 1> before_ours;

void set_mask(std::uint64_t mask, std::uint64_t* old) noexcept {
  call(SYS_rt_sigprocmask, SIG_SETMASK, &mask, old, sizeof mask);
}

void crash_handler(int signal, siginfo_t* info, void*) {
  // Back to what was there: a second crash, in the report or on return, goes its normal way.
  ::sigaction(signal, &before_ours[static_cast<std::size_t>(signal)], nullptr);
  const bool from_kernel = info->si_code > 0;
  const bool has_address = from_kernel && (signal == SIGSEGV || signal == SIGBUS ||
                                           signal == SIGFPE || signal == SIGILL);
  const Crash crash{signal, has_address ? reinterpret_cast<std::uintptr_t>(info->si_addr) : 0};
  if (crash_report != nullptr) crash_report(crash);
  // A fault happens again on return; a signal that was sent has to be sent again.
  const bool fault_repeats = from_kernel && signal != SIGABRT && signal != SIGTRAP;
  if (!fault_repeats) {
    call(SYS_tgkill, call(SYS_getpid), call(SYS_gettid), signal);
  }
}

}  // namespace

void reset_signals() noexcept {
  struct sigaction action{};
  action.sa_handler = SIG_DFL;
  // The C library refuses its own two real-time signals, which nobody else can have set.
  for (int signal = 1; signal <= kSignals; ++signal) ::sigaction(signal, &action, nullptr);
  set_mask(0, nullptr);
}

void ignore_terminal_signals() noexcept {
  struct sigaction action{};
  action.sa_handler = SIG_IGN;
  for (const int signal : {SIGINT, SIGQUIT, SIGHUP, SIGTSTP, SIGTTIN, SIGTTOU}) {
    ::sigaction(signal, &action, nullptr);
  }
}

void on_signal(int signal, void (*handler)(int)) noexcept {
  struct sigaction action{};
  action.sa_handler = handler;
  ::sigaction(signal, &action, nullptr);
}

SignalsBlocked::SignalsBlocked() noexcept { set_mask(~std::uint64_t{0}, &saved_); }
SignalsBlocked::~SignalsBlocked() {
  if (!kept_) set_mask(saved_, nullptr);
}

void on_crash(void (*report)(const Crash&)) noexcept {
  constexpr std::size_t kStackBytes = 64 * 1024;
  crash_report = report;
  stack_t stack{};
  stack.ss_sp = map_private(kStackBytes);
  stack.ss_size = kStackBytes;
  if (stack.ss_sp != nullptr) ::sigaltstack(&stack, nullptr);
  struct sigaction action{};
  action.sa_sigaction = crash_handler;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigfillset(&action.sa_mask);
  for (const int signal : kCrashSignals) {
    ::sigaction(signal, &action, &before_ours[static_cast<std::size_t>(signal)]);
  }
}

}  // namespace brood::sys
