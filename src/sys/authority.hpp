// What a process may do and where it stands: credentials, capabilities, sandbox, namespaces.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace brood::sys {

// The kernel's own account of a process, which that process can't forge.
struct Authority {
  std::array<std::uint32_t, 3> user_ids{};   // real, effective, saved
  std::array<std::uint32_t, 3> group_ids{};  // the same
  std::vector<std::uint32_t> groups;         // supplementary, sorted
  // Inheritable, permitted, effective, bounding, ambient.
  std::array<std::uint64_t, 5> capabilities{};
  bool no_new_privileges = false;
  int seccomp = 0;  // 0: none; 1: strict; 2: filtered
  std::uint32_t umask = 0;
  std::uint64_t root_device = 0;
  std::uint64_t root_inode = 0;
  std::vector<std::string> namespaces;  // "mnt:[4026531841]"...
};

// nullopt: there is no such process, or the system hides it.
std::optional<Authority> authority_of(int pid);

// Makes the calling process, which must have one thread, what `wanted` says, as far as calls can.
// Some of it may fail unseen: compare afterwards with difference().
void assume_authority(const Authority& wanted);

// What the first process has otherwise than the second, in words; empty: nothing.
std::string difference(const Authority& process, const Authority& other);

}  // namespace brood::sys
