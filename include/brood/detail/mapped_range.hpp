// A part of a file, mapped: what arrays larger than memory are made of.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <utility>

namespace brood::detail {

// Threads: distinct objects from distinct threads; the bytes are the users' to guard. Blocking: no,
// but touching bytes may wait for the disk. Ownership: move-only; unmapped by the destructor, by
// then nothing may point there. In a forked child it is mapped too. Errors: see map_file_range().
// Death: what was written is in the file, as far as the machine lives on.
class MappedRange {
 public:
  MappedRange() noexcept = default;
  MappedRange(MappedRange&& other) noexcept
      : mapped_(std::exchange(other.mapped_, {})),
        bytes_(std::exchange(other.bytes_, {})),
        writable_(other.writable_) {}
  MappedRange& operator=(MappedRange&& other) noexcept {
    std::swap(mapped_, other.mapped_);
    std::swap(bytes_, other.bytes_);
    std::swap(writable_, other.writable_);
    return *this;
  }
  ~MappedRange();

  // Where the range begins: aligned as its offset in the file is, up to a page.
  [[nodiscard]] const std::byte* data() const noexcept { return bytes_.data(); }
  [[nodiscard]] std::size_t size() const noexcept { return bytes_.size(); }
  [[nodiscard]] bool writable() const noexcept { return writable_; }
  [[nodiscard]] std::span<const std::byte> bytes() const noexcept { return bytes_; }
  // Empty unless it is writable.
  [[nodiscard]] std::span<std::byte> writable_bytes() const noexcept {
    return writable_ ? bytes_ : std::span<std::byte>();
  }

 private:
  friend MappedRange map_file_range(const std::filesystem::path&, std::uint64_t, std::size_t, bool);

  std::span<std::byte> mapped_;  // whole pages
  std::span<std::byte> bytes_;
  bool writable_ = false;
};

// Maps [offset, offset + bytes) of a file, at any offset; what is written goes to the file, and is
// seen by everybody who has it mapped. Of no bytes, it maps nothing. A file that becomes shorter
// while it is mapped makes touching what is gone SIGBUS: only its users can prevent that.
// Throws SystemError (no such file, no rights to it), Error (no regular file; the file ends before
// the range does).
[[nodiscard]] MappedRange map_file_range(const std::filesystem::path& path, std::uint64_t offset,
                                         std::size_t bytes, bool writable);

}  // namespace brood::detail
