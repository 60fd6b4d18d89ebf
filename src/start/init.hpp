// What init() has recorded.
#pragma once

#include <cstddef>

#include "brood/start_method.hpp"

namespace brood::start {

// The defaults where init() was not called.
const InitOptions& init_options() noexcept;

}  // namespace brood::start
