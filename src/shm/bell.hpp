// A word to sleep on until something changes, that costs who changes it nothing while all are
// awake.
//
//   bit 0       somebody may be asleep
//   bits 1..31  counts rings, so that one between looking and sleeping is not missed
//
// Sleeper:  loop { value = listen(); if (what I wait for has come) break; sleep on value }
// Changer:  change; ring()
//
// Memory ordering: the change comes before ring's look at the bit, and listen's setting of the bit
// before the sleeper's look at what it waits for: one of the two sees the other. For that all four
// are seq_cst operations, the change and the look too: the caller's business.
//
// Threads: any, of any process. Blocking: ring and listen never. Ownership: none. Errors: none; the
// word is input, and wrong values cost a wake-up or a sleep until the sleeper looks up by itself.
// Death: of who rings, or of one that was woken alone: the warden rings for the dead once its death
// is proven; and sleepers look up now and then.
#pragma once

#include <cstdint>

#include "sys/futex.hpp"

namespace brood::shm {

struct Bell {
  sys::FutexWord word;

  // What to sleep on.
  std::uint32_t listen() noexcept { return word.fetch_or(1, std::memory_order_seq_cst) | 1U; }

  void ring() noexcept {
    if ((word.load(std::memory_order_seq_cst) & 1U) == 0) [[likely]]
      return;
    std::uint32_t rung = word.fetch_add(2, std::memory_order_seq_cst) + 2;
    if (sys::futex_wake(&word, 1) > 0) return;
    // Nobody was asleep. But somebody who listened since, which did not change the word, may be
    // now: it would sleep on with the bit gone. Counted, since who has listened and does not sleep
    // yet must not find the word as it was once another has set the bit again.
    if (word.compare_exchange_strong(rung, (rung + 2) & ~1U, std::memory_order_seq_cst)) {
      sys::futex_wake(&word, sys::kWakeAll);
    }
  }

  // All are woken, and say anew that they sleep.
  void ring_for_all() noexcept {
    std::uint32_t bits = word.load(std::memory_order_seq_cst);
    do {
      if ((bits & 1U) == 0) [[likely]]
        return;
    } while (!word.compare_exchange_weak(bits, (bits + 2) & ~1U, std::memory_order_seq_cst));
    sys::futex_wake(&word, sys::kWakeAll);
  }

  // The same in place of somebody who died, perhaps amid ringing: the bit says nothing then.
  void ring_for_the_dead() noexcept {
    word.fetch_add(2, std::memory_order_seq_cst);
    sys::futex_wake(&word, sys::kWakeAll);
  }
};
static_assert(sizeof(Bell) == 4);

}  // namespace brood::shm
