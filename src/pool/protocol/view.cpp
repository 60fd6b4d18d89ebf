#include "pool/protocol/view.hpp"

#include <algorithm>

#include "shm/segment.hpp"

namespace brood::pool {

namespace {

// Hands out consecutive page-aligned ranges.
class Divider {
 public:
  Zone take(std::size_t bytes) noexcept {
    const Zone zone{next_, shm::round_to_pages(bytes)};
    next_ += zone.bytes;
    return zone;
  }
  [[nodiscard]] std::size_t next() const noexcept { return next_; }

 private:
  std::size_t next_ = 0;
};

}  // namespace

PoolGeometry PoolGeometry::make(std::size_t max_tasks, std::size_t workers,
                                std::size_t arena_payload_bytes) noexcept {
  using Cell = sys::Atomic<std::uint64_t>;
  const std::size_t arena_metadata = shm::Arena::metadata_bytes(arena_payload_bytes);
  PoolGeometry geometry;
  Divider divider;
  geometry.max_tasks = max_tasks;
  // As many may be dying as work, and there is the spare. With so many at least, the idle bits of
  // all lie in one word, and a small pool may grow.
  constexpr std::size_t kReserveSlots = 16;
  workers = std::max(workers, kLeastCapacity);
  geometry.slots = static_cast<std::uint16_t>(
      std::min(shm::kFirstWorkerSlot + 2 * workers + kReserveSlots, shm::kMaxSlots));
  geometry.caller_header = divider.take(sizeof(shm::CallerHeader));
  geometry.requests = divider.take(max_tasks * sizeof(shm::TaskRequest));
  for (Zone& ring : geometry.rings) ring = divider.take(2 * max_tasks * sizeof(Cell));
  geometry.doors = divider.take(max_tasks / 8);
  geometry.inbox_metadata = divider.take(arena_metadata);
  geometry.inbox_payload = divider.take(arena_payload_bytes);
  geometry.caller_zone = {0, divider.next()};

  geometry.supervisor_header = divider.take(sizeof(shm::SupervisorHeader));
  geometry.owners = divider.take(shm::kMaxSlots * sizeof(shm::OwnerCell));
  geometry.entries = divider.take(shm::kMaxSlots * sizeof(shm::WorkerEntry));
  geometry.retry_ring = divider.take((std::size_t{2} << shm::kRetryRingLog) * sizeof(Cell));
  geometry.supervisor_zone = {geometry.supervisor_header.offset,
                              divider.next() - geometry.supervisor_header.offset};

  geometry.shared_header = divider.take(sizeof(shm::SharedHeader));
  geometry.lives = divider.take(shm::kMaxSlots * sizeof(shm::LifeCell));
  geometry.desks = divider.take(shm::kMaxSlots * sizeof(shm::WorkerDesk));
  geometry.notes = divider.take(geometry.slots * sizeof(shm::SetupNote));
  geometry.crash_notes = divider.take(geometry.slots * sizeof(shm::CrashNote));
  geometry.states = divider.take(max_tasks * sizeof(shm::TaskState));
  geometry.completions = divider.take(sizeof(Cell) << shm::kCompletionRingLog);
  geometry.outbox_metadata = divider.take(arena_metadata);
  geometry.outbox_payload = divider.take(arena_payload_bytes);
  geometry.end = divider.next();
  return geometry;
}

}  // namespace brood::pool
