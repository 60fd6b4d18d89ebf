#include "channel/burial.hpp"

#include "channel/stream.hpp"

namespace brood::channel {

void bury_in(const shm::ObjectPlace& object, shm::OwnerId dead, shm::Objects& objects) noexcept {
  switch (object.kind) {
    case shm::ObjectKind::pipe:
      bury_in_pipe(object, dead, objects);
      break;
    default:
      break;
  }
}

void side_ended(const shm::ObjectPlace& object, const shm::Objects& objects) noexcept {
  if (object.kind == shm::ObjectKind::pipe) ring_doorbells_of_pipe(object, objects);
}

}  // namespace brood::channel
