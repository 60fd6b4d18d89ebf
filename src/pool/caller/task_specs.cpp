#include "pool/caller/task_specs.hpp"

#include <cstdlib>
#include <string>
#include <string_view>

namespace brood::pool {

namespace {

bool is_debugged() noexcept {
  const char* debug = std::getenv("BROOD_DEBUG");
  return debug != nullptr && std::string_view(debug) == "1";
}

}  // namespace

std::int64_t require_time(std::chrono::nanoseconds time, const char* option, std::int64_t least) {
  if (time.count() < least) {
    throw Error(std::string("brood: ") + option + " is " +
                (least == 0 ? "negative" : "not positive"));
  }
  return time.count();
}

TaskSpecs::TaskSpecs(const PoolOptions& options) : is_debugged_(is_debugged()) {
  set_limits(defaults_, options.task_timeout, options.retries);
  defaults_.retry_exceptions = options.retry_exceptions;
}

void TaskSpecs::refuse_priority() {
  throw Error("brood: TaskOptions::priority is none of Priority's values");
}

}  // namespace brood::pool
