// Waiting for whichever of several things comes first.
#pragma once

#include "brood/detail/cpp20.hpp"

#include <chrono>
#include <concepts>
#include <cstddef>
#include <initializer_list>
#include <optional>
#include <span>
#include <vector>

namespace brood {

// Something that becomes ready: a file descriptor (readable, or at its end), or an object with a
// descriptor that tells when it is ready, as sentinel() of a Process does. Your own classes take
// part by a member `int fileno() const`. If that may be readable for a moment longer than the
// object is ready, add `bool still_ready() const`: while that is false, wait() asks fileno() anew,
// without a pause: let the moment be short, or fileno() silence the descriptor.
//
//   Threads, Blocking: as the object's.
//   Ownership: refers to the object, which must stay where it is while this is used.
//   Errors:    what the object throws if it can't be waited for leaves wait().
//   Death:     makes the dead process's sentinel ready.
class Waitable {
 public:
  Waitable(int fd) noexcept : fd_(fd) {}  // NOLINT(google-explicit-constructor): so that lists mix

  template <class T>
    requires requires(const T& object) {
      { object.sentinel() } -> std::same_as<int>;
    }
  Waitable(const T& object) noexcept  // NOLINT(google-explicit-constructor)
      : object_(&object),
        find_([](const void* o) { return static_cast<const T*>(o)->sentinel(); }) {}

  template <class T>
    requires requires(const T& object) {
      { object.fileno() } -> std::same_as<int>;
    }
  Waitable(const T& object) noexcept  // NOLINT(google-explicit-constructor)
      : object_(&object), find_([](const void* o) { return static_cast<const T*>(o)->fileno(); }) {
    if constexpr (requires {
                    { object.still_ready() } -> std::same_as<bool>;
                  }) {
      still_ready_ = [](const void* o) { return static_cast<const T*>(o)->still_ready(); };
    }
  }

  // What to poll for it.
  [[nodiscard]] int descriptor() const { return find_ != nullptr ? find_(object_) : fd_; }
  // Whether it is ready, once its descriptor is readable.
  [[nodiscard]] bool still_ready() const {
    return still_ready_ == nullptr || still_ready_(object_);
  }

 private:
  int fd_ = -1;
  const void* object_ = nullptr;
  int (*find_)(const void*) = nullptr;
  bool (*still_ready_)(const void*) = nullptr;
};

// Waits until at least one of `objects` is ready, and returns the places of all that are, in their
// order; none if `timeout` (negative: zero) passes first. An object may be there several times.
//
//   Threads:   any; several may wait for the same objects.
//   Blocking:  yes, by one system call, unless told of what has gone again; nothing is read, and no
//              process is reaped.
//   Errors:    SystemError (EBADF) names the place of a descriptor that is not open. Error if a
//              Process was not started, or if there is nothing to wait for and no timeout: that
//              would never end. Interrupted (signals.hpp).
//   Death:     see Waitable.
std::vector<std::size_t> wait(std::span<const Waitable> objects,
                              std::optional<std::chrono::nanoseconds> timeout = std::nullopt);
std::vector<std::size_t> wait(std::initializer_list<Waitable> objects,
                              std::optional<std::chrono::nanoseconds> timeout = std::nullopt);

}  // namespace brood
