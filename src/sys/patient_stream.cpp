#include "sys/patient_stream.hpp"

#include <fcntl.h>
#include <limits.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <string_view>

#include "sys/clock.hpp"
#include "sys/poll.hpp"
#include "sys/process.hpp"
#include "sys/syscall.hpp"

namespace brood::sys {

namespace {

static_assert(kUntornBytes == PIPE_BUF);
constexpr short kWritable = 4;  // POLLOUT

// Opening this one makes a terminal of its own.
bool is_terminal_maker(const struct stat& info) noexcept {
  return S_ISCHR(info.st_mode) && info.st_rdev == makedev(5, 2);
}

// A second open file for what `fd` is; -errno.
int open_again(int fd) noexcept {
  constexpr std::string_view kFolder = "/proc/self/fd/";
  std::array<char, kFolder.size() + 12> path{};
  std::memcpy(path.data(), kFolder.data(), kFolder.size());
  std::to_chars(path.data() + kFolder.size(), path.data() + path.size() - 1, fd);
  const int flags = O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
  const long opened = call_restarting(SYS_openat, AT_FDCWD, path.data(), flags, 0);
  return above_streams(static_cast<int>(opened));
}

bool has_room(int fd) noexcept {
  PollEntry entry{fd, kWritable};
  // Whatever else is seen (nobody reads any more), writing does not wait but says so.
  return poll(std::span(&entry, 1), now_ns()) == 1;
}

}  // namespace

int pipe_with_news(Fd& reading, Fd& writing) noexcept {
  int raw[2] = {-1, -1};
  if (const long made = call(SYS_pipe2, raw, O_CLOEXEC); made < 0) return static_cast<int>(made);
  const int read_end = above_streams(raw[0]);
  const int write_end = above_streams(raw[1]);
  Fd ours(std::max(read_end, -1));
  Fd theirs(std::max(write_end, -1));
  if (read_end < 0 || write_end < 0) return std::min(read_end, write_end);
  long result = call(SYS_fcntl, read_end, F_SETOWN, process_id());
  if (result >= 0) result = call(SYS_fcntl, read_end, F_SETFL, O_RDONLY | O_NONBLOCK | O_ASYNC);
  if (result < 0) return static_cast<int>(result);
  reading = std::move(ours);
  writing = std::move(theirs);
  return 0;
}

long read_now(int fd, std::span<std::byte> bytes) noexcept {
  return call_restarting(SYS_read, fd, bytes.data(), bytes.size());
}

PatientStream::PatientStream(int fd) noexcept : fd_(fd) {
  struct stat info{};
  if (fd < 0 || call(SYS_fstat, fd, &info) < 0) return;
  way_ = Way::plain;
  if (S_ISSOCK(info.st_mode)) {
    way_ = Way::socket;
  } else if (S_ISFIFO(info.st_mode) || S_ISCHR(info.st_mode)) {
    if (!is_terminal_maker(info)) own_.reset(std::max(open_again(fd), -1));
    if (own_) {
      fd_ = own_.get();
    } else {
      way_ = Way::asked;
      // What has room for a byte has room for a page, unlike a terminal.
      is_patient_ = S_ISFIFO(info.st_mode);
    }
  }
}

long PatientStream::write(std::span<const std::byte> bytes) noexcept {
  const std::span<const std::byte> part = bytes.first(std::min(bytes.size(), kUntornBytes));
  switch (way_) {
    case Way::none:
      return -EBADF;
    case Way::socket: {
      iovec piece{const_cast<std::byte*>(part.data()), part.size()};
      msghdr message{};
      message.msg_iov = &piece;
      message.msg_iovlen = 1;
      return call_restarting(SYS_sendmsg, fd_, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    }
    case Way::asked:
      if (!has_room(fd_)) return -EAGAIN;
      break;
    case Way::plain:
      break;
  }
  return call_restarting(SYS_write, fd_, part.data(), part.size());
}

void PatientStream::wait(std::int64_t deadline_ns) const noexcept {
  PollEntry entry{fd_, kWritable};
  poll(std::span(&entry, 1), deadline_ns);
}

}  // namespace brood::sys
