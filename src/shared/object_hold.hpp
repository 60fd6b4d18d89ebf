// A process's hold of one side of an object, as its handles share it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "brood/detail/object.hpp"
#include "shm/objects.hpp"
#include "warden/object_space.hpp"

namespace brood::detail {

// Threads: any. Blocking: never for long. Ownership: counted with the process's other holds of the
// same side; the last one gives the process's hold back. In another process than the one that made
// it, it first becomes one of that process's own (if brood has started it). Errors: StaleHandle,
// FamilyBroken, Error. Death: see ObjectHandle.
class ObjectHold {
 public:
  // A new object: header and body are there, nobody else sees them before publish().
  // Throws ArenaFull, FamilyBroken, StartError.
  static std::shared_ptr<ObjectHold> make(shm::ObjectKind kind, std::uint64_t type,
                                          std::size_t body_bytes);
  // The other side of one just made.
  static std::shared_ptr<ObjectHold> other_side(const ObjectHold& first, std::uint32_t side);
  void publish();

  // A hold more of what somebody else holds, or a message names. Throws StaleHandle.
  static std::shared_ptr<ObjectHold> take(shm::BlockRef ref, std::uint32_t side);

  ~ObjectHold();
  ObjectHold(const ObjectHold&) = delete;
  ObjectHold& operator=(const ObjectHold&) = delete;

  // What to work on; valid while this lives. Checks that this process has the hold: once for each
  // operation of the user's.
  const shm::ObjectPlace& use() {
    if (token_.load(std::memory_order_acquire) != sys::process_token()) [[unlikely]]
      adopt();
    return place_;
  }

  // The same without the check, in the middle of an operation.
  [[nodiscard]] const shm::ObjectPlace& place() const noexcept { return place_; }

  [[nodiscard]] shm::BlockRef ref() const noexcept { return place_.ref; }
  [[nodiscard]] std::uint32_t side() const noexcept { return side_; }
  [[nodiscard]] shm::ObjectKind kind() const noexcept { return place_.kind; }

  // A hold of a child that is about to be started. Its place in the family is `slot`.
  [[nodiscard]] bool give_to(std::uint16_t slot);
  void take_back_from(std::uint16_t slot) noexcept;

 private:
  ObjectHold(shm::ObjectPlace place, std::uint32_t side) noexcept;
  void adopt();

  shm::ObjectPlace place_;
  std::uint32_t side_;
  std::atomic<std::uint64_t> token_;  // of the process whose hold this is part of
};

// The calling process's objects, for those who allocate frames: never nullptr after a use().
shm::Objects& objects_here();

}  // namespace brood::detail
