// What the body of an array says (value_layout.hpp), checked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "shm/value_layout.hpp"

namespace brood::shm {

inline constexpr std::size_t kMaxPathBytes = 4096;

// Of elements of so many bytes, which begin at multiples of `alignment`.
struct ElementShape {
  std::size_t bytes = 1;
  std::size_t alignment = 1;
};

struct ArrayShape {
  std::size_t count = 0;
  ArrayBacking backing = ArrayBacking::memory;
  // Of files.
  bool writable = false;
  std::uint64_t offset = 0;
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  std::size_t name_bytes = 0;  // within the body; its characters may change while they are read
};

// Each field is read once. Nothing: this can't be an array of such elements.
std::optional<ArrayShape> read_array_body(std::span<std::byte> body, ElementShape element) noexcept;

// Of an object that nobody else sees yet; the body has room for it.
void write_array_body(std::span<std::byte> body, const ArrayShape& shape,
                      std::string_view name) noexcept;

}  // namespace brood::shm
