// What control groups say of a process: the processor time that their quotas leave it, and where
// its deaths for want of memory are counted. Unlike the rest of src/sys it
// allocates, and may throw std::bad_alloc; nothing that it reads makes it throw.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace brood::sys {

// All of a file; nullopt if it can't be read.
using FileReader = std::function<std::optional<std::string>(const std::string& path)>;

// How many processors' time the groups of a process grant it, rounded up: the least that its own
// group or one above it grants, in either version of the interface. nullopt: no limit that can be
// seen. `mountinfo` and `cgroup` are the texts of the files of these names in /proc/self. What is
// unreadable or makes no sense is no limit.
std::optional<std::uint64_t> cgroup_cpus(std::string_view mountinfo, std::string_view cgroup,
                                         const FileReader& read);

// Of the calling process.
std::optional<std::uint64_t> cgroup_cpus();

// The file that counts, as "oom_kill N", processes of the caller's group that the kernel has killed
// for want of memory; empty: there is none that can be read.
std::string cgroup_memory_events();

}  // namespace brood::sys
