// What arrays do that does not depend on their type.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string_view>

#include "brood/detail/held_memory.hpp"
#include "brood/shared_memory.hpp"

namespace brood {

// Which part of a file is the array.
struct MapFileOptions {
  std::uint64_t offset = 0;                         // bytes from its beginning
  std::optional<std::size_t> count = std::nullopt;  // elements; empty: up to the file's end
  bool writable = false;                            // changes go to the file
};

namespace detail {

struct FileMapping;

inline constexpr std::uint32_t kArrayKind = 4;  // an shm::ObjectKind

// Where an array lies in this process, as checked once.
struct ArrayMemory {
  HeldMemory held;
  std::size_t count = 0;
  bool writable = true;
  std::shared_ptr<const FileMapping> file = nullptr;  // empty: in the family's memory
};

// The kind of an array's elements.
struct ElementType {
  std::uint64_t type;
  std::size_t bytes;
  std::size_t alignment;
};

// Zeroed. Throws ArenaFull, FamilyBroken, StartError.
ArrayMemory make_array(const ElementType& element, std::size_t count);
// Throws SystemError, Error, and what make_array() throws.
ArrayMemory map_array(const ElementType& element, const std::filesystem::path& path,
                      const MapFileOptions& options);
ArrayMemory name_array(const ElementType& element, std::string_view name, std::size_t count);
// `same`: whether that is the array itself.
SharedMemory export_array(const ObjectHandle& array, std::span<const std::byte> elements,
                          std::string_view name, bool& same);
// One that has arrived. Throws DecodeError; of files StaleHandle: it is not there any more.
ArrayMemory receive_array(ObjectHandle handle, const ElementType& element);

[[noreturn]] void throw_out_of_range(std::size_t index, std::size_t size);
[[noreturn]] void throw_read_only();
[[noreturn]] void throw_no_parts();
[[noreturn]] void throw_bad_slice();

}  // namespace detail
}  // namespace brood
