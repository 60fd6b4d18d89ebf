// The process that a pool's workers are copies of, if the pool has something to load before they
// start: a child of the supervisor's that runs PoolOptions::preload, and then makes workers to the
// supervisor's order. They are the supervisor's children, as without it.
//
//      supervisor ── clones ──► template: preload ── "ready" ──► waits
//                 ── order ───►          clones a sibling of its own
//                 ◄── number ──
#pragma once

#include <cstdint>
#include <optional>

#include "pool/protocol/supervisor_start.hpp"
#include "shm/owner_table.hpp"
#include "sys/fd.hpp"

namespace brood::pool {

// The supervisor's side.
//
// Threads: one. Blocking: bear(), for as long as a copy takes; a template that does not answer is
// killed. Ownership: of the process, which the supervisor reaps. Errors: negative numbers are
// -errno. Uses no heap.
// Death: of the template is seen by reaping it (gone()); then another one may be started, and
// workers that it had just made are orphans. Of the supervisor ends it.
class Template {
 public:
  enum class State : std::uint8_t { none, loading, ready, failed };

  [[nodiscard]] State state() const noexcept { return state_; }
  [[nodiscard]] int pid() const noexcept { return pid_; }
  [[nodiscard]] int pidfd() const noexcept { return pidfd_.get(); }
  [[nodiscard]] const std::optional<shm::OwnerId>& member() const noexcept { return member_; }

  // Begins to load. 0 or -errno.
  int start(const SupervisorStart& start, std::optional<shm::OwnerId> member) noexcept;
  // Reads what it has said meanwhile.
  void listen() noexcept;
  // A new worker's number, with its pidfd. `errors` is its stderr, -1: that of the pool. Requires
  // State::ready.
  long bear(shm::OwnerId id, std::optional<shm::OwnerId> member, int errors,
            sys::Fd& pidfd) noexcept;
  // It is to end by itself.
  void dismiss() noexcept { line_.reset(); }
  // It was reaped.
  void gone() noexcept;

 private:
  long receive_number() noexcept;

  State state_ = State::none;
  int pid_ = 0;
  sys::Fd pidfd_;
  sys::Fd line_;
  std::optional<shm::OwnerId> member_;
};

}  // namespace brood::pool
