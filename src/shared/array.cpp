#include <cstring>
#include <filesystem>
#include <span>
#include <stdexcept>
#include <string>
#include <system_error>

#include "brood/detail/array_core.hpp"
#include "brood/error.hpp"
#include "shared/object_hold.hpp"
#include "shm/array_body.hpp"
#include "sys/fd.hpp"
#include "sys/memory.hpp"
#include "sys/named_memory.hpp"
#include "sys/syscall.hpp"

namespace brood::detail {

// A part of a file, mapped.
struct FileMapping {
  sys::Mapping pages;
  std::byte* elements = nullptr;
};

namespace {

using shm::ArrayBacking;
using shm::ArrayShape;
using shm::ObjectKind;

static_assert(static_cast<std::uint32_t>(ObjectKind::array) == kArrayKind);

// Which elements of which file.
struct FilePart {
  std::string path;
  sys::FileIdentity identity;
  std::uint64_t offset = 0;
  std::size_t bytes = 0;
  bool writable = false;
};

std::shared_ptr<const FileMapping> map_part(int fd, const FilePart& part, const char* doing) {
  auto mapping = std::make_shared<FileMapping>();
  if (part.bytes == 0) return mapping;
  const auto before = static_cast<std::size_t>(part.offset % sys::kPageBytes);
  sys::require(
      mapping->pages.map_part(fd, part.offset - before, before + part.bytes, part.writable), doing);
  mapping->elements = mapping->pages.data() + before;
  return mapping;
}

// As one message for whoever receives an array of a file.
[[noreturn]] void throw_file_gone(const std::string& path, const char* why) {
  throw StaleHandle("brood: the file of an array that was sent here, '" + path + "', " + why);
}

// The part is input: anybody may have written it.
std::shared_ptr<const FileMapping> map_received(const FilePart& part) {
  sys::MemoryFile file;
  const sys::Fd fd(sys::open_file(part.path.c_str(), part.writable));
  if (!fd) throw_file_gone(part.path, "can't be opened here (any more)");
  if (sys::look_at_file(fd.get(), file) < 0 || file.identity != part.identity || !file.regular) {
    throw_file_gone(part.path, "is another one by now");
  }
  if (part.offset > file.bytes || part.bytes > file.bytes - part.offset) {
    throw_file_gone(part.path, "has become shorter");
  }
  return map_part(fd.get(), part, "mapping the file of an array");
}

[[noreturn]] void throw_short_file(const std::string& doing, std::uint64_t has,
                                   std::uint64_t offset, const std::string& wanted) {
  throw Error(doing + ": it has " + std::to_string(has) + " bytes, " + wanted + " from " +
              std::to_string(offset) + " on are asked for");
}

// How many elements of the file are asked for, checked.
std::size_t count_of(const ElementType& element, const MapFileOptions& options,
                     const sys::MemoryFile& file, const std::string& doing) {
  if (options.offset % element.alignment != 0) {
    throw Error(doing + ": elements of this type can't begin at byte " +
                std::to_string(options.offset));
  }
  const std::uint64_t has = file.bytes;
  if (options.offset > has) throw_short_file(doing, has, options.offset, "those");
  const std::uint64_t most = (has - options.offset) / element.bytes;
  const std::size_t count = options.count.value_or(most);
  if (count > most) {
    throw_short_file(doing, has, options.offset, std::to_string(count) + " elements");
  }
  return count;
}

std::string memory_path(std::string_view name) { return "/dev/shm/" + std::string(name); }

ArrayMemory make_of_file(const ElementType& element, std::size_t count, int fd,
                         const FilePart& part, const std::string& doing) {
  auto mapping = map_part(fd, part, doing.c_str());
  auto hold =
      ObjectHold::make(ObjectKind::array, element.type, shm::kElementsOffset + part.path.size());
  shm::write_array_body(hold->use().body,
                        {.count = count,
                         .backing = ArrayBacking::file,
                         .writable = part.writable,
                         .offset = part.offset,
                         .device = part.identity.device,
                         .inode = part.identity.inode},
                        part.path);
  hold->publish();
  std::byte* elements = mapping->elements;
  return {{ObjectHandle(std::move(hold)), elements}, count, part.writable, std::move(mapping)};
}

}  // namespace

ArrayMemory make_array(const ElementType& element, std::size_t count) {
  constexpr std::size_t kMost = SIZE_MAX / 2;
  // What can't be is too much for whoever allocates it.
  const std::size_t bytes = count > kMost / element.bytes ? kMost : count * element.bytes;
  auto hold = ObjectHold::make(ObjectKind::array, element.type, shm::kElementsOffset + bytes);
  const std::span<std::byte> body = hold->use().body;
  shm::write_array_body(body, {.count = count}, {});
  hold->publish();
  return {{ObjectHandle(std::move(hold)), body.data() + shm::kElementsOffset}, count};
}

ArrayMemory map_array(const ElementType& element, const std::filesystem::path& path,
                      const MapFileOptions& options) {
  const std::string doing = "brood: mapping the file '" + path.string() + "'";
  const sys::Fd fd(static_cast<int>(
      sys::require(sys::open_file(path.c_str(), options.writable), doing.c_str())));
  sys::MemoryFile file;
  sys::require(sys::look_at_file(fd.get(), file), doing.c_str());
  if (!file.regular) throw Error(doing + ": it is no regular file");
  const std::size_t count = count_of(element, options, file, doing);
  std::error_code failed;
  const std::string name = std::filesystem::canonical(path, failed).string();
  if (failed) throw SystemError(failed.value(), doing);
  return make_of_file(
      element, count, fd.get(),
      {name, file.identity, options.offset, count * element.bytes, options.writable}, doing);
}

ArrayMemory name_array(const ElementType& element, std::string_view name, std::size_t count) {
  if (count > SIZE_MAX / 2 / element.bytes) {
    throw ArenaFull("brood: an array of " + std::to_string(count) + " elements is too large");
  }
  SharedMemory memory = SharedMemory::create(name, count * element.bytes);
  try {
    const auto path = memory_path(memory.name());
    return map_array(element, path, {.count = count, .writable = true});
  } catch (...) {
    memory.unlink();
    throw;
  }
}

SharedMemory export_array(const ObjectHandle& array, std::span<const std::byte> elements,
                          std::string_view name, bool& same) {
  if (array) {
    const std::span<std::byte> body = array.hold()->use().body;
    const auto shape = shm::read_array_body(body, {});
    const std::string path = memory_path(name);
    if (shape && shape->backing == ArrayBacking::file && shape->name_bytes == path.size() &&
        shape->offset == 0 &&
        std::memcmp(body.data() + shm::kElementsOffset, path.data(), path.size()) == 0) {
      SharedMemory memory = SharedMemory::attach(name);
      same = memory.size() == elements.size();
      if (same) return memory;
    }
  }
  SharedMemory memory = SharedMemory::create(name, elements.size());
  std::memcpy(memory.span().data(), elements.data(), elements.size());
  return memory;
}

ArrayMemory receive_array(ObjectHandle handle, const ElementType& element) {
  if (!handle) return {};
  const std::span<std::byte> body = handle.hold()->use().body;
  const auto shape = shm::read_array_body(body, {element.bytes, element.alignment});
  if (!shape) throw DecodeError("brood: the object behind a handle is no array of this type");
  std::byte* after = body.data() + shm::kElementsOffset;
  if (shape->backing == ArrayBacking::memory) {
    return {{std::move(handle), after}, shape->count};
  }
  const FilePart part{std::string(reinterpret_cast<const char*>(after), shape->name_bytes),
                      {shape->device, shape->inode},
                      shape->offset,
                      shape->count * element.bytes,
                      shape->writable};
  auto mapping = map_received(part);
  std::byte* elements = mapping->elements;
  return {{std::move(handle), elements}, shape->count, part.writable, std::move(mapping)};
}

void throw_out_of_range(std::size_t index, std::size_t size) {
  throw std::out_of_range("brood: element " + std::to_string(index) + " of an array of " +
                          std::to_string(size));
}
void throw_read_only() {
  throw Error(
      "brood: the function takes a span that it may write to, but the array is of a file that was "
      "mapped for reading: take a span of const elements, or map it with .writable = true");
}
void throw_no_parts() { throw Error("brood: an array can't be cut into no parts"); }
void throw_bad_slice() { throw Error("brood: a slice reaches beyond its array"); }

}  // namespace brood::detail
