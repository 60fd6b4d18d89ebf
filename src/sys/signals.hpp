// Signal dispositions and masks of the processes that brood starts.
#pragma once

#include <cstdint>
#include <string_view>

namespace brood::sys {

// Every signal at its default, none blocked; what a new process of ours starts with whatever its
// parent had set.
void reset_signals() noexcept;

// The terminal's signals (SIGINT, SIGQUIT, SIGTSTP...) are for the host, which then ends its
// children itself.
void ignore_terminal_signals() noexcept;

// All that can be but the ends of children: for a process that is ended otherwise.
void ignore_signals() noexcept;

// Calls `handler` on `signal`; interrupts waits.
void on_signal(int signal, void (*handler)(int)) noexcept;

// Whether a program may use this number: 1 to 64 but for those that the C library keeps.
bool is_signal(int number) noexcept;
// Whether the kernel sends it to the instruction that failed.
bool is_fault(int number) noexcept;
// "TERM", "RTMIN+3"; the latter by the number that comes after `base`.
struct SignalName {
  const char* base;
  int after = 0;
};
SignalName signal_name(int number) noexcept;      // base is nullptr if it has none
int find_signal(std::string_view base) noexcept;  // of a name without "SIG"; 0: none

// Signals that the calling thread blocks: signal 1 is bit 0. 0 or -errno.
int read_blocked_signals(std::uint64_t& mask) noexcept;

// Ends the calling process as `signal` would, but without a core file.
[[noreturn]] void end_by_signal(int signal) noexcept;

// To a process by its number. 0 or -errno.
int kill_by_number(int pid, int signal) noexcept;

// Has SIGALRM sent to this process after `ns`; 0: not any more. Returns what was left of the
// previous one, 0 if there was none, or -errno.
std::int64_t set_alarm(std::int64_t ns) noexcept;

// Blocks all signals for its lifetime: between a fork and the child's reset_signals a handler of
// the host must not run in the child.
class SignalsBlocked {
 public:
  SignalsBlocked() noexcept;
  ~SignalsBlocked();
  // They stay blocked: in a child, which sets its own mask.
  void keep() noexcept { kept_ = true; }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  std::uint64_t saved_ = 0;
  bool kept_ = false;
};

// For its lifetime a write of this thread that is refused (nobody reads any more, the file is too
// large) only says so: neither SIGPIPE nor SIGXFSZ comes of it.
class QuietRefusals {
 public:
  QuietRefusals() noexcept;
  ~QuietRefusals();
  QuietRefusals(const QuietRefusals&) = delete;
  QuietRefusals& operator=(const QuietRefusals&) = delete;

 private:
  std::uint64_t saved_ = 0;
  bool blocks_;
};

// What a crash looks like from inside.
struct Crash {
  int signal;
  std::uintptr_t fault_address;  // 0 if the signal has none
  void* machine;                 // the registers, for walk_crashed_stack() and stack_pointer()
};

// Calls `report` (async-signal-safe, noexcept) on SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT,
// SIGTRAP and SIGSYS, on a stack of its own, and then lets the former disposition have the signal,
// so that core files and sanitizers' reports stay what they were.
void on_crash(void (*report)(const Crash&)) noexcept;

namespace signal_number {
inline constexpr int kKill = 9;
inline constexpr int kTerminate = 15;
inline constexpr int kInterrupt = 2;
inline constexpr int kHangUp = 1;
inline constexpr int kChildEnded = 17;
inline constexpr int kStop = 19;
inline constexpr int kContinue = 18;
inline constexpr int kPipe = 13;
inline constexpr int kBadAddress = 11;
inline constexpr int kFileTooLarge = 25;
inline constexpr int kInputOutput = 29;
}  // namespace signal_number

}  // namespace brood::sys
