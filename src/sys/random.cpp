#include "sys/random.hpp"

#include <cstdint>
#include <cstring>

#include "sys/clock.hpp"
#include "sys/process.hpp"
#include "sys/syscall.hpp"

namespace brood::sys {

void random_bytes(std::span<std::byte> bytes) noexcept {
  const long got = call_restarting(SYS_getrandom, bytes.data(), bytes.size(), 0);
  if (got == static_cast<long>(bytes.size())) return;
  std::uint64_t state = static_cast<std::uint64_t>(now_ns()) * static_cast<unsigned>(process_id());
  for (std::byte& byte : bytes) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    byte = static_cast<std::byte>(state >> 56U);
  }
}

}  // namespace brood::sys
