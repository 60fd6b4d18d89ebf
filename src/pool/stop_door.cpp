#include "pool/stop_door.hpp"

#include <algorithm>
#include <string_view>

#include "sys/datagram.hpp"

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
  char* to = text_.data();
  const auto text = [&](std::string_view part) { to = std::copy(part.begin(), part.end(), to); };
  const auto digits = [&](std::uint64_t value, unsigned count) {
    while (count-- > 0) *to++ = "0123456789abcdef"[value >> (4U * count) & 15U];
  };
  text("brood/stop/");
  digits(view.caller().door_id.load(std::memory_order_relaxed), 16);
  text("/");
  digits(worker.slot, 4);
  text(".");
  digits(worker.epoch, 4);
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
