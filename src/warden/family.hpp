// A process's membership in its family: the shared segment and the line to the warden.
#pragma once

#include <cstdint>
#include <memory>

#include "shm/family_layout.hpp"
#include "shm/owner_table.hpp"
#include "shm/segment.hpp"
#include "sys/fd.hpp"
#include "warden/protocol.hpp"

namespace brood::warden {

// Threads: all members may be called from any thread. Blocking: join() waits for the new warden,
// a millisecond at most in practice. Ownership: one per process, for the rest of its life.
// Errors: join() throws SystemError, StartError or FamilyBroken. Death: of the warden is seen by
// warden_lost() within a millisecond.
class Family {
 public:
  // The family of the calling process; founds one (segment and warden) if it has none. A process
  // that the host forked by itself has none.
  static Family& join();
  // The same without founding; nullptr if there is none.
  static Family* current() noexcept;
  // In a child that brood has started: it belongs to the parent's family.
  static void remain_in_child() noexcept;
  // Ends the warden of a family whose objects are all gone. For tests that count processes.
  static void disband() noexcept;

  shm::OwnerTable& owners() noexcept { return owners_; }
  [[nodiscard]] shm::FamilyLayout& layout() const noexcept {
    return *reinterpret_cast<shm::FamilyLayout*>(segment_.base());
  }
  [[nodiscard]] int socket() const noexcept { return socket_.get(); }
  [[nodiscard]] int warden_pid() const noexcept { return warden_pid_; }
  [[nodiscard]] bool warden_lost() const noexcept;

 private:
  Family();

  shm::Segment segment_;
  shm::OwnerTable owners_;
  sys::Fd socket_;
  sys::Fd warden_pidfd_;
  int warden_pid_ = 0;
  std::uint64_t member_token_ = 0;  // of the process this object is valid in
  Family* inherited_ = nullptr;     // a parent's, kept reachable so that it is no leak
};

}  // namespace brood::warden
