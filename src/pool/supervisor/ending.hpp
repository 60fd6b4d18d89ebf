// How a pool ends: to its caller's order, or because it can't go on.
//
//   goes on --+-- drain, when all is done --> draining ------+
//             |                                  |           |
//             |                              terminate       +-- time is up --> killing -->
//             complete |                                  v           |                     ^
//             +-- terminate ----------------> terminating ---+                     |
//             +-- kill, break_pool ------------------------------------------------+
#pragma once

#include <cstdint>

#include "pool/protocol/idle.hpp"
#include "pool/protocol/settle.hpp"
#include "pool/protocol/view.hpp"
#include "pool/supervisor/template.hpp"
#include "pool/supervisor/tenants.hpp"
#include "sys/futex.hpp"

namespace brood::pool {

// Threads: one, the supervisor's. Blocking: never. Ownership: none; what it is given must outlive
// it. Errors: none. Uses no heap.
// Death: of the supervisor before the condition is told: the caller sees it by its life word.
class Ending {
 public:
  Ending(const PoolView& view, Tenants& tenants, Template& origin, Settler& settler,
         IdleWorkers& idle) noexcept
      : view_(view), tenants_(tenants), template_(origin), settler_(settler), idle_(idle) {}

  // Nobody is started any more.
  [[nodiscard]] bool has_begun() const noexcept { return begun_; }
  // Nor do tasks matter: those that end with their workers are PoolClosed, not WorkerDied.
  [[nodiscard]] bool drops_tasks() const noexcept { return begun_ && !draining_; }
  // Nobody is left.
  [[nodiscard]] bool is_complete() const noexcept {
    return begun_ && tenants_.count() == 0 && template_.pid() == 0;
  }

  // Goes on to what the order and the time say.
  void obey(shm::PoolOrder order, std::int64_t now) noexcept;
  // Kills all of it at the next obey().
  void break_pool(shm::PoolCondition why, std::int64_t now) noexcept;
  // The next time that obey() has to be called without a new order.
  [[nodiscard]] std::int64_t kill_at_ns() const noexcept { return kill_at_ns_; }

  // Makes known how the pool is.
  void tell(shm::PoolCondition condition) noexcept;
  // And how it has ended, last of all.
  void tell_end() noexcept;

 private:
  void drain(std::int64_t now) noexcept;
  void terminate(std::int64_t now) noexcept;
  void signal_all(int signal) const noexcept;

  PoolView view_;
  Tenants& tenants_;
  Template& template_;
  Settler& settler_;
  IdleWorkers& idle_;

  bool begun_ = false;
  bool draining_ = false;
  bool terminating_ = false;
  std::int64_t kill_at_ns_ = sys::kForever;
  shm::PoolCondition final_condition_ = shm::PoolCondition::ended;
};

}  // namespace brood::pool
