// What /proc tells about processes and memory.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace brood::sys {

// Reads a whole small file into `buffer`, which it ends with '\0'. Length or -errno.
long read_small_file(const char* path, std::span<char> buffer) noexcept;

// All of a file of any size; nullopt: it can't be read. Allocates and may throw std::bad_alloc.
std::optional<std::string> read_whole_file(const char* path);

// The wait status that a process will have, known as soon as it has begun to die: long before its
// pidfd tells, which waits for its memory to be freed. nullopt: it is not dying, is gone, or the
// system hides it.
std::optional<int> status_of_dying(int pid) noexcept;

struct UsageNow {
  std::uint64_t user_ns = 0;
  std::uint64_t system_ns = 0;
  std::uint64_t rss_bytes = 0;
};
std::optional<UsageNow> usage_of(int pid) noexcept;

// Its resident memory without what it shares with files and shared memory. Uses no heap. nullopt:
// it is gone, or the system hides it.
std::optional<std::uint64_t> own_memory_of(int pid) noexcept;

// The number after `label` in a small file of lines "label number", as the kernel writes many. Uses
// no heap. nullopt: there is none.
std::optional<std::uint64_t> labelled_number(const char* path, std::string_view label) noexcept;

// Who a process belongs to, its effective user; UINT32_MAX: unknown, or there is none.
std::uint32_t user_of(int pid) noexcept;

// SIGKILL to a process that was not reaped and to all its descendants. One that is made at this
// very moment may get away: nobody is stopped before, because we could die before we killed him.
// Throws std::bad_alloc.
void kill_tree(int pid, int pidfd);

// The most memory that a process has had so far; 0: unknown.
std::uint64_t peak_rss_of(int pid) noexcept;

// Signals every child of the calling process for which `spare` says no. For service processes:
// uses no heap.
void signal_children(int signal, bool (*spare)(int pid, void* context), void* context) noexcept;

// A range of mapped memory.
struct MemoryRange {
  std::uintptr_t begin;
  std::uintptr_t end;
};

// This process's private writable memory (heap, stacks, globals), and the memory it can execute.
// Sorted by address. They allocate and may throw std::bad_alloc; nullopt: /proc can't be read.
std::optional<std::vector<MemoryRange>> private_writable_memory();
std::optional<std::vector<MemoryRange>> executable_memory();

}  // namespace brood::sys
