// The C library's lock on its exit handlers, which it leaves locked in a child that is forked while
// another thread registers a handler or is in exit().
#pragma once

#include <csignal>

namespace brood::sys {

// In such a child, for the time of one call that takes that lock: if the call sleeps for it, the
// lock is freed, since whoever holds it is not in this process. The child must have one thread, no
// blocked signals, and no timer or handler for SIGALRM yet. On other processors than x86-64 it does
// nothing.
//
// Threads: one. Blocking: never. Ownership: SIGALRM and the real-time timer, given back. Errors:
// none. Death: nothing is left.
class ExitLockFreed {
 public:
  ExitLockFreed() noexcept;
  ~ExitLockFreed();
  ExitLockFreed(const ExitLockFreed&) = delete;
  ExitLockFreed& operator=(const ExitLockFreed&) = delete;

 private:
  struct sigaction before_{};
};

}  // namespace brood::sys
