// File descriptors: ownership, copies, closing, sockets that carry them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>

namespace brood::sys {

void close_fd(int fd) noexcept;

// Owns one descriptor, or none (-1). Move-only; closes in the destructor.
class Fd {
 public:
  Fd() noexcept = default;
  explicit Fd(int fd) noexcept : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    if (this != &other) reset(std::exchange(other.fd_, -1));
    return *this;
  }
  ~Fd() { reset(); }

  [[nodiscard]] int get() const noexcept { return fd_; }
  explicit operator bool() const noexcept { return fd_ >= 0; }
  int release() noexcept { return std::exchange(fd_, -1); }
  void reset(int fd = -1) noexcept {
    if (fd_ >= 0) close_fd(fd_);
    fd_ = fd;
  }

 private:
  int fd_ = -1;
};

// Moves `fd` to a number above the standard streams and sets close-on-exec: a host that runs with
// closed streams must not get one of ours as its stdout. Returns the new number (the old one is
// closed) or -errno (the old one is closed too).
int above_streams(int fd) noexcept;

// Closes every descriptor above 2 except those in `keep` (which needs no order).
void close_all_but(std::span<const int> keep) noexcept;

// Opens /dev/null in place of descriptor `fd`. 0 or -errno.
int redirect_to_null(int fd) noexcept;

// One write, so that lines of several processes do not mix. How much was written, or -errno.
long write_once(int fd, std::string_view text) noexcept;

// A connected pair of sequenced-packet sockets, close-on-exec. 0 or -errno.
int packet_socket_pair(Fd (&ends)[2]) noexcept;

// One datagram with at most one descriptor along with it. send returns 0 or -errno, and never
// raises SIGPIPE; receive returns the datagram's length (0: the peer closed) or -errno, and leaves
// `passed` empty if none came. A datagram longer than `bytes` is -EMSGSIZE.
int send_packet(int socket, std::span<const std::byte> bytes, int passed_fd, bool wait) noexcept;
long receive_packet(int socket, std::span<std::byte> bytes, Fd& passed) noexcept;

// The same with up to kMaxPassedFds descriptors, which stay the sender's; those that come without
// room for them are closed. `count` is how many came.
inline constexpr std::size_t kMaxPassedFds = 250;
int send_packet(int socket, std::span<const std::byte> bytes, std::span<const int> fds,
                bool wait) noexcept;
long receive_packet(int socket, std::span<std::byte> bytes, std::span<Fd> passed,
                    std::size_t& count) noexcept;

// Has every packet that arrives here from now on tell who sent it, by the kernel's word:
// receive_packet_from gives it. 0 or -errno.
struct Sender {
  int pid = 0;  // 0: unknown
  std::uint32_t user_id = UINT32_MAX;
};
int want_senders(int socket) noexcept;
long receive_packet_from(int socket, std::span<std::byte> bytes, Fd& passed,
                         Sender& sender) noexcept;

// Puts a copy of `fd` at the number `at`, open across exec. 0 or -errno.
int place_fd(int fd, int at) noexcept;
// Leaves `fd` open across exec. 0 or -errno.
int keep_across_exec(int fd) noexcept;
bool is_open(int fd) noexcept;
// The directory that the calling process works in, as a descriptor to give to another; -errno.
int open_working_directory() noexcept;
int open_directory(const char* path) noexcept;
int enter_directory(int fd) noexcept;
int open_null() noexcept;
// A file that exists; never waits for one that is a pipe.
int open_file(const char* path, bool writable) noexcept;
int copy_above_streams(int fd) noexcept;
// Moves `fd` to a number above `least`, close-on-exec; the old one is closed. -errno.
int move_above(int fd, int least) noexcept;

// Fills `bytes` from `offset` of a file on. How many there were, or -errno.
long read_at(int fd, std::span<std::byte> bytes, std::uint64_t offset) noexcept;
long write_at(int fd, std::span<const std::byte> bytes, std::uint64_t offset) noexcept;

// Raises the soft limit on open descriptors to the hard limit, as far as the system allows; returns
// what it was, 0 if unknown.
std::uint64_t raise_fd_limit() noexcept;
void set_fd_limit(std::uint64_t soft) noexcept;

}  // namespace brood::sys
