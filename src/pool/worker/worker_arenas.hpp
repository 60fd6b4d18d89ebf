// A pool's arenas as one of its workers has them: what the caller wrote, and room for results.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "brood/detail/object.hpp"
#include "pool/protocol/call.hpp"
#include "pool/protocol/supervisor_start.hpp"
#include "pool/protocol/view.hpp"
#include "shm/arena.hpp"
#include "shm/pool_layout.hpp"

namespace brood::pool {

// At most one block is allocated for a reply and still the worker's: it becomes the caller's, or is
// free again, before the next one.
//
// Threads: the one that runs tasks. Blocking: never. Ownership: of that block; the view's mapping
// must outlive it. Errors: ArenaFull, where the system or the arena has no memory; after EBADF the
// worker is unfit. What the caller wrote is bounded before use.
// Death: the block is the dead's, and swept, until it is handed over; from then on the supervisor
// finds it by the reply that names it, and once the task is finished the caller does.
class WorkerArenas {
 public:
  WorkerArenas(const SupervisorStart& start, shm::OwnerId me) noexcept;

  // All of the descriptors were closed by a task: no other task is to suffer.
  [[nodiscard]] bool is_unfit() const noexcept { return unfit_; }

  // Arguments of a task. Throws ArenaFull; empty: there are none there.
  [[nodiscard]] std::span<const std::byte> arguments(shm::BlockRef block) const {
    require_in_reach(inbox_, block);
    return inbox_.resolve(block);
  }
  // The encoded values that a task's arguments refer to. Throws ArenaFull, DecodeError.
  [[nodiscard]] std::span<const std::byte> bound_values(shm::BlockRef block) const;
  // Whether the room for the results of a chunk can be read, and that room.
  void require_cells_in_reach(shm::BlockRef block) const { require_in_reach(outbox_, block); }
  [[nodiscard]] std::span<std::byte> cells(shm::BlockRef block) const noexcept {
    return outbox_.resolve(block);
  }

  // Room for a result of so many bytes, in a block whose name is written to `where`. Throws
  // ArenaFull.
  std::span<std::byte> allocate_reply(std::byte* where, std::size_t bytes) {
    const auto allocation = outbox_.allocate(sizeof(shm::PacketHeader) + bytes);
    if (allocation.error != 0) refuse_reply(allocation.error, bytes);
    want_trim();
    block_ = allocation.ref;
    const shm::PacketHeader header{bytes, 0};
    std::memcpy(allocation.bytes.data(), &header, sizeof header);
    std::memcpy(where, &block_, sizeof block_);
    return allocation.bytes.subspan(sizeof header, bytes);
  }
  // By a frame that becomes the caller's before the reply can be seen.
  void keep_for_caller(std::span<const detail::ObjectHandle> handles);
  void drop_block() noexcept {
    if (!block_) return;
    outbox_.free(block_);
    block_ = shm::BlockRef{};
  }
  // The block named in the reply becomes the caller's. Until the task is finished, the supervisor
  // finds it by the reply; from then on the caller does.
  void hand_over_block() noexcept {
    if (!block_) return;
    outbox_.transfer(block_, me_, kCaller);
    block_ = shm::BlockRef{};
  }
  // The block that is ours, if there is one.
  [[nodiscard]] shm::BlockRef block() const noexcept { return block_; }
  // One handed over that nobody will know of, and one that is ours again.
  void free_handed_over(shm::BlockRef block) noexcept {
    if (block) outbox_.free(block);
  }
  void take_back(shm::BlockRef block) noexcept {
    if (block) outbox_.transfer(block, kCaller, me_);
    block_ = block;
  }

 private:
  static constexpr shm::OwnerId kCaller{shm::kCallerSlot, shm::kCallerEpoch};

  void require_in_reach(const shm::Arena& arena, shm::BlockRef block) const {
    const int error = arena.reach(block);
    if (error != 0) refuse_reading(error);
  }
  [[noreturn]] void refuse_reading(int error) const;
  [[noreturn]] void refuse_reply(int error, std::size_t bytes);
  // The arenas are looked through for idle memory only after they were used.
  void want_trim() noexcept {
    sys::Atomic<std::uint32_t>& wanted = view_.shared().trim_wanted;
    if (wanted.load(std::memory_order_relaxed) != 0) return;
    wanted.store(1, std::memory_order_relaxed);
    call_supervisor(view_);
  }

  PoolView view_;
  shm::OwnerId me_;
  shm::Arena inbox_;
  shm::Arena outbox_;
  shm::BlockRef block_;         // allocated for the reply, still ours
  mutable bool unfit_ = false;  // for any more tasks
};

}  // namespace brood::pool
