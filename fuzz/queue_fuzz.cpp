// A queue whose shared bytes are arbitrary: using it and burying its dead ends, and stays within
// its block.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>

#include "channel/burial.hpp"
#include "channel/queue_ring.hpp"
#include "shm/objects.hpp"
#include "sys/fd.hpp"
#include "sys/memory.hpp"

namespace {

using brood::channel::Attempt;
using brood::channel::Position;
using brood::channel::QueueRing;
using brood::shm::OwnerId;

constexpr OwnerId kMe{2, 1};

// An arena that all runs share.
struct Arena {
  Arena() {
    constexpr std::size_t kPayload = 64 * brood::shm::arena::kPageBytes;
    const std::size_t metadata = brood::shm::Arena::metadata_bytes(kPayload);
    file.reset(brood::sys::create_memory_file("queue-fuzz", metadata + kPayload));
    if (mapping.map(file.get(), metadata + kPayload) != 0) std::abort();
    objects.attach({mapping.data(), file.get(), 0, metadata, kPayload, kPayload}, kMe);
    if (objects.format() != 0) std::abort();
  }
  brood::sys::Fd file;
  brood::sys::Mapping mapping;
  brood::shm::Objects objects;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static Arena arena;
  brood::shm::Objects& objects = arena.objects;
  constexpr std::size_t kBody = sizeof(brood::channel::QueueBody) + 4096;
  const auto place = objects.make(brood::shm::ObjectKind::queue, 1, kBody);
  if (!place) std::abort();
  std::memcpy(place.body.data(), data, std::min(size, place.body.size()));
  QueueRing ring;
  if (ring.attach(place, objects)) {
    Position at;
    for (int i = 0; i < 8; ++i) {
      if (ring.claim(at, kMe) == Attempt::done) ring.publish(at, kMe);
      if (ring.take(at, kMe) == Attempt::done) {
        if (const auto frame = ring.accept_frame(at)) objects.free_block(frame.ref);
        ring.clear(at, kMe);
      }
    }
    static_cast<void>(ring.size());
    static_cast<void>(ring.is_full());
    static_cast<void>(ring.is_taking());
    ring.close();
    brood::channel::bury_in(place, {3, 1}, objects);
  }
  objects.free_block(place.ref);
  return 0;
}
