#include "channel/burial.hpp"

namespace brood::channel {

void bury_in(const shm::ObjectPlace& object, shm::OwnerId dead, shm::Objects& objects) noexcept {
  static_cast<void>(dead);
  static_cast<void>(objects);
  switch (object.kind) {
    default:
      break;
  }
}

}  // namespace brood::channel
