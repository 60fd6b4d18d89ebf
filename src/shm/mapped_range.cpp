#include "brood/detail/mapped_range.hpp"

#include <string>

#include "brood/error.hpp"
#include "sys/fd.hpp"
#include "sys/memory.hpp"
#include "sys/named_memory.hpp"
#include "sys/syscall.hpp"

namespace brood::detail {

MappedRange::~MappedRange() {
  if (!mapped_.empty()) sys::unmap(mapped_.data(), mapped_.size());
}

MappedRange map_file_range(const std::filesystem::path& path, std::uint64_t offset,
                           std::size_t bytes, bool writable) {
  const std::string doing = "brood: mapping the file '" + path.string() + "'";
  const sys::Fd fd(
      static_cast<int>(sys::require(sys::open_file(path.c_str(), writable), doing.c_str())));
  sys::MemoryFile file;
  sys::require(sys::look_at_file(fd.get(), file), doing.c_str());
  if (!file.regular) throw Error(doing + ": it is no regular file");
  if (offset > file.bytes || bytes > file.bytes - offset) {
    throw Error(doing + ": it has " + std::to_string(file.bytes) + " bytes, " +
                std::to_string(bytes) + " from " + std::to_string(offset) + " on are asked for");
  }
  MappedRange range;
  range.writable_ = writable;
  if (bytes == 0) return range;
  const std::size_t before = static_cast<std::size_t>(offset % sys::kPageBytes);
  sys::Mapping mapping;
  sys::require(mapping.map_part(fd.get(), offset - before, before + bytes, writable),
               doing.c_str());
  range.mapped_ = mapping.release();
  range.bytes_ = range.mapped_.subspan(before, bytes);
  return range;
}

}  // namespace brood::detail
