// Where things lie in a pool's segment (shm/pool_layout.hpp), as typed pointers.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "shm/owner_table.hpp"
#include "shm/pool_layout.hpp"

namespace brood::pool {

// A range of a segment.
struct Zone {
  std::size_t offset = 0;
  std::size_t bytes = 0;
};

// The offsets of everything in a segment of a given size. Computed by the caller, inherited by the
// supervisor and the workers through fork; never read from shared memory.
inline constexpr std::size_t kLeastCapacity = 23;  // workers that every pool has room for
struct PoolGeometry {
  std::size_t max_tasks = 0;
  std::uint16_t slots = 0;  // of the caller, the supervisor, and of workers living or dying
  Zone caller_header, requests, doors, inbox_metadata, inbox_payload;
  std::array<Zone, shm::kPriorities> rings;
  Zone supervisor_header, owners, entries, retry_ring;
  Zone shared_header, lives, desks, notes, crash_notes, states, completions, outbox_metadata,
      outbox_payload;
  Zone caller_zone, supervisor_zone;  // what workers only read
  std::size_t end = 0;

  static PoolGeometry make(std::size_t max_tasks, std::size_t workers,
                           std::size_t arena_payload_bytes) noexcept;
};

// Threads: any; the view is a value. Ownership: none; the mapping must outlive it.
class PoolView {
 public:
  PoolView() noexcept = default;
  PoolView(std::byte* base, const PoolGeometry& geometry) noexcept
      : base_(base), geometry_(geometry) {}

  [[nodiscard]] const PoolGeometry& geometry() const noexcept { return geometry_; }
  [[nodiscard]] std::byte* at(std::size_t offset) const noexcept { return base_ + offset; }

  [[nodiscard]] shm::CallerHeader& caller() const noexcept {
    return *typed<shm::CallerHeader>(geometry_.caller_header);
  }
  [[nodiscard]] shm::SupervisorHeader& supervisor() const noexcept {
    return *typed<shm::SupervisorHeader>(geometry_.supervisor_header);
  }
  [[nodiscard]] shm::SharedHeader& shared() const noexcept {
    return *typed<shm::SharedHeader>(geometry_.shared_header);
  }
  // `index` < geometry().max_tasks, and with memory: below caller().records.
  [[nodiscard]] shm::TaskRequest& request(std::uint32_t index) const noexcept {
    return typed<shm::TaskRequest>(geometry_.requests)[index];
  }
  [[nodiscard]] shm::TaskState& state(std::uint32_t index) const noexcept {
    return typed<shm::TaskState>(geometry_.states)[index];
  }
  [[nodiscard]] shm::WorkerEntry& entry(std::uint16_t slot) const noexcept {
    return typed<shm::WorkerEntry>(geometry_.entries)[slot];
  }
  [[nodiscard]] shm::WorkerDesk& desk(std::uint16_t slot) const noexcept {
    return typed<shm::WorkerDesk>(geometry_.desks)[slot];
  }
  [[nodiscard]] shm::SetupNote& note(std::uint16_t slot) const noexcept {
    return typed<shm::SetupNote>(geometry_.notes)[slot];
  }
  [[nodiscard]] shm::CrashNote& crash_note(std::uint16_t slot) const noexcept {
    return typed<shm::CrashNote>(geometry_.crash_notes)[slot];
  }
  [[nodiscard]] sys::Atomic<std::uint64_t>* ring_cells(std::size_t priority) const noexcept {
    return typed<sys::Atomic<std::uint64_t>>(geometry_.rings[priority]);
  }
  [[nodiscard]] sys::Atomic<std::uint64_t>* retry_cells() const noexcept {
    return typed<sys::Atomic<std::uint64_t>>(geometry_.retry_ring);
  }
  // A bit per record.
  [[nodiscard]] sys::Atomic<std::uint64_t>* doors() const noexcept {
    return typed<sys::Atomic<std::uint64_t>>(geometry_.doors);
  }
  [[nodiscard]] sys::Atomic<std::uint64_t>* completion_cells() const noexcept {
    return typed<sys::Atomic<std::uint64_t>>(geometry_.completions);
  }
  [[nodiscard]] shm::OwnerTable owners() const noexcept {
    return {std::span(typed<shm::OwnerCell>(geometry_.owners), shm::kMaxSlots),
            std::span(typed<shm::LifeCell>(geometry_.lives), shm::kMaxSlots)};
  }
  [[nodiscard]] shm::ArenaRegion inbox(int fd, std::size_t limit_bytes) const noexcept {
    return region(geometry_.inbox_metadata, geometry_.inbox_payload, fd, limit_bytes);
  }
  [[nodiscard]] shm::ArenaRegion outbox(int fd, std::size_t limit_bytes) const noexcept {
    return region(geometry_.outbox_metadata, geometry_.outbox_payload, fd, limit_bytes);
  }
  // How many records have memory, bounded: a reader may index with any number below it.
  [[nodiscard]] std::uint32_t records() const noexcept {
    const std::uint32_t count = caller().records.load(std::memory_order_acquire);
    return count <= geometry_.max_tasks ? count : static_cast<std::uint32_t>(geometry_.max_tasks);
  }

 private:
  template <class T>
  [[nodiscard]] T* typed(const Zone& zone) const noexcept {
    return reinterpret_cast<T*>(base_ + zone.offset);
  }
  [[nodiscard]] shm::ArenaRegion region(const Zone& metadata, const Zone& payload, int fd,
                                        std::size_t limit_bytes) const noexcept {
    return {base_, fd, metadata.offset, payload.offset, payload.bytes, limit_bytes};
  }

  std::byte* base_ = nullptr;
  PoolGeometry geometry_;
};

}  // namespace brood::pool
