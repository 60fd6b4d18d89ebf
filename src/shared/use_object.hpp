// The first step of an operation on an object: is there one, and is it as large as it has to be?
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "brood/error.hpp"
#include "shared/object_hold.hpp"

namespace brood::shared {

// Throws Error if the handle is empty or the object too small to be one, StaleHandle.
inline const shm::ObjectPlace& use_object(const detail::ObjectHandle& handle,
                                          std::size_t body_bytes) {
  if (!handle) [[unlikely]]
    throw Error("brood: this handle is empty: it was moved from");
  const shm::ObjectPlace& place = handle.hold()->use();
  if (place.body.size() < body_bytes) [[unlikely]]
    throw StaleHandle("brood: the object behind this handle was overwritten");
  return place;
}

template <class Body>
Body& body_of(const shm::ObjectPlace& place) noexcept {
  return *reinterpret_cast<Body*>(place.body.data());
}

// How often who waits looks for itself whether those still live whom it waits for. (The warden, who
// knows of each death at once, is told by an object which members hold it.)
inline constexpr std::int64_t kLookAfterOwnersNs = 200'000'000;

}  // namespace brood::shared
