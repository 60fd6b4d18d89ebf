// The warden: one quiet process per family. It holds a pidfd of every member, is the sole
// authority on death, frees what the dead owned, and takes everything down with the host.
//
// It is born by a raw clone of a host that may have threads: nothing here uses the heap, throws,
// or takes a lock of the C library.
//
// In a family that was founded by init() it is also the nursery: a quiet copy of the program as it
// was then, from which children are copied whatever the host has become since.
#pragma once

#include "shm/arena.hpp"
#include "shm/family_layout.hpp"
#include "sys/fd.hpp"
#include "warden/object_space.hpp"

namespace brood::warden {

// What a child born from the warden gets to know.
struct Birth {
  int line;
  int asker_pid;  // by the kernel's word; 0: unknown
  shm::OwnerId owner;
};
// The life of such a child, which is a copy of the warden; never returns.
using BirthFn = void (*)(const Birth& birth) noexcept;

struct WardenStart {
  shm::FamilyLayout* family;
  int socket;  // announcements arrive here
  int host_pidfd;
  int host_pid;
  BirthFn birth = nullptr;  // nullptr: this warden is no nursery
  int member_socket = -1;   // the other end of `socket`, for the children
  int segment_fd = -1;      // the family's, for the children
  ObjectSegment objects = {};
};

// The life of the warden; never returns.
[[noreturn]] void warden_main(const WardenStart& start) noexcept;

}  // namespace brood::warden
