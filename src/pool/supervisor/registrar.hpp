// The pool's processes in the book of the family.
#pragma once

#include <cstdint>
#include <optional>

#include "pool/protocol/supervisor_start.hpp"
#include "shm/owner_table.hpp"

namespace brood::pool {

// Gives what the supervisor starts a place in the family, and tells the warden of it, which ends
// what the kernel does not end for us if we die.
//
// Threads: one, the supervisor's. Blocking: never. Ownership: none; the family outlives the pool.
// Errors: a process without a place goes without; what the warden could not be told is told again
// at the process's end. Uses no heap.
// Death: of the supervisor before a place is settled is the warden's to see: it knows who has
// claimed it.
class Registrar {
 public:
  explicit Registrar(const SupervisorStart& start) noexcept
      : warden_socket_(start.warden_socket), owners_(start.family->owners, start.family->lives) {}

  // A place for a process that is to be started; nullopt: there is none.
  std::optional<shm::OwnerId> claim() noexcept;
  // It was not started.
  void give_back(std::optional<shm::OwnerId> member) noexcept;
  // It was. Whether the warden knows of it now.
  bool enter(std::int32_t pid, int pidfd, std::optional<shm::OwnerId> member) noexcept;
  bool announce(std::int32_t pid, int pidfd, std::optional<shm::OwnerId> member) const noexcept;

  // SIGKILL for a process's group, and for what it had the warden make, which is not of its group.
  // Before it is reaped: its number has to be its own.
  void end_group(std::int32_t pid) const noexcept;

 private:
  int warden_socket_;
  shm::OwnerTable owners_;
};

}  // namespace brood::pool
