#include "pool/worker/claimed_task.hpp"

#include "pool/protocol/call.hpp"
#include "sys/futex.hpp"

namespace brood::pool {

// The supervisor has taken the task from us for good. (Or a stray write has: then it kills us
// when it sees that.)
void ClaimedTask::await_death() noexcept {
  for (;;) {
    call_supervisor(view_);
    sys::futex_wait(&desk_.bell, desk_.bell.load(std::memory_order_relaxed),
                    sys::now_ns() + 1'000'000'000);
  }
}

}  // namespace brood::pool
