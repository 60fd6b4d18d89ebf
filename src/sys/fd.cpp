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

// Room for control messages, aligned as the kernel wants it.
union ControlBuffer {
  cmsghdr align;
  char bytes[CMSG_SPACE(sizeof(ucred)) + CMSG_SPACE(kMaxPassedFds * sizeof(int))];
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
  return send_packet(socket, bytes, std::span(&passed_fd, passed_fd >= 0 ? 1U : 0U), wait);
}

int send_packet(int socket, std::span<const std::byte> bytes, std::span<const int> fds,
                bool wait) noexcept {
  if (fds.size() > kMaxPassedFds) return -EINVAL;
  iovec part{const_cast<std::byte*>(bytes.data()), bytes.size()};
  ControlBuffer control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (!fds.empty()) {
    message.msg_control = control.bytes;
    message.msg_controllen = CMSG_SPACE(fds.size_bytes());
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(header), fds.data(), fds.size_bytes());
  }
  const int flags = MSG_NOSIGNAL | (wait ? 0 : MSG_DONTWAIT);
  const long result = call_restarting(SYS_sendmsg, socket, &message, flags);
  return static_cast<int>(std::min(result, 0L));
}

namespace {

// Takes a packet; `room` is the bytes of control data that may come with it: in padding, the kernel
// would find room for one descriptor more.
long receive(int socket, std::span<std::byte> bytes, std::size_t room, std::span<Fd> passed,
             std::size_t& count, Sender& sender) noexcept {
  iovec part{bytes.data(), bytes.size()};
  ControlBuffer control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.bytes;
  message.msg_controllen = room;
  count = 0;
  sender = {};
  const long length =
      call_restarting(SYS_recvmsg, socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  if (length < 0) return length;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET) continue;
    if (header->cmsg_type == SCM_CREDENTIALS) {
      ucred from{};
      std::memcpy(&from, CMSG_DATA(header), sizeof from);
      sender = {from.pid, from.uid};
    }
    if (header->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t came = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < came; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof(int));
      if (count < passed.size()) {
        // In a host that has closed its streams it would be one of them.
        fd = above_streams(fd);
        if (fd >= 0) passed[count++].reset(fd);
      } else {
        close_fd(fd);
      }
    }
  }
  return (message.msg_flags & MSG_TRUNC) != 0 ? -EMSGSIZE : length;
}

}  // namespace

long receive_packet(int socket, std::span<std::byte> bytes, Fd& passed) noexcept {
  passed.reset();
  std::size_t count = 0;
  Sender sender;
  return receive(socket, bytes, CMSG_LEN(sizeof(int)), std::span(&passed, 1), count, sender);
}

long receive_packet(int socket, std::span<std::byte> bytes, std::span<Fd> passed,
                    std::size_t& count) noexcept {
  Sender sender;
  return receive(socket, bytes, CMSG_LEN(std::min(passed.size(), kMaxPassedFds) * sizeof(int)),
                 passed, count, sender);
}

long receive_packet_from(int socket, std::span<std::byte> bytes, Fd& passed,
                         Sender& sender) noexcept {
  passed.reset();
  std::size_t count = 0;
  return receive(socket, bytes, CMSG_SPACE(sizeof(ucred)) + CMSG_LEN(sizeof(int)),
                 std::span(&passed, 1), count, sender);
}

int want_senders(int socket) noexcept {
  const int on = 1;
  const long result = call(SYS_setsockopt, socket, SOL_SOCKET, SO_PASSCRED, &on, sizeof on);
  return static_cast<int>(std::min(result, 0L));
}

int place_fd(int fd, int at) noexcept {
  if (fd == at) return keep_across_exec(fd);
  return static_cast<int>(std::min(call_restarting(SYS_dup3, fd, at, 0), 0L));
}

int keep_across_exec(int fd) noexcept {
  return static_cast<int>(std::min(call(SYS_fcntl, fd, F_SETFD, 0), 0L));
}

bool is_open(int fd) noexcept { return call(SYS_fcntl, fd, F_GETFD) >= 0; }

int open_working_directory() noexcept { return open_directory("."); }

int open_directory(const char* path) noexcept {
  const long fd = call_restarting(SYS_openat, AT_FDCWD, path, O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
  return above_streams(static_cast<int>(fd));
}

int open_null() noexcept {
  const long fd = call_restarting(SYS_openat, AT_FDCWD, "/dev/null", O_RDWR | O_CLOEXEC, 0);
  return above_streams(static_cast<int>(fd));
}

int open_file(const char* path, bool writable) noexcept {
  const int flags = (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
  return above_streams(static_cast<int>(call_restarting(SYS_openat, AT_FDCWD, path, flags, 0)));
}

int copy_above_streams(int fd) noexcept {
  return static_cast<int>(call(SYS_fcntl, fd, F_DUPFD_CLOEXEC, kFirstOwnFd));
}

int move_above(int fd, int least) noexcept {
  if (fd > least) return fd;
  const long moved = call(SYS_fcntl, fd, F_DUPFD_CLOEXEC, least + 1);
  if (moved >= 0) close_fd(fd);
  return static_cast<int>(moved);
}

int enter_directory(int fd) noexcept {
  return static_cast<int>(std::min(call(SYS_fchdir, fd), 0L));
}

long read_at(int fd, std::span<std::byte> bytes, std::uint64_t offset) noexcept {
  std::size_t done = 0;
  while (done < bytes.size()) {
    const long got =
        call_restarting(SYS_pread64, fd, bytes.data() + done, bytes.size() - done, offset + done);
    if (got < 0) return got;
    if (got == 0) break;
    done += static_cast<std::size_t>(got);
  }
  return static_cast<long>(done);
}

long write_at(int fd, std::span<const std::byte> bytes, std::uint64_t offset) noexcept {
  std::size_t done = 0;
  while (done < bytes.size()) {
    const long put =
        call_restarting(SYS_pwrite64, fd, bytes.data() + done, bytes.size() - done, offset + done);
    if (put < 0) return put;
    done += static_cast<std::size_t>(put);
  }
  return static_cast<long>(done);
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
