// What init() has recorded.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "brood/start_method.hpp"

namespace brood::start {

// The defaults where init() was not called.
const InitOptions& init_options() noexcept;

// Whether this process, or the one that it is a child of, has called init().
bool has_init() noexcept;

// What init() does where the program was called to run a task again: `--brood-replay FILE`, or with
// = between them.
using ReplayFn = void (*)(const std::string& file);  // does not return
void on_replay(ReplayFn replay) noexcept;
inline constexpr std::string_view kReplayArgument = "--brood-replay";
// What somebody has to type, or the call that has the same effect if there is nothing to type.
std::string replay_command(const std::string& file);

// In a process that was spawned: what it has is what it was born with, and `thunks` of its code
// have the numbers that they have in the rest of the family.
void record_birth(std::uint32_t thunks);

}  // namespace brood::start
