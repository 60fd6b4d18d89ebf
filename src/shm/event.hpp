// What is done to an event's word (sync_layout.hpp), without waiting.
//
// Threads: any, of any process. Blocking: never. Ownership: none. Errors: none; any word is an
// event that is set or not. Death: each operation is one change of one word.
//
// Memory ordering: what happened before set() is known to who sees it; seq_cst for the sake of
// bells.
#pragma once

#include <cstdint>

#include "shm/sync_layout.hpp"

namespace brood::shm {

[[nodiscard]] inline bool is_set(const EventBody& event) noexcept {
  return (event.word.load(std::memory_order_seq_cst) & 1U) != 0;
}

// False: it was set already.
inline bool set(EventBody& event) noexcept {
  std::uint64_t bits = event.word.load(std::memory_order_seq_cst);
  while ((bits & 1U) == 0) {
    if (event.word.compare_exchange_weak(bits, (bits + 2) | 1U, std::memory_order_seq_cst)) {
      return true;
    }
  }
  return false;
}

inline void clear(EventBody& event) noexcept {
  event.word.fetch_and(~std::uint64_t{1}, std::memory_order_seq_cst);
}

// Whether it is set or has been since it was `seen`, though it may have been cleared again.
[[nodiscard]] inline bool was_set_since(const EventBody& event, std::uint64_t seen) noexcept {
  const std::uint64_t now = event.word.load(std::memory_order_seq_cst);
  return (now & 1U) != 0 || now >> 1U != seen >> 1U;
}

}  // namespace brood::shm
