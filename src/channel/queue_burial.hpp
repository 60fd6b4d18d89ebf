#pragma once

#include "shm/objects.hpp"

namespace brood::channel {

// As bury_in (burial.hpp), of an object of kind `queue`.
void bury_in_queue(const shm::ObjectPlace& object, shm::OwnerId dead,
                   shm::Objects& objects) noexcept;

}  // namespace brood::channel
