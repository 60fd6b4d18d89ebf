// What the calling process is called.
#pragma once

#include <string>
#include <string_view>

namespace brood::start {

// "MainProcess" in a process that brood did not start.
const std::string& process_name();

// In a child, before it has other threads.
// Without memory for it the name stays what it was.
void set_process_name(std::string_view name) noexcept;

}  // namespace brood::start
