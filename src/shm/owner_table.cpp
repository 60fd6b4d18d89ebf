#include "shm/owner_table.hpp"

namespace brood::shm {

// Memory ordering: whoever sees a slot's new word (acquire) sees all that was written to the slot's
// life cell before it was changed (release).

std::optional<OwnerId> OwnerTable::claim(std::int32_t registrar_pid) noexcept {
  for (std::size_t slot = 0; slot < cells_.size(); ++slot) {
    if (auto id = claim_slot(static_cast<std::uint16_t>(slot), registrar_pid)) return id;
  }
  return std::nullopt;
}

std::optional<OwnerId> OwnerTable::claim_slot(std::uint16_t slot,
                                              std::int32_t registrar_pid) noexcept {
  std::uint64_t bits = cells_[slot].load(std::memory_order_relaxed);
  const OwnerWord now = OwnerWord::unpack(bits);
  if (now.state != OwnerState::free) return std::nullopt;
  const auto epoch = static_cast<std::uint16_t>(now.epoch + 1);
  const OwnerWord claimed{OwnerState::claimed, epoch, registrar_pid};
  if (!cells_[slot].compare_exchange_strong(bits, claimed.pack(), std::memory_order_acq_rel)) {
    return std::nullopt;
  }
  // The former tenant's mark must not be taken for the new one's; the slot is ours alone here.
  lives_[slot].life.word.store(0, std::memory_order_relaxed);
  lives_[slot].life.note.store(0, std::memory_order_relaxed);
  return OwnerId{slot, epoch};
}

bool OwnerTable::change(OwnerId id, OwnerState from, OwnerWord to) noexcept {
  if (id.slot >= cells_.size()) return false;
  std::uint64_t bits = cells_[id.slot].load(std::memory_order_relaxed);
  const OwnerWord now = OwnerWord::unpack(bits);
  if (now.state != from || now.epoch != id.epoch) return false;
  return cells_[id.slot].compare_exchange_strong(bits, to.pack(), std::memory_order_acq_rel);
}

bool OwnerTable::settle(OwnerId id, std::int32_t member_pid) noexcept {
  return change(id, OwnerState::claimed, {OwnerState::live, id.epoch, member_pid});
}

bool OwnerTable::settle_self(OwnerId id, std::int32_t member_pid) noexcept {
  if (settle(id, member_pid)) return true;
  const OwnerWord word = look(id.slot);
  return word.state == OwnerState::live && word.epoch == id.epoch && word.pid == member_pid;
}

bool OwnerTable::mark_dead(OwnerId id) noexcept {
  if (id.slot >= cells_.size()) return false;
  return change(id, OwnerState::live, {OwnerState::dead, id.epoch, look(id.slot).pid});
}

bool OwnerTable::release(OwnerId id) noexcept {
  const OwnerWord released{OwnerState::free, id.epoch, 0};
  return change(id, OwnerState::dead, released) || change(id, OwnerState::claimed, released);
}

std::size_t OwnerTable::release_claims_of(std::int32_t registrar_pid) noexcept {
  std::size_t released = 0;
  for (std::size_t slot = 0; slot < cells_.size(); ++slot) {
    const OwnerWord now = look(static_cast<std::uint16_t>(slot));
    if (now.state != OwnerState::claimed || now.pid != registrar_pid) continue;
    released += release({static_cast<std::uint16_t>(slot), now.epoch}) ? 1U : 0U;
  }
  return released;
}

OwnerWord OwnerTable::look(std::uint16_t slot) const noexcept {
  return OwnerWord::unpack(cells_[slot].load(std::memory_order_acquire));
}

std::size_t OwnerTable::count(OwnerState state) const noexcept {
  std::size_t found = 0;
  for (std::size_t slot = 0; slot < cells_.size(); ++slot) {
    found += look(static_cast<std::uint16_t>(slot)).state == state ? 1U : 0U;
  }
  return found;
}

}  // namespace brood::shm
