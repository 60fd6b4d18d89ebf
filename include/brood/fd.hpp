// File descriptors that can be sent.
#pragma once

#include "brood/detail/cpp20.hpp"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>

#include "brood/detail/codec_core.hpp"
#include "brood/detail/codec_stream.hpp"
#include "brood/detail/object.hpp"
#include "brood/error.hpp"

namespace brood {

// Owns an open file descriptor, or none (-1).
//
// It can be sent: as an argument, in a message, in a queue. The receiver gets a descriptor of its
// own for the same open file (so they share its position), with a number of its own, close-on-exec;
// the sender keeps its own. On its way it is open, too: of a pipe, the readers see no end until the
// message is received or gone.
//
//   Threads:   a value; one at a time.
//   Blocking:  sending and receiving ask the warden, which answers at once.
//   Ownership: move-only; closes in the destructor.
//   Errors:    SystemError: the descriptor is not open (EBADF), or a limit on open files has been
//              reached (EMFILE, ENFILE); then nothing was sent. FamilyBroken.
//   Death:     of the sender is nothing to a message that was sent; a message that nobody can
//              receive any more is closed by the warden.
class Fd {
 public:
  Fd() noexcept = default;
  explicit Fd(int fd) noexcept : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(other.release()) {}
  Fd& operator=(Fd&& other) noexcept {
    if (this != &other) {
      close();
      fd_ = other.release();
    }
    return *this;
  }
  ~Fd() { close(); }

  [[nodiscard]] int get() const noexcept { return fd_; }
  [[nodiscard]] int fileno() const noexcept { return fd_; }  // so that it is something to wait for
  explicit operator bool() const noexcept { return fd_ >= 0; }
  // Gives it up without closing it.
  int release() noexcept { return std::exchange(fd_, -1); }
  void close() noexcept;
  // A descriptor more of the same open file, close-on-exec. Throws SystemError.
  [[nodiscard]] Fd dup() const;

 private:
  int fd_ = -1;
};

namespace detail {

// Leaves a copy with the warden; the handle that stands for it goes into the message.
SentHandle send_descriptor(int fd);
// Throws what receive_handle throws, and SystemError.
Fd receive_descriptor(const SentHandle& sent);

template <>
struct Codec<Fd> {
  using Parts = TypeList<>;
  static constexpr bool carries_handles = true;
  static constexpr std::optional<std::size_t> fixed_size = 24;

  template <class Out>
  static void encode(const Fd& fd, Out& out) {
    SentHandle sent;
    if constexpr (!Out::counts_only) {
      if (fd) sent = send_descriptor(fd.get());
    }
    out.write_scalar(sent.object);
    out.write_scalar(sent.kind);
    out.write_scalar(sent.side);
    out.write_scalar(sent.type);
  }
  static Fd decode(Reader& reader) {
    SentHandle sent;
    sent.object = reader.read_scalar<std::uint64_t>();
    sent.kind = reader.read_scalar<std::uint32_t>();
    sent.side = reader.read_scalar<std::uint32_t>();
    sent.type = reader.read_scalar<std::uint64_t>();
    return receive_descriptor(sent);
  }
};

}  // namespace detail

}  // namespace brood
