// Memory with a name, for processes that do not descend from each other: other programs, also
// Python's multiprocessing.shared_memory.
//
// Processes of one program need no names: what they share without is gone with its last user,
// whatever happens.
#pragma once

#include "brood/detail/cpp20.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "brood/detail/codec_core.hpp"

namespace brood {

namespace detail {
struct NamedMapping;
}

// A block of POSIX shared memory (a file of /dev/shm), mapped.
//
//   auto memory = brood::SharedMemory::create("frames", 1 << 20);   // one program
//   auto memory = brood::SharedMemory::attach("frames");            // another
//
//   Threads:   distinct objects from distinct threads. The users guard what is in the memory.
//   Blocking:  create() waits for the warden's answer, microseconds; the rest never.
//   Ownership: a handle: copies share one mapping of this process, which goes with the last of
//              them. Sent to another process, it arrives as a handle that is attached there:
//              StaleHandle if the name is gone or another's by then. The name goes by unlink(), or
//              with the family of the process that created it: when the program has ended and all
//              that it started. The memory goes when the name has and nobody has it mapped.
//   Errors:    Error for names and sizes that can't be; SystemError: EEXIST (create: the name is
//              taken), ENOENT (attach, unlink: there is none); ArenaFull, if the system has no such
//              memory left: it is taken at once, so that touching it never raises SIGBUS (shrinking
//              the file from outside would); Full, with 16384 names in one family; FamilyBroken;
//              Closed for the memory of a closed handle.
//   Death:     of the creator alone changes nothing. Of its whole program: the names are removed
//              within a second. If its warden is killed too, chosen names persist, as Python's do;
//              automatic ones are swept by the next program that makes shared memory.
class SharedMemory {
 public:
  // `name` has up to 255 bytes, without NUL and slash. Empty: an automatic name, psm_ and 8 digits.
  // The memory reads as zeros. `bytes` is its size exactly.
  static SharedMemory create(std::string_view name, std::size_t bytes);
  // All of what has that name, however long it is.
  static SharedMemory attach(std::string_view name);

  // Throws Closed.
  [[nodiscard]] std::span<std::byte> span() const;
  // Also when closed.
  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }

  // Gives this handle's hold on the mapping up; again, it does nothing.
  void close() noexcept { mapping_.reset(); }

  // Removes the name; whoever has it mapped goes on. ENOENT also if the name is another memory's
  // by now, which stays.
  void unlink();

 private:
  friend struct detail::Codec<SharedMemory>;
  SharedMemory(std::string name, std::shared_ptr<const detail::NamedMapping> mapping);
  // Only if it is still that file; throws StaleHandle.
  static SharedMemory attach_same(std::string_view name, std::uint64_t device, std::uint64_t inode);
  static SharedMemory map(std::string_view name, int fd, bool leased);

  std::string name_;
  std::size_t size_ = 0;
  std::uint64_t device_ = 0;  // with inode_: which file it is
  std::uint64_t inode_ = 0;
  std::shared_ptr<const detail::NamedMapping> mapping_;
};

namespace detail {

template <>
struct Codec<SharedMemory> {
  using Parts = TypeList<>;
  static constexpr std::size_t min_size = 24;

  template <class Out>
  static void encode(const SharedMemory& memory, Out& out) {
    out.write_scalar(memory.device_);
    out.write_scalar(memory.inode_);
    out.write_length(memory.name_.size());
    out.write_bytes(memory.name_.data(), memory.name_.size());
  }
  static SharedMemory decode(Reader& reader) {
    const auto device = reader.read_scalar<std::uint64_t>();
    const auto inode = reader.read_scalar<std::uint64_t>();
    std::string name(reader.read_length(1), '\0');
    reader.read_bytes(name.data(), name.size());
    return SharedMemory::attach_same(name, device, inode);
  }
};

}  // namespace detail
}  // namespace brood
