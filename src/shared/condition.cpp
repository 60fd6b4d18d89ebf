// Condition: giving the lock up, waiting, and having it again.
#include "shm/condition.hpp"

#include <exception>
#include <new>
#include <string>

#include "brood/locks.hpp"
#include "shared/lock_wait.hpp"
#include "shared/thread_locks.hpp"
#include "shared/use_object.hpp"
#include "shared/waiting.hpp"

namespace brood::detail {

namespace {

using shared::ThreadLocks;
using shm::ConditionBody;
using shm::LockBody;

const shm::ObjectPlace& use(const ObjectHandle& handle) {
  return shared::use_object(handle, sizeof(ConditionBody));
}
ConditionBody& body_of(const shm::ObjectPlace& place) noexcept {
  return shared::body_of<ConditionBody>(place);
}

void notify_some(const shm::ObjectPlace& place, std::size_t count) noexcept {
  shm::notify(body_of(place), count);
  place.header->bells[0].ring_for_all();  // those without a cell
}

// One who waits: has a cell, or looks for any notification.
class Waiter {
 public:
  Waiter(const shm::ObjectPlace& place, shm::OwnerId me) noexcept
      : place_(place),
        seen_(body_of(place).notifications.load(std::memory_order_seq_cst)),
        cell_(shm::enter(body_of(place), me)) {}
  // Unused, its notification goes to another.
  ~Waiter() {
    if (!left_ && leave()) notify_some(place_, 1);
  }
  Waiter(const Waiter&) = delete;
  Waiter& operator=(const Waiter&) = delete;

  [[nodiscard]] bool is_notified() const noexcept {
    const ConditionBody& condition = body_of(place_);
    if (cell_ != shm::kNoCell) return shm::is_notified(condition, cell_);
    return condition.notifications.load(std::memory_order_seq_cst) != seen_;
  }
  [[nodiscard]] shm::Bell& bell() noexcept {
    return cell_ != shm::kNoCell ? body_of(place_).cells[cell_].bell : place_.header->bells[0];
  }
  // Whether it was notified.
  bool leave() noexcept {
    left_ = true;
    return cell_ != shm::kNoCell ? shm::leave(body_of(place_), cell_) : is_notified();
  }

 private:
  const shm::ObjectPlace& place_;
  std::uint64_t seen_;
  std::size_t cell_;
  bool left_ = false;
};

// Has the lock again, whatever arrives meanwhile; what a signal's handler throws is kept in
// `pending`. Throws FamilyBroken.
void lock_again(const shm::ObjectPlace& place, ThreadLocks& thread, std::uint32_t depth,
                std::exception_ptr& pending) {
  auto& lock = shared::body_of<LockBody>(place);
  for (;;) {
    try {
      shared::wait_for_lock(place, kNoDeadline,
                            [&] { return shm::retake(lock, thread.name(), depth); });
      thread.add(place.ref);
      return;
    } catch (const FamilyBroken&) {
      throw;
    } catch (...) {
      if (!pending) pending = std::current_exception();
    }
  }
}

}  // namespace

ConditionCore::ConditionCore(const LockHandle& lock) : lock_(lock) {
  static_assert(kConditionKind == static_cast<std::uint32_t>(shm::ObjectKind::condition));
  static_cast<void>(shared::use_object(lock.object_handle(), sizeof(LockBody)));
  auto hold = ObjectHold::make(shm::ObjectKind::condition, 1, sizeof(ConditionBody));
  new (hold->use().body.data()) ConditionBody{};
  hold->publish();
  handle_ = ObjectHandle(std::move(hold));
}

bool ConditionCore::wait_before(DeadlineNs deadline) const {
  static start::LookTime look_time;
  const shm::ObjectPlace& place = use(handle_);
  const shm::ObjectPlace& lock_place = shared::use_object(lock_.handle_, sizeof(LockBody));
  auto& lock = shared::body_of<LockBody>(lock_place);
  ThreadLocks& thread = ThreadLocks::here();
  if (!shm::is_held_by(lock, thread.name())) {
    throw Error("brood: waiting for a condition needs its lock, which this thread does not hold");
  }
  // It waits before the lock is free, so that no notification comes in between.
  Waiter waiter(place, thread.name().owner);
  const std::uint32_t depth = shm::drop_all(lock, thread.name()).value_or(1);
  thread.remove(lock_place.ref);  // which leaves room to add it again
  lock_place.header->bells[0].ring();
  std::exception_ptr pending;
  try {
    shared::wait_until(waiter.bell(), deadline, &look_time, [&] { return waiter.is_notified(); });
  } catch (const FamilyBroken&) {
    throw;
  } catch (...) {
    pending = std::current_exception();
  }
  lock_again(lock_place, thread, depth, pending);
  if (shm::look(lock).damaged) {
    throw OwnerDied(
        "brood: an owner of the condition's lock ended while it held it: repair what it may have "
        "left half changed, then call recover()");
  }
  if (pending) std::rethrow_exception(pending);
  return waiter.leave();
}

void ConditionCore::notify(std::size_t count) const { notify_some(use(handle_), count); }

SentCondition ConditionCore::send() const {
  return {send_handle(handle_, kConditionKind, 1), lock_.send()};
}

ConditionCore ConditionCore::receive(const SentCondition& sent) {
  ObjectHandle handle = receive_handle(sent.condition, kConditionKind, 1);
  return {std::move(handle), LockHandle::receive(sent.lock)};
}

std::string ConditionCore::describe() const {
  if (!handle_) return "<Condition empty>";
  const std::size_t waiting = shm::waiters(body_of(use(handle_)));
  return "<Condition(" + lock_.describe() + ", " + std::to_string(waiting) + ")>";
}

}  // namespace brood::detail
