// Shareable lists as bytes: nobody vouches for them.
#include "shared/list_layout.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "brood/error.hpp"
#include "support/time.hpp"

namespace brood::test {
namespace {

using shared::list_bytes;
using shared::ListValue;
using shared::read_format;
using shared::read_slots;
using shared::read_value;
using shared::write_list;
using shared::write_value;

using Bytes = std::vector<std::byte>;

const std::vector<ListValue> kValues = {std::int64_t{-5},
                                        2.5,
                                        true,
                                        std::string("a text of some length"),
                                        ShareableList::Bytes(11, std::byte{9}),
                                        std::monostate{},
                                        std::string()};

Bytes bytes_of(const std::vector<ListValue>& values) {
  Bytes bytes(list_bytes(values));
  write_list(values, bytes);
  return bytes;
}

// All that can be asked of a list; DecodeError is an answer.
void ask_everything(Bytes& bytes) {
  std::vector<std::size_t> slots;
  try {
    slots = read_slots(bytes);
  } catch (const DecodeError&) {
    return;
  }
  for (std::size_t i = 0; i + 1 < slots.size(); ++i) {
    try {
      const ListValue value = read_value(bytes, slots, i);
      write_value(bytes, slots, i, value);
      static_cast<void>(read_value(bytes, slots, i));
    } catch (const DecodeError&) {
      static_cast<void>(read_format(bytes, slots, i));
    }
    write_value(bytes, slots, i, std::int64_t{1});
    EXPECT_EQ(read_value(bytes, slots, i), ListValue(std::int64_t{1}));
  }
}

TEST(ListLayoutTest, WhatIsWrittenIsRead) {
  const Bytes bytes = bytes_of(kValues);
  const std::vector<std::size_t> slots = read_slots(bytes);
  ASSERT_EQ(slots.size(), kValues.size() + 1);
  for (std::size_t i = 0; i < kValues.size(); ++i) {
    EXPECT_EQ(read_value(bytes, slots, i), kValues[i]) << i;
    EXPECT_EQ((slots[i + 1] - slots[i]) % 8, 0U);
  }
}

TEST(ListLayoutTest, ItIsPythonsToTheByte) {
  const Bytes bytes = bytes_of({std::int64_t{1}, std::string("abc")});
  const std::string expected = std::string("\x02\0\0\0\0\0\0\0", 8) +  // two values
                               std::string("\0\0\0\0\0\0\0\0", 8) +    // where they begin
                               std::string("\x08\0\0\0\0\0\0\0", 8) +  //
                               std::string("\x10\0\0\0\0\0\0\0", 8) +  // and end
                               std::string("\x01\0\0\0\0\0\0\0abc\0\0\0\0\0", 16) +  //
                               std::string("q\0\0\0\0\0\0\0", 8) +
                               std::string("8s\0\0\0\0\0\0", 8) + std::string("\0\x01", 2);
  ASSERT_EQ(bytes.size(), expected.size());
  EXPECT_EQ(std::memcmp(bytes.data(), expected.data(), bytes.size()), 0);
}

TEST(ListLayoutTest, RandomBytesAreTypedErrors) {
  std::mt19937_64 random(seed_of_the_day());
  for (int round = 0; round < 20'000; ++round) {
    Bytes bytes(random() % 400);
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
    // A small number of values is believed more often.
    if (bytes.size() >= 8 && round % 2 == 0) {
      const std::uint64_t count = random() % 8;
      std::memcpy(bytes.data(), &count, sizeof count);
    }
    ask_everything(bytes);
  }
}

TEST(ListLayoutTest, AListWithAnyByteChangedIsTypedErrorsOrAList) {
  const Bytes whole = bytes_of(kValues);
  std::mt19937_64 random(seed_of_the_day());
  for (std::size_t at = 0; at < whole.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      Bytes bytes = whole;
      bytes[at] ^= static_cast<std::byte>(1U << static_cast<unsigned>(bit));
      ask_everything(bytes);
    }
  }
  for (int round = 0; round < 20'000; ++round) {
    Bytes bytes = whole;
    for (std::uint64_t changes = random() % 8; changes > 0; --changes) {
      bytes[random() % bytes.size()] = static_cast<std::byte>(random());
    }
    ask_everything(bytes);
  }
}

TEST(ListLayoutTest, AListThatIsCutOffIsATypedError) {
  const Bytes whole = bytes_of(kValues);
  for (std::size_t length = 0; length < whole.size(); ++length) {
    Bytes bytes(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(length));
    EXPECT_THROW((void)read_slots(bytes), DecodeError) << length;
  }
}

TEST(ListLayoutTest, NumbersThatOverflowAreTypedErrors) {
  for (const std::uint64_t count : {UINT64_MAX, std::uint64_t{1} << 63, std::uint64_t{1} << 61,
                                    UINT64_MAX / 8, UINT64_MAX / 17, std::uint64_t{10}}) {
    Bytes bytes(200);
    std::memcpy(bytes.data(), &count, sizeof count);
    EXPECT_THROW((void)read_slots(bytes), DecodeError) << count;
  }
  for (const std::uint64_t end : {UINT64_MAX, std::uint64_t{1} << 63, std::uint64_t{7}}) {
    Bytes bytes = bytes_of({std::int64_t{1}});
    std::memcpy(bytes.data() + 16, &end, sizeof end);
    EXPECT_THROW((void)read_slots(bytes), DecodeError) << end;
  }
}

TEST(ListLayoutTest, ATextThatIsTooLongForAnyListIsRefused) {
  const std::vector<ListValue> values = {std::string(9'999'992, 'x')};
  EXPECT_THROW((void)list_bytes(values), Error);
  const std::vector<ListValue> longest = {std::string(9'999'991, 'x')};
  const Bytes bytes = bytes_of(longest);
  EXPECT_EQ(read_value(bytes, read_slots(bytes), 0), longest[0]);
}

}  // namespace
}  // namespace brood::test
