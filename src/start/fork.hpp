// StartMethod::fork.
#pragma once

#include "sys/fd.hpp"

namespace brood::start {

struct Forked {
  int pid = 0;  // 0: this is the child, with all signals blocked until become_child
  sys::Fd pidfd;
};

enum class ForkFor {
  process,  // a Process of the user: its parent takes its status
  service,  // a service process: nobody's child if the host has threads
};

// Copies the calling process after its streams are flushed. `asked_for` says that the user chose
// fork; otherwise a process with several threads is refused. Throws StartError, before anything
// was done.
Forked fork_now(ForkFor purpose, bool asked_for);

}  // namespace brood::start
