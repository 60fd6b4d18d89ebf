// Randomness from the kernel.
#pragma once

#include <cstddef>
#include <span>

namespace brood::sys {

// Fills `bytes`; from the clock and the process id where the kernel can't help.
void random_bytes(std::span<std::byte> bytes) noexcept;

}  // namespace brood::sys
