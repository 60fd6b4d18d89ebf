// What the classes of brood/locks.hpp can do: their members, in the order in which they stand
// there. What holds of them for Threads, Blocking, Ownership, Errors and Death is said there.
#pragma once

#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <ostream>
#include <string>
#include <utility>

#include "brood/detail/barrier_action.hpp"
#include "brood/detail/deadline.hpp"
#include "brood/detail/lock_handle.hpp"
#include "brood/detail/object.hpp"

namespace brood::detail {

// Values of shm::ObjectKind.
inline constexpr std::uint32_t kLockKind = 5;
inline constexpr std::uint32_t kSemaphoreKind = 6;
inline constexpr std::uint32_t kEventKind = 7;
inline constexpr std::uint32_t kConditionKind = 8;
inline constexpr std::uint32_t kBarrierKind = 9;

class SemaphoreCore {
 public:
  void acquire() const { acquire_before(kNoDeadline); }
  // False: none was free.
  [[nodiscard]] bool try_acquire() const;
  template <class Rep, class Period>
  [[nodiscard]] bool try_acquire_for(const std::chrono::duration<Rep, Period>& limit) const {
    return acquire_before(deadline_in(limit));
  }
  template <class Clock, class Duration>
  [[nodiscard]] bool try_acquire_until(
      const std::chrono::time_point<Clock, Duration>& limit) const {
    return acquire_before(deadline_at(limit));
  }
  void release(std::uint32_t permits = 1) const;
  // Free permits, as of a moment ago.
  [[nodiscard]] std::uint64_t get_value() const;

  explicit operator bool() const noexcept { return static_cast<bool>(handle_); }
  [[nodiscard]] const ObjectHandle& object_handle() const noexcept { return handle_; }
  // <Semaphore(value=1)>, <BoundedSemaphore(value=1, maxvalue=2)>.
  friend std::ostream& operator<<(std::ostream& out, const SemaphoreCore& semaphore) {
    return out << semaphore.describe();
  }

 protected:
  static constexpr std::uint64_t kCounting = 1;
  static constexpr std::uint64_t kBounded = 2;
  SemaphoreCore(std::uint64_t type, std::int64_t permits);
  SemaphoreCore(std::uint64_t type, ObjectHandle handle) noexcept
      : handle_(std::move(handle)), type_(type) {}

 private:
  bool acquire_before(DeadlineNs deadline) const;
  [[nodiscard]] std::string describe() const;

  ObjectHandle handle_;
  std::uint64_t type_;
};

class EventCore {
 public:
  [[nodiscard]] bool is_set() const;
  void set() const;
  void clear() const;
  void wait() const { wait_before(kNoDeadline); }
  // False: it was not set in time.
  template <class Rep, class Period>
  [[nodiscard]] bool wait_for(const std::chrono::duration<Rep, Period>& limit) const {
    return wait_before(deadline_in(limit));
  }
  template <class Clock, class Duration>
  [[nodiscard]] bool wait_until(const std::chrono::time_point<Clock, Duration>& limit) const {
    return wait_before(deadline_at(limit));
  }

  // For wait() and your own event loop: a descriptor that is readable while the event is set. Never
  // read from it. After a clear() by another process it stays readable until this one asks is_set()
  // or waits. Throws SystemError.
  [[nodiscard]] int fileno() const;
  [[nodiscard]] bool still_ready() const { return is_set(); }  // for wait()

  explicit operator bool() const noexcept { return static_cast<bool>(handle_); }
  [[nodiscard]] const ObjectHandle& object_handle() const noexcept { return handle_; }
  // <Event set>, <Event unset>.
  friend std::ostream& operator<<(std::ostream& out, const EventCore& event) {
    return out << event.describe();
  }

 protected:
  EventCore();
  explicit EventCore(ObjectHandle handle);

 private:
  struct Watch;

  bool wait_before(DeadlineNs deadline) const;
  [[nodiscard]] std::string describe() const;

  ObjectHandle handle_;
  std::shared_ptr<Watch> watch_;  // this process's descriptor, if it has asked for one
};

// Handles that are sent together.
struct SentCondition {
  SentHandle condition;
  SentHandle lock;
};

template <class Out>
void write_sent_handle(const SentHandle& sent, Out& out) {
  out.write_scalar(sent.object);
  out.write_scalar(sent.kind);
  out.write_scalar(sent.side);
  out.write_scalar(sent.type);
}
inline SentHandle read_sent_handle(Reader& reader) {
  SentHandle sent;
  sent.object = reader.read_scalar<std::uint64_t>();
  sent.kind = reader.read_scalar<std::uint32_t>();
  sent.side = reader.read_scalar<std::uint32_t>();
  sent.type = reader.read_scalar<std::uint64_t>();
  return sent;
}

class ConditionCore {
 public:
  // Its lock.
  void lock() const { lock_.lock(); }
  [[nodiscard]] bool try_lock() const { return lock_.try_lock(); }
  template <class Rep, class Period>
  [[nodiscard]] bool try_lock_for(const std::chrono::duration<Rep, Period>& limit) const {
    return lock_.try_lock_for(limit);
  }
  template <class Clock, class Duration>
  [[nodiscard]] bool try_lock_until(const std::chrono::time_point<Clock, Duration>& limit) const {
    return lock_.try_lock_until(limit);
  }
  void unlock() const { lock_.unlock(); }
  bool recover() const { return lock_.recover(); }

  // Until notified; with a limit: false if that came first.
  void wait() const { wait_before(kNoDeadline); }
  template <class Rep, class Period>
  bool wait_for(const std::chrono::duration<Rep, Period>& limit) const {
    return wait_before(deadline_in(limit));
  }
  template <class Clock, class Duration>
  bool wait_until(const std::chrono::time_point<Clock, Duration>& limit) const {
    return wait_before(deadline_at(limit));
  }

  // Until `holds()` does, which is called with the lock held; with a limit: what it said last.
  template <std::predicate Predicate>
  void wait(Predicate holds) const {
    wait_before(kNoDeadline, holds);
  }
  template <class Rep, class Period, std::predicate Predicate>
  bool wait_for(const std::chrono::duration<Rep, Period>& limit, Predicate holds) const {
    return wait_before(deadline_in(limit), holds);
  }
  template <class Clock, class Duration, std::predicate Predicate>
  bool wait_until(const std::chrono::time_point<Clock, Duration>& limit, Predicate holds) const {
    return wait_before(deadline_at(limit), holds);
  }
  // As in Python.
  template <std::predicate Predicate>
  void wait_for(Predicate holds) const {
    wait_before(kNoDeadline, holds);
  }
  template <std::predicate Predicate, class Rep, class Period>
  bool wait_for(Predicate holds, const std::chrono::duration<Rep, Period>& limit) const {
    return wait_before(deadline_in(limit), holds);
  }

  // Of those who wait now, so many go on.
  void notify(std::size_t count = 1) const;
  void notify_one() const { notify(1); }
  void notify_all() const { notify(SIZE_MAX); }

  explicit operator bool() const noexcept { return static_cast<bool>(handle_); }
  [[nodiscard]] const ObjectHandle& object_handle() const noexcept { return handle_; }
  // <Condition(<RLock(None, 0)>, 2)>: its lock, and how many wait.
  friend std::ostream& operator<<(std::ostream& out, const ConditionCore& condition) {
    return out << condition.describe();
  }

  // For its codec.
  [[nodiscard]] SentCondition send() const;
  static ConditionCore receive(const SentCondition& sent);

 protected:
  explicit ConditionCore(const LockHandle& lock);

 private:
  ConditionCore(ObjectHandle handle, const LockHandle& lock)
      : handle_(std::move(handle)), lock_(lock) {}
  bool wait_before(DeadlineNs deadline) const;
  template <class Predicate>
  bool wait_before(DeadlineNs deadline, Predicate& holds) const {
    while (!holds()) {
      if (!wait_before(deadline)) return holds();
    }
    return true;
  }
  [[nodiscard]] std::string describe() const;

  ObjectHandle handle_;
  LockHandle lock_;
};

class BarrierCore {
 public:
  // Until all parties have come. Which of them this one is: 0 is the first that came, parties() - 1
  // the last.
  std::size_t wait() const { return wait_before(std::nullopt); }
  // At the limit the barrier is broken. (TimeoutError, and it is not: others were about to pass,
  // and this one had no place among them.)
  template <class Rep, class Period>
  std::size_t wait_for(const std::chrono::duration<Rep, Period>& limit) const {
    return wait_before(deadline_in(limit));
  }
  template <class Clock, class Duration>
  std::size_t wait_until(const std::chrono::time_point<Clock, Duration>& limit) const {
    return wait_before(deadline_at(limit));
  }
  void abort() const;
  void reset() const;
  [[nodiscard]] std::size_t parties() const;
  [[nodiscard]] std::size_t n_waiting() const;
  [[nodiscard]] bool broken() const;

  explicit operator bool() const noexcept { return static_cast<bool>(handle_); }
  [[nodiscard]] const ObjectHandle& object_handle() const noexcept { return handle_; }
  // <Barrier waiters=1/3>, <Barrier broken>.
  friend std::ostream& operator<<(std::ostream& out, const BarrierCore& barrier) {
    return out << barrier.describe();
  }

 protected:
  BarrierCore(std::int64_t parties, const BarrierAction& action,
              std::optional<std::chrono::nanoseconds> limit);
  explicit BarrierCore(ObjectHandle handle) noexcept : handle_(std::move(handle)) {}

 private:
  std::size_t wait_before(std::optional<DeadlineNs> deadline) const;
  [[nodiscard]] std::string describe() const;

  ObjectHandle handle_;
};

}  // namespace brood::detail
