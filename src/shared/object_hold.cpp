#include "shared/object_hold.hpp"

#include <cerrno>
#include <map>
#include <mutex>
#include <string>
#include <system_error>
#include <utility>

#include "brood/error.hpp"
#include "sys/identity.hpp"
#include "sys/process_mutex.hpp"

namespace brood::detail {

namespace {

using shm::BlockRef;
using shm::ObjectPlace;
using warden::ObjectSpace;

// How many holds of this process's handles there are of each side. A forked child begins with none:
// what it has inherited is not touched, since another thread may have been changing it.
class Counts {
 public:
  using Key = std::pair<std::uint64_t, std::uint32_t>;

  static Counts& here() noexcept {
    static Counts counts;
    return counts;
  }

  // Runs `first` if there was none.
  template <class First>
  bool add(Key key, First&& first) {
    const std::lock_guard lock(mutex_);
    std::size_t& count = mine()[key];
    if (count == 0 && !first()) {
      mine().erase(key);
      return false;
    }
    ++count;
    return true;
  }
  // Runs `last` if none is left.
  template <class Last>
  void remove(Key key, Last&& last) noexcept {
    const std::lock_guard lock(mutex_);
    const auto found = mine().find(key);
    if (found == mine().end() || --found->second > 0) return;
    mine().erase(found);
    last();
  }

 private:
  struct Mine {
    std::map<Key, std::size_t> holds;
    Mine* inherited;  // kept reachable so that it is no leak
  };

  std::map<Key, std::size_t>& mine() {
    if (counts_ == nullptr || token_ != sys::process_token()) {
      counts_ = new Mine{{}, counts_};  // for the rest of the process's life
      token_ = sys::process_token();
    }
    return counts_->holds;
  }

  sys::ProcessMutex mutex_;
  Mine* counts_ = nullptr;
  std::uint64_t token_ = 0;
};

[[noreturn]] void throw_stale() {
  throw StaleHandle("brood: the object behind this handle is gone: nobody held it any more");
}

thread_local HandleCollector* the_collector = nullptr;

}  // namespace

shm::Objects& objects_here() { return ObjectSpace::join().objects(); }

ObjectHold::ObjectHold(ObjectPlace place, std::uint32_t side) noexcept
    : place_(place), side_(side), token_(sys::process_token()) {}

std::shared_ptr<ObjectHold> ObjectHold::make(shm::ObjectKind kind, std::uint64_t type,
                                             std::size_t body_bytes) {
  const ObjectPlace place = objects_here().make(kind, type, body_bytes);
  if (!place) {
    throw ArenaFull("brood: no shared memory for an object of " + std::to_string(body_bytes) +
                    " bytes (" + std::generic_category().message(place.error) +
                    "): free something, or raise InitOptions::arena_limit_bytes");
  }
  std::shared_ptr<ObjectHold> hold(new ObjectHold(place, 0));
  Counts::here().add({place.ref.bits, 0}, [] { return true; });
  return hold;
}

std::shared_ptr<ObjectHold> ObjectHold::other_side(const ObjectHold& first, std::uint32_t side) {
  std::shared_ptr<ObjectHold> hold(new ObjectHold(first.place_, side));
  Counts::here().add({first.place_.ref.bits, side}, [] { return true; });
  return hold;
}

void ObjectHold::publish() { objects_here().publish(place_); }

std::shared_ptr<ObjectHold> ObjectHold::take(BlockRef ref, std::uint32_t side) {
  ObjectSpace& space = ObjectSpace::join();
  const ObjectPlace place = space.objects().find(ref);
  if (place.error != 0) {
    throw ArenaFull("brood: the system refuses the memory that looking at an object takes (" +
                    std::generic_category().message(place.error) + ")");
  }
  if (!place || side >= place.sides()) throw_stale();
  std::shared_ptr<ObjectHold> hold(new ObjectHold(place, side));
  // If it can't be counted, its destructor has nothing to give back.
  const std::uint64_t token = hold->token_.exchange(0);
  const bool held = Counts::here().add(
      {ref.bits, side}, [&] { return space.objects().hold(place, side, space.slot()); });
  if (!held) throw_stale();
  hold->token_.store(token);
  return hold;
}

ObjectHold::~ObjectHold() {
  if (token_.load(std::memory_order_acquire) != sys::process_token()) return;
  ObjectSpace* space = ObjectSpace::current();
  if (space == nullptr) return;
  Counts::here().remove({place_.ref.bits, side_}, [&] {
    if (space->objects().release(place_, side_, space->slot())) space->ask_to_collect();
  });
}

// This was another process's, of which this one is a copy.
void ObjectHold::adopt() {
  ObjectSpace* space = ObjectSpace::current();
  if (space == nullptr) {
    throw StaleHandle(
        "brood: this object belongs to the process that this one was forked from; use "
        "brood::Process "
        "to share it");
  }
  static sys::ProcessMutex adopting;
  const std::lock_guard lock(adopting);
  if (token_.load(std::memory_order_acquire) == sys::process_token()) return;
  // It may be another object's memory by now.
  ObjectSpace::join();
  if (!space->objects().find(place_.ref)) throw_stale();
  const bool held = Counts::here().add({place_.ref.bits, side_}, [&] {
    return space->objects().hold(place_, side_, space->slot());
  });
  if (!held) throw_stale();
  token_.store(sys::process_token(), std::memory_order_release);
}

bool ObjectHold::give_to(std::uint16_t slot) { return objects_here().hold(use(), side_, slot); }

void ObjectHold::take_back_from(std::uint16_t slot) noexcept {
  if (ObjectSpace* space = ObjectSpace::current()) {
    if (space->objects().release(place_, side_, slot)) space->ask_to_collect();
  }
}

// ---- handles

std::uint64_t ObjectHandle::name() const noexcept { return hold_ ? hold_->ref().bits : 0; }
std::uint32_t ObjectHandle::side() const noexcept { return hold_ ? hold_->side() : 0; }

bool ObjectHandle::give_to(std::uint16_t slot) const { return !hold_ || hold_->give_to(slot); }
void ObjectHandle::take_back_from(std::uint16_t slot) const noexcept {
  if (hold_) hold_->take_back_from(slot);
}
void ObjectHandle::adopt() const {
  if (hold_) static_cast<void>(hold_->use());
}

HandleCollector::HandleCollector() noexcept : outer_(the_collector) { the_collector = this; }
HandleCollector::~HandleCollector() { the_collector = outer_; }
HandleCollector* HandleCollector::current() noexcept { return the_collector; }

SentHandle send_handle(const ObjectHandle& handle, std::uint32_t kind, std::uint64_t type) {
  if (!handle) return {};
  HandleCollector* collector = HandleCollector::current();
  if (collector == nullptr) {
    throw NotSendable(
        "brood: a handle of a shared object can't be turned into bytes: pass it to a Process or a "
        "task, or put it into a queue");
  }
  static_cast<void>(handle.hold()->use());
  collector->handles().push_back(handle);
  return {handle.name(), kind, handle.side(), type};
}

ObjectHandle receive_handle(const SentHandle& sent, std::uint32_t kind, std::uint64_t type) {
  if (sent.object == 0) return {};
  if (sent.kind != kind || sent.type != type) {
    throw TypeMismatch("brood: the bytes are a handle of another kind of object");
  }
  std::shared_ptr<ObjectHold> hold = ObjectHold::take({sent.object}, sent.side);
  const shm::ObjectPlace& place = hold->use();
  if (static_cast<std::uint32_t>(place.kind) != kind || place.header->type != type) {
    throw TypeMismatch("brood: the object behind a handle is of another kind");
  }
  return ObjectHandle(std::move(hold));
}

}  // namespace brood::detail
