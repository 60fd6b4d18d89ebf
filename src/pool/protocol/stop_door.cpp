#include "pool/protocol/stop_door.hpp"

#include "sys/datagram.hpp"
#include "sys/hexadecimal.hpp"

namespace brood::pool {

namespace {

std::uint64_t bit_of(shm::OwnerId worker) noexcept {
  return std::uint64_t{1} << (worker.slot % 64);
}

sys::Atomic<std::uint64_t>& word_of(const PoolView& view, shm::OwnerId worker) noexcept {
  return view.shared().stop_doors[worker.slot / 64];
}

}  // namespace

StopDoorName::StopDoorName(const PoolView& view, shm::OwnerId worker) noexcept : text_{} {
  sys::TextWriter(text_.data())
      .text("brood/stop/")
      .hexadecimal(view.caller().door_id.load(std::memory_order_relaxed), 16)
      .text("/")
      .hexadecimal(worker.slot, 4)
      .text(".")
      .hexadecimal(worker.epoch, 4);
}

void set_stop_door(const PoolView& view, shm::OwnerId worker, bool open) noexcept {
  if (open) {
    word_of(view, worker).fetch_or(bit_of(worker), std::memory_order_seq_cst);
  } else {
    word_of(view, worker).fetch_and(~bit_of(worker), std::memory_order_seq_cst);
  }
}

void knock_at_stop_door(const PoolView& view, shm::OwnerId worker) noexcept {
  const std::uint64_t doors = word_of(view, worker).load(std::memory_order_seq_cst);
  if ((doors & bit_of(worker)) != 0) sys::knock(StopDoorName(view, worker).text());
}

}  // namespace brood::pool
