#include "warden/protocol.hpp"

#include <span>

#include "sys/fd.hpp"
#include "sys/process.hpp"

namespace brood::warden {

bool announce_self(const Announcement& said, int socket, const shm::FamilyLayout& family) noexcept {
  const sys::Fd self(sys::open_pidfd(sys::process_id()));
  if (!self) return false;
  if (sys::send_packet(socket, std::as_bytes(std::span(&said, 1)), self.get(), true) != 0) {
    return false;
  }
  // After sending: see Warden::nobody_is_coming.
  return family.header.warden_watches.load(std::memory_order_seq_cst) == shm::kWardenWatches;
}

}  // namespace brood::warden
