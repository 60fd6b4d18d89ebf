#include "shm/array_body.hpp"

#include <cstring>

namespace brood::shm {

namespace {

constexpr std::memory_order kRelaxed = std::memory_order_relaxed;  // all here are one-off reads

ArrayBody& header_of(std::span<std::byte> body) noexcept {
  return *reinterpret_cast<ArrayBody*>(body.data() + kArrayOffset);
}

}  // namespace

std::optional<ArrayShape> read_array_body(std::span<std::byte> body,
                                          ElementShape element) noexcept {
  if (body.size() < kElementsOffset) return {};
  const ArrayBody& header = header_of(body);
  const std::size_t room = body.size() - kElementsOffset;
  const std::uint64_t count = header.count.load(kRelaxed);
  ArrayShape shape;
  shape.backing = static_cast<ArrayBacking>(header.backing.load(kRelaxed));
  shape.count = static_cast<std::size_t>(count);
  if (shape.backing == ArrayBacking::memory) {
    if (count > room / element.bytes) return {};
    return shape;
  }
  if (shape.backing != ArrayBacking::file) return {};
  const std::uint64_t name_bytes = header.name_bytes.load(kRelaxed);
  shape.offset = header.offset.load(kRelaxed);
  if (count > SIZE_MAX / 4 / element.bytes || shape.offset > SIZE_MAX / 4) return {};
  if (shape.offset % element.alignment != 0) return {};
  if (name_bytes == 0 || name_bytes > kMaxPathBytes || name_bytes > room) return {};
  shape.name_bytes = static_cast<std::size_t>(name_bytes);
  shape.writable = header.writable.load(kRelaxed) != 0;
  shape.device = header.device.load(kRelaxed);
  shape.inode = header.inode.load(kRelaxed);
  return shape;
}

void write_array_body(std::span<std::byte> body, const ArrayShape& shape,
                      std::string_view name) noexcept {
  ArrayBody& header = header_of(body);
  header.count.store(shape.count, kRelaxed);
  header.backing.store(static_cast<std::uint32_t>(shape.backing), kRelaxed);
  header.writable.store(shape.writable ? 1 : 0, kRelaxed);
  header.offset.store(shape.offset, kRelaxed);
  header.device.store(shape.device, kRelaxed);
  header.inode.store(shape.inode, kRelaxed);
  header.name_bytes.store(name.size(), kRelaxed);
  if (!name.empty()) std::memcpy(body.data() + kElementsOffset, name.data(), name.size());
}

}  // namespace brood::shm
