// The key that addresses of functions are sealed with (brood/detail/thunk.hpp).
#pragma once

#include <cstdint>

namespace brood::start {

struct SealKey {
  std::uint64_t first;
  std::uint64_t second;
};

SealKey seal_key() noexcept;
// In a process that was just spawned, which has drawn one of its own.
void set_seal_key(const SealKey& key) noexcept;

}  // namespace brood::start
