// Memory with a name: POSIX shared memory, that is the files of /dev/shm.
//
// A file is made without a name, complete and locked, and gets its name in one step: nobody ever
// sees half of one, and what dies before that is gone by itself.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace brood::sys {

inline constexpr std::size_t kMaxMemoryName = 255;

// A name that a file of /dev/shm can have: no slash, no NUL, not too long.
bool is_memory_name(std::string_view name) noexcept;

// What a file is, whatever its name; tmpfs counts inodes up and uses none twice.
struct FileIdentity {
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  bool operator==(const FileIdentity&) const = default;
};

struct MemoryFile {
  FileIdentity identity;
  std::uint64_t bytes = 0;
  std::uint64_t names = 0;  // how many it has
  bool regular = false;     // it can be mapped
  bool leased = false;      // see create_unnamed_memory
};

// A file of `bytes` without a name, all of whose memory is taken. If `leased`, it is marked as one
// to be swept when nobody holds a lease on it any more, and the caller holds one. Descriptor or
// -errno (ENOSPC, ENOMEM: the machine or its limits have no more).
int create_unnamed_memory(std::size_t bytes, bool leased) noexcept;

// Gives a file without a name one. 0 or -errno (EEXIST: it is taken).
int give_name(int fd, const char* name) noexcept;
// Descriptor or -errno.
int open_named_memory(const char* name, bool writable) noexcept;
int remove_name(const char* name) noexcept;

// 0 or -errno.
int look_at_file(int fd, MemoryFile& file) noexcept;
int look_at_name(const char* name, MemoryFile& file) noexcept;

// A lease lasts as long as any process has the open file: as a descriptor or mapped. 0 or -errno
// (EWOULDBLOCK: somebody holds what excludes it).
int hold_lease(int fd) noexcept;
// Succeeds where nobody else holds one.
int take_last_lease(int fd) noexcept;

// Calls `visit` with each name in /dev/shm, until it returns false. 0 or -errno.
int for_each_name(bool (*visit)(const char* name, void* context), void* context) noexcept;

}  // namespace brood::sys
