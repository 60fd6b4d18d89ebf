#include "pool/caller/setup_failure.hpp"

#include <algorithm>
#include <span>
#include <string>
#include <utility>

#include "brood/error.hpp"
#include "pool/caller/reply.hpp"
#include "pool/protocol/exception.hpp"
#include "sys/process.hpp"

namespace brood::pool {

namespace {

const char* name_of(shm::SetupStep step) noexcept {
  switch (step) {
    case shm::SetupStep::preload:
      return "preload";
    case shm::SetupStep::prepare:
      return "prepare";
    default:
      return "the initializer";
  }
}

}  // namespace

std::exception_ptr setup_failure(const PoolView& view, std::uint64_t memory_limit_bytes) noexcept {
  const shm::SetupCause& cause = view.supervisor().setup_cause;
  const std::string step = name_of(cause.step);
  try {
    if (cause.length == 0) {
      const auto status = sys::ExitStatus::from_wait_status(static_cast<int>(cause.wait_status));
      Death death;
      death.pid = cause.pid;
      death.signal = status.signal;
      death.exit_code = status.code;
      death.core_dumped = status.core;
      death.fault_address = cause.fault_address;
      tell_causes(cause.causes, memory_limit_bytes, death);
      death.task = step + " of a pool";
      death.stderr_tail.assign(reinterpret_cast<const char*>(cause.stderr_tail.data()),
                               std::min<std::size_t>(cause.stderr_bytes, cause.stderr_tail.size()));
      throw WorkerDied(std::move(death));
    }
    RemoteInfo info;
    info.task = step + " of a pool";
    const std::size_t length = std::min<std::size_t>(cause.length, cause.exception.size());
    throw_encoded(std::span(cause.exception).first(length), std::move(info));
  } catch (const WorkerDied& e) {
    return std::make_exception_ptr(InitializerFailed(e.what(), std::current_exception()));
  } catch (const std::exception& e) {
    const RemoteInfo* info = remote_info(e);
    const std::string type = info != nullptr ? info->type_name : "exception";
    return std::make_exception_ptr(
        InitializerFailed("brood: " + step + " of the pool threw " + type + ": " + e.what(),
                          std::current_exception()));
  }
}

}  // namespace brood::pool
