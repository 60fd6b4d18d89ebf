// The family's segment: what all processes of a family share, whatever they do.
//
//   page 0...   FamilyHeader
//   then        the owner table: kFamilySlots owner words, then kFamilySlots life cells
//
// Nothing here is trusted by anyone: the warden decides by its own pidfds, members by theirs.
// A process that overwrites all of it can make others believe that the warden is gone
// (FamilyBroken); it can't make them crash or hang.
#pragma once

#include <array>
#include <cstddef>

#include "shm/owner_layout.hpp"
#include "sys/memory.hpp"

namespace brood::shm {

inline constexpr std::size_t kFamilySlots = 2048;
inline constexpr std::uint16_t kHostSlot = 0;    // the process that founded the family
inline constexpr std::uint16_t kWardenSlot = 1;  // its warden

// Values of FamilyHeader::warden_watches; 0: it is starting.
inline constexpr std::uint32_t kWardenWatches = 1;
inline constexpr std::uint32_t kWardenLeaves = 2;  // nobody was left to watch

struct FamilyHeader {
  sys::FutexWord warden_watches;  // written by the warden
};

struct FamilyLayout {
  alignas(sys::kPageBytes) FamilyHeader header;
  alignas(sys::kPageBytes) std::array<OwnerCell, kFamilySlots> owners;
  alignas(sys::kPageBytes) std::array<LifeCell, kFamilySlots> lives;
};
static_assert(offsetof(FamilyLayout, owners) % sys::kPageBytes == 0);
static_assert(offsetof(FamilyLayout, lives) % sys::kPageBytes == 0);

}  // namespace brood::shm
