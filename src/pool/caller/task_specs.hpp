// What a pool's options, and those of a task, say of a task.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>

#include "brood/detail/pool_core.hpp"
#include "brood/error.hpp"
#include "brood/pool_options.hpp"
#include "shm/pool_layout.hpp"

namespace brood::pool {

// A time that the user gives. Throws Error if it is less than `least` nanoseconds.
std::int64_t require_time(std::chrono::nanoseconds time, const char* option, std::int64_t least);

// Threads: any; it does not change. Blocking: never. Ownership: of the pool's own options.
// Errors: Error, where options make no sense. Death: private memory.
class TaskSpecs {
 public:
  explicit TaskSpecs(const PoolOptions& options);

  [[nodiscard]] const detail::TaskSpec& defaults() const noexcept { return defaults_; }

  [[nodiscard]] detail::TaskSpec spec_of(const TaskOptions& options) const {
    detail::TaskSpec spec = defaults_;
    set_limits(spec, options.timeout, options.retries.value_or(defaults_.retries));
    if (options.deadline && !is_debugged_) {
      spec.deadline_ns = options.deadline->time_since_epoch().count();
    }
    spec.retry_exceptions = options.retry_exceptions.value_or(defaults_.retry_exceptions);
    spec.priority = static_cast<std::uint32_t>(options.priority);
    if (spec.priority >= shm::kPriorities) refuse_priority();
    spec.name = options.name;
    if (options.stop.stop_requested()) spec.ended = detail::EndedBefore::cancelled;
    return spec;
  }

 private:
  void set_limits(detail::TaskSpec& spec, std::optional<std::chrono::nanoseconds> timeout,
                  unsigned retries) const {
    spec.retries = retries;
    if (timeout) spec.timeout_ns = require_time(*timeout, "the timeout of a task", 1);
    if (is_debugged_) spec.timeout_ns = detail::kNoDeadline;
  }
  [[noreturn]] static void refuse_priority();

  // Nobody is to be hurried while somebody looks at a process with a debugger.
  const bool is_debugged_;
  detail::TaskSpec defaults_;
};

}  // namespace brood::pool
