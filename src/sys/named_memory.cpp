#include "sys/named_memory.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "sys/fd.hpp"
#include "sys/syscall.hpp"

namespace brood::sys {

namespace {

constexpr const char* kFolder = "/dev/shm";
constexpr mode_t kOnlyOwner = 0600;
// Means nothing on a file in Linux, and nobody else sets it.
constexpr mode_t kLeased = S_ISVTX;

int status(long result) noexcept { return static_cast<int>(std::min(result, 0L)); }

// "/dev/shm/NAME".
class Path {
 public:
  explicit Path(const char* name) noexcept {
    const std::size_t length = strnlen(name, kMaxMemoryName);
    const std::size_t folder = std::strlen(kFolder);
    std::memcpy(text_.data(), kFolder, folder);
    text_[folder] = '/';
    std::memcpy(text_.data() + folder + 1, name, length);
  }
  [[nodiscard]] const char* get() const noexcept { return text_.data(); }

 private:
  std::array<char, 16 + kMaxMemoryName> text_{};
};

// "/proc/self/fd/N", without the C library's formatting.
class DescriptorPath {
 public:
  explicit DescriptorPath(int fd) noexcept {
    constexpr std::string_view kPrefix = "/proc/self/fd/";
    std::memcpy(text_.data(), kPrefix.data(), kPrefix.size());
    std::array<char, 12> digits{};
    std::size_t count = 0;
    do {
      digits[count++] = static_cast<char>('0' + fd % 10);
      fd /= 10;
    } while (fd > 0);
    for (std::size_t i = 0; i < count; ++i) text_[kPrefix.size() + i] = digits[count - 1 - i];
  }
  [[nodiscard]] const char* get() const noexcept { return text_.data(); }

 private:
  std::array<char, 32> text_{};
};

MemoryFile describe(const struct stat& info) noexcept {
  MemoryFile file;
  file.identity = {info.st_dev, info.st_ino};
  file.bytes = static_cast<std::uint64_t>(info.st_size);
  file.names = info.st_nlink;
  file.regular = S_ISREG(info.st_mode);
  file.leased = (info.st_mode & kLeased) != 0;
  return file;
}

// As the kernel lays it out.
struct DirectoryEntry {
  std::uint64_t inode;
  std::int64_t offset;
  std::uint16_t length;
  std::uint8_t type;
  char name[1];
};

}  // namespace

bool is_memory_name(std::string_view name) noexcept {
  return !name.empty() && name.size() <= kMaxMemoryName && name != "." && name != ".." &&
         name.find('/') == std::string_view::npos && name.find('\0') == std::string_view::npos;
}

int create_unnamed_memory(std::size_t bytes, bool leased) noexcept {
  // Beyond the limit, fallocate would not only fail but raise SIGXFSZ, which kills.
  rlimit limit{};
  if (call(SYS_prlimit64, 0, RLIMIT_FSIZE, nullptr, &limit) >= 0 && bytes > limit.rlim_cur) {
    return -EFBIG;
  }
  const mode_t mode = kOnlyOwner | (leased ? kLeased : 0U);
  const int fd = above_streams(static_cast<int>(
      call_restarting(SYS_openat, AT_FDCWD, kFolder, O_TMPFILE | O_RDWR | O_CLOEXEC, mode)));
  if (fd < 0) return fd;
  long result = call_restarting(SYS_fallocate, fd, 0, 0, bytes);
  if (result >= 0 && leased) result = hold_lease(fd);
  if (result < 0) close_fd(fd);
  return result < 0 ? static_cast<int>(result) : fd;
}

int give_name(int fd, const char* name) noexcept {
  return status(call(SYS_linkat, AT_FDCWD, DescriptorPath(fd).get(), AT_FDCWD, Path(name).get(),
                     AT_SYMLINK_FOLLOW));
}

int open_named_memory(const char* name, bool writable) noexcept {
  // What else may lie there, a link or a pipe, is neither followed nor waited for.
  const int flags = (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK;
  const long fd = call_restarting(SYS_openat, AT_FDCWD, Path(name).get(), flags, 0);
  return above_streams(static_cast<int>(fd));
}

int remove_name(const char* name) noexcept {
  return status(call(SYS_unlinkat, AT_FDCWD, Path(name).get(), 0));
}

int look_at_file(int fd, MemoryFile& file) noexcept {
  struct stat info{};
  const long result = call(SYS_fstat, fd, &info);
  if (result >= 0) file = describe(info);
  return status(result);
}

int look_at_name(const char* name, MemoryFile& file) noexcept {
  struct stat info{};
  const long result = call(SYS_newfstatat, AT_FDCWD, Path(name).get(), &info, AT_SYMLINK_NOFOLLOW);
  if (result >= 0) file = describe(info);
  return status(result);
}

int hold_lease(int fd) noexcept {
  return status(call_restarting(SYS_flock, fd, LOCK_SH | LOCK_NB));
}

int take_last_lease(int fd) noexcept {
  return status(call_restarting(SYS_flock, fd, LOCK_EX | LOCK_NB));
}

int for_each_name(bool (*visit)(const char* name, void* context), void* context) noexcept {
  const Fd folder(static_cast<int>(
      call_restarting(SYS_openat, AT_FDCWD, kFolder, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0)));
  if (!folder) return folder.get();
  alignas(DirectoryEntry) std::array<char, 4096> bytes;
  for (;;) {
    const long got = call(SYS_getdents64, folder.get(), bytes.data(), bytes.size());
    if (got <= 0) return static_cast<int>(got);
    for (std::size_t at = 0; at < static_cast<std::size_t>(got);) {
      DirectoryEntry entry{};
      std::memcpy(&entry, bytes.data() + at, offsetof(DirectoryEntry, name));
      if (!visit(bytes.data() + at + offsetof(DirectoryEntry, name), context)) return 0;
      at += entry.length;
    }
  }
}

}  // namespace brood::sys
