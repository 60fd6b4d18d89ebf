#include "sys/memory.hpp"

#include <fcntl.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "sys/fd.hpp"
#include "sys/syscall.hpp"

namespace brood::sys {

namespace {

bool failed(long result) noexcept { return result < 0 && result >= -4095; }

int status(long result) noexcept { return static_cast<int>(std::min(result, 0L)); }

constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW;

// The user's code may have closed our descriptor, and its number may now be a file of the user's:
// which has no seals.
bool is_memory_file(int fd) noexcept { return call(SYS_fcntl, fd, F_GET_SEALS) == kSeals; }

}  // namespace

int create_memory_file(const char* name, std::size_t bytes) noexcept {
  // Beyond the limit, ftruncate would not only fail but raise SIGXFSZ, which kills.
  rlimit limit{};
  if (call(SYS_prlimit64, 0, RLIMIT_FSIZE, nullptr, &limit) >= 0 && bytes > limit.rlim_cur) {
    return -EFBIG;
  }
  long fd = call(SYS_memfd_create, name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) return static_cast<int>(fd);
  fd = above_streams(static_cast<int>(fd));
  if (fd < 0) return static_cast<int>(fd);
  long result = call_restarting(SYS_ftruncate, fd, bytes);
  if (result >= 0) result = call(SYS_fcntl, fd, F_ADD_SEALS, kSeals);
  if (result < 0) {
    close_fd(static_cast<int>(fd));
    return static_cast<int>(result);
  }
  return static_cast<int>(fd);
}

int create_log_file(const char* name) noexcept {
  const int fd = above_streams(static_cast<int>(call(SYS_memfd_create, name, MFD_CLOEXEC)));
  if (fd < 0) return fd;
  const long result = call(SYS_fcntl, fd, F_SETFL, O_APPEND);
  if (result < 0) close_fd(fd);
  return result < 0 ? static_cast<int>(result) : fd;
}

int reserve_extent(int fd, std::size_t offset, std::size_t bytes) noexcept {
  if (!is_memory_file(fd)) return -EBADF;
  return status(call_restarting(SYS_fallocate, fd, FALLOC_FL_KEEP_SIZE, offset, bytes));
}

int release_extent(int fd, std::size_t offset, std::size_t bytes) noexcept {
  if (!is_memory_file(fd)) return -EBADF;
  constexpr int kPunch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  return status(call_restarting(SYS_fallocate, fd, kPunch, offset, bytes));
}

long file_bytes(int fd) noexcept {
  struct stat info{};
  const long result = call(SYS_fstat, fd, &info);
  return result < 0 ? result : info.st_size;
}

long memory_in_use(int fd) noexcept {
  struct stat info{};
  const long result = call(SYS_fstat, fd, &info);
  return result < 0 ? result : info.st_blocks * 512;
}

int Mapping::map(int fd, std::size_t bytes) noexcept {
  const long address =
      call(SYS_mmap, nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
  if (failed(address)) return static_cast<int>(address);
  unmap();
  bytes_ = {reinterpret_cast<std::byte*>(address), bytes};
  // A dump of a sparse mapping would fault all of it in (seconds, gigabytes).
  call(SYS_madvise, address, bytes, MADV_DONTDUMP);
  return 0;
}

int Mapping::map_part(int fd, std::uint64_t offset, std::size_t bytes, bool writable) noexcept {
  const int access = PROT_READ | (writable ? PROT_WRITE : 0);
  const long address = call(SYS_mmap, nullptr, bytes, access, MAP_SHARED, fd, offset);
  if (failed(address)) return static_cast<int>(address);
  unmap();
  bytes_ = {reinterpret_cast<std::byte*>(address), bytes};
  return 0;
}

void Mapping::unmap() noexcept {
  if (bytes_.empty()) return;
  call(SYS_munmap, bytes_.data(), bytes_.size());
  bytes_ = {};
}

void* map_private(std::size_t bytes) noexcept {
  const long address =
      call(SYS_mmap, nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return failed(address) ? nullptr : reinterpret_cast<void*>(address);
}

void* map_shared_page() noexcept {
  const long address = call(SYS_mmap, nullptr, kPageBytes, PROT_READ | PROT_WRITE,
                            MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  return failed(address) ? nullptr : reinterpret_cast<void*>(address);
}

void unmap(void* address, std::size_t bytes) noexcept { call(SYS_munmap, address, bytes); }

int make_read_only(void* address, std::size_t bytes) noexcept {
  return status(call(SYS_mprotect, address, bytes, PROT_READ));
}

int make_writable(void* address, std::size_t bytes) noexcept {
  return status(call(SYS_mprotect, address, bytes, PROT_READ | PROT_WRITE));
}

void advise_huge_pages(void* address, std::size_t bytes) noexcept {
  call(SYS_madvise, address, bytes, MADV_HUGEPAGE);
}

void keep_from_children(void* address, std::size_t bytes) noexcept {
  call(SYS_madvise, address, bytes, MADV_DONTFORK);
}

void* map_wiped_on_fork() noexcept {
  void* page = map_private(kPageBytes);
  if (page == nullptr) return nullptr;
  if (call(SYS_madvise, page, kPageBytes, MADV_WIPEONFORK) < 0) {
    unmap(page, kPageBytes);
    return nullptr;
  }
  return page;
}

std::size_t physical_memory() noexcept {
  return static_cast<std::size_t>(::sysconf(_SC_PHYS_PAGES)) *
         static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

bool is_mapped(std::uintptr_t address) noexcept {
  unsigned char resident = 0;
  const std::uintptr_t page = address & ~std::uintptr_t{kPageBytes - 1};
  return call(SYS_mincore, page, kPageBytes, &resident) != -ENOMEM;
}

}  // namespace brood::sys
