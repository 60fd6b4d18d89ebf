// Memory files and mappings.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

namespace brood::sys {

inline constexpr std::size_t kPageBytes = 4096;  // smallest unit of mapping on what we run on

// A memory file of `bytes` (sparse: no memory is taken until reserve_extent), close-on-exec, which
// can't shrink under a reader. Descriptor or -errno.
int create_memory_file(const char* name, std::size_t bytes) noexcept;

// A memory file that grows with what is written, each write at its end. Descriptor or -errno.
int create_log_file(const char* name) noexcept;

// How long a file is, or -errno.
long file_bytes(int fd) noexcept;

// Takes memory for [offset, offset + bytes) of the file, so that touching it can't raise SIGBUS.
// 0 or -errno (ENOSPC, ENOMEM: the machine or its limits have no more).
int reserve_extent(int fd, std::size_t offset, std::size_t bytes) noexcept;

// Gives the memory of [offset, offset + bytes) back; it reads as zero afterwards. 0 or -errno.
int release_extent(int fd, std::size_t offset, std::size_t bytes) noexcept;

// Bytes of memory that the file occupies now, or -errno.
long memory_in_use(int fd) noexcept;

// A mapping of shared memory, unmapped by the destructor. Left out of core dumps.
class Mapping {
 public:
  Mapping() noexcept = default;
  Mapping(Mapping&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}
  Mapping& operator=(Mapping&& other) noexcept {
    if (this != &other) {
      unmap();
      bytes_ = std::exchange(other.bytes_, {});
    }
    return *this;
  }
  ~Mapping() { unmap(); }

  // Maps all `bytes` of the file, readable and writable. 0 or -errno.
  int map(int fd, std::size_t bytes) noexcept;
  // Maps a part of any file, from a multiple of kPageBytes on. 0 or -errno.
  int map_part(int fd, std::uint64_t offset, std::size_t bytes, bool writable) noexcept;
  void unmap() noexcept;

  [[nodiscard]] std::byte* data() const noexcept { return bytes_.data(); }
  [[nodiscard]] std::size_t size() const noexcept { return bytes_.size(); }
  // Forgets the mapping without unmapping: it stays for the rest of the process's life.
  std::span<std::byte> release() noexcept { return std::exchange(bytes_, {}); }

 private:
  std::span<std::byte> bytes_;
};

// One page that processes forked from this one share with it. nullptr if refused.
void* map_shared_page() noexcept;

// Private zeroed memory for service processes, which must not use the heap. nullptr if refused.
void* map_private(std::size_t bytes) noexcept;
void unmap(void* address, std::size_t bytes) noexcept;
// Processes forked from now on have nothing at [address, address + bytes).
void keep_from_children(void* address, std::size_t bytes) noexcept;

// From now on this process can only read [address, address + bytes). 0 or -errno.
int make_read_only(void* address, std::size_t bytes) noexcept;
int make_writable(void* address, std::size_t bytes) noexcept;

// Asks for large pages there, where the system has them.
void advise_huge_pages(void* address, std::size_t bytes) noexcept;

// One page that reads as zeros in every process forked from this one, whoever forks it.
// nullptr if the system can't.
void* map_wiped_on_fork() noexcept;

// Bytes of memory that the machine has.
std::size_t physical_memory() noexcept;

// Whether any memory is mapped at `address`.
bool is_mapped(std::uintptr_t address) noexcept;

}  // namespace brood::sys
