// Files that appear whole or not at all, whenever the process that makes them is killed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "sys/fd.hpp"

namespace brood::sys {

// Makes a directory and those that it is in, as far as they are not there, for the owner alone. 0
// or -errno. Throws std::bad_alloc.
int make_directories(const std::string& path);
// Where a directory lies, from the root on and without links; -errno. Throws std::bad_alloc.
int resolve_directory(const std::string& path, std::string& resolved);

// A file that gets its name last. Readable for the owner alone.
//
// Threads: one. Blocking: for the disk. Ownership: of the descriptor, and of the file until it has
// its name: without one, it is gone with this. Errors: -errno; std::bad_alloc.
// Death: before the name, nothing is left; where the file system has no files without a name, one
// whose name ends in ".part".
class NewFile {
 public:
  NewFile() noexcept = default;
  ~NewFile();
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;

  int create(const std::string& directory);
  // Behind what was written before. Does not raise SIGXFSZ: -EFBIG.
  int append(std::span<const std::byte> bytes) noexcept;
  // In the same directory; -EEXIST: there is such a file.
  int give_name(const std::string& path);

 private:
  Fd fd_;
  std::uint64_t length_ = 0;
  std::string part_;  // its name until then; empty: it has none
};

// A file that exists and is no pipe or other device, for reading, and how long it is. Descriptor or
// -errno (-EINVAL: it is something else).
int open_regular_file(const char* path, std::uint64_t& bytes) noexcept;

}  // namespace brood::sys
