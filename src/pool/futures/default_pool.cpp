#include <cstdint>
#include <memory>
#include <mutex>

#include "brood/thread_pool.hpp"
#include "sys/identity.hpp"

namespace brood {

namespace {

// A forked child begins without one, and leaves alone what it inherited: still reachable, so that
// it is no leak.
struct TheDefaultPool {
  std::mutex mutex;
  std::uint64_t token = 0;
  std::unique_ptr<Pool> pool;

  ~TheDefaultPool() {
    if (token != sys::process_token()) leave_alone();
  }
  void leave_alone() noexcept { inherited = pool.release(); }

  static inline const Pool* volatile inherited = nullptr;
};

}  // namespace

Pool& default_pool() {
  static TheDefaultPool mine;
  const std::lock_guard lock(mine.mutex);
  if (mine.pool == nullptr || mine.token != sys::process_token()) {
    mine.leave_alone();
    mine.pool = std::make_unique<Pool>();
    mine.token = sys::process_token();
  }
  return *mine.pool;
}

}  // namespace brood
