// Which code of a worker runs, the library's or the user's: who has thrown, and who comes back.
#pragma once

#include <cstdint>
#include <utility>

#include "start/child_main.hpp"
#include "sys/identity.hpp"
#include "sys/process.hpp"

namespace brood::pool {

// Threads: the one that runs tasks. Blocking: for what flushing takes. Ownership: none.
// Errors: none. Death: private memory; a child that the user's code has forked ends where that
// comes back.
class UserCode {
 public:
  void begin_task() noexcept { runs_ = false; }
  void enter() noexcept { runs_ = true; }
  void leave() noexcept {
    runs_ = false;
    come_back();
  }
  // Whether what has just been caught came out of it, which ends it.
  [[nodiscard]] bool take_blame() noexcept { return std::exchange(runs_, false); }

  // After whatever may have run it, and perhaps not come to its leave().
  void come_back() const noexcept {
    // A task that forks and lets the copy return would have two workers under one name.
    if (sys::process_token() != token_) sys::exit_now(0);
    // Whoever reads the result may see the text before it, and end this worker next.
    start::flush_output();
  }

 private:
  const std::uint64_t token_ = sys::process_token();
  bool runs_ = false;
};

}  // namespace brood::pool
