// The bodies of arrays and values from arbitrary bytes: whatever is read is within bounds.
#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <span>

#include "shm/array_body.hpp"
#include "shm/wide_value.hpp"

namespace {

using namespace brood::shm;

void require(bool condition) {
  if (!condition) std::abort();
}

void read_as_array(std::span<std::byte> body, ElementShape element) {
  const auto shape = read_array_body(body, element);
  if (!shape) return;
  if (shape->backing == ArrayBacking::memory) {
    require(shape->count <= (body.size() - kElementsOffset) / element.bytes);
    return;
  }
  require(shape->name_bytes > 0 && shape->name_bytes <= body.size() - kElementsOffset);
  require(shape->offset % element.alignment == 0);
  require(shape->count <= (SIZE_MAX - shape->offset) / element.bytes);
}

// Whatever it says: it can be buried, read, claimed and changed, and is then what it was made.
void use_as_value(std::span<std::byte> body) {
  constexpr std::size_t kBytes = 20;
  constexpr OwnerId kMe{3, 4};
  WideValue::bury(body, kMe);
  if (!WideValue::fits(body, kBytes)) return;
  WideValue value(body, kBytes);
  std::array<std::byte, kBytes> bytes;
  require(value.try_read(bytes.data()));
  if (!value.try_claim(kMe)) {
    require(value.unclaim(value.state()));
    require(value.try_claim(kMe));
  }
  bytes.fill(std::byte{7});
  require(value.publish(bytes.data(), kMe));
  std::array<std::byte, kBytes> read;
  require(value.try_read(read.data()) && read == bytes);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  // As blocks are: aligned, and not longer than they say.
  const std::size_t room = (size + 63) / 64 * 64 + 64;
  const std::unique_ptr<std::byte, void (*)(void*)> memory(
      static_cast<std::byte*>(std::aligned_alloc(64, room)), std::free);
  std::memset(memory.get(), 0, room);
  if (size > 0) std::memcpy(memory.get(), data, size);
  const std::span<std::byte> body(memory.get(), size);
  for (const ElementShape element : {ElementShape{1, 1}, {4, 4}, {24, 8}}) {
    read_as_array(body, element);
  }
  use_as_value(body);
  return 0;
}
