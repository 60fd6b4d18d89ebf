#include "sys/signals.hpp"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/time.h>

#include <array>
#include <cstddef>
#include <cstring>

#include "sys/memory.hpp"
#include "sys/process.hpp"
#include "sys/syscall.hpp"

namespace brood::sys {

namespace {

static_assert(signal_number::kKill == SIGKILL && signal_number::kTerminate == SIGTERM &&
              signal_number::kInterrupt == SIGINT && signal_number::kChildEnded == SIGCHLD &&
              signal_number::kStop == SIGSTOP && signal_number::kHangUp == SIGHUP &&
              signal_number::kContinue == SIGCONT && signal_number::kPipe == SIGPIPE &&
              signal_number::kBadAddress == SIGSEGV && signal_number::kFileTooLarge == SIGXFSZ &&
              signal_number::kInputOutput == SIGIO);

constexpr int kSignals = 64;
constexpr std::array kCrashSignals = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS};

struct NamedSignal {
  int number;
  const char* name;
};
// Where a number has several names, the usual one first.
constexpr std::array kNames = std::to_array<NamedSignal>({
    {SIGHUP, "HUP"},   {SIGINT, "INT"},       {SIGQUIT, "QUIT"}, {SIGILL, "ILL"},
    {SIGTRAP, "TRAP"}, {SIGABRT, "ABRT"},     {SIGBUS, "BUS"},   {SIGFPE, "FPE"},
    {SIGKILL, "KILL"}, {SIGUSR1, "USR1"},     {SIGSEGV, "SEGV"}, {SIGUSR2, "USR2"},
    {SIGPIPE, "PIPE"}, {SIGALRM, "ALRM"},     {SIGTERM, "TERM"}, {SIGSTKFLT, "STKFLT"},
    {SIGCHLD, "CHLD"}, {SIGCONT, "CONT"},     {SIGSTOP, "STOP"}, {SIGTSTP, "TSTP"},
    {SIGTTIN, "TTIN"}, {SIGTTOU, "TTOU"},     {SIGURG, "URG"},   {SIGXCPU, "XCPU"},
    {SIGXFSZ, "XFSZ"}, {SIGVTALRM, "VTALRM"}, {SIGPROF, "PROF"}, {SIGWINCH, "WINCH"},
    {SIGIO, "IO"},     {SIGPWR, "PWR"},       {SIGSYS, "SYS"},   {SIGABRT, "IOT"},
    {SIGCHLD, "CLD"},  {SIGIO, "POLL"},
});

void (*crash_report)(const Crash&) = nullptr;
std::array<struct sigaction, kSignals + 1> before_ours;

void set_mask(std::uint64_t mask, std::uint64_t* old) noexcept {
  call(SYS_rt_sigprocmask, SIG_SETMASK, &mask, old, sizeof mask);
}

void crash_handler(int signal, siginfo_t* info, void* machine) {
  // Back to what was there: a second crash, in the report or on return, goes its normal way.
  ::sigaction(signal, &before_ours[static_cast<std::size_t>(signal)], nullptr);
  const bool from_kernel = info->si_code > 0;
  const bool has_address = from_kernel && (signal == SIGSEGV || signal == SIGBUS ||
                                           signal == SIGFPE || signal == SIGILL);
  const Crash crash{signal, has_address ? reinterpret_cast<std::uintptr_t>(info->si_addr) : 0,
                    machine};
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

void ignore_signals() noexcept {
  struct sigaction action{};
  action.sa_handler = SIG_IGN;
  for (int signal = 1; signal <= kSignals; ++signal) {
    if (signal != SIGCHLD) ::sigaction(signal, &action, nullptr);
  }
}

void on_signal(int signal, void (*handler)(int)) noexcept {
  struct sigaction action{};
  action.sa_handler = handler;
  ::sigaction(signal, &action, nullptr);
}

bool is_signal(int number) noexcept {
  // In between are two numbers by which the C library's threads talk.
  constexpr int kLastClassic = 31;
  return (number >= 1 && number <= kLastClassic) || (number >= SIGRTMIN && number <= SIGRTMAX);
}

bool is_fault(int number) noexcept {
  return number == SIGSEGV || number == SIGBUS || number == SIGFPE || number == SIGILL;
}

SignalName signal_name(int number) noexcept {
  if (!is_signal(number)) return {nullptr};
  for (const NamedSignal& named : kNames) {
    if (named.number == number) return {named.name};
  }
  if (number >= SIGRTMIN) return {"RTMIN", number - SIGRTMIN};
  return {nullptr};
}

int find_signal(std::string_view base) noexcept {
  if (base == "RTMIN") return SIGRTMIN;
  if (base == "RTMAX") return SIGRTMAX;
  for (const NamedSignal& named : kNames) {
    if (named.name == base) return named.number;
  }
  return 0;
}

int read_blocked_signals(std::uint64_t& mask) noexcept {
  return static_cast<int>(call(SYS_rt_sigprocmask, SIG_BLOCK, nullptr, &mask, sizeof mask));
}

void end_by_signal(int signal) noexcept {
  constexpr int kShellsWord = 128;  // where it can't be done: as a shell tells of signals
  call(SYS_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);
  struct sigaction action{};
  action.sa_handler = SIG_DFL;
  ::sigaction(signal, &action, nullptr);
  set_mask(0, nullptr);
  call(SYS_kill, call(SYS_getpid), signal);
  exit_now(kShellsWord + signal);
}

int kill_by_number(int pid, int signal) noexcept {
  return static_cast<int>(call(SYS_kill, pid, signal));
}

std::int64_t set_alarm(std::int64_t ns) noexcept {
  // Rounded up: zero would mean none.
  const std::int64_t us = ns / 1000 + (ns % 1000 != 0 ? 1 : 0);
  itimerval timer{};
  timer.it_value.tv_sec = us / 1'000'000;
  timer.it_value.tv_usec = us % 1'000'000;
  itimerval before{};
  const long result = call(SYS_setitimer, ITIMER_REAL, &timer, &before);
  if (result < 0) return result;
  return (std::int64_t{before.it_value.tv_sec} * 1'000'000 + before.it_value.tv_usec) * 1000;
}

SignalsBlocked::SignalsBlocked() noexcept { set_mask(~std::uint64_t{0}, &saved_); }
SignalsBlocked::~SignalsBlocked() {
  if (!kept_) set_mask(saved_, nullptr);
}

namespace {
constexpr std::uint64_t mask_of(int signal) { return std::uint64_t{1} << (signal - 1); }
constexpr std::uint64_t kRefusals = mask_of(SIGPIPE) | mask_of(SIGXFSZ);
}  // namespace

QuietRefusals::QuietRefusals() noexcept
    : blocks_(call(SYS_rt_sigprocmask, SIG_BLOCK, &kRefusals, &saved_, sizeof saved_) >= 0) {}
QuietRefusals::~QuietRefusals() {
  if (!blocks_) return;
  // What the user blocks is the user's; anything else was not there before.
  const std::uint64_t ours = kRefusals & ~saved_;
  const timespec at_once{};
  while (call_restarting(SYS_rt_sigtimedwait, &ours, nullptr, &at_once, sizeof ours) > 0) {
  }
  set_mask(saved_, nullptr);
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
