// Who the calling process is among brood's processes.
#pragma once

#include <optional>
#include <string>

#include "brood/start_method.hpp"

namespace brood::start {

// In a child, before its function runs.
void begin_life(const std::string& name, const std::string& parent_name, int parent_pid);

// "MainProcess" in one that brood has not started.
const std::string& own_name() noexcept;
// 0 in one that brood has not started.
int pid_of_parent() noexcept;
const std::string& name_of_parent() noexcept;

// "Process-2" is the second of the first process; "Process-2:1" the first of that one.
std::string next_child_name();

// How a start that asks for nothing is done.
void adopt_default_start_method(std::optional<StartMethod> method) noexcept;
std::optional<StartMethod> default_start_method() noexcept;  // that was set

struct Choice {
  StartMethod method;
  bool asked_for;  // by the user, in whatever way
};
// Throws StartError if the process must not start anything, or the method needs init().
Choice choose(std::optional<StartMethod> wanted);

}  // namespace brood::start
