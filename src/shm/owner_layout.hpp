// The owner table as it lies in shared memory: who may own things there.
//
// slot    an index into the table. What a process owns in shared memory names it by slot + epoch.
// epoch   counts the tenants of a slot, so that a name of a former tenant is recognised.
// life    a robust word: the kernel marks it within about 0.1 ms of its owner's death. That is an
//         early sign, never proof: the process may still run other threads.
// note    beside the life: 1 once the warden has been told of the tenant.
// proof   its pidfd is readable. Only then may what it owned be taken.
//
// One word says whose a slot is:
//
//            claim                 settle                 (pidfd)                  release
//   free(e) -------> claimed(e+1, -------> live(e+1,      -------> dead(e+1, pid) -------->
//   free(e+1)
//      ^               registrar)          member pid)                                        |
//      +-----------------------------------------------------------------------------------+
//              a claimed slot whose registrar died is released too: the word names it
//
// Invariants:
//   live slots = processes that were started and whose death is not yet proven
//   epoch(slot) never decreases (mod 2^16) and grows by one with each claim
#pragma once

#include <cstdint>

#include "sys/futex.hpp"

namespace brood::shm {

enum class OwnerState : std::uint8_t { free = 0, claimed = 1, live = 2, dead = 3 };

// The fields of an owner word: state in bits 0-1, epoch in 16-31, process id in 32-63.
struct OwnerWord {
  OwnerState state = OwnerState::free;
  std::uint16_t epoch = 0;
  std::int32_t pid = 0;

  static constexpr OwnerWord unpack(std::uint64_t bits) noexcept {
    return {static_cast<OwnerState>(bits & 3U), static_cast<std::uint16_t>(bits >> 16U),
            static_cast<std::int32_t>(bits >> 32U)};
  }
  [[nodiscard]] constexpr std::uint64_t pack() const noexcept {
    return static_cast<std::uint64_t>(state) | std::uint64_t{epoch} << 16U |
           std::uint64_t{static_cast<std::uint32_t>(pid)} << 32U;
  }
};

using OwnerCell = sys::Atomic<std::uint64_t>;
static_assert(OwnerCell::is_always_lock_free && sizeof(OwnerCell) == 8);
static_assert(OwnerWord::unpack(OwnerWord{OwnerState::live, 7, 123456}.pack()).pid == 123456);

// A life word on cache lines of its own: its neighbours' deaths must not disturb it.
struct alignas(64) LifeCell {
  sys::RobustWord life;
};
static_assert(sizeof(LifeCell) == 64);

}  // namespace brood::shm
