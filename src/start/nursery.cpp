#include "start/nursery.hpp"

#include <array>
#include <atomic>
#include <cstring>
#include <string_view>
#include <utility>
#include <vector>

#include "brood/codec.hpp"
#include "brood/error.hpp"
#include "start/birth.hpp"
#include "start/child_main.hpp"
#include "start/current.hpp"
#include "start/init.hpp"
#include "start/process_name.hpp"
#include "sys/clock.hpp"
#include "sys/memory.hpp"
#include "sys/process.hpp"
#include "sys/procfs.hpp"
#include "sys/syscall.hpp"
#include "warden/family.hpp"
#include "warden/start_error.hpp"

namespace brood::start {

namespace {

using warden::LineMessage;
using warden::LineNews;

Certificate certify(const BirthOrder& order, detail::SentCall call) {
  Certificate certificate;
  certificate.name = order.name;
  certificate.method = order.method;
  certificate.service = order.kind == warden::MemberKind::supervisor;
  certificate.default_method = default_start_method();
  certificate.parent_name = process_name();
  certificate.surroundings = order.preparation.surroundings;
  certificate.keeping = order.keeping;
  certificate.thunk = call.thunk;
  const std::string_view name = detail::find_thunk(call.thunk).name;
  certificate.thunk_name = std::string(name);
  certificate.thunk_hash = hash_of_name(name);
  certificate.arguments = std::move(call.arguments);
  certificate.blobs = std::move(call.blobs);
  if (order.method == StartMethod::spawn) certificate.code = code_layout();
  return certificate;
}

sys::Fd file_with(std::span<const std::byte> bytes) {
  sys::Fd file(static_cast<int>(sys::require(
      sys::create_memory_file("brood:certificate", bytes.size()), "making a memory file")));
  sys::require(sys::write_at(file.get(), bytes, 0), "writing what a new process has to know");
  return file;
}

void send_passport(const sys::Fd& line, const Certificate& certificate, const BirthOrder& order) {
  const std::vector<std::byte> bytes = encode(certificate);
  const sys::Fd file = file_with(bytes);
  const StartDescriptors& mine = order.preparation.descriptors;
  Passport passport;
  passport.certificate_bytes = bytes.size();
  std::vector<int> fds = {file.get(), mine.directory.get()};
  for (const auto& [present, stream] : {std::pair{&passport.has_output, mine.output},
                                        std::pair{&passport.has_errors, mine.errors}}) {
    if (stream < 0) continue;
    *present = 1;
    fds.push_back(stream);
  }
  fds.insert(fds.end(), mine.kept.begin(), mine.kept.end());
  fds.insert(fds.end(), order.descriptors.begin(), order.descriptors.end());
  if (fds.size() > sys::kMaxPassedFds) {
    throw StartError("brood: more than " + std::to_string(sys::kMaxPassedFds) +
                     " descriptors can't be passed to a new process");
  }
  sys::require(sys::send_packet(line.get(), std::as_bytes(std::span(&passport, 1)), fds, false),
               "passing descriptors to a new process");
}

// nullopt: the line has ended, or the deadline came, or `child` has ended without a word.
std::optional<LineMessage> read_news(const sys::Fd& line, sys::Fd& pidfd, std::int64_t deadline_ns,
                                     int child = -1) {
  for (;;) {
    const std::int64_t look = std::min(deadline_ns, sys::now_ns() + sys::kLookUpNs);
    const int readable = sys::becomes_readable(line.get(), look);
    if (readable == 1) {
      LineMessage message;
      const long length =
          sys::receive_packet(line.get(), std::as_writable_bytes(std::span(&message, 1)), pidfd);
      if (length == -EAGAIN) continue;
      if (length != sizeof message) return std::nullopt;
      message.text.back() = '\0';
      return message;
    }
    if (readable < 0 || sys::now_ns() >= deadline_ns) return std::nullopt;
    if (child >= 0 && sys::has_ended(child, 0) == 1) return std::nullopt;
    // Somebody may have copied the other end of the line and keep it open.
    const warden::Family* family = warden::Family::current();
    if (family == nullptr || family->warden_lost()) return std::nullopt;
  }
}

[[noreturn]] void throw_stillborn(const std::string& name, const LineMessage& message) {
  const std::string what = "brood: can't start '" + name + "': ";
  if (message.news == LineNews::refused) throw StartError(what + message.text.data());
  if (message.news == LineNews::unborn) warden::throw_start_error(message.error);
  const auto status = sys::ExitStatus::from_wait_status(message.status);
  const std::string how = status.signal != 0
                              ? "was killed by signal " + std::to_string(status.signal)
                              : "ended with status " + std::to_string(status.code);
  throw StartError(what + "the new process " + how +
                   " before it was ready; under spawn, main() has to call brood::init(argc, argv) "
                   "before anything else");
}

}  // namespace

Born bear(BirthOrder order, detail::SentCall call) {
  warden::Family& family = warden::Family::join();
  flush_streams();
  sys::Fd ends[2];
  sys::require(sys::packet_socket_pair(ends), "making a line to a new process");
  send_passport(ends[0], certify(order, std::move(call)), order);

  warden::Announcement said;
  said.kind = order.kind;
  said.daemon = order.daemon ? 1 : 0;
  said.request = warden::Request::birth;
  if (order.owner) {
    said.owner = *order.owner;
    said.has_owner = 1;
  }
  const int sent =
      sys::send_packet(family.socket(), std::as_bytes(std::span(&said, 1)), ends[1].get(), true);
  ends[1].reset();
  if (sent < 0) {
    if (family.warden_lost()) {
      throw FamilyBroken("brood: the warden of this family of processes was killed");
    }
    sys::require(sent, "asking the warden for a process");
  }

  Born born;
  const std::optional<LineMessage> news = read_news(ends[0], born.pidfd, sys::kForever);
  if (!news) {
    throw FamilyBroken("brood: the warden of this family of processes was killed");
  }
  if (news->news != LineNews::born) throw_stillborn(order.name, *news);
  if (!born.pidfd) {
    throw StartError("brood: can't start '" + order.name +
                     "': the limit on open files is reached (see ulimit -n)");
  }
  born.pid = news->pid;
  born.thunks = news->thunks;
  born.line = std::move(ends[0]);
  return born;
}

void tell_ready(const sys::Fd& line) noexcept {
  const LineMessage message;
  sys::send_packet(line.get(), std::as_bytes(std::span(&message, 1)), -1, false);
}

void tell_refused(const sys::Fd& line, const char* why) noexcept {
  LineMessage message;
  message.news = LineNews::refused;
  std::strncpy(message.text.data(), why, message.text.size() - 1);
  sys::send_packet(line.get(), std::as_bytes(std::span(&message, 1)), -1, false);
  sys::exit_now(1);
}

std::optional<LineMessage> await_ready(const sys::Fd& line, const sys::Fd& pidfd,
                                       const std::string& name) {
  sys::Fd unused;
  auto news = read_news(line, unused, sys::kForever, pidfd.get());
  // One that died meanwhile has been started all the same.
  if (news && news->news == LineNews::refused) throw_stillborn(name, *news);
  return news;
}

std::optional<LineMessage> read_said(const sys::Fd& line) noexcept {
  LineMessage message;
  sys::Fd unused;
  const long length =
      sys::receive_packet(line.get(), std::as_writable_bytes(std::span(&message, 1)), unused);
  if (length != sizeof message) return std::nullopt;
  message.text.back() = '\0';
  return message;
}

std::optional<LineMessage> read_end(const sys::Fd& line, std::int64_t deadline_ns) {
  sys::Fd unused;
  std::optional<LineMessage> news = read_news(line, unused, deadline_ns);
  if (news && news->news != LineNews::ended) return std::nullopt;
  return news;
}

}  // namespace brood::start
