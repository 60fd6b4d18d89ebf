// Who the calling process is among brood's processes.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "brood/start_method.hpp"
#include "sys/fd.hpp"

namespace brood::start {

// In a child, before its function runs. `parent_pidfd` may be empty where the system gives none.
void begin_life(const std::string& name, const std::string& parent_name, int parent_pid,
                sys::Fd parent_pidfd);

// Who started this process, as a descriptor that was opened while it was sure to be alive.
struct ParentProcess {
  int pid = 0;
  std::string name;
  std::shared_ptr<const sys::Fd> pidfd;
};
// pid 0 in a process that brood has not started.
const ParentProcess& parent_of_this() noexcept;

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
