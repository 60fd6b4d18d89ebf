// Descriptors on their way between members: the warden keeps them (protocol.hpp).
//
// Each belongs to an object of kind descriptor, whose life says how long it is kept: while a
// process holds the object, or a message on its way names it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "shm/objects.hpp"
#include "sys/fd.hpp"

namespace brood::warden {

// The warden's part.
//
// Threads: its only one. Blocking: never. Ownership: of the descriptors. Errors: go to who asked,
// as errno values. Death: of who asked is nothing to it; its own ends all waits by an end of the
// lines. No heap.
class Custody {
 public:
  // False: no memory.
  bool prepare() noexcept;
  // Takes the descriptor that lies in the line, for that object.
  void take(shm::BlockRef object, const sys::Fd& line, shm::Objects& objects) noexcept;
  // Sends a copy of the object's descriptor down the line.
  void give(shm::BlockRef object, const sys::Fd& line, shm::Objects& objects) noexcept;
  // Closes those whose objects are gone.
  void drop_ended(shm::Objects& objects) noexcept;

 private:
  struct Entry {
    shm::BlockRef object;  // none: the entry is free
    int fd;
  };
  // Of all that may be there at once; the system's limit on descriptors is usually less.
  static constexpr std::size_t kEntries = 65536;

  [[nodiscard]] Entry* find(shm::BlockRef object) noexcept;
  int keep(shm::BlockRef object, sys::Fd fd, shm::Objects& objects) noexcept;

  Entry* entries_ = nullptr;
  std::size_t used_ = 0;  // entries_[used_...] are free
};

}  // namespace brood::warden
