#include "pool/caller/pool_memory.hpp"

#include <array>

#include "brood/error.hpp"
#include "shm/owner_table.hpp"
#include "shm/pool_layout.hpp"
#include "start/init.hpp"
#include "sys/memory.hpp"
#include "sys/process.hpp"
#include "sys/procfs.hpp"

namespace brood::pool {

namespace {

// As much as it gets.
constexpr std::array<SegmentSize, 4> kSegmentSizes = {{
    {std::size_t{1} << shm::kIndexBits, std::size_t{1} << 35},
    {std::size_t{1} << 22, std::size_t{1} << 30},
    {std::size_t{1} << 18, std::size_t{1} << 27},
    {std::size_t{1} << 14, std::size_t{1} << 24},
}};

PoolMemory make_segment(std::size_t workers) {
  for (const SegmentSize& size : kSegmentSizes) {
    const PoolGeometry geometry = PoolGeometry::make(size.tasks, workers, size.payload_bytes);
    try {
      shm::Segment segment("brood:pool", geometry.end);
      std::byte* const base = segment.base();
      return {std::move(segment), size, PoolView(base, geometry), 0};
    } catch (const SystemError&) {
      // Address space or file size may be limited (ulimit -v, -f): do with less.
      if (&size == &kSegmentSizes.back()) throw;
    }
  }
  return {};
}

}  // namespace

PoolMemory PoolMemory::make(std::size_t workers) {
  PoolMemory memory = make_segment(workers);
  const PoolGeometry& geometry = memory.view.geometry();
  for (const Zone& zone : {geometry.caller_header, geometry.supervisor_header, geometry.owners,
                           geometry.entries, geometry.retry_ring, geometry.shared_header,
                           geometry.lives, geometry.desks, geometry.notes, geometry.crash_notes}) {
    memory.segment.reserve(zone.offset, zone.bytes);
  }
  shm::OwnerTable owners = memory.view.owners();
  for (const std::uint16_t slot : {shm::kCallerSlot, shm::kSupervisorSlot}) {
    owners.claim_slot(slot, sys::process_id());
    owners.settle({slot, shm::kCallerEpoch}, sys::process_id());
  }
  memory.arena_limit_bytes =
      start::init_options().arena_limit_bytes.value_or(sys::physical_memory() / 2);
  if (start::init_options().huge_pages) {
    sys::advise_huge_pages(memory.segment.base(), memory.segment.size());
  }
  return memory;
}

}  // namespace brood::pool
