#include "sys/fd.hpp"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <algorithm>
#include <climits>
#include <cstring>

#include "sys/syscall.hpp"

namespace brood::sys {

namespace {

constexpr int kFirstOwnFd = 3;

// Room for one descriptor in a control message, aligned as the kernel wants it.
union ControlBuffer {
  cmsghdr align;
  char bytes[CMSG_SPACE(sizeof(int))];
};

void close_range_or_each(unsigned first, unsigned last) noexcept {
  if (first > last) return;
  if (call(SYS_close_range, first, last, 0) >= 0) return;
  // Kernels before 5.9: walk up to the limit instead.
  rlimit limit{};
  call(SYS_prlimit64, 0, RLIMIT_NOFILE, nullptr, &limit);
  const unsigned end = static_cast<unsigned>(std::min<rlim_t>(limit.rlim_cur, 1U << 20));
  for (unsigned fd = first; fd <= last && fd < end; ++fd) close_fd(static_cast<int>(fd));
}

}  // namespace

void close_fd(int fd) noexcept {
  // Never repeated after EINTR: Linux has closed the descriptor by then.
  call(SYS_close, fd);
}

int above_streams(int fd) noexcept {
  if (fd >= kFirstOwnFd || fd < 0) return fd;
  const long moved = call(SYS_fcntl, fd, F_DUPFD_CLOEXEC, kFirstOwnFd);
  close_fd(fd);
  return static_cast<int>(moved);
}

void close_all_but(std::span<const int> keep) noexcept {
  // Selection by repeated minimum: `keep` is short and nothing may be allocated here.
  unsigned first = kFirstOwnFd;
  for (;;) {
    unsigned next = UINT_MAX;
    for (const int fd : keep) {
      if (fd >= 0 && static_cast<unsigned>(fd) >= first) {
        next = std::min(next, static_cast<unsigned>(fd));
      }
    }
    if (next == UINT_MAX) break;
    if (next > first) close_range_or_each(first, next - 1);
    first = next + 1;
  }
  close_range_or_each(first, UINT_MAX);
}

int redirect_to_null(int fd) noexcept {
  const long null = call_restarting(SYS_openat, AT_FDCWD, "/dev/null", O_RDWR | O_CLOEXEC, 0);
  if (null < 0) return static_cast<int>(null);
  if (null == fd) return static_cast<int>(std::min(call(SYS_fcntl, fd, F_SETFD, 0), 0L));
  const long result = call_restarting(SYS_dup3, null, fd, 0);
  close_fd(static_cast<int>(null));
  return static_cast<int>(std::min(result, 0L));
}

long write_once(int fd, std::string_view text) noexcept {
  return call_restarting(SYS_write, fd, text.data(), text.size());
}

int packet_socket_pair(Fd (&ends)[2]) noexcept {
  int raw[2] = {-1, -1};
  const long result = call(SYS_socketpair, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, raw);
  if (result < 0) return static_cast<int>(result);
  int error = 0;
  for (int i = 0; i < 2; ++i) {
    const int fd = above_streams(raw[i]);
    if (fd < 0) error = fd;
    ends[i].reset(fd < 0 ? -1 : fd);
  }
  if (error != 0) {
    ends[0].reset();
    ends[1].reset();
  }
  return error;
}

int send_packet(int socket, std::span<const std::byte> bytes, int passed_fd, bool wait) noexcept {
  iovec part{const_cast<std::byte*>(bytes.data()), bytes.size()};
  ControlBuffer control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (passed_fd >= 0) {
    message.msg_control = control.bytes;
    message.msg_controllen = sizeof control.bytes;
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(header), &passed_fd, sizeof(int));
  }
  const int flags = MSG_NOSIGNAL | (wait ? 0 : MSG_DONTWAIT);
  const long result = call_restarting(SYS_sendmsg, socket, &message, flags);
  return static_cast<int>(std::min(result, 0L));
}

long receive_packet(int socket, std::span<std::byte> bytes, Fd& passed) noexcept {
  iovec part{bytes.data(), bytes.size()};
  ControlBuffer control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.bytes;
  // No more than this: in the padding the kernel would find room for a second descriptor.
  message.msg_controllen = CMSG_LEN(sizeof(int));
  passed.reset();
  const long length =
      call_restarting(SYS_recvmsg, socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  if (length < 0) return length;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    int fd = -1;
    std::memcpy(&fd, CMSG_DATA(header), sizeof(int));
    passed.reset(fd);
  }
  return (message.msg_flags & MSG_TRUNC) != 0 ? -EMSGSIZE : length;
}

std::uint64_t raise_fd_limit() noexcept {
  rlimit limit{};
  if (call(SYS_prlimit64, 0, RLIMIT_NOFILE, nullptr, &limit) < 0) return 0;
  const std::uint64_t before = limit.rlim_cur;
  limit.rlim_cur = limit.rlim_max;
  call(SYS_prlimit64, 0, RLIMIT_NOFILE, &limit, nullptr);
  return before;
}

void set_fd_limit(std::uint64_t soft) noexcept {
  rlimit limit{};
  if (call(SYS_prlimit64, 0, RLIMIT_NOFILE, nullptr, &limit) < 0) return;
  limit.rlim_cur = soft;
  call(SYS_prlimit64, 0, RLIMIT_NOFILE, &limit, nullptr);
}

}  // namespace brood::sys
