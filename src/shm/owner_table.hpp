// Operations on an owner table (owner_layout.hpp).
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "shm/arena.hpp"
#include "shm/owner_layout.hpp"

namespace brood::shm {

// A view of one table.
//
// Threads: all operations may run concurrently in any process. Blocking: never.
// Ownership: the view owns nothing; the memory must outlive it. Errors: as values.
// Death: of any caller at any instruction leaves every slot in a state of the diagram; release_of
// finishes what it began.
class OwnerTable {
 public:
  OwnerTable() noexcept = default;
  OwnerTable(std::span<OwnerCell> cells, std::span<LifeCell> lives) noexcept
      : cells_(cells), lives_(lives) {}

  [[nodiscard]] std::size_t size() const noexcept { return cells_.size(); }

  // Claims any free slot for a process about to be started by `registrar_pid`; nullopt: none free.
  std::optional<OwnerId> claim(std::int32_t registrar_pid) noexcept;
  // Claims this very slot.
  std::optional<OwnerId> claim_slot(std::uint16_t slot, std::int32_t registrar_pid) noexcept;
  // The process now runs. False: the slot is no longer claimed under this epoch.
  bool settle(OwnerId id, std::int32_t member_pid) noexcept;
  // The same by the process itself, perhaps after who started it. False: it has no place.
  bool settle_self(OwnerId id, std::int32_t member_pid) noexcept;
  // Its death is proven.
  bool mark_dead(OwnerId id) noexcept;
  // Nothing names it any more (it was swept, or never started).
  bool release(OwnerId id) noexcept;
  // Releases every slot claimed by a registrar proven dead; returns how many.
  std::size_t release_claims_of(std::int32_t registrar_pid) noexcept;

  [[nodiscard]] OwnerWord look(std::uint16_t slot) const noexcept;
  [[nodiscard]] sys::RobustWord& life(std::uint16_t slot) const noexcept {
    return lives_[slot].life;
  }
  [[nodiscard]] std::size_t count(OwnerState state) const noexcept;

 private:
  bool change(OwnerId id, OwnerState from, OwnerWord to) noexcept;

  std::span<OwnerCell> cells_;
  std::span<LifeCell> lives_;
};

}  // namespace brood::shm
