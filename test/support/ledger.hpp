// Files through which tasks tell a test what they did, whatever the start method.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/time.hpp"

namespace brood::test {

// A folder that goes with the test.
class TempFolder {
 public:
  TempFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "brood-test-XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("no temporary folder");
    path_ = pattern;
  }
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  [[nodiscard]] std::string path(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// In a task: adds a number to the list. One write of a few bytes in append mode: never torn.
inline void record(const std::string& path, std::int64_t number) {
  const int fd = open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) throw std::runtime_error("cannot open " + path);
  const ssize_t wrote = write(fd, &number, sizeof number);
  close(fd);
  if (wrote != sizeof number) throw std::runtime_error("cannot write " + path);
}

// In the test: the numbers, in the order in which they came.
inline std::vector<std::int64_t> recorded(const std::string& path) {
  std::vector<std::int64_t> numbers;
  std::ifstream in(path, std::ios::binary);
  for (std::int64_t number = 0; in.read(reinterpret_cast<char*>(&number), sizeof number);) {
    numbers.push_back(number);
  }
  return numbers;
}

// How often each number is there.
inline std::map<std::int64_t, int> counted(const std::string& path) {
  std::map<std::int64_t, int> counts;
  for (const std::int64_t number : recorded(path)) ++counts[number];
  return counts;
}

// A gate: tasks wait for the file to exist.
inline void open_gate(const std::string& path) { std::ofstream(path) << "open"; }
inline bool gate_is_open(const std::string& path) { return access(path.c_str(), F_OK) == 0; }
inline void wait_at_gate(const std::string& path) {
  if (!wait_until([&] { return gate_is_open(path); }, kHangGuard * 2)) {
    throw std::runtime_error("nobody opened " + path);
  }
}

}  // namespace brood::test
