#include "channel/burial.hpp"

#include "channel/queue_burial.hpp"

namespace brood::channel {

void bury_in(const shm::ObjectPlace& object, shm::OwnerId dead, shm::Objects& objects) noexcept {
  switch (object.kind) {
    case shm::ObjectKind::queue:
      return bury_in_queue(object, dead, objects);
    default:
      break;
  }
}

}  // namespace brood::channel
