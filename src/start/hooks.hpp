// The user's actions at the edges of a process.
#pragma once

namespace brood::start {

// In a child, once it may use the heap and before the user's code.
void run_after_fork_actions() noexcept;

}  // namespace brood::start
