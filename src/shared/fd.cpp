#include "brood/fd.hpp"

#include <array>
#include <cerrno>
#include <span>

#include "shared/object_hold.hpp"
#include "sys/fd.hpp"
#include "sys/process.hpp"
#include "sys/syscall.hpp"
#include "warden/object_space.hpp"
#include "warden/protocol.hpp"

namespace brood {

void Fd::close() noexcept {
  const int fd = release();
  if (fd >= 0) sys::close_fd(fd);
}

Fd Fd::dup() const {
  return Fd(
      static_cast<int>(sys::require(sys::copy_above_streams(fd_), "copying a file descriptor")));
}

namespace detail {

namespace {

constexpr auto kDescriptor = static_cast<std::uint32_t>(shm::ObjectKind::descriptor);

std::uint64_t descriptor_type() noexcept { return type_id<Fd>(); }

[[noreturn]] void throw_refused(int error, const char* what) {
  if (error == EMFILE || error == ENFILE) {
    throw SystemError(error, std::string(what) + " (the warden of this family keeps it meanwhile)");
  }
  throw SystemError(error, what);
}

// One question to the warden, with the end of a line for the answer.
class Question {
 public:
  explicit Question(const char* what) : what_(what) {
    sys::require(sys::packet_socket_pair(line_), what_);
  }

  void enclose(int fd) {
    const warden::CustodyAnswer nothing;
    sys::require(sys::send_packet(line_[0].get(), std::as_bytes(std::span(&nothing, 1)), fd, false),
                 what_);
  }

  // What came along with the answer.
  sys::Fd ask(warden::Request request, shm::BlockRef object) {
    warden::Announcement said;
    said.request = request;
    said.object = object;
    sys::require(sys::send_packet(warden::ObjectSpace::join().socket(),
                                  std::as_bytes(std::span(&said, 1)), line_[1].get(), true),
                 what_);
    line_[1].reset();
    // The warden answers at once. Without serving signals: what carries the descriptor was taken
    // already, and would be lost with an exception.
    sys::require(sys::becomes_readable(line_[0].get(), sys::kForever), what_);
    warden::CustodyAnswer answer;
    sys::Fd came;
    const long length =
        sys::receive_packet(line_[0].get(), std::as_writable_bytes(std::span(&answer, 1)), came);
    if (length == 0 || length == -ECONNRESET) {
      if (warden::ObjectSpace::join().warden_lost()) {
        throw FamilyBroken("brood: the warden of this family of processes was killed");
      }
      // The end of the line did not reach it.
      throw_refused(EMFILE, what_);
    }
    sys::require(length, what_);
    if (length != sizeof answer) throw_refused(EPROTO, what_);
    if (answer.error != 0) throw_refused(answer.error, what_);
    return came;
  }

 private:
  const char* what_;
  sys::Fd line_[2];
};

}  // namespace

SentHandle send_descriptor(int fd) {
  constexpr const char* kWhat = "sending a file descriptor";
  if (HandleCollector::current() == nullptr) {
    throw NotSendable(
        "brood: a file descriptor can't be turned into bytes: pass it to a Process or a task, or "
        "put it into a queue");
  }
  if (!sys::is_open(fd)) throw SystemError(EBADF, kWhat);
  Question question(kWhat);
  question.enclose(fd);
  const auto hold = ObjectHold::make(shm::ObjectKind::descriptor, descriptor_type(), 0);
  // Also if it is never named by a message, its end is to come to the warden's notice.
  shm::Objects::mark_sent(hold->use(), 0);
  hold->publish();
  question.ask(warden::Request::deposit, hold->ref());
  return send_handle(ObjectHandle(hold), kDescriptor, descriptor_type());
}

Fd receive_descriptor(const SentHandle& sent) {
  constexpr const char* kWhat = "receiving a file descriptor";
  const ObjectHandle handle = receive_handle(sent, kDescriptor, descriptor_type());
  if (!handle) return Fd();
  Question question(kWhat);
  sys::Fd fd = question.ask(warden::Request::claim, {handle.name()});
  // The kernel drops what this process has no room for.
  if (!fd) throw SystemError(EMFILE, kWhat);
  return Fd(fd.release());
}

}  // namespace detail

}  // namespace brood
