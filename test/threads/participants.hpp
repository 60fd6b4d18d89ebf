// Participants of a shared protocol as threads of one program, each with views of its own: so that
// ThreadSanitizer, which is blind between processes, judges the memory orders.
//
// What they hand to one another is plain memory, on purpose. Where a test itself has to pass
// something on, it does so with relaxed atomics: the protocol alone is to order what was written.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <span>
#include <thread>
#include <vector>

#include "support/time.hpp"
#include "sys/clock.hpp"

namespace brood::test {

// Runs body(0) ... body(count - 1) at once, each in a thread, and waits for all of them.
template <class Body>
void run_together(unsigned count, Body&& body) {
  std::atomic<unsigned> ready{0};
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < count; ++i) {
    threads.emplace_back([&, i] {
      ready.fetch_add(1, std::memory_order_relaxed);
      while (ready.load(std::memory_order_relaxed) < count) sys::yield();
      body(i);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// When a sleeper that nobody wakes gives up.
inline std::int64_t hang_guard_ns() { return sys::now_ns() + kHangGuard.count(); }

// Writes, and recognises, bytes that depend on `seed`: a word in every cache line and the last one.
// At least 8 bytes.
class Pattern {
 public:
  explicit Pattern(std::uint64_t seed) : seed_(seed) {}

  void write(std::span<std::byte> bytes) const {
    visit(bytes.size(), [&](std::size_t at) {
      const std::uint64_t word = word_at(at);
      std::memcpy(bytes.data() + at, &word, sizeof word);
      return true;
    });
  }
  [[nodiscard]] bool is_in(std::span<const std::byte> bytes) const {
    if (bytes.size() < sizeof(std::uint64_t)) return false;
    return visit(bytes.size(), [&](std::size_t at) {
      std::uint64_t word = 0;
      std::memcpy(&word, bytes.data() + at, sizeof word);
      return word == word_at(at);
    });
  }

 private:
  [[nodiscard]] std::uint64_t word_at(std::size_t at) const {
    return (seed_ + at) * 0x9e3779b97f4a7c15U;
  }
  template <class Visit>
  static bool visit(std::size_t size, Visit&& visit_word) {
    const std::size_t last = (size - sizeof(std::uint64_t)) / 8 * 8;
    for (std::size_t at = 0; at < last; at += 64) {
      if (!visit_word(at)) return false;
    }
    return visit_word(last);
  }

  std::uint64_t seed_;
};

}  // namespace brood::test
