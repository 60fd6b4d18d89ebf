// Arrays whose elements are those of a file, or have a name that other programs know.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "support/pools.hpp"

namespace brood::test {
namespace {

class ArrayFileConformance : public StartMethodTest {};

template <class F, class... Args>
int run(F f, const Args&... args) {
  Process process(f, args...);
  process.start();
  process.join();
  return process.exit_code().value_or(-1000);
}

// ---- files

class TemporaryFile {
 public:
  explicit TemporaryFile(std::size_t bytes = 0) {
    std::ofstream(path_, std::ios::binary).close();
    std::filesystem::resize_file(path_, bytes);
  }
  ~TemporaryFile() { std::filesystem::remove(path_); }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_ =
      std::filesystem::temp_directory_path() /
      ("brood_array_" + std::to_string(getpid()) + "_" + std::to_string(std::random_device{}()));
};

TEST_P(ArrayFileConformance, OfAFileIsReadInPlace) {
  const TemporaryFile file;
  {
    std::ofstream out(file.path(), std::ios::binary);
    for (int i = 0; i < 10'000; ++i) out.write(reinterpret_cast<const char*>(&i), sizeof i);
  }
  const auto all = Array<int>::map_file(file.path());
  EXPECT_EQ(all.size(), 10'000U);
  EXPECT_FALSE(all.writable());
  const auto part = Array<const int>::map_file(file.path(), {.offset = 400, .count = 50});
  EXPECT_EQ(part.size(), 50U);
  EXPECT_EQ(part[0], 100);
  const auto sum = [](Array<int> a, std::span<const int> p) {
    const int expected = std::accumulate(p.begin(), p.end(), 0);
    return ExitCode{a[9'999] == 9'999 && expected == 6225 ? 0 : 1};
  };
  EXPECT_EQ(run(sum, all, part), 0);
  Pool pool({.workers = 1, .start = GetParam()});
  const auto at = [](std::span<const int> a, std::size_t i) { return a[i]; };
  EXPECT_EQ(pool.submit(at, all.slice(5000, 10), 3).get(), 5003);
  // Nobody is given a span to write to what can't be written to.
  const auto write = [](std::span<int> a) { a[0] = 1; };
  EXPECT_THROW(static_cast<void>(pool.submit(write, all)), Error);
}

TEST_P(ArrayFileConformance, OfAFileIsWrittenInPlace) {
  const TemporaryFile file(4096 * sizeof(double));
  auto array = Array<double>::map_file(file.path(), {.offset = 8, .writable = true});
  EXPECT_EQ(array.size(), 4095U);
  const auto fill = [](std::span<double> a) { std::ranges::fill(a, 2.5); };
  EXPECT_EQ(run(fill, array), 0);
  EXPECT_EQ(array[4094], 2.5);
  std::ifstream in(file.path(), std::ios::binary);
  std::array<double, 2> values{};
  in.read(reinterpret_cast<char*>(values.data()), sizeof values);
  EXPECT_EQ(values[0], 0);
  EXPECT_EQ(values[1], 2.5);
}

// Of the size of nobody's memory.
TEST_P(ArrayFileConformance, OfAFileMayBeLargerThanMemory) {
  constexpr std::size_t kBytes = std::size_t{1} << 40;
  const TemporaryFile file;
  std::error_code refused;
  std::filesystem::resize_file(file.path(), kBytes, refused);
  if (refused) GTEST_SKIP() << "the file system has no such large files";
  auto array = Array<std::uint64_t>::map_file(file.path(), {.writable = true});
  const auto mark = [](std::span<std::uint64_t> a) { a.back() = 77; };
  EXPECT_EQ(run(mark, array), 0);
  EXPECT_EQ(array[kBytes / 8 - 1], 77U);
}

TEST(ArrayFileTest, WhatCantBeMappedIsAnError) {
  const TemporaryFile file(100);
  EXPECT_THROW(Array<int>::map_file(file.path(), {.count = 26}), Error);
  EXPECT_THROW(Array<int>::map_file(file.path(), {.offset = 101}), Error);
  EXPECT_THROW(Array<int>::map_file(file.path(), {.offset = 2}), Error);
  EXPECT_THROW(Array<int>::map_file(file.path().string() + "_none"), SystemError);
  EXPECT_THROW(Array<int>::map_file("/dev/null"), Error);
  EXPECT_EQ(Array<int>::map_file(file.path(), {.offset = 100}).size(), 0U);
}

// What is sent is the file that was mapped, not what is called so by then.
TEST_P(ArrayFileConformance, OfAnotherFileOfThatNameIsRefused) {
  const TemporaryFile file(64);
  const auto array = Array<int>::map_file(file.path());
  Pool pool({.workers = 1, .start = GetParam()});
  const auto size = [](Array<int> a) { return a.size(); };
  EXPECT_EQ(pool.submit(size, array).get(), 16U);
  const auto other = file.path().string() + "_moved";
  std::filesystem::rename(file.path(), other);
  EXPECT_THROW(pool.submit(size, array).get(), StaleHandle);
  std::ofstream(file.path(), std::ios::binary) << std::string(64, 'x');
  EXPECT_THROW(pool.submit(size, array).get(), StaleHandle);
  std::filesystem::remove(other);
  EXPECT_EQ(array[15], 0);  // here it is mapped still
}

// ---- names

// A program of Python's that reads the memory of that name, as doubles, and then writes to it.
std::string python_sum(const std::string& name) {
  const std::string command =
      "python3 -c \"from multiprocessing import shared_memory, resource_tracker\n"
      "resource_tracker.register = lambda *a: None\n"
      "m = shared_memory.SharedMemory('" +
      name +
      "')\nd = m.buf.cast('d')\nprint(len(d), sum(d))\nd[0] = 99.0\n"
      "d.release()\nm.close()\"";
  FILE* const pipe = popen(command.c_str(), "r");
  std::string text;
  for (int c = fgetc(pipe); c != EOF; c = fgetc(pipe)) text += static_cast<char>(c);
  pclose(pipe);
  return text;
}

TEST_P(ArrayFileConformance, WithANameArePythonsToo) {
  const std::string name = "brood_array_" + std::to_string(getpid());
  auto array = Array<double>::create_named(name, 512);
  const auto fill = [](std::span<double> a) { std::ranges::fill(a, 0.5); };
  EXPECT_EQ(run(fill, array), 0);
  EXPECT_EQ(python_sum(name), "512 256.0\n");
  EXPECT_EQ(array[0], 99);
  auto [memory, same] = array.export_as(name);
  EXPECT_TRUE(same);
  memory.unlink();
  EXPECT_EQ(array[1], 0.5);  // here it goes on
}

TEST(ArrayNameTest, OthersAreExportedAsCopies) {
  const std::string name = "brood_array_" + std::to_string(getpid());
  Array<double> array(std::views::iota(0, 512));
  auto [memory, same] = array.export_as(name);
  EXPECT_FALSE(same);
  EXPECT_EQ(python_sum(name), "512 130816.0\n");
  EXPECT_EQ(array[0], 0);
  EXPECT_THROW(static_cast<void>(array.export_as(name)), SystemError);
  memory.unlink();
}

BROOD_FOR_EACH_START_METHOD(ArrayFileConformance);

}  // namespace
}  // namespace brood::test
