// What values and arrays consist of in shared memory.
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <random>
#include <string_view>
#include <vector>

#include "shm/array_body.hpp"
#include "shm/wide_value.hpp"

namespace brood::shm {
namespace {

constexpr OwnerId kMe{5, 6};
constexpr OwnerId kOther{7, 8};

template <std::size_t size>
struct Body {
  alignas(64) std::array<std::byte, value_body_bytes(size)> bytes{};
  WideValue value{bytes, size};
};

template <std::size_t size>
std::array<std::byte, size> filled(int with) {
  std::array<std::byte, size> result;
  result.fill(static_cast<std::byte>(with));
  return result;
}

template <std::size_t size>
void changes_as_a_whole() {
  Body<size> body;
  std::array<std::byte, size> read;
  const auto first = filled<size>(1);
  body.value.begin(first.data());
  ASSERT_TRUE(body.value.try_read(read.data()));
  EXPECT_EQ(read, first);
  for (int i = 2; i < 6; ++i) {
    const auto next = filled<size>(i);
    ASSERT_TRUE(body.value.try_claim(kMe));
    EXPECT_FALSE(body.value.try_claim(kMe));
    EXPECT_FALSE(body.value.try_claim(kOther));
    EXPECT_FALSE(body.value.publish(next.data(), kOther));
    EXPECT_FALSE(body.value.give_up(kOther));
    body.value.read_claimed(read.data());
    EXPECT_EQ(read, filled<size>(i - 1));
    ASSERT_TRUE(body.value.publish(next.data(), kMe));
    EXPECT_FALSE(body.value.publish(next.data(), kMe));
    ASSERT_TRUE(body.value.try_read(read.data()));
    EXPECT_EQ(read, next);
  }
}

TEST(WideValueTest, ChangesAsAWhole) {
  changes_as_a_whole<3>();
  changes_as_a_whole<9>();
  changes_as_a_whole<16>();
  changes_as_a_whole<1000>();
}

TEST(WideValueTest, OnlyTheDeadLoseTheirClaims) {
  Body<16> body;
  ASSERT_TRUE(body.value.try_claim(kMe));
  WideValue::bury(body.bytes, kOther);
  WideValue::bury(body.bytes, {kMe.slot, static_cast<std::uint16_t>(kMe.epoch + 1)});
  EXPECT_FALSE(body.value.try_claim(kOther));
  WideValue::bury(body.bytes, kMe);
  EXPECT_TRUE(body.value.try_claim(kOther));
}

// Of an atomic value the state stays 0, and its burial touches nothing.
TEST(WideValueTest, AtomicValuesAreNoClaims) {
  alignas(64) std::array<std::byte, value_body_bytes(8)> body{};
  const std::uint64_t looks_like_a_claim = ValueState{true, kMe, 3}.pack();
  std::memcpy(body.data() + kValueWordsOffset, &looks_like_a_claim, 8);
  const auto before = body;
  WideValue::bury(body, kMe);
  EXPECT_EQ(body, before);
  WideValue::bury(std::span(body).first(10), kMe);
}

TEST(WideValueTest, WhateverLiesThereIsBounded) {
  std::mt19937_64 random(1);
  for (int round = 0; round < 1000; ++round) {
    Body<24> body;
    for (std::byte& byte : body.bytes) byte = static_cast<std::byte>(random());
    std::array<std::byte, 24> read;
    static_cast<void>(body.value.try_read(read.data()));
    WideValue::bury(body.bytes, kMe);
    if (!body.value.try_claim(kMe)) {
      EXPECT_TRUE(body.value.unclaim(body.value.state()));
      ASSERT_TRUE(body.value.try_claim(kMe));
    }
    EXPECT_TRUE(body.value.publish(read.data(), kMe));
  }
}

TEST(ArrayBodyTest, ReadsWhatWasWritten) {
  alignas(64) std::array<std::byte, kElementsOffset + 64> body{};
  write_array_body(body, {.count = 8}, {});
  auto shape = read_array_body(body, {8, 8});
  ASSERT_TRUE(shape);
  EXPECT_EQ(shape->count, 8U);
  EXPECT_EQ(shape->backing, ArrayBacking::memory);
  EXPECT_FALSE(read_array_body(body, {9, 1}));
  EXPECT_FALSE(read_array_body(std::span(body).first(kElementsOffset - 1), {8, 8}));

  write_array_body(body,
                   {.count = 1'000'000,
                    .backing = ArrayBacking::file,
                    .writable = true,
                    .offset = 24,
                    .device = 3,
                    .inode = 4},
                   "/some/file");
  shape = read_array_body(body, {8, 8});
  ASSERT_TRUE(shape);
  EXPECT_EQ(shape->count, 1'000'000U);
  EXPECT_TRUE(shape->writable);
  EXPECT_EQ(shape->offset, 24U);
  EXPECT_EQ(shape->device, 3U);
  EXPECT_EQ(shape->inode, 4U);
  EXPECT_EQ(shape->name_bytes, std::string_view("/some/file").size());
  EXPECT_FALSE(read_array_body(body, {16, 16}));
  EXPECT_FALSE(read_array_body(std::span(body).first(kElementsOffset + 9), {8, 8}));
}

}  // namespace
}  // namespace brood::shm
