// A memory file with objects in it, for tests of what members do there without being processes.
#pragma once

#include <cstddef>
#include <stdexcept>

#include "shm/objects.hpp"
#include "sys/fd.hpp"
#include "sys/memory.hpp"

namespace brood::test {

struct ObjectRegion {
  explicit ObjectRegion(std::size_t pages = 16) {
    const std::size_t payload = pages * shm::arena::kPageBytes;
    const std::size_t metadata = shm::Arena::metadata_bytes(payload);
    file.reset(sys::create_memory_file("objects", metadata + payload));
    if (mapping.map(file.get(), metadata + payload) != 0) throw std::runtime_error("no memory");
    at = {mapping.data(), file.get(), 0, metadata, payload, payload};
    shm::Objects first;
    first.attach(at, {0, 1});
    if (first.format() != 0) throw std::runtime_error("no memory for objects");
  }
  sys::Fd file;
  sys::Mapping mapping;
  shm::ArenaRegion at;
};

// One member's view.
struct Member : shm::Objects {
  Member(const ObjectRegion& region, shm::OwnerId me) { attach(region.at, me); }
  shm::ObjectPlace made(shm::ObjectKind kind = shm::ObjectKind::value,
                        std::size_t body_bytes = 64) {
    shm::ObjectPlace object = make(kind, 1, body_bytes);
    publish(object);
    return object;
  }
};

inline void bury_nothing(const shm::ObjectPlace& /*object*/, shm::OwnerId /*dead*/,
                         shm::Objects& /*objects*/) noexcept {}

}  // namespace brood::test
