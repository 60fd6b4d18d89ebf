// What a forked child inherits besides memory and descriptors, read and set.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace brood::sys {

struct ResourceLimit {
  std::uint64_t soft = 0;
  std::uint64_t hard = 0;
  friend bool operator==(const ResourceLimit&, const ResourceLimit&) = default;
};
inline constexpr std::uint32_t kResources = 16;

// The limit on resource number `resource` (RLIMIT_...). 0 or -errno.
int get_limit(std::uint32_t resource, ResourceLimit& limit) noexcept;
// All of another process, whoever's it is; empty: /proc does not tell. Throws std::bad_alloc.
std::vector<ResourceLimit> limits_of(int pid);
int set_limit(std::uint32_t resource, const ResourceLimit& limit) noexcept;

// The processors that the calling thread may use, as the bits of a mask. Throws std::bad_alloc.
std::vector<std::uint64_t> affinity();
int set_affinity(std::span<const std::uint64_t> mask) noexcept;

// From -20 (more than its share of the processors) to 19.
int niceness() noexcept;
int set_niceness(int value) noexcept;

// "NAME=value"... Throws std::bad_alloc. replace_environment keeps the strings for ever.
std::vector<std::string> environment();
void replace_environment(std::vector<std::string> entries);

bool has_variable(const char* name) noexcept;

// Starts this program afresh in this process: its file as it was when this process was started,
// also if another has its name by now. -errno if that fails.
int exec_same_program(std::span<const std::string> arguments);
// Becomes the program in the file `path`. Both lists end with nullptr. -errno if that fails.
// Without the heap.
int exec_program(const char* path, char* const* arguments, char* const* environment) noexcept;
// Another program in this process, by its path, or by a name without slash that is looked for where
// the shell would. -errno if that fails.
int exec_program(const std::string& program, std::span<const std::string> arguments);
// The arguments of this process as the kernel has them; empty: unknown.
std::vector<std::string> command_line();

}  // namespace brood::sys
