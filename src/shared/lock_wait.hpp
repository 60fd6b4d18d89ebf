// Waiting for a lock: who asks for it, and who had it before a condition.
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>

#include "brood/detail/pool_core.hpp"
#include "shm/lock.hpp"
#include "shm/objects.hpp"

namespace brood::shared {

using detail::DeadlineNs;

// A callable by reference.
class TakeFn {
 public:
  template <class F>
    requires(!std::is_same_v<std::remove_cvref_t<F>, TakeFn>)
  TakeFn(F&& f) noexcept  // NOLINT(google-explicit-constructor)
      : object_(const_cast<void*>(static_cast<const void*>(std::addressof(f)))),
        call_([](void* object) { return (*static_cast<std::remove_reference_t<F>*>(object))(); }) {}
  shm::Take operator()() const { return call_(object_); }

 private:
  void* object_;
  shm::Take (*call_)(void*);
};

// Until `take` says something else than busy; busy: the deadline came first. Throws Interrupted,
// FamilyBroken.
shm::Take wait_for_lock(const shm::ObjectPlace& place, DeadlineNs deadline, TakeFn take);

// Lets somebody who waits for long have it first, if it is free: for a moment.
void stand_back_for_hungry(const shm::LockBody& lock);

}  // namespace brood::shared
