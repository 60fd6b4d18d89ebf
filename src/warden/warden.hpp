// The warden: one quiet process per family. It holds a pidfd of every member, is the sole
// authority on death, frees what the dead owned, and takes everything down with the host.
//
// It is born by a raw clone of a host that may have threads: nothing here uses the heap, throws,
// or takes a lock of the C library.
#pragma once

#include "shm/family_layout.hpp"
#include "sys/fd.hpp"

namespace brood::warden {

struct WardenStart {
  shm::FamilyLayout* family;
  int socket;  // announcements arrive here
  int host_pidfd;
  int host_pid;
};

// The life of the warden; never returns.
[[noreturn]] void warden_main(const WardenStart& start) noexcept;

}  // namespace brood::warden
