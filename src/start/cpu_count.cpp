#include "brood/cpu_count.hpp"

#include <algorithm>
#include <cstdint>

#include "sys/cgroup.hpp"
#include "sys/process.hpp"

namespace brood {

std::size_t cpu_count() {
  const auto usable = static_cast<std::uint64_t>(sys::usable_cpus());
  return std::max<std::size_t>(std::min(usable, sys::cgroup_cpus().value_or(usable)), 1);
}

}  // namespace brood
