// Where the exceptions come from that sys::try_watched() catches.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "sys/atomic.hpp"
#include "sys/thrown.hpp"

namespace brood::start {

// While there is one, the last throw that such a clause of this thread catches leaves its stack
// here. Threads: the one that made it. Errors: what does not fit is left out.
class ThrownTrace {
 public:
  // `end` is as for sys::walk_thrown_stack().
  explicit ThrownTrace(const std::atomic<std::uintptr_t>& end) noexcept;
  ~ThrownTrace();
  ThrownTrace(const ThrownTrace&) = delete;
  ThrownTrace& operator=(const ThrownTrace&) = delete;

  // Of this thread, as shm/trace.hpp writes it, once; empty: unknown. In the handler. Errors:
  // std::bad_alloc.
  static std::vector<std::byte> take();

 private:
  static constexpr std::size_t kMostBytes = 2048;

  static void write(void* self) noexcept;

  const std::atomic<std::uintptr_t>& end_;
  const sys::ThrowHook before_ = sys::throw_hook();
  sys::Atomic<std::uint32_t> written_{0};
  std::array<std::byte, kMostBytes> trace_;
};

}  // namespace brood::start
