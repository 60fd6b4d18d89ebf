// How many processes can do something at once.
#pragma once

#include "brood/detail/cpp20.hpp"

#include <cstddef>

namespace brood {

// Processors that this process may use: those of its affinity mask, or fewer if the quota of its
// control group (a container's limit, cgroup version 1 or 2) or of one above it grants less,
// rounded up. At least 1. Looked up anew by each call; a quota that can't be read is none.
//
//   Threads: any. Blocking: no. Errors: std::bad_alloc.
[[nodiscard]] std::size_t cpu_count();

}  // namespace brood
