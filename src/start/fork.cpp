#include "start/fork.hpp"

#include <string>

#include "brood/error.hpp"
#include "start/child_main.hpp"
#include "sys/process.hpp"
#include "sys/signals.hpp"
#include "warden/start_error.hpp"

namespace brood::start {

Forked fork_now(ForkFor purpose, bool asked_for) {
  const int threads = sys::thread_count();
  if (threads > 1 && !asked_for) {
    throw StartError("brood: this process has " + std::to_string(threads) +
                     " threads, and a forked copy of it would have their locks but not them: "
                     "start before you make threads, or ask for it with "
                     ".start = brood::StartMethod::fork");
  }
  flush_streams();
  Forked child;
  sys::SignalsBlocked blocked;
  long pid = 0;
  // Only the C library's own fork leaves the heap usable when other threads were in it. (Negative:
  // without /proc nobody knows.)
  if (threads == 1) {
    pid = sys::clone_quiet(child.pidfd);
  } else if (purpose == ForkFor::process) {
    pid = sys::fork_loud(child.pidfd);
  } else {
    pid = sys::fork_orphan(child.pidfd);
  }
  if (pid < 0) warden::throw_start_error(static_cast<int>(-pid));
  if (pid == 0) blocked.keep();
  child.pid = static_cast<int>(pid);
  return child;
}

}  // namespace brood::start
