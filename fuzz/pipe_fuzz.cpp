// A pipe whose shared bytes are anything: looking, taking, claiming and burying end after a bounded
// time and touch nothing outside. What a taken message holds is decoded.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "brood/codec.hpp"
#include "channel/stream.hpp"
#include "shm/objects.hpp"
#include "sys/fd.hpp"
#include "sys/memory.hpp"

namespace {

using brood::channel::Glimpse;
using brood::channel::Room;
using brood::channel::Stream;

constexpr brood::shm::OwnerId kUs{10, 3};
constexpr std::size_t kPayload = 2 * brood::shm::arena::kPageBytes;

struct Bed {
  Bed() {
    const std::size_t metadata = brood::shm::Arena::metadata_bytes(kPayload);
    file.reset(brood::sys::create_memory_file("pipe-fuzz", metadata + kPayload));
    if (mapping.map(file.get(), metadata + kPayload) != 0) std::abort();
    objects.attach({mapping.data(), file.get(), 0, metadata, kPayload, kPayload}, kUs);
    if (objects.format() != 0) std::abort();
    pipe = objects.make(brood::shm::ObjectKind::pipe, 1, brood::channel::pipe_body_bytes(true, 2));
    objects.publish(pipe);
  }
  brood::sys::Fd file;
  brood::sys::Mapping mapping;
  brood::shm::Objects objects;
  brood::shm::ObjectPlace pipe;
};

void decode(std::span<const std::byte> bytes) {
  try {
    brood::detail::Reader reader(bytes);
    static_cast<void>(
        brood::detail::decode_untagged<std::variant<int, std::string, std::vector<std::string>>>(
            reader));
  } catch (const brood::DecodeError&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static Bed bed;
  const std::span<std::byte> body = bed.pipe.body;
  std::ranges::fill(body, std::byte{0});
  std::memcpy(body.data(), data, std::min(size, body.size()));
  auto view = brood::channel::view_pipe(body);
  if (!view) return 0;
  for (Stream& stream : view->streams) {
    if (!stream || stream.capacity() > 64) continue;
    for (int i = 0; i < 3; ++i) {
      const Room room = stream.claim(kUs);
      if (room.kind == Room::Kind::claimed) {
        Stream::publish(room, 1, std::as_bytes(std::span(&i, 1)));
      }
      const Glimpse glimpse = stream.look();
      if (glimpse.kind != Glimpse::Kind::message) continue;
      brood::channel::TakenMessage message;
      if (stream.take(glimpse, bed.pipe.ref, bed.objects, message) != Stream::Took::message) {
        continue;
      }
      if (message.frame) {
        decode(message.frame.payload);
        bed.objects.free_block(message.frame.ref);
      } else {
        decode(std::span(message.bytes).first(message.size));
      }
    }
    static_cast<void>(stream.bytes_waiting(0));
    stream.bury(kUs, bed.pipe.ref, bed.objects);
  }
  return 0;
}
