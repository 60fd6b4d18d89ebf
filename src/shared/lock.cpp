// Lock and RLock: taking, waiting, unlocking.
#include "shm/lock.hpp"

#include <algorithm>
#include <new>
#include <string>

#include "brood/locks.hpp"
#include "brood/process.hpp"
#include "shared/lock_wait.hpp"
#include "shared/thread_locks.hpp"
#include "shared/use_object.hpp"
#include "shared/waiting.hpp"
#include "sys/clock.hpp"
#include "sys/process.hpp"

namespace brood::shared {

namespace {

// Who has waited so long is hungry.
constexpr std::int64_t kHungryAfterNs = 1'000'000;

}  // namespace

void look_after_owner(const shm::ObjectPlace& place) {
  auto& lock = body_of<shm::LockBody>(place);
  const warden::ObjectSpace* space = warden::ObjectSpace::current();
  const shm::LockWord word = shm::look(lock);
  if (space == nullptr || word.state != shm::LockState::held) return;
  if (space->has_left(word.owner.owner) && shm::orphan(lock, word.owner.owner)) {
    shm::ring_all_bells(*place.header);
  }
}

void stand_back_for_hungry(const shm::LockBody& lock) {
  const std::int64_t end = sys::now_ns() + kHungryAfterNs;
  do {
    sys::yield();
    const shm::LockWord word = shm::look(lock);
    if (word.state != shm::LockState::free || !word.hungry) return;
  } while (sys::now_ns() < end);
}

shm::Take wait_for_lock(const shm::ObjectPlace& place, DeadlineNs deadline, TakeFn take) {
  static start::LookTime look_time;
  auto& lock = body_of<shm::LockBody>(place);
  shm::Take result = shm::Take::busy;
  bool hungry = false;
  const auto done = [&] {
    result = take();
    if (result == shm::Take::busy && hungry) shm::mark_hungry(lock);
    return result != shm::Take::busy;
  };
  std::int64_t until = sys::now_ns() + kHungryAfterNs;
  for (;;) {
    if (wait_until(place.header->bells[0], std::min(deadline, until), &look_time, done)) {
      return result;
    }
    const std::int64_t now = sys::now_ns();
    if (now >= deadline) return shm::Take::busy;
    if (hungry) look_after_owner(place);
    hungry = true;
    until = now + kLookAfterOwnersNs;
  }
}

}  // namespace brood::shared

namespace brood::detail {

namespace {

using shared::ThreadLocks;
using shm::LockBody;
using shm::LockState;
using shm::LockWord;
using shm::Take;

const shm::ObjectPlace& use(const ObjectHandle& handle) {
  return shared::use_object(handle, sizeof(LockBody));
}

LockBody& body_of(const shm::ObjectPlace& place) noexcept {
  return shared::body_of<LockBody>(place);
}

[[noreturn]] void throw_owner_died() {
  throw OwnerDied(
      "brood: the owner of this lock ended while it held it: repair what it may have left half "
      "changed, then call recover()");
}

// Whether this thread has it now; throws if it never will.
bool has_taken(Take result, bool waits, ThreadLocks& thread, shm::BlockRef ref) {
  switch (result) {
    case Take::taken:
      thread.add(ref);
      return true;
    case Take::deeper:
      return true;
    case Take::busy:
      return false;
    case Take::mine:
      if (!waits) return false;
      throw Error("brood: this thread has locked this Lock already and would wait for ever");
    case Take::too_deep:
      throw Error("brood: an RLock can't be locked more often than 2047 times by one thread");
    case Take::owner_died:
      throw_owner_died();
  }
  return false;
}

}  // namespace

LockHandle::LockHandle(std::uint64_t type, LockOptions options) : type_(type) {
  static_assert(kLockKind == static_cast<std::uint32_t>(shm::ObjectKind::lock));
  auto hold = ObjectHold::make(shm::ObjectKind::lock, type, sizeof(LockBody));
  auto* lock = new (hold->use().body.data()) LockBody{};
  lock->ignore_owner_death.store(options.ignore_owner_death ? 1 : 0, std::memory_order_relaxed);
  hold->publish();
  handle_ = ObjectHandle(std::move(hold));
}

SentHandle LockHandle::send() const {
  if (!handle_) return {};
  // Of a part of an object, the object is sent.
  const shm::ObjectPlace& place = handle_.hold()->use();
  if (place.kind == shm::ObjectKind::lock) return send_handle(handle_, kLockKind, type_);
  return send_handle(handle_, static_cast<std::uint32_t>(place.kind), place.header->type);
}

LockHandle LockHandle::receive(const SentHandle& sent, std::optional<std::uint64_t> type) {
  std::uint64_t is = kRecursive;  // as are all that are parts of objects
  if (sent.object == 0) {
    is = type.value_or(kPlain);
  } else if (sent.kind == kLockKind) {
    is = sent.type;
  } else if (!shm::has_lock(static_cast<shm::ObjectKind>(sent.kind))) {
    is = 0;
  }
  if ((is != kPlain && is != kRecursive) || is != type.value_or(is)) {
    throw TypeMismatch("brood: the bytes are a handle of another kind of object");
  }
  return {is, receive_handle(sent, sent.kind, sent.type)};
}

bool LockHandle::try_lock() const {
  const shm::ObjectPlace& place = use(handle_);
  ThreadLocks& thread = ThreadLocks::here();
  const shm::ThreadName& me = thread.name();
  thread.reserve();
  const shm::TakeRules rules{.recursive = type_ == kRecursive, .polite = false};
  return has_taken(shm::take(body_of(place), me, rules), false, thread, place.ref);
}

bool LockHandle::lock_before(DeadlineNs deadline) const {
  const shm::ObjectPlace& place = use(handle_);
  ThreadLocks& thread = ThreadLocks::here();
  const shm::ThreadName& me = thread.name();
  thread.reserve();
  LockBody& lock = body_of(place);
  if (shm::take_free(lock, thread.held_word())) [[likely]] {
    thread.add(place.ref);
    return true;
  }
  shm::TakeRules rules{.recursive = type_ == kRecursive, .polite = true};
  Take result = shm::take(lock, me, rules);
  if (result == Take::busy) {
    shared::stand_back_for_hungry(lock);
    rules.polite = false;
    result = shared::wait_for_lock(place, deadline, [&] { return shm::take(lock, me, rules); });
  }
  // Nobody else can end a wait for oneself, but a limit does.
  if (result == Take::mine && deadline != kNoDeadline) {
    shared::wait_for_lock(place, deadline, [] { return Take::busy; });
    return false;
  }
  return has_taken(result, true, thread, place.ref);
}

void LockHandle::unlock() const {
  const shm::ObjectPlace& place = use(handle_);
  ThreadLocks& thread = ThreadLocks::here();
  const shm::ThreadName& me = thread.name();
  if (shm::drop_only(body_of(place), thread.held_word())) [[likely]] {
    thread.remove(place.ref);
    place.header->bells[0].ring();
    return;
  }
  switch (shm::drop(body_of(place), me)) {
    case shm::Drop::dropped:
      thread.remove(place.ref);
      place.header->bells[0].ring();
      return;
    case shm::Drop::kept:
      return;
    case shm::Drop::not_mine:
      break;
  }
  // Who lost its lock in a wait that ended with FamilyBroken has a guard that unlocks it.
  const warden::ObjectSpace* space = warden::ObjectSpace::current();
  if (space == nullptr || space->warden_lost()) return;
  throw Error("brood: this thread does not hold the lock that it unlocks");
}

void LockHandle::unlock_quietly() const noexcept {
  try {
    unlock();
  } catch (const Error&) {
    // It is somebody else's: there is nothing left to unlock.
  }
}

bool LockHandle::locked() const {
  return shm::look(body_of(use(handle_))).state != LockState::free;
}

bool LockHandle::recover() const {
  const shm::ObjectPlace& place = use(handle_);
  const bool recovered = shm::recover(body_of(place), ThreadLocks::here().name());
  if (recovered) place.header->bells[0].ring_for_all();
  return recovered;
}

bool LockHandle::lock_orphaned() const {
  const shm::ObjectPlace& place = use(handle_);
  ThreadLocks& thread = ThreadLocks::here();
  const shm::ThreadName& me = thread.name();
  thread.reserve();
  if (!shm::take_orphaned(body_of(place), me)) return false;
  thread.add(place.ref);
  return true;
}

std::string LockHandle::describe() const {
  const char* const name = type_ == kRecursive ? "RLock" : "Lock";
  if (!handle_) return std::string("<") + name + " empty>";
  const LockWord word = shm::look(body_of(use(handle_)));
  const shm::ThreadName& me = ThreadLocks::here().name();
  std::string owner = "None";
  if (word.state == LockState::orphaned) {
    owner = "dead";
  } else if (word.state == LockState::held && word.owner.owner != me.owner) {
    owner = "SomeOtherProcess";
  } else if (word.state == LockState::held && word.owner != me) {
    owner = "SomeOtherThread";
  } else if (word.state == LockState::held) {
    owner = current_process().name();
    if (static_cast<int>(me.thread) != sys::process_id()) {
      owner += "|Thread-" + std::to_string(me.thread);
    }
  }
  if (type_ != kRecursive) return std::string("<") + name + "(owner=" + owner + ")>";
  const std::uint32_t depth = word.state == LockState::held ? word.depth : 0;
  return std::string("<") + name + "(" + owner + ", " + std::to_string(depth) + ")>";
}

}  // namespace brood::detail
