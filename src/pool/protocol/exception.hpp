// Exceptions across processes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "brood/error.hpp"

namespace brood::pool {

// An exception as it crosses to the caller.
struct EncodedException {
  std::uint8_t kind = 0;     // which type it becomes there
  std::int32_t code = 0;     // of system_error and SystemError
  bool generic_code = true;  // else of the system category
  std::int32_t worker_pid = 0;
  std::uint32_t attempts = 1;
  std::string what;
  std::string type_name;         // demangled
  std::vector<std::byte> trace;  // of the throw, as shm/trace.hpp writes it
};

// The exception being handled. `from_user` says that the user's function threw it: then a brood
// error in it is a RemoteError to the caller, who must not take it for one of the pool itself.
// Never throws; without memory for the texts it leaves them out. What is more than `most` bytes is
// cut off the trace, then off the texts.
std::vector<std::byte> encode_current_exception(bool from_user, std::uint32_t attempts = 1,
                                                std::size_t most = SIZE_MAX) noexcept;

// Throws what the bytes stand for: a standard exception as its own type, with a RemoteInfo. Throws
// DecodeError if they stand for nothing.
[[noreturn]] void throw_encoded(std::span<const std::byte> bytes, RemoteInfo info);

}  // namespace brood::pool
