// What becomes of the task of a dead worker.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "pool/protocol/ring.hpp"
#include "pool/protocol/view.hpp"
#include "shm/arena.hpp"

namespace brood::pool {

// How a worker died, as far as is known when its task is settled.
struct WorkerDeath {
  std::int32_t pid = 0;
  std::uint32_t wait_status = 0;
  std::uint64_t fault_address = 0;
  std::uint32_t causes = 0;  // see shm::kOutOfMemory
  // Both are the settler's to read while it settles.
  std::span<const std::byte> trace = {};
  std::span<const std::byte> stderr_tail = {};
};

// Used by the supervisor alone, in a process that must not use the heap.
//
// Threads: one. Blocking: never. Ownership: none; view and arena must outlive it.
// Errors: none; what workers wrote is bounded before use.
// Death: of the supervisor ends the pool, whatever this was doing.
class Settler {
 public:
  Settler(const PoolView& view, shm::Arena& outbox, RingWriter& retry_ring) noexcept
      : view_(view), outbox_(outbox), retry_ring_(retry_ring) {}

  // Ends the task that `worker` had, or starts it again if it has retries left.
  void settle_task_of(shm::OwnerId worker, const WorkerDeath& death) noexcept;

  // Gives the chunk that `worker` has stopped at to another one.
  void hand_on(shm::OwnerId worker) noexcept;
  // Whether `worker` has a task, by its desk.
  [[nodiscard]] bool has_task(shm::OwnerId worker) const noexcept;

  // Ends every task whose record makes no sense any more: it names another generation than the
  // request, or an owner that is no live worker or works on something else. Returns how many.
  // `is_live(owner, context)` says who is.
  using IsLive = bool (*)(shm::OwnerId owner, const void* context);
  std::size_t audit(IsLive is_live, const void* context) noexcept;

  // Whether no task is waiting or running.
  [[nodiscard]] bool all_done() const noexcept;

  // Wakes everybody who sleeps on a task, to look at the pool's condition.
  void wake_waiters() noexcept;

 private:
  void condemn(std::uint32_t index) noexcept;
  void settle_all_of(shm::OwnerId worker, const WorkerDeath& death) noexcept;
  void settle(std::uint32_t index, shm::OwnerId worker, const WorkerDeath& death) noexcept;
  void settle_single(std::uint32_t index, shm::OwnerId worker, const WorkerDeath& death) noexcept;
  void settle_chunk(std::uint32_t index, shm::OwnerId worker, const WorkerDeath& death) noexcept;
  void end(std::uint32_t index, shm::OwnerId worker, bool late) noexcept;
  bool start_again(std::uint32_t index, shm::OwnerId worker, bool counts = true) noexcept;
  void tell_death(shm::ReplyKind& kind, std::span<std::byte> place, const WorkerDeath& death,
                  std::uint32_t attempts) noexcept;
  bool tell_in_block(std::span<std::byte> place, const WorkerDeath& death,
                     const shm::DeathNote& note) noexcept;
  void take_back_block(shm::ReplyKind kind, const std::byte* place, shm::OwnerId worker) noexcept;
  [[nodiscard]] bool is_task_of(std::uint32_t index, shm::OwnerId worker) const noexcept;
  [[nodiscard]] bool makes_sense(std::uint32_t index, std::uint64_t bits, std::uint32_t generation,
                                 IsLive is_live, const void* context) const noexcept;

  PoolView view_;
  shm::Arena& outbox_;
  RingWriter& retry_ring_;
};

}  // namespace brood::pool
