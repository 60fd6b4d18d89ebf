#include "sys/new_file.hpp"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>

#include "sys/named_memory.hpp"
#include "sys/process.hpp"
#include "sys/random.hpp"
#include "sys/surroundings.hpp"
#include "sys/syscall.hpp"

#ifndef RENAME_NOREPLACE
#define RENAME_NOREPLACE (1U << 0U)
#endif

namespace brood::sys {

namespace {

constexpr mode_t kOnlyOwner = 0600;
constexpr mode_t kOnlyOwnersDirectory = 0700;

int status(long result) noexcept { return static_cast<int>(std::min(result, 0L)); }

std::string descriptor_path(int fd) { return "/proc/self/fd/" + std::to_string(fd); }

std::string part_name(const std::string& directory) {
  std::uint64_t number = 0;
  random_bytes(std::as_writable_bytes(std::span(&number, 1)));
  return directory + "/" + std::to_string(process_id()) + "-" + std::to_string(number) + ".part";
}

}  // namespace

int make_directories(const std::string& path) {
  int result = 0;
  for (std::size_t end = 0; end != std::string::npos;) {
    end = path.find('/', end + 1);
    const std::string part = path.substr(0, end);
    result = status(call(SYS_mkdirat, AT_FDCWD, part.c_str(), kOnlyOwnersDirectory));
    // What is there, and what may only be passed through, shows at the next one.
  }
  return result == -EEXIST ? 0 : result;
}

int resolve_directory(const std::string& path, std::string& resolved) {
  const Fd directory(open_directory(path.c_str()));
  if (!directory) return directory.get();
  constexpr std::size_t kMostPathBytes = 4096;
  resolved.resize(kMostPathBytes);
  const long length = call(SYS_readlinkat, AT_FDCWD, descriptor_path(directory.get()).c_str(),
                           resolved.data(), resolved.size());
  resolved.resize(static_cast<std::size_t>(std::max(length, 0L)));
  return status(length);
}

NewFile::~NewFile() {
  if (!part_.empty()) call(SYS_unlinkat, AT_FDCWD, part_.c_str(), 0);
}

int NewFile::create(const std::string& directory) {
  long fd = call_restarting(SYS_openat, AT_FDCWD, directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC,
                            kOnlyOwner);
  if (fd == -EOPNOTSUPP || fd == -EISDIR) {
    std::string part = part_name(directory);
    fd = call_restarting(SYS_openat, AT_FDCWD, part.c_str(),
                         O_CREAT | O_EXCL | O_NOFOLLOW | O_RDWR | O_CLOEXEC, kOnlyOwner);
    if (fd >= 0) part_ = std::move(part);
  }
  fd_.reset(above_streams(static_cast<int>(fd)));
  return fd_ ? 0 : fd_.get();
}

int NewFile::append(std::span<const std::byte> bytes) noexcept {
  // Beyond the limit, writing would not only fail but raise SIGXFSZ, which kills.
  ResourceLimit limit;
  const bool limited = get_limit(RLIMIT_FSIZE, limit) >= 0;
  if (limited && (bytes.size() > limit.soft || length_ > limit.soft - bytes.size())) return -EFBIG;
  const long written = write_at(fd_.get(), bytes, length_);
  if (written > 0) length_ += static_cast<std::uint64_t>(written);
  return status(written);
}

int NewFile::give_name(const std::string& path) {
  if (part_.empty()) {
    return status(call(SYS_linkat, AT_FDCWD, descriptor_path(fd_.get()).c_str(), AT_FDCWD,
                       path.c_str(), AT_SYMLINK_FOLLOW));
  }
  long result =
      call(SYS_renameat2, AT_FDCWD, part_.c_str(), AT_FDCWD, path.c_str(), RENAME_NOREPLACE);
  // Some file systems can't tell; the name is one that nobody else takes.
  if (result == -EINVAL) {
    result = call(SYS_renameat2, AT_FDCWD, part_.c_str(), AT_FDCWD, path.c_str(), 0);
  }
  if (result >= 0) part_.clear();
  return status(result);
}

int open_regular_file(const char* path, std::uint64_t& bytes) noexcept {
  Fd fd(open_file(path, false));
  if (!fd) return fd.get();
  MemoryFile file;
  const int looked = look_at_file(fd.get(), file);
  if (looked < 0) return looked;
  if (!file.regular) return -EINVAL;
  bytes = file.bytes;
  return fd.release();
}

}  // namespace brood::sys
