// Which code a pool's workers have: what this process had when the pool was made.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <optional>
#include <utility>
#include <vector>

#include "brood/detail/pool_core.hpp"
#include "brood/detail/thunk.hpp"
#include "sys/procfs.hpp"

namespace brood::pool {

// Threads: any; it does not change. Blocking: never. Ownership: of its own. Errors: NotSendable.
// Death: private memory.
class WorkersCode {
 public:
  WorkersCode() = default;
  // `ranges`: where the code lay; nullopt: nobody knows without /proc.
  WorkersCode(detail::ThunkId thunks, std::optional<std::vector<sys::MemoryRange>> ranges)
      : thunks_(thunks), ranges_(std::move(ranges)) {}

  // Throws NotSendable if they can't run this.
  void require(const detail::TaskSpec& spec) const {
    if (spec.thunk == 0 || spec.thunk > thunks_) refuse_task();
    if (spec.function != nullptr && !has(spec.function)) refuse_function();
  }

 private:
  // The workers are copies of this process as it was: they have the code that it had.
  [[nodiscard]] bool has(const void* function) const noexcept {
    if (!ranges_) return true;
    const auto address = reinterpret_cast<std::uintptr_t>(function);
    const auto after = std::ranges::upper_bound(*ranges_, address, {}, &sys::MemoryRange::begin);
    return after != ranges_->begin() && address < std::prev(after)->end;
  }
  [[noreturn]] static void refuse_task();
  [[noreturn]] static void refuse_function();

  detail::ThunkId thunks_ = 0;
  std::optional<std::vector<sys::MemoryRange>> ranges_;
};

}  // namespace brood::pool
