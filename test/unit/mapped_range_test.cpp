// Parts of files, mapped.
#include "brood/detail/mapped_range.hpp"

#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <utility>

#include "brood/error.hpp"
#include "support/ledger.hpp"
#include "support/named_memory.hpp"

namespace brood::test {
namespace {

using detail::map_file_range;
using detail::MappedRange;

class MappedRangeTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string text;
    for (int i = 0; i < 3000; ++i) text += "line " + std::to_string(1000 + i) + "\n";
    std::ofstream(path_) << text;
    text_ = text;
  }
  static std::string_view text_of(const MappedRange& range) {
    return {reinterpret_cast<const char*>(range.data()), range.size()};
  }

  TempFolder folder_;
  std::string path_ = folder_.path("lines");
  std::string text_;
};

TEST_F(MappedRangeTest, AnyPartOfAFileIsReadWhereItLies) {
  for (const std::size_t offset : {0U, 1U, 10U, 4095U, 4096U, 4097U, 20000U}) {
    for (const std::size_t bytes : {1U, 10U, 4096U, 9999U}) {
      const MappedRange range = map_file_range(path_, offset, bytes, false);
      EXPECT_EQ(text_of(range), std::string_view(text_).substr(offset, bytes));
      EXPECT_FALSE(range.writable());
      EXPECT_TRUE(range.writable_bytes().empty());
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(range.data()) % 4096, offset % 4096);
    }
  }
  EXPECT_EQ(text_of(map_file_range(path_, 0, text_.size(), false)), text_);
  EXPECT_EQ(text_of(map_file_range(path_, text_.size() - 1, 1, false)), "\n");
}

TEST_F(MappedRangeTest, WhatIsWrittenIsInTheFileAndInOtherMappings) {
  const MappedRange reader = map_file_range(path_, 4090, 20, false);
  MappedRange writer = map_file_range(path_, 4095, 10, true);
  EXPECT_TRUE(writer.writable());
  std::memcpy(writer.writable_bytes().data(), "0123456789", 10);
  EXPECT_EQ(text_of(reader).substr(5, 10), "0123456789");
  std::string read(10, '\0');
  std::ifstream file(path_);
  file.seekg(4095);
  file.read(read.data(), 10);
  EXPECT_EQ(read, "0123456789");
}

TEST_F(MappedRangeTest, NothingIsMappedOfNoBytes) {
  EXPECT_EQ(map_file_range(path_, 5, 0, true).size(), 0U);
  EXPECT_EQ(map_file_range(path_, text_.size(), 0, false).size(), 0U);
  EXPECT_EQ(MappedRange().size(), 0U);
}

TEST_F(MappedRangeTest, WhatTheFileDoesNotHaveIsATypedError) {
  EXPECT_THROW((void)map_file_range(path_, 0, text_.size() + 1, false), Error);
  EXPECT_THROW((void)map_file_range(path_, text_.size(), 1, false), Error);
  EXPECT_THROW((void)map_file_range(path_, 1, SIZE_MAX, false), Error);
  EXPECT_THROW((void)map_file_range(path_, UINT64_MAX, 1, false), Error);
}

TEST_F(MappedRangeTest, WhatCannotBeOpenedIsATypedError) {
  const auto map = [](const std::string& path, bool writable) {
    return error_number_of([&] { static_cast<void>(map_file_range(path, 0, 1, writable)); });
  };
  EXPECT_EQ(map(folder_.path("missing"), false), ENOENT);
  EXPECT_EQ(map(folder_.path(""), true), EISDIR);
  EXPECT_THROW((void)map_file_range(folder_.path(""), 0, 1, false), Error);
  EXPECT_THROW((void)map_file_range("/dev/zero", 0, 1, false), Error);
}

TEST_F(MappedRangeTest, ItMovesAndIsUnmappedOnce) {
  MappedRange first = map_file_range(path_, 10, 10, false);
  const std::byte* where = first.data();
  MappedRange second = std::move(first);
  EXPECT_EQ(first.size(), 0U);  // NOLINT(bugprone-use-after-move)
  EXPECT_EQ(second.data(), where);
  second = map_file_range(path_, 20, 10, false);
  EXPECT_EQ(text_of(second), std::string_view(text_).substr(20, 10));
}

}  // namespace
}  // namespace brood::test
