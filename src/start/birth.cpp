#include "start/birth.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <charconv>
#include <cstring>
#include <exception>
#include <memory>
#include <span>
#include <stdexcept>
#include <string_view>
#include <system_error>
#include <utility>

#include "brood/codec.hpp"
#include "brood/detail/thunk.hpp"
#include "start/child_main.hpp"
#include "start/current.hpp"
#include "start/hooks.hpp"
#include "start/init.hpp"
#include "sys/authority.hpp"
#include "sys/fd.hpp"
#include "sys/process.hpp"
#include "sys/signals.hpp"
#include "warden/family.hpp"
#include "warden/protocol.hpp"

namespace brood::start {

namespace {

constexpr std::string_view kSpawnedArgument = "--brood-spawned=";

using warden::LineMessage;
using warden::LineNews;

[[noreturn]] void refuse(int line, std::string_view why) noexcept {
  LineMessage message;
  message.news = LineNews::refused;
  const std::size_t length = std::min(why.size(), message.text.size() - 1);
  std::memcpy(message.text.data(), why.data(), length);
  sys::send_packet(line, std::as_bytes(std::span(&message, 1)), -1, false);
  sys::exit_now(1);
}

void require(int result, const std::string& doing) {
  if (result < 0) {
    throw std::runtime_error(doing + ": " + std::generic_category().message(-result));
  }
}

// What the child holds from its birth on.
struct Newborn {
  int line = -1;
  int certificate_file = -1;
  std::uint64_t certificate_bytes = 0;
  shm::OwnerId owner;
  int asker_pid = 0;
  Certificate certificate;
};

std::vector<std::byte> read_certificate(int file, std::uint64_t bytes) {
  constexpr std::uint64_t kMost = std::uint64_t{1} << 40U;
  if (bytes > kMost) throw std::runtime_error("its certificate has an impossible size");
  std::vector<std::byte> text(bytes);
  const long got = sys::read_at(file, text, 0);
  require(static_cast<int>(std::min(got, 0L)), "reading its certificate");
  if (static_cast<std::uint64_t>(got) != bytes) {
    throw std::runtime_error("its certificate is cut off");
  }
  return text;
}

// ---- becoming what the asker is now

// Puts what was passed where it is to be. Ours has to get out of the way of numbers that are asked
// for.
void take_descriptors(const Passport& passport, std::span<sys::Fd> fds,
                      std::span<const std::int32_t> kept) {
  std::size_t next = 2;
  for (const auto& [present, stream] :
       {std::pair{passport.has_output, 1}, std::pair{passport.has_errors, 2}}) {
    if (present == 0 || next >= fds.size()) {
      sys::close_fd(stream);
    } else {
      require(sys::place_fd(fds[next++].get(), stream), "taking over an output stream");
    }
  }
  for (const int number : kept) {
    if (next >= fds.size()) throw std::runtime_error("keep_fds: not all of them have come");
    require(sys::place_fd(fds[next++].get(), number), "keep_fds " + std::to_string(number));
  }
  std::vector<int>& others = passed_descriptors();
  others.clear();
  for (; next < fds.size(); ++next) others.push_back(fds[next].release());
}

// What the asker may not exceed, by the kernel's word.
void take_limits_of(int asker_pid) {
  const std::vector<sys::ResourceLimit> theirs = sys::limits_of(asker_pid);
  if (theirs.empty()) throw std::runtime_error("the caller's limits can't be seen in /proc");
  for (std::uint32_t i = 0; i < theirs.size(); ++i) {
    sys::ResourceLimit now;
    if (sys::get_limit(i, now) == 0 && now == theirs[i]) continue;
    require(sys::set_limit(i, theirs[i]),
            "taking over the caller's limit on resource " + std::to_string(i));
  }
}

void take_authority(const std::optional<sys::Authority>& asker) {
  if (!asker) throw std::runtime_error("who asked for it can't be seen in /proc");
  sys::assume_authority(*asker);
  const std::optional<sys::Authority> self = sys::authority_of(sys::process_id());
  if (!self) throw std::runtime_error("it can't see itself in /proc");
  const std::string difference = sys::difference(*asker, *self);
  if (difference.empty()) return;
  throw std::runtime_error("the caller has " + difference +
                           " than the process had at brood::init(), and the new process can't be "
                           "given them; use StartMethod::fork, or call init() later");
}

// ---- running

// What the thunk sees.
class ProcessFrame final : public detail::TaskFrame {
 public:
  explicit ProcessFrame(const Certificate& certificate) : certificate_(certificate) {}

  [[nodiscard]] std::span<const std::byte> arguments() const noexcept override {
    return certificate_.arguments;
  }
  void enter_user_code() noexcept override {}
  void leave_user_code() noexcept override {}
  void keep_for_caller(std::span<const detail::ObjectHandle> /*handles*/) override {}
  std::span<std::byte> reply(std::size_t bytes, bool /*has_handles*/) override {
    if (bytes != reply_.size()) throw DecodeError("brood: this is no process's code");
    return reply_;
  }
  [[nodiscard]] std::uint32_t count() const noexcept override { return 0; }
  [[nodiscard]] std::uint32_t first() const noexcept override { return 0; }
  std::span<std::byte> reply_element(std::uint32_t /*index*/, std::size_t /*bytes*/,
                                     bool /*in_cell*/) override {
    throw DecodeError("brood: this is no process's code");
  }
  void fail_element(std::uint32_t /*index*/) noexcept override {}
  detail::ElementEnd finish_element(std::uint32_t /*index*/) noexcept override {
    return detail::ElementEnd::next;
  }
  [[nodiscard]] std::span<const std::byte> bound_bytes(std::uint64_t block) const override {
    if (block >= certificate_.blobs.size()) throw DecodeError("brood: the bound values are gone");
    return certificate_.blobs[static_cast<std::size_t>(block)];
  }
  std::shared_ptr<const void>& bound_cache(std::uint64_t /*id*/) override { return bound_; }

  [[nodiscard]] int status() const noexcept {
    int status = 0;
    std::memcpy(&status, reply_.data(), sizeof status);
    return status;
  }

 private:
  const Certificate& certificate_;
  std::array<std::byte, sizeof(int)> reply_{};
  std::shared_ptr<const void> bound_;
};

// Nobody would end it, or tell of its end.
void require_warden() {
  if (warden::Family::current()->warden_lost()) {
    throw std::runtime_error("the warden of its family was killed");
  }
}

// The code by its number, if it is what the asker knows by it.
detail::Thunk find_code(const Certificate& certificate) {
  const detail::Thunk thunk = detail::find_thunk(certificate.thunk);
  if (thunk.run == nullptr || hash_of_name(thunk.name) != certificate.thunk_hash) {
    throw std::runtime_error("the code of " + certificate.thunk_name +
                             " is not in the new process: it was loaded after brood::init()");
  }
  return thunk;
}

void announce(const Newborn& newborn, std::uint32_t thunks) {
  LineMessage message;
  message.news = LineNews::born;
  message.pid = sys::process_id();
  message.thunks = thunks;
  const sys::Fd self(sys::open_pidfd(message.pid));
  require(self ? 0 : self.get(), "opening a pidfd of itself");
  require(sys::send_packet(newborn.line, std::as_bytes(std::span(&message, 1)), self.get(), false),
          "announcing itself");
  // From here on only the warden has it: its end is the end of the line.
  sys::close_fd(newborn.line);
}

[[noreturn]] void live(Newborn& newborn, std::uint32_t thunks) {
  const Certificate& certificate = newborn.certificate;
  require_warden();
  const detail::Thunk thunk = find_code(certificate);
  adopt_default_start_method(certificate.default_method);
  // It waits for our word on the line: alive.
  begin_life(certificate.name, certificate.parent_name, newborn.asker_pid,
             sys::Fd(sys::open_pidfd(newborn.asker_pid)));
  if (!certificate.service) {
    become_child({.process_name = certificate.name.c_str()});
    sys::hold_until_death(warden::Family::current()->owners().life(newborn.owner.slot));
  }
  if (certificate.keeping.wanted && passed_descriptors().empty()) {
    throw std::runtime_error("its keeper has no line");
  }
  announce(newborn, thunks);
  if (certificate.keeping.wanted) {
    keep({certificate.keeping, certificate.name, passed_descriptors().front(),
          &certificate.surroundings});
  }
  ProcessFrame frame(certificate);
  if (!certificate.service) run_after_fork_actions();
  leave_child(run_user_code(certificate.name, [&] {
    thunk.run(frame);
    return frame.status();
  }));
}

// "--brood-spawned=line,certificate,bytes,slot,epoch,socket,segment,objects,asker,others..."
[[noreturn]] void execute_afresh(const Newborn& newborn) {
  const warden::Family& family = *warden::Family::current();
  std::vector<int> kept = {newborn.line, newborn.certificate_file, family.socket(),
                           family.segment_fd(), family.objects_fd()};
  kept.insert(kept.end(), passed_descriptors().begin(), passed_descriptors().end());
  for (const int fd : kept) require(sys::keep_across_exec(fd), "keeping a descriptor across exec");
  std::string argument(kSpawnedArgument);
  for (const std::uint64_t number :
       {static_cast<std::uint64_t>(newborn.line),
        static_cast<std::uint64_t>(newborn.certificate_file), newborn.certificate_bytes,
        std::uint64_t{newborn.owner.slot}, std::uint64_t{newborn.owner.epoch},
        static_cast<std::uint64_t>(family.socket()),
        static_cast<std::uint64_t>(family.segment_fd()),
        static_cast<std::uint64_t>(family.objects_fd()),
        static_cast<std::uint64_t>(newborn.asker_pid)}) {
    argument += std::to_string(number) + ",";
  }
  for (const int fd : passed_descriptors()) argument += std::to_string(fd) + ",";
  const std::vector<std::string> now = sys::command_line();
  const std::array<std::string, 2> arguments = {now.empty() ? "brood" : now.front(), argument};
  const int error = sys::exec_same_program(arguments);
  throw std::runtime_error("executing the program afresh: " +
                           std::generic_category().message(-error));
}

std::vector<std::uint64_t> numbers_in(std::string_view text) {
  std::vector<std::uint64_t> numbers;
  while (!text.empty()) {
    std::uint64_t number = 0;
    const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc{}) break;
    numbers.push_back(number);
    text.remove_prefix(static_cast<std::size_t>(rest - text.data()));
    if (text.empty() || text.front() != ',') break;
    text.remove_prefix(1);
  }
  return numbers;
}

void become_newborn(const warden::Birth& birth, Newborn& newborn) {
  Passport passport;
  std::vector<sys::Fd> fds(sys::kMaxPassedFds);
  std::size_t count = 0;
  const long length =
      sys::receive_packet(birth.line, std::as_writable_bytes(std::span(&passport, 1)), fds, count);
  if (length != sizeof passport || count < 2) throw std::runtime_error("it got no passport");
  fds.resize(count);

  warden::Family* family = warden::Family::inherited();
  if (family == nullptr) throw std::runtime_error("its family is gone");
  std::vector<int> keep = {birth.line, family->socket(), family->segment_fd(),
                           family->objects_fd()};
  for (const sys::Fd& fd : fds) keep.push_back(fd.get());
  sys::close_all_but(keep);
  require(warden::Family::remain_in_newborn(birth.owner), "finding the warden");

  newborn.certificate =
      decode<Certificate>(read_certificate(fds[0].get(), passport.certificate_bytes));
  newborn.certificate_bytes = passport.certificate_bytes;
  const std::vector<std::int32_t>& kept = newborn.certificate.surroundings.kept;
  const int highest = kept.empty() ? 2 : std::max(2, *std::ranges::max_element(kept));
  newborn.line = sys::move_above(newborn.line, highest);
  require(newborn.line, "keep_fds");
  require(family->move_descriptors_above(highest), "keep_fds");
  for (sys::Fd& fd : fds) {
    fd.reset(sys::move_above(fd.release(), highest));
    require(fd ? 0 : fd.get(), "keep_fds");
  }

  const std::optional<sys::Authority> asker = sys::authority_of(birth.asker_pid);
  newborn.certificate_file = fds[0].release();
  take_descriptors(passport, fds, kept);
  require(sys::enter_directory(fds[1].get()), "cwd");
  take_limits_of(birth.asker_pid);
  take_authority(asker);
  // With no more rights than the asker has: it has only written what it wants.
  const Surroundings& wanted = newborn.certificate.surroundings;
  if (!newborn.certificate.keeping.wanted) take_limits(wanted);
  take_on(wanted);
}

std::atomic<bool> birth_is_over{false};

std::string_view spawned_argument(const std::vector<std::string>& arguments) {
  if (arguments.size() != 2 || !arguments[1].starts_with(kSpawnedArgument)) return {};
  return std::string_view(arguments[1]).substr(kSpawnedArgument.size());
}

}  // namespace

std::vector<int>& passed_descriptors() noexcept {
  static auto* const descriptors = new std::vector<int>;
  return *descriptors;
}
// See start/process_name.cpp.
[[maybe_unused]] static const bool made_early = (static_cast<void>(passed_descriptors()), true);

void be_born(const warden::Birth& birth) noexcept {
  Newborn newborn;
  newborn.line = birth.line;
  newborn.owner = birth.owner;
  newborn.asker_pid = birth.asker_pid;
  try {
    become_newborn(birth, newborn);
    if (newborn.certificate.method == StartMethod::spawn) execute_afresh(newborn);
    sys::close_fd(newborn.certificate_file);
    live(newborn, detail::thunk_count());
  } catch (const std::exception& e) {
    refuse(newborn.line, e.what());
  } catch (...) {
    refuse(newborn.line, "it could not be made");
  }
}

bool is_unborn() noexcept {
  if (birth_is_over.load(std::memory_order_relaxed)) return false;
  try {
    if (!spawned_argument(sys::command_line()).empty()) return true;
  } catch (...) {
    return false;
  }
  birth_is_over.store(true, std::memory_order_relaxed);
  return false;
}

void be_born_if_spawned() noexcept {
  if (!is_unborn()) return;
  birth_is_over.store(true, std::memory_order_relaxed);
  Newborn newborn;
  try {
    const std::vector<std::string> arguments = sys::command_line();
    const std::vector<std::uint64_t> numbers = numbers_in(spawned_argument(arguments));
    constexpr std::size_t kFixed = 9;
    // Somebody else has called us with our argument.
    if (numbers.size() < kFixed || !sys::is_open(static_cast<int>(numbers[0]))) return;
    newborn.line = static_cast<int>(numbers[0]);
    newborn.certificate_file = static_cast<int>(numbers[1]);
    newborn.certificate_bytes = numbers[2];
    newborn.asker_pid = static_cast<int>(numbers[8]);
    newborn.owner = {static_cast<std::uint16_t>(numbers[3]),
                     static_cast<std::uint16_t>(numbers[4])};
    newborn.certificate =
        decode<Certificate>(read_certificate(newborn.certificate_file, newborn.certificate_bytes));
    sys::close_fd(newborn.certificate_file);
    warden::Family::remain_after_exec(newborn.owner, sys::Fd(static_cast<int>(numbers[6])),
                                      sys::Fd(static_cast<int>(numbers[7])),
                                      sys::Fd(static_cast<int>(numbers[5])));
    for (std::size_t i = kFixed; i < numbers.size(); ++i) {
      passed_descriptors().push_back(static_cast<int>(numbers[i]));
    }
    const std::uint32_t thunks = adopt_code_layout(newborn.certificate.code);
    record_birth(thunks);
    live(newborn, thunks);
  } catch (const std::exception& e) {
    refuse(newborn.line, e.what());
  } catch (...) {
    refuse(newborn.line, "it could not be made");
  }
}

}  // namespace brood::start
