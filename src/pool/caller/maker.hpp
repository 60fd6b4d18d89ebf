// The process that made a pool: only there it can be used.
#pragma once

#include <cstdint>

#include "sys/identity.hpp"

namespace brood::pool {

// Threads: any. Blocking: never. Ownership: none. Errors: Error, from require_me(). Death: private
// memory; a copy of the process is another one.
class Maker {
 public:
  [[nodiscard]] bool is_me() const noexcept { return token_ == sys::process_token(); }
  void require_me() const {
    if (is_me()) [[likely]]
      return;
    refuse();
  }

 private:
  [[noreturn]] static void refuse();

  std::uint64_t token_ = sys::process_token();
};

// In a task, where the pools of the program are of no use.
[[noreturn]] void throw_pool_of_program(const char* unless = "");

}  // namespace brood::pool
