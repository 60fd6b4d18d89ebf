// Whether a pool lives, as its caller sees it, and why not.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>

#include "pool/protocol/view.hpp"
#include "shm/pool_layout.hpp"
#include "sys/fd.hpp"
#include "sys/futex.hpp"
#include "warden/family.hpp"

namespace brood::pool {

// What the caller has of the supervisor, and what that tells in its header, which no worker can
// write.
//
// Threads: any. Blocking: never, except for reap() of one that still lives. Ownership: of the
// pidfd, and of the supervisor's number until it is reaped; the view's mapping and the family must
// outlive it. Errors: PoolClosed, BrokenPool, FamilyBroken, InitializerFailed.
// Death: of the supervisor is what this is for: its life word is the early sign, its pidfd the
// proof. Of the warden: the family tells.
class PoolLife {
 public:
  // `memory_limit_bytes` is that of the workers, for the text of an error.
  PoolLife(const PoolView& view, const warden::Family& family, sys::Fd supervisor,
           std::uint64_t memory_limit_bytes) noexcept;

  [[nodiscard]] shm::PoolCondition condition() const noexcept {
    return view_.supervisor().condition.load(std::memory_order_acquire);
  }
  [[nodiscard]] shm::PoolOrder order() const noexcept {
    return view_.caller().order.load(std::memory_order_acquire);
  }

  // No task will be run any more.
  [[nodiscard]] bool is_over() const noexcept {
    return supervisor_gone_.load(std::memory_order_acquire) ||
           condition() > shm::PoolCondition::running;
  }
  // The same, also of one that could not tell any more.
  [[nodiscard]] bool is_over_now() noexcept {
    return is_over() || family_.warden_lost() || supervisor_died();
  }

  // Throws unless it takes tasks.
  void require_open() {
    if (order() != shm::PoolOrder::run) refuse_closed();
    if (std::exception_ptr failure = this->failure()) std::rethrow_exception(failure);
  }
  // Why no task will end any more; null while the pool lives.
  [[nodiscard]] std::exception_ptr failure() {
    if (const shm::PoolCondition told = condition(); told > shm::PoolCondition::running) {
      if (std::exception_ptr failure = failure_told(told)) return failure;
    }
    if (family_.warden_lost()) return failure_without_warden();
    return supervisor_died() ? failure_without_supervisor() : nullptr;
  }

  // Readable when the supervisor has ended.
  [[nodiscard]] int pidfd() const noexcept { return supervisor_pidfd_.get(); }
  // It has ended.
  void reap() noexcept;
  // In a forked copy: nothing here may be given back.
  void abandon() noexcept { supervisor_pidfd_.release(); }

 private:
  // The life word is only the early sign, and workers could have overwritten it.
  [[nodiscard]] bool supervisor_died() noexcept {
    if (supervisor_gone_.load(std::memory_order_acquire)) return true;
    const std::uint32_t life =
        view_.owners().life(shm::kSupervisorSlot).word.load(std::memory_order_acquire);
    // 0: it could not hold its word (a sandbox may forbid that), so there is no early sign.
    if (life != 0 && (life & sys::kFutexOwnerDied) == 0) return false;
    return reap_if_ended();
  }
  bool reap_if_ended() noexcept;
  [[noreturn]] static void refuse_closed();
  [[nodiscard]] std::exception_ptr failure_told(shm::PoolCondition told) const;
  [[nodiscard]] static std::exception_ptr failure_without_warden();
  [[nodiscard]] static std::exception_ptr failure_without_supervisor();

  PoolView view_;
  const warden::Family& family_;
  const std::uint64_t memory_limit_bytes_;
  sys::Fd supervisor_pidfd_;
  std::atomic<bool> supervisor_gone_{false};
};

}  // namespace brood::pool
