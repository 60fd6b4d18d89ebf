#include "sys/exit_lock.hpp"

#include <linux/futex.h>
#include <sys/time.h>
#include <ucontext.h>

#include <atomic>

namespace brood::sys {

namespace {

#if defined(__x86_64__)

constexpr suseconds_t kPatienceUs = 10'000;
constexpr int kLockedWithSleepers = 2;  // glibc's low-level locks: 0 free, 1 locked

// What the interrupted system call was, as its registers tell it.
void free_what_is_waited_for(int /*signal*/, siginfo_t* /*info*/, void* context) {
  const auto& registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  const auto* after = reinterpret_cast<const unsigned char*>(registers[REG_RIP]);
  const bool in_system_call = after[-2] == 0x0f && after[-1] == 0x05;
  const bool waits_for_lock = (registers[REG_RSI] & FUTEX_CMD_MASK) == FUTEX_WAIT &&
                              registers[REG_RDX] == kLockedWithSleepers;
  if (!in_system_call || !waits_for_lock) return;
  auto* word = reinterpret_cast<std::atomic<int>*>(registers[REG_RDI]);
  word->store(0, std::memory_order_release);
}

void set_timer(suseconds_t every_us) noexcept {
  const itimerval timer{{0, every_us}, {0, every_us}};
  ::setitimer(ITIMER_REAL, &timer, nullptr);
}

#endif

}  // namespace

#if defined(__x86_64__)

ExitLockFreed::ExitLockFreed() noexcept {
  struct sigaction action{};
  action.sa_flags = SA_SIGINFO;  // no restart: the lock is looked at again
  action.sa_sigaction = free_what_is_waited_for;
  ::sigaction(SIGALRM, &action, &before_);
  set_timer(kPatienceUs);
}

ExitLockFreed::~ExitLockFreed() {
  set_timer(0);
  ::sigaction(SIGALRM, &before_, nullptr);
}

#else

ExitLockFreed::ExitLockFreed() noexcept = default;
ExitLockFreed::~ExitLockFreed() = default;

#endif

}  // namespace brood::sys
