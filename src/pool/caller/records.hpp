// The caller's store of task records: which are free, and what memory each of them holds.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "brood/detail/pool_core.hpp"
#include "pool/protocol/ring.hpp"
#include "pool/protocol/view.hpp"
#include "shm/arena.hpp"
#include "shm/segment.hpp"

namespace brood::pool {

// The results of a task of several elements, in memory that its workers write.
struct ElementCells {
  std::span<std::byte> cells;
  std::span<std::byte> kinds;  // a ReplyKind for each; none: the cells are not there

  [[nodiscard]] bool hold_values_only() const noexcept;
};

// What the caller knows of a task besides its record.
struct TaskTraits {
  std::string name;          // given by the user
  bool has_handles = false;  // among arguments or bound values
};

// Threads: any; the members lock. Blocking: for the lock only. Ownership: of free records, of the
// inbox, and of what is allocated in the outbox for map; segment and view must outlive it.
// Errors: ArenaFull from draft() and place(); the rest does not fail.
// Death: of the caller ends the pool. Of workers: what they wrote is bounded before use.
class Records {
 public:
  // Formats the arenas and makes the first records. Throws ArenaFull.
  Records(const shm::Segment& segment, const PoolView& view, std::size_t arena_limit_bytes);

  // A record with room for the arguments, filled but for them.
  detail::TaskDraft draft(const detail::TaskSpec& spec);
  void drop(const detail::TaskDraft& draft) noexcept;
  // Makes it a task that workers can take. The baggage is kept until the record is free again.
  detail::TaskTicket commit(const detail::TaskDraft& draft, detail::TaskBaggage baggage);
  // Frees the record, or remembers to once the task has ended. `over`: no task will end any more.
  void release(detail::TaskTicket task, bool over) noexcept;

  // What cancels the task; kept as its baggage is.
  void attach(detail::TaskTicket task, std::shared_ptr<void> stop);
  // The name that the user gave the task in that record; empty if none.
  [[nodiscard]] std::string name_of(std::uint32_t index);
  [[nodiscard]] TaskTraits traits_of(std::uint32_t index);
  // The plain function that the task calls; nullptr: none, or the task is gone.
  [[nodiscard]] const void* function_of(detail::TaskTicket task);

  // Tasks that are done and given up are set aside where `is_wanted` says so, instead of their
  // records being freed. It is asked under the lock, and must call nothing here that locks. Before
  // the first task.
  using IsWanted = std::function<bool(detail::TaskTicket task)>;
  void set_aside(IsWanted is_wanted) { is_wanted_ = std::move(is_wanted); }
  // All that were set aside meanwhile; each is to be given to free_record().
  [[nodiscard]] std::vector<detail::TaskTicket> take_set_aside() noexcept;
  void free_record(detail::TaskTicket task) noexcept;
  // Frees the records of all abandoned tasks that are done.
  void collect() noexcept;

  // A block that holds bound values, for tasks to refer to.
  std::uint64_t place(const detail::BoundBlob& blob);
  void free_in_inbox(std::uint64_t block) noexcept;
  // What this process has written for a task, and what place() has; empty if it is gone. No locks.
  [[nodiscard]] std::span<const std::byte> arguments_of(const shm::TaskRequest& request) const;
  [[nodiscard]] std::span<const std::byte> bound_values(std::uint64_t block) const;

  // Whether the system lets us see that block: 0 or errno.
  [[nodiscard]] int reach_in_outbox(shm::BlockRef ref) const noexcept { return outbox_.reach(ref); }
  // What an outbox block named in a reply holds; empty if that is nonsense.
  [[nodiscard]] std::span<std::byte> outbox_block(shm::BlockRef ref) const noexcept {
    return outbox_.resolve(ref);
  }
  [[nodiscard]] ElementCells cells_of(const shm::TaskRequest& request) const noexcept;

 private:
  std::uint32_t take_record();
  bool is_timed() noexcept;
  void grow();
  RingWriter& ring_of(std::size_t priority);
  void reserve_ring(std::size_t priority, std::size_t capacity);
  void collect_abandoned(std::size_t most) noexcept;
  void recycle(detail::TaskTicket task) noexcept;
  void free_whole(detail::TaskTicket task) noexcept;
  void free_reply_blocks(const shm::TaskRequest& request, const shm::TaskState& state) noexcept;
  void free_reply(shm::ReplyKind kind, const std::byte* place) noexcept;
  static void free_kept_handles(std::span<const std::byte> packet) noexcept;
  void free_request_blocks(shm::TaskRequest& request) noexcept;
  shm::Arena::Allocation allocate(shm::Arena& arena, std::size_t bytes, bool zeroed);
  void want_trim() noexcept;

  const shm::Segment& segment_;
  PoolView view_;

  std::mutex mutex_;  // guards all that follows, of the arenas their allocating halves
  shm::Arena inbox_;
  shm::Arena outbox_;
  // Most urgent first; those but for the normal one begin with their first task.
  std::array<RingWriter, shm::kPriorities> rings_;
  std::vector<std::uint32_t> free_;
  std::uint64_t drafts_ = 0;
  std::vector<detail::TaskTicket> abandoned_;  // released before their task ended
  std::size_t next_abandoned_ = 0;
  std::uint64_t next_number_ = 0;  // of the next task
  std::unordered_map<std::uint32_t, detail::TaskBaggage> baggage_;
  IsWanted is_wanted_;
  std::vector<detail::TaskTicket> set_aside_;
  std::atomic<bool> any_set_aside_{false};
};

// Whether the task's outcome is known.
bool has_ended(const PoolView& view, detail::TaskTicket task) noexcept;

}  // namespace brood::pool
