// Locks, semaphores, events, conditions and barriers that processes share.
//
// All are handles: values whose copies name the same object, that are passed to processes and
// tasks, sent through queues, and used in all of them. The object lives as long as anybody has a
// handle of it. A moved-from handle is empty: its use is an Error.
//
//   Lock lock;
//   Process p([](const Lock& lock) { const std::lock_guard guard(lock); ... }, lock);
//
// For all classes here:
//
//   Threads:   any operation from any thread of any process; a handle itself is a value.
//   Blocking:  as the members say. Waits serve signals (signals.hpp) and look a little before they
//              sleep. What needs no wait makes no system call.
//   Ownership: a handle is part of its process's hold of the object. In a child that you fork
//              yourself it is inert.
//   Errors:    ArenaFull and FamilyBroken from making one; StaleHandle from handles that were
//              forked; Error for misuse; Interrupted from waits, which have then done nothing;
//              FamilyBroken from waits within a second of the warden's death.
//   Death:     of any process at any instruction leaves all of them usable by the others; each says
//              how.
#pragma once

#include "brood/detail/cpp20.hpp"

#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <ostream>
#include <utility>

#include "brood/codec.hpp"
#include "brood/detail/barrier_action.hpp"
#include "brood/detail/lock_handle.hpp"
#include "brood/detail/sync_cores.hpp"

namespace brood {

// One owner at a time. A std Lockable and TimedLockable, so std::lock_guard, std::unique_lock and
// std::scoped_lock take it.
//
//   Threads:   the owner is a thread: only it can unlock.
//   Blocking:  lock(), try_lock_for(), try_lock_until(). Who has waited for a millisecond goes
//              before those who come later.
//   Ownership: of what it protects.
//   Errors:    Error from unlock() by who is not the owner, and from lock() by who already is: that
//              would never end. OwnerDied, see below.
//   Death:     of the owner's process, or the end of its thread, while it holds the lock: lock()
//              and the try_ forms throw OwnerDied, without acquiring, to everybody, until somebody
//              calls recover(). With LockOptions{.ignore_owner_death = true} the next locker simply
//              gets it. (A main thread that ends alone, by pthread_exit, is noticed at its
//              process's end.)
class Lock final : public detail::LockHandle {
 public:
  static constexpr std::uint32_t kKind = detail::kLockKind;
  static std::uint64_t object_type() noexcept { return kPlain; }

  Lock() : Lock(LockOptions{}) {}
  explicit Lock(LockOptions options) : LockHandle(kPlain, options) {}

 private:
  friend struct detail::HandleCodec<Lock>;
  explicit Lock(detail::ObjectHandle handle) noexcept : LockHandle(kPlain, std::move(handle)) {}
};

// A Lock that its owner may lock again, up to 2047 times, and has to unlock as often.
//
//   Threads, Blocking, Ownership, Errors, Death: as Lock. Its count dies with its owner.
class RLock final : public detail::LockHandle {
 public:
  static constexpr std::uint32_t kKind = detail::kLockKind;
  static std::uint64_t object_type() noexcept { return kRecursive; }

  RLock() : RLock(LockOptions{}) {}
  explicit RLock(LockOptions options) : LockHandle(kRecursive, options) {}

 private:
  friend struct detail::Codec<RLock>;
  friend class detail::ConditionCore;
  friend RLock detail::lock_of(detail::ObjectHandle object) noexcept;
  explicit RLock(detail::LockHandle lock) noexcept : LockHandle(std::move(lock)) {}
  explicit RLock(detail::ObjectHandle handle) noexcept
      : LockHandle(kRecursive, std::move(handle)) {}
};

// So many permits, up to 65,536, to be acquired and released.
//
//   Threads:   permits belong to processes. Anybody may release, also who acquired none: that sets
//              free one that somebody else holds, or, if nobody holds any, adds one.
//   Blocking:  acquire() and its timed forms.
//   Ownership: of permits until they are released.
//   Errors:    Error from a semaphore of more permits, or negative ones.
//   Death:     permits that the dead held return. So a semaphore used as a pool of resources never
//              runs dry, and there are never more than in the beginning because somebody died. One
//              that counts events (begun with 0, released by those who make them) has no permits to
//              return: what was acquired is used up.
class Semaphore : public detail::SemaphoreCore {
 public:
  static constexpr std::uint32_t kKind = detail::kSemaphoreKind;
  static std::uint64_t object_type() noexcept { return kCounting; }

  explicit Semaphore(std::int64_t permits = 1) : SemaphoreCore(kCounting, permits) {}

 private:
  friend struct detail::HandleCodec<Semaphore>;
  explicit Semaphore(detail::ObjectHandle handle) noexcept
      : SemaphoreCore(kCounting, std::move(handle)) {}
};

// A Semaphore that never has more free permits than in the beginning.
//
//   Threads, Blocking, Ownership, Death: as Semaphore.
//   Errors:    and Error from a release() of more than is held; nothing is released then.
class BoundedSemaphore : public detail::SemaphoreCore {
 public:
  static constexpr std::uint32_t kKind = detail::kSemaphoreKind;
  static std::uint64_t object_type() noexcept { return kBounded; }

  explicit BoundedSemaphore(std::int64_t permits = 1) : SemaphoreCore(kBounded, permits) {}

 private:
  friend struct detail::HandleCodec<BoundedSemaphore>;
  explicit BoundedSemaphore(detail::ObjectHandle handle) noexcept
      : SemaphoreCore(kBounded, std::move(handle)) {}
};

// Something that has happened, or not yet.
//
//   Threads, Ownership, Errors: as all here.
//   Blocking:  wait() and its timed forms. Who waits when it is set goes on, though it may be
//              cleared at once.
//   Death:     changes nothing: what was set stays set.
class Event final : public detail::EventCore {
 public:
  static constexpr std::uint32_t kKind = detail::kEventKind;
  static std::uint64_t object_type() noexcept { return 1; }

  Event() = default;

 private:
  friend struct detail::HandleCodec<Event>;
  explicit Event(detail::ObjectHandle handle) : EventCore(std::move(handle)) {}
};

// Lets those who hold its lock wait until others say that something has changed. It is Lockable
// itself: std::unique_lock guard(condition) locks its lock.
//
//   Threads:   waiting needs the lock. Notifying does not, though it mostly makes sense with it.
//   Blocking:  wait() and its forms, also for the lock. Who waits longest is notified first. A wait
//              may end without a notification only if more than 96 wait at once: so prefer the
//              forms with a predicate.
//   Ownership: of its lock's handle. A wait gives the lock up, however often it was locked, and has
//              it again, as often, when it ends, also by an exception (but not by FamilyBroken).
//   Errors:    Error from waits of who does not hold the lock.
//   Death:     a notification that was given to a waiter who dies passes on to another. OwnerDied
//              from a wait whose lock's owner died meanwhile: the waiter then holds the lock, but
//              unless it calls recover(), its unlock() leaves it to others as it found it.
class Condition final : public detail::ConditionCore {
 public:
  Condition() : Condition(RLock()) {}
  explicit Condition(const Lock& lock) : ConditionCore(lock) {}
  explicit Condition(const RLock& lock) : ConditionCore(lock) {}

 private:
  friend struct detail::Codec<Condition>;
  explicit Condition(detail::ConditionCore core) : ConditionCore(std::move(core)) {}
};

// Lets so many parties, up to 4095, go on together.
//
//   Threads:   a party is a thread that waits. More may use it than there are parties.
//   Blocking:  wait() and its forms.
//   Ownership: none.
//   Errors:    BrokenBarrier from wait() of all parties if one of them gives up: at its limit, by
//              abort(), by an exception from its wait or from the action (which only that party
//              sees). Also at once, from then until reset(). reset() breaks it for those who wait,
//              and lets others begin anew. Error: no parties, or too many.
//   Death:     of a party while it waits breaks it. One that dies before is missed: give a limit.
class Barrier final : public detail::BarrierCore {
 public:
  static constexpr std::uint32_t kKind = detail::kBarrierKind;
  static std::uint64_t object_type() noexcept { return 1; }
  using Limit = std::optional<std::chrono::nanoseconds>;

  explicit Barrier(std::int64_t parties) : Barrier(parties, std::nullopt) {}
  // `limit` of each wait() that names none.
  Barrier(std::int64_t parties, Limit limit) : BarrierCore(parties, {}, limit) {}
  // `action`: a function, or a closure as a task may be, of at most 64 bytes. The last party that
  // comes calls it, in its process, before any goes on. Throws NotSendable.
  template <std::invocable F>
  Barrier(std::int64_t parties, const F& action, Limit limit = std::nullopt)
      : BarrierCore(parties, detail::make_barrier_action<std::decay_t<F>>(action), limit) {}

 private:
  friend struct detail::HandleCodec<Barrier>;
  explicit Barrier(detail::ObjectHandle handle) noexcept : BarrierCore(std::move(handle)) {}
};

}  // namespace brood

namespace brood::detail {

inline RLock lock_of(ObjectHandle object) noexcept { return RLock(std::move(object)); }

template <>
struct Codec<Lock> : HandleCodec<Lock> {};
template <>
struct Codec<RLock> {
  using Parts = TypeList<>;
  static constexpr bool carries_handles = true;
  static constexpr std::optional<std::size_t> fixed_size = 24;

  template <class Out>
  static void encode(const RLock& lock, Out& out) {
    SentHandle sent;
    if constexpr (!Out::counts_only) sent = lock.send();
    write_sent_handle(sent, out);
  }
  static RLock decode(Reader& reader) {
    return RLock(LockHandle::receive(read_sent_handle(reader), RLock::object_type()));
  }
};
template <>
struct Codec<Semaphore> : HandleCodec<Semaphore> {};
template <>
struct Codec<BoundedSemaphore> : HandleCodec<BoundedSemaphore> {};
template <>
struct Codec<Event> : HandleCodec<Event> {};
template <>
struct Codec<Barrier> : HandleCodec<Barrier> {};

template <>
struct Codec<Condition> {
  using Parts = TypeList<>;
  static constexpr bool carries_handles = true;
  static constexpr std::optional<std::size_t> fixed_size = 48;

  template <class Out>
  static void encode(const Condition& condition, Out& out) {
    SentCondition sent;
    if constexpr (!Out::counts_only) sent = condition.send();
    for (const SentHandle& handle : {sent.condition, sent.lock}) {
      write_sent_handle(handle, out);
    }
  }
  static Condition decode(Reader& reader) {
    SentCondition sent;
    sent.condition = read_sent_handle(reader);
    sent.lock = read_sent_handle(reader);
    return Condition(ConditionCore::receive(sent));
  }
};

}  // namespace brood::detail
