// The calling process's view of its family's objects (shm/objects.hpp).
//
// A family has one segment of objects, made with the warden. Members reach it through
// ObjectSpace::join(); so do the workers of pools, which are in no other respect members.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "shm/family_layout.hpp"
#include "shm/objects.hpp"
#include "shm/segment.hpp"
#include "sys/fd.hpp"

namespace brood::warden {

// Where the segment lies; the warden has it mapped as its host has it.
struct ObjectSegment {
  std::byte* base = nullptr;
  int fd = -1;
  std::size_t payload_bytes = 0;
  std::size_t limit_bytes = 0;
  [[nodiscard]] shm::ArenaRegion region() const noexcept;
};

// Threads: all members may be called from any thread, but those that say who the process is.
// Blocking: join() may found a family. Ownership: one per process, for the rest of its life.
// Errors: join() throws what Family::join() throws. Death: of the warden is seen by warden_lost().
class ObjectSpace {
 public:
  // Of the calling process; founds its family if it has none. Throws also Error if this is a worker
  // for which there was no place in the family.
  static ObjectSpace& join();
  // nullptr: this process has none. (What a plain fork copied is another's.)
  static ObjectSpace* current() noexcept;

  [[nodiscard]] shm::Objects& objects() noexcept { return objects_; }
  [[nodiscard]] std::uint16_t slot() const noexcept { return objects_.me().slot; }
  [[nodiscard]] bool warden_lost() const noexcept;
  // Whether that member's death is proven and its place free, or another's: what still names it is
  // nobody's.
  [[nodiscard]] bool has_left(shm::OwnerId member) const noexcept;
  // Has the warden look soon for what nobody holds or names any more.
  void ask_to_collect() noexcept;

  // ---- who this process is. Each begins anew.

  // The founder's: makes the segment. Throws SystemError, ArenaFull.
  void found(const shm::FamilyLayout& family, int socket, std::size_t limit_bytes);
  // After an exec: the segment that was left open.
  void find(const shm::FamilyLayout& family, int socket, sys::Fd segment, std::size_t limit_bytes);
  // This process is that member. `warden_socket`: of this process.
  void enter(shm::OwnerId me, int warden_socket) noexcept;
  // A worker: nothing here is written, nor can be, before it uses the first object.
  static void enter_worker(shm::OwnerId me, bool has_place) noexcept;
  // What this process's memory holds, also if it is its parent's.
  static ObjectSpace* inherited() noexcept;

  [[nodiscard]] ObjectSegment segment() const noexcept {
    return {segment_.base(), segment_.fd(), payload_bytes_, limit_bytes_};
  }
  // From now on all threads of this process find it: a space that was founded has its warden.
  void publish() noexcept;
  // The descriptors have got other numbers.
  void move_descriptors(int warden_socket) noexcept;
  [[nodiscard]] int segment_fd() const noexcept { return segment_.fd(); }
  [[nodiscard]] sys::Fd& segment_file() noexcept { return segment_.file(); }
  [[nodiscard]] int socket() const noexcept { return socket_; }

  ObjectSpace() noexcept = default;
  ~ObjectSpace();
  ObjectSpace(const ObjectSpace&) = delete;
  ObjectSpace& operator=(const ObjectSpace&) = delete;

 private:
  void attach(shm::OwnerId me) noexcept;
  void require_usable();

  const shm::FamilyLayout* family_ = nullptr;
  shm::Segment segment_;
  std::size_t payload_bytes_ = 0;
  std::size_t limit_bytes_ = 0;
  shm::Objects objects_;
  int socket_ = -1;  // the family's, not ours to close
  bool has_place_ = true;
  std::atomic<bool> is_protected_{false};
  std::uint64_t token_ = 0;
};

}  // namespace brood::warden
