// What becomes of locks and the like that a dead member had (channel/burial.hpp). Those who wait
// are woken afterwards, by the object's bells, and look for themselves.
#pragma once

#include "shm/objects.hpp"

namespace brood::channel {

// Orphaned, or free if owners' deaths are ignored.
void bury_in_lock(const shm::ObjectPlace& object, shm::OwnerId dead) noexcept;
// Whoever it had set it for is told, if it had no time to do so.
void bury_in_event(const shm::ObjectPlace& object, const shm::Objects& objects) noexcept;
// Its permits are free.
void bury_in_semaphore(const shm::ObjectPlace& object, shm::OwnerId dead) noexcept;
// A notification that it had not used goes to another.
void bury_in_condition(const shm::ObjectPlace& object, shm::OwnerId dead) noexcept;
// Broken, if it was waiting there.
void bury_in_barrier(const shm::ObjectPlace& object, shm::OwnerId dead) noexcept;

}  // namespace brood::channel
