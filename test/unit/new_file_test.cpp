// Files that appear whole or not at all.
#include "sys/new_file.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <string>

#include "sys/syscall.hpp"

namespace brood::sys {
namespace {

namespace fs = std::filesystem;

class NewFileTest : public testing::TestWithParam<bool> {
 protected:
  NewFileTest()
      : directory_(fs::temp_directory_path() / ("brood-new-file-" + std::to_string(getpid()))) {
    fs::create_directory(directory_);
    if (GetParam()) before_ = replace_kernel(without_unnamed_files);
  }
  ~NewFileTest() override {
    if (before_ != nullptr) replace_kernel(before_);
    fs::remove_all(directory_);
  }

  [[nodiscard]] std::string in(const char* name) const { return directory_ / name; }
  [[nodiscard]] long files() const {
    return std::distance(fs::directory_iterator(directory_), fs::directory_iterator());
  }
  static std::string text_of(const std::string& path) {
    std::ifstream file(path);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  static std::span<const std::byte> bytes(const std::string& text) {
    return std::as_bytes(std::span(text));
  }

  fs::path directory_;

 private:
  static long without_unnamed_files(long nr, long a, long b, long c, long d, long e,
                                    long f) noexcept {
    if (nr == SYS_openat && (c & O_TMPFILE) == O_TMPFILE) return -EOPNOTSUPP;
    // Nor can such a file system tell whether a name is taken.
    if (nr == SYS_renameat2 && e != 0) return -EINVAL;
    return kernel(nr, a, b, c, d, e, f);
  }
  KernelFn before_ = nullptr;
};
INSTANTIATE_TEST_SUITE_P(, NewFileTest, testing::Bool(), [](const auto& kind) {
  return std::string(kind.param ? "ByItsPart" : "Unnamed");
});

TEST_P(NewFileTest, ItIsThereWithItsName) {
  NewFile file;
  ASSERT_EQ(file.create(directory_), 0);
  ASSERT_EQ(file.append(bytes("one, ")), 0);
  ASSERT_EQ(file.append(bytes("two")), 0);
  EXPECT_FALSE(fs::exists(in("it")));
  ASSERT_EQ(file.give_name(in("it")), 0);
  EXPECT_EQ(text_of(in("it")), "one, two");
  EXPECT_EQ(files(), 1);
  struct stat info{};
  ASSERT_EQ(stat(in("it").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777U, 0600U);
}

TEST_P(NewFileTest, WithoutANameItIsGone) {
  {
    NewFile file;
    ASSERT_EQ(file.create(directory_), 0);
    ASSERT_EQ(file.append(bytes("text")), 0);
  }
  EXPECT_EQ(files(), 0);
}

TEST_P(NewFileTest, BeyondTheLimitItFailsAndNobodyIsKilled) {
  NewFile file;
  ASSERT_EQ(file.create(directory_), 0);
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  const rlimit small{5, before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  EXPECT_EQ(file.append(bytes("1234")), 0);
  EXPECT_EQ(file.append(bytes("56")), -EFBIG);
  EXPECT_EQ(file.append(bytes("5")), 0);
  setrlimit(RLIMIT_FSIZE, &before);
}

TEST_P(NewFileTest, WhereNothingCanBeMadeTheErrorIsTold) {
  NewFile file;
  EXPECT_EQ(file.create(in("none")), -ENOENT);
}

TEST(NewFileNameTest, ANameThatIsTakenIsRefused) {
  const fs::path directory =
      fs::temp_directory_path() / ("brood-new-name-" + std::to_string(getpid()));
  ASSERT_EQ(make_directories(directory / "a" / "b"), 0);
  ASSERT_EQ(make_directories(directory / "a" / "b"), 0);
  const std::string path = directory / "it";
  std::ofstream(path) << "older";
  NewFile file;
  ASSERT_EQ(file.create(directory), 0);
  EXPECT_EQ(file.give_name(path), -EEXIST);
  EXPECT_LT(make_directories(path + "/below"), 0);
  std::string resolved;
  EXPECT_EQ(resolve_directory((directory / "a" / ".." / "a").string(), resolved), 0);
  EXPECT_EQ(resolved, fs::canonical(directory / "a"));
  EXPECT_EQ(resolve_directory(path, resolved), -ENOTDIR);
  fs::remove_all(directory);
}

}  // namespace
}  // namespace brood::sys
