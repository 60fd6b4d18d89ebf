// What Lock and RLock have in common, and what a Condition needs of either.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <ostream>
#include <utility>

#include "brood/detail/deadline.hpp"
#include "brood/detail/object.hpp"

namespace brood {

class RLock;

struct LockOptions {
  // The next locker simply gets what a dead owner left, and is told nothing.
  bool ignore_owner_death = false;
};

}  // namespace brood

namespace brood::detail {

// The lock that is a part of an object: of a Value or an Array.
RLock lock_of(ObjectHandle object) noexcept;

// A lock that is an object, or a part of one: of a Value or an Array.
//
// Threads, Blocking, Ownership, Errors, Death: see Lock.
class LockHandle {
 public:
  void lock() const { lock_before(kNoDeadline); }
  // False: somebody has it.
  [[nodiscard]] bool try_lock() const;
  template <class Rep, class Period>
  [[nodiscard]] bool try_lock_for(const std::chrono::duration<Rep, Period>& limit) const {
    return lock_before(deadline_in(limit));
  }
  template <class Clock, class Duration>
  [[nodiscard]] bool try_lock_until(const std::chrono::time_point<Clock, Duration>& limit) const {
    return lock_before(deadline_at(limit));
  }
  void unlock() const;

  // Whether lock() would have to wait, or would throw OwnerDied.
  [[nodiscard]] bool locked() const;

  // Whoever has repaired what a dead owner left half done says so by this: the lock is then free.
  // (Or, in the hands of who got it by Condition::wait, as any that it holds.) False: there was
  // nothing to recover.
  bool recover() const;
  // The same with the repair: one caller gets the lock, runs it, and unlocks; others wait no longer
  // than for OwnerDied. If `repair` throws or its process dies, all is as before.
  template <class Repair>
  bool recover(Repair&& repair) const {
    if (!lock_orphaned()) return false;
    struct Unlock {
      const LockHandle& lock;
      ~Unlock() { lock.unlock_quietly(); }
    } const unlock{*this};
    std::forward<Repair>(repair)();
    recover();
    return true;
  }

  // False: moved from, or received as such.
  explicit operator bool() const noexcept { return static_cast<bool>(handle_); }
  [[nodiscard]] const ObjectHandle& object_handle() const noexcept { return handle_; }

  // On its way. Throw what send_handle() and receive_handle() throw.
  [[nodiscard]] SentHandle send() const;
  static LockHandle receive(const SentHandle& sent, std::optional<std::uint64_t> type = {});

  // <Lock(owner=MainProcess)>, with "Process-1|Thread-17", "SomeOtherThread", "SomeOtherProcess",
  // "dead" or "None"; <RLock(MainProcess, 2)> with how often it is locked.
  friend std::ostream& operator<<(std::ostream& out, const LockHandle& lock) {
    return out << lock.describe();
  }

 protected:
  static constexpr std::uint64_t kPlain = 1;
  static constexpr std::uint64_t kRecursive = 2;

  LockHandle(std::uint64_t type, LockOptions options);
  LockHandle(std::uint64_t type, ObjectHandle handle) noexcept
      : handle_(std::move(handle)), type_(type) {}

 private:
  friend class ConditionCore;

  bool lock_before(DeadlineNs deadline) const;
  [[nodiscard]] bool lock_orphaned() const;
  void unlock_quietly() const noexcept;
  [[nodiscard]] std::string describe() const;

  ObjectHandle handle_;
  std::uint64_t type_;
};

}  // namespace brood::detail
