// What init() has recorded.
#pragma once

#include <cstdint>

#include "brood/start_method.hpp"

namespace brood::start {

// The defaults where init() was not called.
const InitOptions& init_options() noexcept;

// In a process that was spawned: what it has is what it was born with, and `thunks` of its code
// have the numbers that they have in the rest of the family.
void record_birth(std::uint32_t thunks);

}  // namespace brood::start
