#include "shared/thread_locks.hpp"

#include "shm/lock.hpp"
#include "sys/process.hpp"
#include "warden/object_space.hpp"

namespace brood::shared {

ThreadLocks& ThreadLocks::here() {
  static thread_local ThreadLocks locks;
  return locks;
}

void ThreadLocks::begin() {
  const shm::OwnerId me = warden::ObjectSpace::join().objects().me();
  held_.clear();
  name_ = {me, static_cast<std::uint32_t>(sys::thread_id())};
  held_word_ = shm::LockWord::held_by(name_).pack();
  token_ = sys::process_token();
}

void ThreadLocks::remove_earlier(shm::BlockRef lock) noexcept {
  for (auto it = held_.rbegin(); it != held_.rend(); ++it) {
    if (*it != lock) continue;
    held_.erase(std::next(it).base());
    return;
  }
}

ThreadLocks::~ThreadLocks() {
  if (held_.empty() || token_ != sys::process_token()) return;
  // The main thread ends with the process, of which static objects may still unlock.
  if (static_cast<int>(name_.thread) == sys::process_id()) return;
  warden::ObjectSpace* space = warden::ObjectSpace::current();
  if (space == nullptr) return;
  for (const shm::BlockRef ref : held_) {
    const shm::ObjectPlace place = space->objects().find(ref);
    if (!place || !shm::has_lock(place.kind) || place.body.size() < sizeof(shm::LockBody)) {
      continue;
    }
    if (shm::orphan(*reinterpret_cast<shm::LockBody*>(place.body.data()), name_)) {
      shm::ring_all_bells(*place.header);
    }
  }
}

}  // namespace brood::shared
