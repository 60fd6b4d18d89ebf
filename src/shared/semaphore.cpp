// Semaphore and BoundedSemaphore: waiting for permits.
#include "shm/semaphore.hpp"

#include <algorithm>
#include <string>

#include "brood/locks.hpp"
#include "shared/use_object.hpp"
#include "shared/waiting.hpp"
#include "sys/clock.hpp"

namespace brood::detail {

namespace {

using shm::Permits;

const shm::ObjectPlace& use(const ObjectHandle& handle) {
  return shared::use_object(handle, Permits::bytes_for(0));
}

// Members that died without a handle left, which the warden did not find here.
void look_after_holders(const shm::ObjectPlace& place) {
  const warden::ObjectSpace* space = warden::ObjectSpace::current();
  if (space == nullptr) return;
  Permits permits(place.body);
  if (permits.bury_those([&](shm::OwnerId holder) { return space->has_left(holder); })) {
    place.header->bells[0].ring_for_all();
  }
}

}  // namespace

SemaphoreCore::SemaphoreCore(std::uint64_t type, std::int64_t permits) : type_(type) {
  static_assert(kSemaphoreKind == static_cast<std::uint32_t>(shm::ObjectKind::semaphore));
  if (permits < 0 || permits > shm::kMostPermits) {
    throw Error("brood: a semaphore has 0 to 65,536 permits, not " + std::to_string(permits));
  }
  const auto count = static_cast<std::uint32_t>(permits);
  auto hold = ObjectHold::make(shm::ObjectKind::semaphore, type, Permits::bytes_for(count));
  Permits::begin(hold->use().body, count);
  hold->publish();
  handle_ = ObjectHandle(std::move(hold));
}

bool SemaphoreCore::try_acquire() const {
  const shm::ObjectPlace& place = use(handle_);
  return Permits(place.body).acquire(objects_here().me());
}

bool SemaphoreCore::acquire_before(DeadlineNs deadline) const {
  static start::LookTime look_time;
  const shm::ObjectPlace& place = use(handle_);
  const shm::OwnerId me = objects_here().me();
  Permits permits(place.body);
  const auto done = [&] { return permits.acquire(me); };
  std::int64_t until = 0;
  for (;;) {
    if (done()) return true;
    const std::int64_t now = sys::now_ns();
    if (until != 0 && now >= deadline) return false;
    if (until != 0) look_after_holders(place);
    until = now + shared::kLookAfterOwnersNs;
    if (shared::wait_until(place.header->bells[0], std::min(deadline, until), &look_time, done)) {
      return true;
    }
  }
}

void SemaphoreCore::release(std::uint32_t permits) const {
  if (permits > shm::kMostPermits) {
    throw Error("brood: a semaphore has at most 65,536 permits: " + std::to_string(permits) +
                " can't be released at once");
  }
  const shm::ObjectPlace& place = use(handle_);
  const shm::OwnerId me = objects_here().me();
  Permits all(place.body);
  const bool bounded = type_ == kBounded;
  const auto refuse = [] {
    throw Error("brood: a BoundedSemaphore is released more often than it was acquired");
  };
  if (bounded && permits > 1 && all.value() + permits > all.size()) refuse();
  for (std::uint32_t i = 0; i < permits; ++i) {
    if (all.release(me, bounded) == Permits::Released::too_many) refuse();
    place.header->bells[0].ring();
  }
}

std::uint64_t SemaphoreCore::get_value() const { return Permits(use(handle_).body).value(); }

std::string SemaphoreCore::describe() const {
  const char* const name = type_ == kBounded ? "BoundedSemaphore" : "Semaphore";
  if (!handle_) return std::string("<") + name + " empty>";
  const Permits permits(use(handle_).body);
  std::string text = std::string("<") + name + "(value=" + std::to_string(permits.value());
  if (type_ == kBounded) text += ", maxvalue=" + std::to_string(permits.size());
  return text + ")>";
}

}  // namespace brood::detail
