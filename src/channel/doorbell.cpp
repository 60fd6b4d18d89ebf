#include "channel/doorbell.hpp"

#include <bit>
#include <cerrno>
#include <span>

#include "sys/datagram.hpp"
#include "sys/hexadecimal.hpp"
#include "sys/random.hpp"

namespace brood::channel {

DoorbellName::DoorbellName(std::uint64_t id, shm::OwnerId owner) noexcept : text_{} {
  sys::TextWriter(text_.data())
      .text("brood/door/")
      .hexadecimal(id, 16)
      .text("/")
      .hexadecimal(owner.slot, 4)
      .text(".")
      .hexadecimal(owner.epoch, 4);
}

std::uint64_t id_of(DoorbellBoard& board) noexcept {
  std::uint64_t id = board.id.load(std::memory_order_relaxed);
  if (id != 0) return id;
  std::uint64_t fresh = 0;
  sys::random_bytes(std::as_writable_bytes(std::span(&fresh, 1)));
  fresh |= 1U;
  return board.id.compare_exchange_strong(id, fresh, std::memory_order_relaxed) ? fresh : id;
}

void ring_all_doorbells(DoorbellBoard& board, const shm::Objects& objects) noexcept {
  const std::uint64_t id = board.id.load(std::memory_order_relaxed);
  if (id == 0) return;
  for (std::size_t i = 0; i < board.watchers.words.size(); ++i) {
    std::uint64_t bits = board.watchers.words[i].load(std::memory_order_seq_cst);
    for (; bits != 0; bits &= bits - 1) {
      const auto slot =
          static_cast<std::uint16_t>(i * 64 + static_cast<unsigned>(std::countr_zero(bits)));
      const int result = sys::knock(DoorbellName(id, {slot, objects.epoch_of(slot)}).text());
      // Full: it is readable. Refused: its owner has just closed it, or has died.
      if (result == 0 || result == -EAGAIN || result == -ECONNREFUSED) continue;
      board.armed.store(1, std::memory_order_seq_cst);
    }
  }
}

}  // namespace brood::channel
