// What becomes of an object that a dead member held.
#pragma once

#include "shm/objects.hpp"

namespace brood::channel {

// Puts the object in order after the proven death of a member that held it: what it was about is
// finished or undone, what it had locked is marked, whom it may have failed to wake is woken.
//
// Threads: the warden's only one. Blocking: never. Ownership: none. Errors: none; everything in the
// object is input. Death: of the warden in between leaves an object that waits end for with
// FamilyBroken. Doing it again changes nothing more.
void bury_in(const shm::ObjectPlace& object, shm::OwnerId dead, shm::Objects& objects) noexcept;

// One side of the object has ended, the other has not: tells those who wait on descriptors. May be
// called by any member.
void side_ended(const shm::ObjectPlace& object, const shm::Objects& objects) noexcept;

}  // namespace brood::channel
