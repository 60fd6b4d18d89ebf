#include "brood/shared_memory.hpp"

#include <array>
#include <cerrno>
#include <limits>
#include <system_error>
#include <utility>

#include "brood/error.hpp"
#include "sys/fd.hpp"
#include "sys/hexadecimal.hpp"
#include "sys/memory.hpp"
#include "sys/named_memory.hpp"
#include "sys/random.hpp"
#include "sys/syscall.hpp"
#include "warden/names.hpp"

namespace brood {

namespace detail {
struct NamedMapping {
  sys::Mapping memory;
  sys::FileIdentity file;
};
}  // namespace detail

namespace {

constexpr int kMaxGuesses = 1000;  // of an automatic name that is free

// Python's form, so that what Python says about names holds for these too.
std::string automatic_name() {
  std::array<std::byte, 4> random;
  sys::random_bytes(random);
  std::string name = "psm_";
  sys::append_hexadecimal(name, random);
  return name;
}

std::string quoted(std::string_view name) { return "'" + std::string(name) + "'"; }

void require_name(std::string_view name) {
  if (sys::is_memory_name(name)) return;
  if (name.size() > sys::kMaxMemoryName) {
    throw Error("brood: a name of shared memory has at most 255 bytes, not " +
                std::to_string(name.size()));
  }
  throw Error("brood: " + quoted(name) +
              " can't name shared memory: a name is not empty, . or .., and has no slash or NUL");
}

void require_size(std::size_t bytes) {
  if (bytes == 0) throw Error("brood: shared memory can't be empty");
  if (bytes > static_cast<std::size_t>(std::numeric_limits<std::ptrdiff_t>::max())) {
    throw Error("brood: " + std::to_string(bytes) +
                " bytes of shared memory are more than any "
                "process can address");
  }
}

sys::Fd take_memory(std::size_t bytes, bool leased) {
  const int fd = sys::create_unnamed_memory(bytes, leased);
  if (fd == -ENOSPC || fd == -ENOMEM) {
    throw ArenaFull("brood: the system has no " + std::to_string(bytes) +
                    " bytes of shared memory left (" + std::generic_category().message(-fd) +
                    "): free some, or enlarge /dev/shm");
  }
  return sys::Fd(static_cast<int>(sys::require(fd, "brood: making shared memory")));
}

[[noreturn]] void throw_unnamed(int error, std::string_view name) {
  if (error == -EDQUOT) {
    throw Full("brood: this program has " + std::to_string(warden::kMaxNames) +
               " names of shared memory: unlink some");
  }
  throw SystemError(-error, "brood: giving shared memory the name " + quoted(name));
}

}  // namespace

SharedMemory::SharedMemory(std::string name, std::shared_ptr<const detail::NamedMapping> mapping)
    : name_(std::move(name)),
      size_(mapping->memory.size()),
      device_(mapping->file.device),
      inode_(mapping->file.inode),
      mapping_(std::move(mapping)) {}

SharedMemory SharedMemory::create(std::string_view name, std::size_t bytes) {
  const bool automatic = name.empty();
  if (!automatic) require_name(name);
  require_size(bytes);
  sys::MemoryFile there;
  if (!automatic && sys::look_at_name(std::string(name).c_str(), there) == 0) {
    throw_unnamed(-EEXIST, name);
  }
  const sys::Fd file = take_memory(bytes, automatic);
  for (int guesses = 1;; ++guesses) {
    const std::string wanted = automatic ? automatic_name() : std::string(name);
    // All that may fail here comes first: once there is a name, there is somebody to remove it.
    SharedMemory made = map(wanted, file.get(), false);
    const int error = warden::give_name(file, wanted);
    if (error == 0) return made;
    if (error != -EEXIST || !automatic || guesses == kMaxGuesses) throw_unnamed(error, wanted);
  }
}

SharedMemory SharedMemory::attach(std::string_view name) {
  require_name(name);
  const std::string text(name);
  const sys::Fd file(
      static_cast<int>(sys::require(sys::open_named_memory(text.c_str(), true),
                                    ("brood: shared memory " + quoted(name)).c_str())));
  return map(name, file.get(), true);
}

SharedMemory SharedMemory::map(std::string_view name, int fd, bool leased) {
  const std::string doing = "brood: mapping shared memory " + quoted(name);
  sys::MemoryFile file;
  sys::require(sys::look_at_file(fd, file), doing.c_str());
  if (!file.regular) throw Error("brood: " + quoted(name) + " is no shared memory");
  if (file.bytes == 0) throw Error("brood: shared memory " + quoted(name) + " is empty");
  require_size(file.bytes);
  // Lasts as long as the mapping. One that nobody else holds is being swept at this moment: no
  // reason to refuse it, what is mapped stays.
  if (leased && file.leased) static_cast<void>(sys::hold_lease(fd));
  auto mapping = std::make_shared<detail::NamedMapping>();
  mapping->file = file.identity;
  sys::require(mapping->memory.map(fd, file.bytes), doing.c_str());
  return {std::string(name), std::move(mapping)};
}

SharedMemory SharedMemory::attach_same(std::string_view name, std::uint64_t device,
                                       std::uint64_t inode) {
  if (!sys::is_memory_name(name)) {
    throw DecodeError("brood: the bytes of a SharedMemory do not name any");
  }
  try {
    SharedMemory memory = attach(name);
    if (memory.device_ == device && memory.inode_ == inode) return memory;
  } catch (const SystemError& e) {
    if (e.code().value() != ENOENT) throw;
  }
  throw StaleHandle("brood: the shared memory " + quoted(name) + " is gone");
}

std::span<std::byte> SharedMemory::span() const {
  if (mapping_ == nullptr) throw Closed("brood: shared memory " + quoted(name_) + " is closed");
  return {mapping_->memory.data(), mapping_->memory.size()};
}

void SharedMemory::unlink() {
  const std::string doing = "brood: unlinking shared memory " + quoted(name_);
  const sys::FileIdentity mine{device_, inode_};
  sys::MemoryFile there;
  sys::require(sys::look_at_name(name_.c_str(), there), doing.c_str());
  if (there.identity != mine) throw SystemError(ENOENT, doing);
  sys::require(sys::remove_name(name_.c_str()), doing.c_str());
  warden::forget_name(mine);
}

}  // namespace brood
