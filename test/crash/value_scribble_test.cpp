// Values and arrays whose memory somebody has filled with random bytes: typed errors at most, no
// crash, and nobody waits for ever.
#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <random>
#include <span>
#include <string>

#include "brood/process.hpp"
#include "brood/shared.hpp"
#include "support/host.hpp"
#include "support/time.hpp"
#include "warden/object_space.hpp"

namespace brood::test {
namespace {

using Wide = std::array<std::uint64_t, 5>;

template <class Handle>
std::span<std::byte> body_of(const Handle& handle) {
  const std::uint64_t name = handle.object_handle().name();
  return warden::ObjectSpace::current()->objects().find({name}).body;
}

void scribble(std::span<std::byte> bytes, std::mt19937_64& random) {
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
}

// Whether it ended with a value or with an error of brood's; anything else leaves.
template <class Action>
void attempt(Action&& action) {
  try {
    action();
  } catch (const Error&) {
    // As it should be: its type says what can be done.
  }
}

// Now and then all of the claim but its owner's place is right: the owner is gone all the same.
void make_claims_likely(std::span<std::byte> body, std::mt19937_64& random) {
  if (random() % 2 == 0) body[64] = static_cast<std::byte>(random() | 1U);
}

TEST(ValueScribbleTest, OverwrittenValuesGoOn) {
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    Value<Wide> wide(Wide{});
    Value<int> small(0);
    scribble(body_of(wide), random);
    make_claims_likely(body_of(wide), random);
    scribble(body_of(small), random);
    attempt([&] { static_cast<void>(wide.get()); });
    attempt([&] { wide.set({1, 2, 3, 4, 5}); });
    attempt([&] { wide.update([](Wide& v) { ++v[0]; }); });
    EXPECT_EQ(wide.get(), (Wide{2, 2, 3, 4, 5}));
    attempt([&] { ++small; });
    attempt([&] { small.update([](int v) { return v / 2; }); });
    small.set(3);
    EXPECT_EQ(small.get(), 3);
  }
}

TEST(ValueScribbleTest, OverwrittenArraysAreArraysOrErrors) {
  prepare_for(StartMethod::forkserver);
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    Array<double> array(100);
    scribble(body_of(array), random);
    // Likely ones, so that what follows is looked at too.
    if (seed % 3 != 0) body_of(array)[72] = static_cast<std::byte>(seed % 3 - 1);
    if (seed % 3 != 0) std::ranges::fill(body_of(array).subspan(73, 3), std::byte{0});
    for (std::size_t i = 0; i < array.size(); ++i) array[i] = 1;
    EXPECT_EQ(array[99], 1);
    EXPECT_EQ(array.size(), 100U);
    // Whoever gets a handle now looks at all of it.
    const auto receive = [](const Array<double>& a) {
      double sum = 0;
      for (const double x : a) sum += x;
      return ExitCode{sum >= 0 ? 0 : 1};
    };
    if (seed % 10 != 0) continue;
    Process process({.start = StartMethod::forkserver, .err = Output::null}, receive, array);
    process.start();
    ASSERT_TRUE(process.join_for(kHangGuard));
    EXPECT_FALSE(process.death() && process.death()->signal != 0) << process.death()->signal;
  }
}

// Their locks are found free, or left by somebody who is gone.
TEST(ValueScribbleTest, OverwrittenLocksHoldNobodyUp) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    Value<int> value(0);
    scribble(body_of(value).first(64), random);
    const RLock lock = value.get_lock();
    attempt([&] {
      ASSERT_TRUE(lock.try_lock_for(kHangGuard));
      lock.unlock();
    });
  }
}

}  // namespace
}  // namespace brood::test
