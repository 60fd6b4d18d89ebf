// What a load may return: an operational form of C++20's memory model.
//
// Each word has a history: its stores in modification order, which here is the order in which they
// were executed. A load may return any of them that coherence and happens-before do not rule out,
// so an old value may be read as long as nothing makes the reader know better. Knowledge is kept in
// vector clocks, as in Relacy (D. Vyukov) and CDSChecker (Norris and Demsky, OOPSLA 2013).
//
// Not modelled: stores that come into modification order against the order of execution, and loads
// that read from the future (load buffering). No compiler-made weakness either: consume is acquire.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "schedule/atomic.hpp"

namespace brood::schedule {

inline constexpr int kMaxActors = 6;  // 0 is the test itself, which sets up and checks

// How much of each actor's past is known.
struct Clock {
  std::array<std::uint32_t, kMaxActors> at{};
  std::uint32_t fence = 0;  // the latest sequentially consistent fence that is known

  void join(const Clock& other) noexcept {
    for (int i = 0; i < kMaxActors; ++i) at[i] = std::max(at[i], other.at[i]);
    fence = std::max(fence, other.fence);
  }
  [[nodiscard]] bool knows(int actor, std::uint32_t moment) const noexcept {
    return moment <= at[static_cast<std::size_t>(actor)];
  }
};

// What one actor knows.
struct Knowledge {
  Clock happened;   // happens-before
  Clock visible;    // what its loads must respect: happened, and more after a seq_cst fence
  Clock to_join;    // from relaxed loads, for the next acquire fence
  Clock published;  // as of its last release fence
};

struct Store {
  std::uint64_t bits = 0;
  int actor = 0;
  bool releases = false;
  std::uint32_t sc = 0;  // its place among the seq_cst operations; 0: it is none
  Clock release;         // what an acquire load of it learns
  std::array<std::uint32_t, kMaxActors> seen{};  // when each actor first knew it; 0: never
};

struct Word {
  const void* address = nullptr;
  std::vector<Store> stores;
  std::array<std::uint8_t, kMaxActors> old_reads{};  // in a row, by actor
};

// All words of one execution.
class Memory {
 public:
  Memory();

  // Forgets everything.
  void clear() noexcept;
  Word& word(const void* address, std::size_t bytes);
  // Calls f(word) for each known word in a range of addresses.
  template <class F>
  void for_each_in(const std::byte* begin, const std::byte* end, F&& f) {
    for (std::size_t i = 0; i < used_; ++i) {
      const auto* at = static_cast<const std::byte*>(words_[i].address);
      if (at >= begin && at < end) f(words_[i]);
    }
  }

  Knowledge& of(int actor) noexcept { return knowledge_[static_cast<std::size_t>(actor)]; }
  // The actor's next moment.
  std::uint32_t tick(int actor) noexcept;

  // How many of the newest stores the actor may read with this order; at least 1.
  [[nodiscard]] std::size_t readable(const Word& word, int actor, Order order) noexcept;
  // Reads the store that is `back` before the newest.
  std::uint64_t read(Word& word, std::size_t back, int actor, Order order) noexcept;
  // `replaced`: the store that a read-modify-write has read, or null.
  void write(Word& word, std::size_t bytes, std::uint64_t bits, int actor, Order order,
             bool replaces) noexcept;
  void fence(int actor, Order order) noexcept;

 private:
  static constexpr std::size_t kSlots = 1 << 14;
  struct Slot {
    const void* address = nullptr;
    std::uint32_t index = 0;
    std::uint32_t epoch = 0;
  };
  std::vector<Slot> slots_;
  std::uint32_t epoch_ = 1;
  std::vector<Word> words_;
  std::size_t used_ = 0;
  std::array<Knowledge, kMaxActors> knowledge_;
  Clock before_fences_;          // what happened before any seq_cst fence so far
  std::uint32_t sc_moment_ = 0;  // of the last seq_cst operation
};

inline bool acquires(Order order) noexcept {
  return order == Order::acquire || order == Order::acq_rel || order == Order::seq_cst ||
         order == Order::consume;
}
inline bool releases(Order order) noexcept {
  return order == Order::release || order == Order::acq_rel || order == Order::seq_cst;
}

}  // namespace brood::schedule
