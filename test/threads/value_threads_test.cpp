// A wide value orders what its changers do one after the other, and is whole for who reads it.
#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <thread>

#include "shm/wide_value.hpp"
#include "threads/participants.hpp"

namespace brood::shm {
namespace {

using Words = std::array<std::uint64_t, 5>;

struct SharedValue {
  alignas(64) std::array<std::byte, value_body_bytes(sizeof(Words))> body{};
  std::uint64_t notes = 0;  // of whoever has the claim: plain
  [[nodiscard]] WideValue view() { return {body, sizeof(Words)}; }
};

std::byte* bytes_of(Words& words) { return reinterpret_cast<std::byte*>(words.data()); }

TEST(ValueThreadsTest, ChangesFollowOneAnotherAndReadersSeeThemWhole) {
  constexpr std::uint64_t kChanges = 20'000;
  SharedValue shared;
  test::run_together(3, [&](unsigned i) {
    WideValue value = shared.view();
    const OwnerId me{static_cast<std::uint16_t>(i + 2), 1};
    std::uint64_t last = 0;
    for (std::uint64_t n = 0; n < kChanges; ++n) {
      Words words;
      while (!value.try_claim(me)) std::this_thread::yield();
      ++shared.notes;
      value.read_claimed(bytes_of(words));
      for (std::uint64_t& word : words) ++word;
      EXPECT_EQ(words[0], shared.notes);
      if (n % 16 == 0) {
        --shared.notes;
        EXPECT_TRUE(value.give_up(me));
      } else {
        EXPECT_TRUE(value.publish(bytes_of(words), me));
      }
      while (!value.try_read(bytes_of(words))) std::this_thread::yield();
      for (const std::uint64_t word : words) EXPECT_EQ(word, words[0]);
      EXPECT_GE(words[0], last);
      last = words[0];
    }
  });
  EXPECT_EQ(shared.notes, 3 * (kChanges - kChanges / 16));
}

}  // namespace
}  // namespace brood::shm
