// What every process of brood does first and last.
#pragma once

#include <functional>
#include <span>
#include <string>

namespace brood::start {

// Writes out what the C and C++ streams hold, so that a copy of the process does not do it again.
void flush_streams() noexcept;
// Standard output alone, and at next to no cost if there is nothing to flush. By one thread.
void flush_output() noexcept;

struct ChildSettings {
  const char* process_name = nullptr;  // for ps; nullptr: keep
  bool close_fds = false;              // all but 0-2 and `keep`
  std::span<const int> keep = {};
  bool host_handles_terminal = false;  // Ctrl-C and the like are not for this process
};

// First thing in a child: signals at their defaults, stdin at /dev/null, and from here on exit()
// runs only what the child registered itself, never the parent's handlers and static destructors.
void become_child(const ChildSettings& settings) noexcept;

// What a child runs: `run`, whose result is the exit status. An exception that leaves it is printed
// to stderr with the name of the process, and is status 1.
int run_user_code(const std::string& name, const std::function<int()>& run) noexcept;

// Runs the handlers that were registered in the child, flushes, ends.
[[noreturn]] void leave_child(int code);

}  // namespace brood::start
