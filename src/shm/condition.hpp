// Who waits for a condition, and who of them is notified (sync_layout.hpp), without waiting.
//
// Threads: any, of any process. Blocking: never. Ownership: of a cell by who entered it. Errors: as
// values; everything in shared memory is input. Death: of a waiter, at any instruction, leaves a
// cell that names it; bury_waiter() empties it, and passes a notification on that it had not used.
// Of who notifies: those that it came to are notified. (A sleeper looks up by itself.)
//
// Memory ordering: the lock that goes with a condition orders what it is about; the swaps of the
// cells only say who goes on. seq_cst for the sake of bells.
#pragma once

#include <cstddef>
#include <cstdint>

#include "shm/sync_layout.hpp"

namespace brood::shm {

inline constexpr std::size_t kNoCell = kWaitCells;

// The cell in which `me` now waits; kNoCell: all are taken.
std::size_t enter(ConditionBody& condition, OwnerId me) noexcept;
[[nodiscard]] bool is_notified(const ConditionBody& condition, std::size_t cell) noexcept;
// Empties the cell: whether it was notified.
bool leave(ConditionBody& condition, std::size_t cell) noexcept;

// Notifies those who have waited longest, and wakes them; how many, of those that have cells.
std::uint64_t notify(ConditionBody& condition, std::uint64_t count) noexcept;
[[nodiscard]] std::size_t waiters(const ConditionBody& condition) noexcept;

void bury_waiter(ConditionBody& condition, OwnerId dead) noexcept;

}  // namespace brood::shm
