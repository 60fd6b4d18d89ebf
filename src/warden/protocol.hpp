// What members tell their warden, and the warden's own copy of it.
#pragma once

#include <cstdint>

#include "shm/arena.hpp"
#include "shm/family_layout.hpp"

namespace brood::warden {

enum class MemberKind : std::uint32_t {
  host = 0,        // founded the family: its end is the end of the family
  process = 1,     // started by the user; if no daemon, it outlives its parent
  supervisor = 2,  // of a pool; ends with its parent
  worker = 3,      // of a pool; ends with its supervisor
};

// One datagram, with a pidfd of the member passed along. One-way: the warden never answers, so a
// member may die at any point of it.
struct Announcement {
  MemberKind kind = MemberKind::process;
  std::uint32_t daemon = 0;  // ends with its parent although it is a process
  std::int32_t pid = 0;
  std::int32_t parent_pid = 0;  // whose end ends it
  shm::OwnerId owner{};         // its slot in the family's owner table, if has_owner
  std::uint32_t has_owner = 0;
};

// Announces the calling process, which must not go on if that fails: nobody would end it when its
// parent dies. For use also where there is no heap.
bool announce_self(const Announcement& said, int socket, const shm::FamilyLayout& family) noexcept;

}  // namespace brood::warden
