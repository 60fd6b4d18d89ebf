#include "channel/burial.hpp"

#include "channel/queue_burial.hpp"
#include "channel/stream.hpp"
#include "channel/sync_burial.hpp"
#include "shm/wide_value.hpp"

namespace brood::channel {

void bury_in(const shm::ObjectPlace& object, shm::OwnerId dead, shm::Objects& objects) noexcept {
  switch (object.kind) {
    case shm::ObjectKind::lock:
      return bury_in_lock(object, dead);
    case shm::ObjectKind::event:
      return bury_in_event(object, objects);
    case shm::ObjectKind::semaphore:
      return bury_in_semaphore(object, dead);
    case shm::ObjectKind::condition:
      return bury_in_condition(object, dead);
    case shm::ObjectKind::barrier:
      return bury_in_barrier(object, dead);
    case shm::ObjectKind::queue:
      return bury_in_queue(object, dead, objects);
    case shm::ObjectKind::pipe:
      return bury_in_pipe(object, dead, objects);
    case shm::ObjectKind::value:
      bury_in_lock(object, dead);
      return shm::WideValue::bury(object.body, dead);
    case shm::ObjectKind::array:
      return bury_in_lock(object, dead);
    default:
      break;
  }
}

void side_ended(const shm::ObjectPlace& object, const shm::Objects& objects) noexcept {
  if (object.kind == shm::ObjectKind::pipe) ring_doorbells_of_pipe(object, objects);
}

}  // namespace brood::channel
