#include "sys/datagram.hpp"

#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cstring>

#include "sys/fd.hpp"
#include "sys/syscall.hpp"

namespace brood::sys {

namespace {

struct Address {
  sockaddr_un where{};
  socklen_t bytes = 0;

  explicit Address(std::span<const char> name) noexcept {
    const std::size_t count = std::min(name.size(), sizeof where.sun_path - 1);
    where.sun_family = AF_UNIX;
    // A zero in front: the abstract namespace.
    std::memcpy(where.sun_path + 1, name.data(), count);
    bytes = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + count);
  }
};

int open_socket() noexcept {
  const long fd = call(SYS_socket, AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  return above_streams(static_cast<int>(fd));
}

}  // namespace

int open_mailbox(std::span<const char> name) noexcept {
  const int fd = open_socket();
  if (fd < 0) return fd;
  const Address address(name);
  const long result = call(SYS_bind, fd, &address.where, address.bytes);
  if (result >= 0) return fd;
  close_fd(fd);
  return static_cast<int>(result);
}

int knock(std::span<const char> name) noexcept {
  const Fd socket(open_socket());
  if (!socket) return socket.get();
  Address address(name);
  msghdr message{};
  message.msg_name = &address.where;
  message.msg_namelen = address.bytes;
  const long result =
      call_restarting(SYS_sendmsg, socket.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  return static_cast<int>(std::min(result, 0L));
}

std::size_t empty_mailbox(int socket) noexcept {
  // Bounded, should somebody send without end.
  constexpr std::size_t kMost = 1000;
  for (std::size_t count = 0; count < kMost; ++count) {
    msghdr message{};
    if (call_restarting(SYS_recvmsg, socket, &message, MSG_DONTWAIT) < 0) return count;
  }
  return kMost;
}

}  // namespace brood::sys
