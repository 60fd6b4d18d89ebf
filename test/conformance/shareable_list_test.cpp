// Lists in named memory (CPython: the ShareableList tests of _TestSharedMemory).
#include "brood/shareable_list.hpp"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "brood/codec.hpp"
#include "brood/process.hpp"
#include "support/host.hpp"
#include "support/named_memory.hpp"
#include "support/pools.hpp"

namespace brood::test {
namespace {

using Value = ShareableList::Value;
using Bytes = ShareableList::Bytes;

Bytes bytes_of(std::string_view text) {
  Bytes bytes(text.size());
  std::memcpy(bytes.data(), text.data(), text.size());
  return bytes;
}

// Those of CPython's test.
ShareableList make_things(std::string_view name = {}) {
  return ShareableList::create(
      {"howdy", bytes_of("HoWdY"), -273.154, 100, std::monostate{}, true, 42}, name);
}

class ListTest : public testing::Test {
 protected:
  ListTest() : list_(make_things()) {}
  ~ListTest() override { list_.memory().unlink(); }
  ListTest(const ListTest&) = delete;
  ListTest& operator=(const ListTest&) = delete;

  ShareableList list_;
};

TEST_F(ListTest, ItHoldsWhatWasPutThere) {
  EXPECT_EQ(list_.size(), 7U);
  EXPECT_EQ(list_[0], Value("howdy"));
  EXPECT_EQ(list_[1], Value(bytes_of("HoWdY")));
  EXPECT_EQ(list_.get<double>(2), -273.154);
  EXPECT_EQ(list_.get<std::int64_t>(3), 100);
  EXPECT_EQ(list_[4], Value(std::monostate{}));
  EXPECT_TRUE(list_.get<bool>(5));
  EXPECT_EQ(list_.values().back(), Value(42));
  EXPECT_EQ(list_.format(), "8s8sdqxxxxxx?xxxxxxxx?q");
  EXPECT_EQ(list_.format(2), "d");
}

TEST_F(ListTest, AnotherHandleReadsAndWritesTheSame) {
  ShareableList other = ShareableList::attach(list_.memory().name());
  EXPECT_EQ(other.values(), list_.values());
  other.set(3, 7);
  EXPECT_EQ(list_.get<std::int64_t>(3), 7);
}

TEST_F(ListTest, TheTypeOfASlotMayChange) {
  list_.set(3, 1.5);
  EXPECT_EQ(list_.get<double>(3), 1.5);
  EXPECT_EQ(list_.format(3), "d");
  list_.set(3, "8 bytes.");
  EXPECT_EQ(list_.get<std::string>(3), "8 bytes.");
  EXPECT_EQ(list_.format(3), "8s");
  list_.set(3, bytes_of("\x01"));
  EXPECT_EQ(list_.get<Bytes>(3), bytes_of("\x01"));
  list_.set(3, false);
  EXPECT_FALSE(list_.get<bool>(3));
  list_.set(3, std::monostate{});
  EXPECT_EQ(list_[3], Value());
  list_.set(0, std::numeric_limits<std::int64_t>::min());
  EXPECT_EQ(list_.get<std::int64_t>(0), std::numeric_limits<std::int64_t>::min());
  list_.set(2, std::nan(""));
  EXPECT_TRUE(std::isnan(list_.get<double>(2)));
  EXPECT_EQ(list_[1], Value(bytes_of("HoWdY"))) << "the others stay";
}

TEST_F(ListTest, WhatDoesNotFitIsRefusedAndChangesNothing) {
  thrown_by<Error>([&] { list_.set(0, "far too long"); });
  thrown_by<Error>([&] { list_.set(3, "nine byte"); });
  thrown_by<Error>([&] { list_.set(3, Bytes(9)); });
  EXPECT_EQ(list_.get<std::string>(0), "howdy");
  EXPECT_EQ(list_.get<std::int64_t>(3), 100);
  list_.set(0, "8 bytes.");
  EXPECT_EQ(list_.get<std::string>(0), "8 bytes.");
}

TEST_F(ListTest, ASlotThatIsNotThereIsATypedError) {
  thrown_by<Error>([&] { static_cast<void>(list_[7]); });
  thrown_by<Error>([&] { list_.set(7, 1); });
  thrown_by<Error>([&] { static_cast<void>(list_.format(SIZE_MAX)); });
}

TEST_F(ListTest, AnotherTypeThanAskedForIsATypeMismatch) {
  thrown_by<TypeMismatch>([&] { static_cast<void>(list_.get<std::int64_t>(0)); });
  thrown_by<TypeMismatch>([&] { static_cast<void>(list_.get<bool>(3)); });
}

TEST_F(ListTest, CountAndIndexCompareValues) {
  EXPECT_EQ(list_.count(42), 1U);
  EXPECT_EQ(list_.count("b'HoWdY'"), 0U);
  EXPECT_EQ(list_.count(bytes_of("HoWdY")), 1U);
  EXPECT_EQ(list_.index(100), 3U);
  EXPECT_EQ(list_.index(std::monostate{}), 4U);
  EXPECT_EQ(list_.index("nowhere"), std::nullopt);
  list_.set(6, 100);
  EXPECT_EQ(list_.count(100), 2U);
  EXPECT_EQ(list_.index(100), 3U);
}

TEST_F(ListTest, AClosedListIsATypedError) {
  ShareableList copy = list_;
  copy.memory().close();
  thrown_by<Closed>([&] { static_cast<void>(copy[0]); });
  thrown_by<Closed>([&] { copy.set(0, 1); });
  EXPECT_EQ(copy.size(), 7U);
}

TEST_F(ListTest, WhatOthersOverwriteIsATypedError) {
  for (std::byte& byte : list_.memory().span()) byte = std::byte{0xff};
  for (std::size_t i = 0; i < list_.size(); ++i) {
    thrown_by<DecodeError>([&] { static_cast<void>(list_[i]); });
  }
  thrown_by<DecodeError>([&] { ShareableList::attach(list_.memory().name()); });
  list_.set(3, 5);
  EXPECT_EQ(list_.get<std::int64_t>(3), 5);
}

TEST(ShareableListTest, EmptyListsAndEmptyTextsWork) {
  const std::vector<Value> nothing;
  ShareableList empty = ShareableList::create(nothing);
  EXPECT_EQ(empty.size(), 0U);
  EXPECT_EQ(empty.format(), "");
  EXPECT_EQ(ShareableList::attach(empty.memory().name()).size(), 0U);
  empty.memory().unlink();
  ShareableList texts = ShareableList::create({"", Bytes(), "12345678"});
  EXPECT_EQ(texts.get<std::string>(0), "");
  EXPECT_EQ(texts.get<Bytes>(1), Bytes());
  EXPECT_EQ(texts.format(2), "16s");
  texts.memory().unlink();
}

TEST(ShareableListTest, ItsNameMayBeChosenAndClashes) {
  ShareableList list = make_things(unique_name());
  EXPECT_EQ(error_number_of([&] { make_things(list.memory().name()); }), EEXIST);
  list.memory().unlink();
  EXPECT_EQ(error_number_of([&] { ShareableList::attach(list.memory().name()); }), ENOENT);
}

TEST(ShareableListTest, MemoryThatHoldsNoListIsATypedError) {
  SharedMemory tiny = SharedMemory::create("", 15);
  thrown_by<DecodeError>([&] { ShareableList{tiny}; });
  tiny.unlink();
}

TEST(ShareableListTest, ItsEncodingIsItsName) {
  ShareableList list = make_things();
  const std::vector<std::byte> bytes = encode(list);
  EXPECT_EQ(decode<ShareableList>(bytes).values(), list.values());
  list.memory().unlink();
  thrown_by<StaleHandle>([&] { static_cast<void>(decode<ShareableList>(bytes)); });
}

// ---- several processes

class ShareableListProcessTest : public StartMethodTest {};
BROOD_FOR_EACH_START_METHOD(ShareableListProcessTest);

ExitCode change(ShareableList list) {  // NOLINT(performance-unnecessary-value-param)
  list.set(0, "changed");
  list.set(3, list.get<std::int64_t>(3) + 1);
  return {static_cast<int>(list.size())};
}

TEST_P(ShareableListProcessTest, ProcessesShareIt) {
  ShareableList list = make_things();
  Process p({.start = GetParam()}, change, list);
  p.start();
  p.join();
  EXPECT_EQ(p.exit_code(), 7);
  EXPECT_EQ(list.get<std::string>(0), "changed");
  EXPECT_EQ(list.get<std::int64_t>(3), 101);
  list.memory().unlink();
}

// ---- Python

TEST(ShareableListPythonTest, PythonReadsAndWritesAListThatIsMadeHere) {
  ShareableList list = make_things(unique_name());
  const PythonRun run = run_python(R"(
from multiprocessing import shared_memory, resource_tracker
import sys
l = shared_memory.ShareableList(name=sys.argv[1])
resource_tracker.unregister(l.shm._name, 'shared_memory')
print(list(l), l.format)
l[0] = 'Grüß'
l[1] = b'\x00\x01'
l[2] = 7
l[3] = 2.5
l[4] = False
l[5] = None
l[6] = 'text'
l.shm.close()
)",
                                   {list.memory().name()});
  EXPECT_EQ(run.out,
            "['howdy', b'HoWdY', -273.154, 100, None, True, 42] 8s8sdqxxxxxx?xxxxxxxx?q\n");
  EXPECT_EQ(run.status, 0);
  const std::vector<Value> expected = {"Gr\xc3\xbc\xc3\x9f",
                                       bytes_of(std::string_view("\0\1", 2)),
                                       7,
                                       2.5,
                                       false,
                                       std::monostate{},
                                       "text"};
  EXPECT_EQ(list.values(), expected);
  list.memory().unlink();
}

TEST(ShareableListPythonTest, AListThatPythonMakesIsReadAndWrittenHere) {
  const std::string name = unique_name();
  const PythonRun made = run_python(R"(
from multiprocessing import shared_memory, resource_tracker
import sys
l = shared_memory.ShareableList(['a', b'bytes', 1, -2.5, True, None, 'x' * 100], name=sys.argv[1])
resource_tracker.unregister(l.shm._name, 'shared_memory')
)",
                                    {name});
  ASSERT_EQ(made.status, 0);
  ShareableList list = ShareableList::attach(name);
  const std::vector<Value> expected = {
      "a", bytes_of("bytes"), 1, -2.5, true, std::monostate{}, std::string(100, 'x')};
  EXPECT_EQ(list.values(), expected);
  list.set(0, std::int64_t{-7});
  list.set(1, "text");
  list.set(2, false);
  list.set(3, std::monostate{});
  list.set(4, bytes_of("\x01\x02"));
  list.set(5, 1e300);
  list.set(6, std::string(104, 'y'));
  const PythonRun read = run_python(R"(
from multiprocessing import shared_memory, resource_tracker
import sys
l = shared_memory.ShareableList(name=sys.argv[1])
resource_tracker.unregister(l.shm._name, 'shared_memory')
print(list(l)[:6], l[6] == 'y' * 104, l.count(-7), l.index('text'))
)",
                                    {name});
  EXPECT_EQ(read.out, "[-7, 'text', False, None, b'\\x01\\x02', 1e+300] True 1 1\n");
  list.memory().unlink();
}

}  // namespace
}  // namespace brood::test
