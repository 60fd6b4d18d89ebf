#include "pool/protocol/completions.hpp"

#include "sys/datagram.hpp"
#include "sys/hexadecimal.hpp"

namespace brood::pool {

DoorName::DoorName(std::uint64_t id, std::uint32_t index, std::uint32_t generation) noexcept
    : text_{} {
  sys::TextWriter(text_.data())
      .text("brood/door/")
      .hexadecimal(id, 16)
      .text("/task/")
      .hexadecimal(index, 8)
      .text(".")
      .hexadecimal(generation, 8);
}

namespace {

sys::Atomic<std::uint64_t>& door_word(const PoolView& view, std::uint32_t index) noexcept {
  return view.doors()[index / 64];
}

std::uint64_t door_bit(std::uint32_t index) noexcept { return std::uint64_t{1} << (index % 64); }

std::uint64_t door_id(const PoolView& view) noexcept {
  return view.caller().door_id.load(std::memory_order_seq_cst);
}

}  // namespace

bool has_door(const PoolView& view, std::uint32_t index) noexcept {
  return (door_word(view, index).load(std::memory_order_seq_cst) & door_bit(index)) != 0;
}

void set_door(const PoolView& view, std::uint32_t index, bool has) noexcept {
  sys::Atomic<std::uint32_t>& count = view.caller().doors;
  if (has) {
    count.fetch_add(1, std::memory_order_seq_cst);
    door_word(view, index).fetch_or(door_bit(index), std::memory_order_seq_cst);
  } else {
    door_word(view, index).fetch_and(~door_bit(index), std::memory_order_seq_cst);
    count.fetch_sub(1, std::memory_order_seq_cst);
  }
}

void tell_watchers(const PoolView& view, std::uint32_t index, std::uint32_t generation) noexcept {
  shm::CompletionHeader& completions = view.shared().completions;
  const std::uint64_t position = completions.tail.fetch_add(1, std::memory_order_seq_cst);
  constexpr std::uint64_t kMask = (std::uint64_t{1} << shm::kCompletionRingLog) - 1;
  const shm::RingEntry entry{index, generation,
                             shm::RingEntry::lap_of(position, shm::kCompletionRingLog)};
  view.completion_cells()[position & kMask].store(entry.pack(), std::memory_order_seq_cst);
  completions.bell.ring_for_all();
  if (completions.armed.load(std::memory_order_seq_cst) != 0 &&
      completions.armed.exchange(0, std::memory_order_seq_cst) != 0) {
    sys::knock(DoorName(door_id(view)).text());
  }
  if (has_door(view, index)) sys::knock(DoorName(door_id(view), index, generation).text());
}

void tell_watchers_to_look(const PoolView& view, bool over) noexcept {
  view.supervisor().lost_completions.fetch_add(1, std::memory_order_seq_cst);
  shm::CompletionHeader& completions = view.shared().completions;
  completions.bell.ring_for_the_dead();
  const std::uint64_t id = door_id(view);
  if (id == 0) return;
  // Whether it is armed may have been overwritten.
  sys::knock(DoorName(id).text());
  if (view.caller().doors.load(std::memory_order_seq_cst) == 0) return;
  const std::uint32_t records = view.records();
  for (std::uint32_t index = 0; index < records; ++index) {
    if (index % 64 == 0 && door_word(view, index).load(std::memory_order_seq_cst) == 0) {
      index += 63;
      continue;
    }
    if (!has_door(view, index)) continue;
    const auto word = shm::TaskWord::unpack(view.state(index).word.load(std::memory_order_seq_cst));
    const std::uint32_t generation = view.request(index).generation.load(std::memory_order_relaxed);
    if (over || has_outcome(word)) {
      sys::knock(DoorName(id, index, generation).text());
    }
  }
}

}  // namespace brood::pool
