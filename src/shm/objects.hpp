// Objects and frames in the family's arena (object_layout.hpp): making, holding, ending.
//
// Threads:   any; allocation is serialised by a lock of this process.
// Blocking:  never on another process.
// Ownership: a view; the mapping must outlive it. An object is freed by whoever ends its last side.
// Errors:    as values; whatever is read from shared memory is bounded before use.
// Death:     of any member at any instruction is made good by bury() and collect(), which only the
//            warden calls, with proof of the death.
// Nothing here uses the heap.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "shm/arena.hpp"
#include "shm/object_layout.hpp"
#include "shm/owner_layout.hpp"
#include "sys/process_mutex.hpp"

namespace brood::shm {

// An object as found: the header and the body lie in the same block.
struct ObjectPlace {
  BlockRef ref;
  ObjectHeader* header = nullptr;      // nullptr: there is none (any more)
  ObjectKind kind = ObjectKind::none;  // as read once; header and body fit into the block
  std::span<std::byte> body;
  int error = 0;  // why there is none, if the system refused; an errno value
  [[nodiscard]] std::uint32_t sides() const noexcept {
    return static_cast<std::uint32_t>(sides_of(kind));
  }
  explicit operator bool() const noexcept { return header != nullptr; }
};

// A message in a block of its own.
struct FramePlace {
  BlockRef ref;
  FrameHeader* header = nullptr;
  std::span<SentRef> refs;
  std::span<std::byte> payload;
  int error = 0;
  explicit operator bool() const noexcept { return header != nullptr; }
};

class Objects {
 public:
  Objects() noexcept = default;
  Objects(const Objects&) = delete;
  Objects& operator=(const Objects&) = delete;

  // Begins anew as this member: also after a fork.
  void attach(const ArenaRegion& region, OwnerId me) noexcept;
  // Makes the region empty. 0 or -errno.
  int format() noexcept { return arena_.format(); }
  // Where the family's members are listed, as far as this process knows; else all epochs are 0.
  void know_members(std::span<const OwnerCell> owners) noexcept { owners_ = owners; }
  [[nodiscard]] std::uint16_t epoch_of(std::uint16_t slot) const noexcept {
    if (slot >= owners_.size()) return 0;
    return OwnerWord::unpack(owners_[slot].load(std::memory_order_relaxed)).epoch;
  }
  // What is called after one side of an object has ended, besides ringing its bells.
  using SideEndedFn = void (*)(const ObjectPlace& object, const Objects& objects) noexcept;
  void when_side_ends(SideEndedFn call) noexcept { side_ended_ = call; }
  [[nodiscard]] OwnerId me() const noexcept { return me_; }
  [[nodiscard]] Arena& arena() noexcept { return arena_; }

  // ---- objects

  // A new object with a zeroed body of at least so many bytes, 64-aligned, held by this member on
  // each side. Nobody else sees it before publish().
  ObjectPlace make(ObjectKind kind, std::uint64_t type, std::size_t body_bytes) noexcept;
  // Lets others see it: from now on it lives for as long as somebody holds it. Before that, a death
  // of this member frees it.
  bool publish(const ObjectPlace& object) noexcept;
  // The live object of that name.
  [[nodiscard]] ObjectPlace find(BlockRef ref) noexcept;

  // A hold of `slot` (this member, or a child that it is about to start). False: it has ended.
  bool hold(const ObjectPlace& object, std::uint32_t side, std::uint16_t slot) noexcept;
  // Takes a hold back. True: whether the side has ended is for the warden to say, since frames may
  // name it, or frames lay in what has ended now; ask it to collect.
  bool release(const ObjectPlace& object, std::uint32_t side, std::uint16_t slot) noexcept;
  [[nodiscard]] static bool has_ended(const ObjectPlace& object, std::uint32_t side) noexcept;
  // Before a frame that names this side can be seen by others; the caller holds it.
  static void mark_sent(const ObjectPlace& object, std::uint32_t side) noexcept;

  // ---- frames

  // A new frame of this member's, with its references written down (and marked as sent).
  FramePlace make_frame(BlockRef container, std::span<const SentRef> refs,
                        std::size_t payload_bytes) noexcept;
  [[nodiscard]] FramePlace find_frame(BlockRef ref) const noexcept;
  // To nobody: it lies in its container now, whatever becomes of this member. False: somebody has
  // taken it already.
  bool give_frame(BlockRef ref) noexcept { return arena_.transfer(ref, me_, arena::kNobody); }
  // To this member. False: somebody else was quicker, or it is gone.
  bool take_frame(BlockRef ref) noexcept;
  void free_block(BlockRef ref) noexcept { arena_.free(ref); }

  // ---- the warden's part

  // What the dead member held, it holds no more; `bury_in` puts each object that it held in order.
  // True: collect() has something to do.
  using BuryFn = void (*)(const ObjectPlace& object, OwnerId dead, Objects& objects) noexcept;
  bool bury(OwnerId dead, BuryFn bury_in) noexcept;
  // Ends the sides that nobody holds and no frame names, and frees the frames whose container is
  // gone. True: something changed meanwhile; look again later.
  bool collect() noexcept;

 private:
  template <class Visit>
  void for_each_object(Visit&& visit) noexcept;
  template <class Visit>
  void for_each_frame(Visit&& visit) noexcept;
  ObjectPlace as_object(BlockRef ref, std::span<std::byte> block) const noexcept;
  FramePlace as_frame(BlockRef ref, std::span<std::byte> block) const noexcept;
  Arena::Allocation allocate(std::size_t bytes, bool zeroed) noexcept;
  enum class Ending : std::uint8_t { kept, ended, unclear };
  static std::uint64_t count_move(ObjectHeader& header) noexcept;
  Ending end_side(const ObjectPlace& object, std::uint32_t side, const ObjectWord& seen) noexcept;
  bool let_go(const ObjectPlace& object, std::uint32_t side, std::uint16_t slot) noexcept;
  void free_if_over(const ObjectPlace& object) noexcept;
  bool name_what_frames_name() noexcept;

  OwnerId me_;
  std::span<const OwnerCell> owners_;
  SideEndedFn side_ended_ = nullptr;
  Arena arena_;
  sys::ProcessMutex allocating_;
};

// The hold sets follow the header.
inline SlotSet& holds_of(ObjectHeader& header, std::uint32_t side) noexcept {
  return reinterpret_cast<SlotSet*>(&header + 1)[side];
}

void ring_all_bells(ObjectHeader& header) noexcept;

}  // namespace brood::shm
