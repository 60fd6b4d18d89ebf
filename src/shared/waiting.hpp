// Waiting for something that another member does to an object.
#pragma once

#include <algorithm>
#include <cstdint>

#include "brood/detail/pool_core.hpp"
#include "shm/bell.hpp"
#include "start/child.hpp"
#include "start/look_time.hpp"
#include "start/waits.hpp"
#include "sys/clock.hpp"
#include "warden/object_space.hpp"

namespace brood::shared {

// Throws FamilyBroken if nobody would wake us any more after a death.
void require_warden();

// Until `done()` is true, which whoever makes it so tells by ringing `bell`; false: the deadline
// came first. Looks for a while before it sleeps, as long as has paid off lately (`look_time`,
// nullptr: not at all). What `done` throws leaves this; so do Interrupted and FamilyBroken.
//
// Memory ordering: shm/bell.hpp. `done` has to look by a seq_cst operation.
template <class Done>
bool wait_until(shm::Bell& bell, detail::DeadlineNs deadline, start::LookTime* look_time,
                Done&& done) {
  if (done()) return true;
  start::serve_signals();
  const std::int64_t begin = sys::now_ns();
  if (look_time != nullptr && deadline > begin) {
    const std::int64_t end = std::min(deadline, begin + look_time->ns());
    do {
      for (int i = 0; i < 32; ++i) {
        if (done()) {
          look_time->learn(sys::now_ns() - begin);
          return true;
        }
        sys::cpu_relax();
      }
    } while (sys::now_ns() < end);
  }
  for (bool first = true;; first = false) {
    if (!first) start::bury_unheard_children();
    const std::uint32_t value = bell.listen();
    const bool is_done = done();
    const std::int64_t now = sys::now_ns();
    if (is_done || now >= deadline) {
      if (look_time != nullptr) look_time->learn(now - begin);
      return is_done;
    }
    require_warden();
    start::futex_wait_serving_signals(&bell.word, value, std::min(deadline, now + sys::kLookUpNs));
  }
}

}  // namespace brood::shared
