// Which process is this? Told without a system call, and right also after a fork that nobody
// announced.
#pragma once

#include <atomic>
#include <cstdint>

namespace brood::sys {

// A number that no other process of this family ever had; never 0. The first call in a process
// makes it. Objects that belong to one process remember it and are inert elsewhere.
std::uint64_t process_token() noexcept;

// Where it can be read without a call: reads as process_token(), or as 0 if that was not asked for
// yet in this process, or never can be told so.
const std::atomic<std::uint64_t>& process_token_word() noexcept;

}  // namespace brood::sys
