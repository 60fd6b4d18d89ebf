// A process's membership in its family: the shared segment and the line to the warden.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "shm/family_layout.hpp"
#include "shm/owner_table.hpp"
#include "shm/segment.hpp"
#include "sys/fd.hpp"
#include "warden/object_space.hpp"
#include "warden/protocol.hpp"
#include "warden/warden.hpp"

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
  // Founds the family of the calling process, which must have none, with a warden that is also a
  // nursery. `copy_threads`: this process has threads already, and the user accepts what that
  // means.
  static Family& found_with_nursery(BirthFn birth, bool copy_threads);
  // The most memory that objects take in a family founded from now on.
  static void limit_objects(std::size_t bytes) noexcept;
  // The same without founding; nullptr if there is none.
  static Family* current() noexcept;
  // In a child that brood has started: it belongs to the parent's family.
  static void remain_in_child(shm::OwnerId me) noexcept;
  // The same in a worker of a pool, which can't write the family's segment until it has to: the
  // first join() opens it. Without a place in the family, join() throws.
  static void remain_in_worker(shm::OwnerId me, bool has_place) noexcept;
  // The same in a child of the warden, to whose copy of the founder's memory this object belongs.
  // 0 or -errno.
  static int remain_in_newborn(shm::OwnerId me) noexcept;
  // The same after exec, from what was left open.
  static void remain_after_exec(shm::OwnerId me, sys::Fd segment, sys::Fd objects, sys::Fd socket);
  // What this process's memory holds of a family, also if it is its parent's.
  static Family* inherited() noexcept;
  // Ends the warden of a family whose objects are all gone. For tests that count processes.
  static void disband() noexcept;

  // Gets our descriptors out of the way of lower numbers. 0 or -errno.
  int move_descriptors_above(int number) noexcept;

  shm::OwnerTable& owners() noexcept { return owners_; }
  [[nodiscard]] shm::FamilyLayout& layout() const noexcept {
    return *reinterpret_cast<shm::FamilyLayout*>(segment_.base());
  }
  [[nodiscard]] int socket() const noexcept { return socket_.get(); }
  [[nodiscard]] int segment_fd() const noexcept { return segment_.fd(); }
  [[nodiscard]] int objects_fd() const noexcept { return space_.segment_fd(); }
  [[nodiscard]] int warden_pidfd() const noexcept { return warden_pidfd_.get(); }
  [[nodiscard]] int warden_pid() const noexcept { return warden_pid_; }
  [[nodiscard]] bool has_nursery() const noexcept { return has_nursery_; }
  [[nodiscard]] bool warden_lost() const noexcept;

 private:
  Family() = default;
  void found(BirthFn birth, bool copy_threads);
  void require_usable();
  void start_warden(const WardenStart& start, bool copy_threads);

  shm::Segment segment_;
  ObjectSpace space_;
  shm::OwnerTable owners_;
  sys::Fd socket_;
  sys::Fd warden_pidfd_;
  int warden_pid_ = 0;
  bool has_nursery_ = false;
  bool has_place_ = true;
  std::atomic<bool> is_protected_{false};
  std::atomic<std::uint64_t> member_token_{0};  // of the process this object is valid in
  Family* inherited_ = nullptr;                 // a parent's, kept reachable so that it is no leak
};

}  // namespace brood::warden
