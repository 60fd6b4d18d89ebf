// Which process is this? Told without a system call, and right also after a fork that nobody
// announced.
#pragma once

#include <cstdint>

namespace brood::sys {

// A number that no other process of this family ever had; never 0. The first call in a process
// makes it. Objects that belong to one process remember it and are inert elsewhere.
std::uint64_t process_token() noexcept;

}  // namespace brood::sys
