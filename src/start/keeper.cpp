#include "start/keeper.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <exception>
#include <new>
#include <span>
#include <utility>
#include <vector>

#include "brood/error.hpp"
#include "brood/log.hpp"
#include "brood/process.hpp"
#include "brood/signals.hpp"
#include "start/child.hpp"
#include "start/child_main.hpp"
#include "start/current.hpp"
#include "start/nursery.hpp"
#include "start/surroundings.hpp"
#include "sys/clock.hpp"
#include "sys/futex.hpp"
#include "sys/identity.hpp"
#include "sys/memory.hpp"
#include "sys/poll.hpp"
#include "sys/signals.hpp"
#include "warden/family.hpp"

namespace brood {

namespace start {

namespace {

using warden::LineMessage;
using warden::LineNews;

// A run that lasts so many times the delay before it was quiet: the next delay is the first again.
constexpr std::int64_t kQuietRun = 10;
constexpr std::int64_t kMostDoublings = 64;
// So that no sum of times overflows.
constexpr std::int64_t kLongestNs = std::int64_t{100} * 365 * 24 * 3600 * 1'000'000'000;
constexpr std::int64_t kLongestBackoffNs = kLongestNs / (kQuietRun * kMostDoublings);
// Whatever the user's log does: it gets so long for the last word.
constexpr std::int64_t kLastWordNs = 1'000'000'000;
// After a wait that the system refused.
constexpr std::int64_t kPauseNs = 1'000'000;

// In a page that a keeper shares with its incarnations. The keeper believes only moments that have
// been; whatever else stands there is no sign of life.
struct Pulse {
  sys::Atomic<std::int64_t> last_beat_ns;
  sys::Atomic<std::uint32_t> refused;  // the first incarnation could not become what it was to be
};

// Of the process that has it for its own; copies that the user forks have another token.
struct OwnPulse {
  std::atomic<Pulse*> pulse{nullptr};
  std::atomic<std::uint64_t> token{0};
};
static_assert(std::atomic<std::int64_t>::is_always_lock_free);
constinit OwnPulse own_pulse;

// Requests to end, whoever sends them: not failures.
bool asks_to_end(int signal) noexcept {
  return signal == sys::signal_number::kTerminate || signal == sys::signal_number::kInterrupt ||
         signal == sys::signal_number::kHangUp;
}

class Keeper {
 public:
  explicit Keeper(const KeptLife& life) noexcept
      : life_(life), line_(life.line), pid_(sys::process_id()) {}
  Keeper(const Keeper&) = delete;
  Keeper& operator=(const Keeper&) = delete;
  ~Keeper() = default;

  // True in an incarnation.
  bool run() noexcept {
    prepare();
    for (;;) {
      if (begin()) return true;
      watch();
      if (!goes_on()) end();
      rest();
    }
  }

 private:
  void prepare() noexcept {
    // What is sent to a group of processes is for the incarnation, whose end the keeper is to see.
    sys::ignore_signals();
    sys::set_process_name("brood:keeper");
    pulse_ = static_cast<Pulse*>(sys::map_shared_page());
    if (pulse_ == nullptr) refuse_start("there is no memory for its keeper");
    host_ = parent_of_this().pidfd->get();
    if (host_ < 0) refuse_start("its keeper can't watch who started it");
  }

  // ---- an incarnation

  // True in the incarnation.
  bool begin() noexcept {
    warden::Family& family = *warden::Family::current();
    const bool first = begun_ns_ == 0;
    begun_ns_ = seen_beat_ns_ = sys::now_ns();
    hung_ = false;
    pulse_->last_beat_ns.store(0, std::memory_order_relaxed);
    long pid = -EAGAIN;
    const std::optional<shm::OwnerId> place = claim_place(family.owners());
    if (place) {
      owner_ = *place;
      pid = clone();
    }
    if (pid == 0) return true;
    if (pid < 0) {
      if (place) family.owners().release(owner_);
      if (first) refuse_start(std::strerror(static_cast<int>(-pid)));
      return false;  // as if it had failed once more
    }
    incarnation_ = static_cast<int>(pid);
    family.owners().settle(owner_, incarnation_);
    if (life_.keeping.restarts == 0) keep_nothing_open();
    if (!first) tell_state();
    return false;
  }

  long clone() noexcept {
    sys::SignalsBlocked blocked;
    // Of a program whose static objects have made threads, only the C library can copy the heap.
    const long pid = sys::thread_count() == 1 ? sys::clone_quiet(pidfd_) : sys::fork_loud(pidfd_);
    if (pid == 0) {
      blocked.keep();
      become_incarnation();
    }
    return pid;
  }

  void become_incarnation() noexcept {
    sys::die_with_parent();
    if (sys::parent_id() != pid_) sys::exit_now(1);
    sys::reset_signals();
    sys::set_process_name(life_.name.c_str());
    warden::Family::remain_in_child(owner_);
    warden::Family& family = *warden::Family::current();
    sys::hold_until_death(family.owners().life(owner_.slot));
    warden::Announcement said;
    said.kind = warden::MemberKind::process;
    said.daemon = 1;
    said.pid = sys::process_id();
    said.parent_pid = pid_;
    said.owner = owner_;
    said.has_owner = 1;
    if (!warden::announce_self(said, family.socket(), family.layout())) {
      refuse_incarnation("the warden of its family could not be told of it");
    }
    family.owners().life(owner_.slot).note.store(1, std::memory_order_release);
    // Before a limit on files can make it the end of this process.
    if (restarts_ > 0) log_restart();
    try {
      if (life_.limits != nullptr) take_limits(*life_.limits);
    } catch (const std::exception& e) {
      refuse_incarnation(e.what());
    }
    own_pulse.token.store(sys::process_token());
    own_pulse.pulse.store(pulse_);
    if (restarts_ == 0) {
      LineMessage born;
      born.pid = said.pid;
      if (say(born) < 0) {
        pulse_->refused.store(1, std::memory_order_release);
        sys::exit_now(1);
      }
    }
    line_.reset();
  }

  // A sink that writes to a stream would leave it in a buffer that goes down with this process.
  static void tell_log(LogLevel level, const std::string& text) {
    log(level, text);
    flush_streams();
  }

  [[noreturn]] void refuse_incarnation(const char* why) noexcept {
    if (restarts_ == 0) {
      pulse_->refused.store(1, std::memory_order_release);
      tell_refused(line_, why);
    }
    try {
      tell_log(LogLevel::error, "brood: process " + life_.name + " can't be started again: " + why);
    } catch (...) {
      // Without memory to say why.
    }
    sys::exit_now(1);
  }

  void log_restart() const noexcept {
    constexpr std::int64_t kNsPerMs = 1'000'000;
    try {
      tell_log(LogLevel::warning, "brood: process " + life_.name + " " + what_happened() +
                                      "; restart " + std::to_string(restarts_) + " after " +
                                      std::to_string(delay_ns_ / kNsPerMs) + " ms");
    } catch (...) {
      // Without memory to say it.
    }
  }

  [[nodiscard]] std::string what_happened() const {
    if (hung_before_) return "gave no sign of life and was killed";
    if (status_.signal == 0) return "ended with status " + std::to_string(status_.code);
    const std::string name = signals::name(status_.signal);
    return "was killed by " + (name.empty() ? std::to_string(status_.signal) : name);
  }

  // ---- its life

  // Until it has ended.
  void watch() noexcept {
    while (pidfd_) {
      std::array<sys::PollEntry, 3> entries = {line_entry(), {.fd = pidfd_.get()}, host_entry()};
      if (!wait(entries, overdue_at())) continue;
      look_at_line(entries[0]);
      if (entries[2].ready()) lose_host();
      if (entries[1].readable()) {
        bury();
      } else if (is_overdue()) {
        hung_ = true;
        kill_with_all();
      }
    }
    hung_before_ = hung_;
  }

  [[nodiscard]] std::int64_t overdue_at() const noexcept {
    if (!life_.keeping.hang_ns || hung_) return sys::kForever;
    return seen_beat_ns_ + *life_.keeping.hang_ns;
  }
  [[nodiscard]] bool is_overdue() noexcept {
    const std::int64_t now = sys::now_ns();
    const std::int64_t beat = pulse_->last_beat_ns.load(std::memory_order_relaxed);
    if (beat > seen_beat_ns_ && beat <= now) seen_beat_ns_ = beat;
    return overdue_at() <= now;
  }

  void kill_with_all() const noexcept { kill_all_of(incarnation_, pidfd_.get()); }

  void bury() noexcept {
    const int reaped = sys::reap(pidfd_.get(), status_);
    if (reaped == 0) return;
    if (reaped < 0) status_ = {.signal = sys::signal_number::kKill};
    usage_.user_ns += status_.usage.user_ns;
    usage_.system_ns += status_.usage.system_ns;
    usage_.peak_rss_bytes = std::max(usage_.peak_rss_bytes, status_.usage.peak_rss_bytes);
    announce_unheard(incarnation_, pidfd_.get(), owner_);
    pidfd_.reset();
    hung_ = hung_ && status_.signal == sys::signal_number::kKill;
  }

  // ---- after it

  [[nodiscard]] bool goes_on() noexcept {
    const bool failed =
        hung_ || (status_.signal != 0 ? !asks_to_end(status_.signal) : status_.code != 0);
    if (never_was()) return false;
    if (!failed || to_end_ || host_gone_ || life_.keeping.restarts == 0) return false;
    if (warden::Family::current()->warden_lost()) {
      say_last_word("is not started again: the warden of its family was killed");
      return false;
    }
    resume_at_ns_ = sys::now_ns() + next_delay();
    if (spent_by(resume_at_ns_) < life_.keeping.restarts) return true;
    say_last_word("has failed too often and is not started again");
    return false;
  }

  [[nodiscard]] bool never_was() const noexcept {
    return restarts_ == 0 && pulse_->refused.load(std::memory_order_acquire) != 0;
  }

  std::int64_t next_delay() noexcept {
    const bool quiet = sys::now_ns() - begun_ns_ > kQuietRun * delay_ns_;
    const std::int64_t first = life_.keeping.backoff_ns;
    return delay_ns_ = quiet ? first : std::min(delay_ns_ * 2, first * kMostDoublings);
  }

  // How many of the restarts will still count then.
  [[nodiscard]] std::size_t spent_by(std::int64_t moment_ns) noexcept {
    if (!life_.keeping.per_ns) return restarts_;
    const std::int64_t since = moment_ns - *life_.keeping.per_ns;
    std::erase_if(moments_, [since](std::int64_t moment) { return moment < since; });
    return moments_.size();
  }

  // The back-off, with an ear for orders.
  void rest() noexcept {
    resting_ = true;
    tell_state();
    do {
      std::array<sys::PollEntry, 2> entries = {line_entry(), host_entry()};
      if (!wait(entries, resume_at_ns_)) continue;
      look_at_line(entries[0]);
      if (entries[1].ready()) lose_host();
      if (to_end_ || host_gone_) end();
    } while (sys::now_ns() < resume_at_ns_);
    resting_ = false;
    ++restarts_;
    try {
      if (life_.keeping.per_ns) moments_.push_back(sys::now_ns());
    } catch (...) {
      say_last_word("is not started again: there is no memory to count how often it was");
      end();
    }
  }

  [[noreturn]] void end() noexcept {
    LineMessage message = state_message();
    message.news = LineNews::ended;
    if (never_was()) {
      message.news = LineNews::refused;
      std::strcpy(message.text.data(), "it could not say that it was there");
    }
    say(message);
    if (status_.signal != 0) sys::end_by_signal(status_.signal);
    sys::exit_now(status_.code);
  }

  [[noreturn]] void refuse_start(const char* why) noexcept { tell_refused(line_, why); }

  // The log may be anything of the user's, so the keeper does not touch it itself.
  void say_last_word(const char* what) noexcept {
    sys::Fd pidfd;
    long pid = 0;
    {
      sys::SignalsBlocked blocked;
      pid = sys::thread_count() == 1 ? sys::clone_quiet(pidfd) : sys::fork_loud(pidfd);
      if (pid == 0) {
        blocked.keep();
        log_last_word(what);
      }
    }
    if (pid < 0) return;
    if (sys::has_ended(pidfd.get(), sys::now_ns() + kLastWordNs) != 1) {
      sys::send_signal(pidfd.get(), sys::signal_number::kKill);
      sys::has_ended(pidfd.get(), sys::kForever);
    }
    sys::ExitStatus unused;
    sys::reap(pidfd.get(), unused);
  }

  [[noreturn]] void log_last_word(const char* what) const noexcept {
    sys::die_with_parent();
    if (sys::parent_id() != pid_) sys::exit_now(1);
    sys::reset_signals();
    try {
      tell_log(LogLevel::warning, "brood: process " + life_.name + " " + what_happened() + " and " +
                                      what + " (" + std::to_string(restarts_) + " restarts)");
    } catch (...) {
      // Without memory to say it.
    }
    sys::exit_now(0);
  }

  // ---- the line

  [[nodiscard]] sys::PollEntry line_entry() const noexcept {
    constexpr short kReadable = 1;
    constexpr short kWritable = 4;
    return {.fd = line_.get(),
            .wanted = static_cast<short>(unsaid_ ? kReadable | kWritable : kReadable)};
  }
  [[nodiscard]] sys::PollEntry host_entry() const noexcept {
    return {.fd = host_gone_ ? -1 : host_};
  }

  // Whether to look at the entries.
  static bool wait(std::span<sys::PollEntry> entries, std::int64_t deadline_ns) noexcept {
    const int seen = sys::poll(entries, deadline_ns);
    if (seen < 0 && seen != -EINTR) sys::sleep_ns(kPauseNs);
    return seen >= 0;
  }

  void look_at_line(const sys::PollEntry& entry) noexcept {
    if (entry.ready() && unsaid_) tell_state();
    while (line_) {
      warden::KeeperOrder order;
      sys::Fd unused;
      const long length =
          sys::receive_packet(line_.get(), std::as_writable_bytes(std::span(&order, 1)), unused);
      if (length == 0) {
        line_.reset();
        lose_host();
      }
      if (length <= 0) return;
      if (length == sizeof order) obey(order);
    }
  }

  void obey(const warden::KeeperOrder& order) noexcept {
    if (order.to_end != 0) to_end_ = true;
    if (!pidfd_) return;
    if (order.to_end != 0 && order.signal == sys::signal_number::kKill) {
      kill_with_all();
    } else {
      sys::send_signal(pidfd_.get(), order.signal);
    }
  }

  [[nodiscard]] LineMessage state_message() const noexcept {
    LineMessage message;
    message.news = resting_ ? LineNews::resting : LineNews::born;
    message.pid = incarnation_;
    message.restarts = restarts_;
    message.status = status_.to_wait_status();
    message.hung = hung_before_ ? 1 : 0;
    message.user_ns = usage_.user_ns;
    message.system_ns = usage_.system_ns;
    message.peak_rss_bytes = usage_.peak_rss_bytes;
    return message;
  }

  // Nobody has to read what became of a process. While much is unread the rest waits, so that there
  // is room for how it ended: the kernel calls a socket writable while it is a quarter full.
  void tell_state() noexcept {
    std::array<sys::PollEntry, 1> room = {{{.fd = line_.get(), .wanted = 4}}};
    unsaid_ = line_ && (sys::poll(room, 0) != 1 || say(state_message()) < 0);
  }
  int say(const LineMessage& message) const noexcept {
    return sys::send_packet(line_.get(), std::as_bytes(std::span(&message, 1)), -1, false);
  }

  void lose_host() noexcept {
    if (!std::exchange(host_gone_, true)) keep_nothing_open();
  }

  // This incarnation is the last: nobody is to wait for the end of a pipe that the keeper holds.
  void keep_nothing_open() const noexcept {
    const warden::Family& family = *warden::Family::current();
    const std::array keep = {line_.get(),          host_,
                             pidfd_.get(),         family.socket(),
                             family.segment_fd(),  family.objects_fd(),
                             family.warden_pidfd()};
    sys::close_all_but(keep);
    for (const int stream : {1, 2}) sys::redirect_to_null(stream);
  }

  const KeptLife& life_;
  sys::Fd line_;
  const int pid_;
  Pulse* pulse_ = nullptr;
  int host_ = -1;  // its pidfd; not ours to close
  bool host_gone_ = false;
  bool to_end_ = false;  // whoever started it has said so

  int incarnation_ = 0;
  sys::Fd pidfd_;       // its, while it runs
  shm::OwnerId owner_;  // its
  std::int64_t begun_ns_ = 0;
  std::int64_t seen_beat_ns_ = 0;
  bool hung_ = false;

  bool hung_before_ = false;  // the one before
  bool resting_ = false;
  bool unsaid_ = false;
  std::uint32_t restarts_ = 0;
  std::int64_t delay_ns_ = 0;
  std::int64_t resume_at_ns_ = 0;
  std::vector<std::int64_t> moments_;  // of the restarts that count, if they count for a while only
  sys::ExitStatus status_;             // of the last one
  sys::UsageAtEnd usage_;              // of all that have ended
};

std::int64_t checked(std::chrono::nanoseconds time, const char* option, bool may_be_zero) {
  if (time.count() < 0 || (time.count() == 0 && !may_be_zero)) {
    throw StartError("brood: can't start a process: " + std::string(option) +
                     (may_be_zero ? " is negative" : " is not positive"));
  }
  return std::min<std::int64_t>(time.count(), kLongestNs);
}

}  // namespace

Keeping keeping_of(const ProcessOptions& options) {
  Keeping keeping;
  keeping.restarts = options.restart.max;
  keeping.backoff_ns =
      std::min(checked(options.restart.backoff, "restart.backoff", true), kLongestBackoffNs);
  if (options.restart.per) keeping.per_ns = checked(*options.restart.per, "restart.per", false);
  if (options.hang_timeout) {
    keeping.hang_ns = checked(*options.hang_timeout, "hang_timeout", false);
  }
  keeping.wanted = keeping.restarts > 0 || keeping.hang_ns.has_value();
  return keeping;
}

void keep(const KeptLife& life) noexcept {
  // In the incarnation it is never destroyed: it would close what is not its own.
  alignas(Keeper) std::array<std::byte, sizeof(Keeper)> place;
  new (place.data()) Keeper(life);
  std::launder(reinterpret_cast<Keeper*>(place.data()))->run();
}

// ---- from the side of the host

void KeptProcess::take(const LineMessage& news) noexcept {
  if (news.news != LineNews::born && news.news != LineNews::resting &&
      news.news != LineNews::ended) {
    return;
  }
  if (news.pid > 0) known_.pid = news.pid;
  known_.restarts = news.restarts;
  known_.runs = news.news == LineNews::born;
  known_.hung = news.hung != 0;
  known_.usage_before = {news.user_ns, news.system_ns, news.peak_rss_bytes};
  if (news.news == LineNews::ended) {
    known_.ended = sys::ExitStatus::from_wait_status(news.status);
    known_.ended->usage = known_.usage_before;
  }
}

void KeptProcess::hear(const LineMessage& news) noexcept {
  const std::lock_guard lock(mutex_);
  take(news);
}

KeptProcess::Known KeptProcess::look() noexcept {
  const std::lock_guard lock(mutex_);
  while (const std::optional<LineMessage> news = read_said(line_)) take(*news);
  return known_;
}

void KeptProcess::await_change(std::int64_t deadline_ns) const noexcept {
  sys::becomes_readable(line_.get(), deadline_ns);
}

int KeptProcess::order(int signal, bool to_end) const noexcept {
  constexpr int kTries = 100;
  const warden::KeeperOrder order{signal, to_end ? 1U : 0U};
  int sent = -EAGAIN;
  for (int i = 0; i < kTries; ++i) {
    sent = sys::send_packet(line_.get(), std::as_bytes(std::span(&order, 1)), -1, false);
    if (sent != -EAGAIN && sent != -ENOBUFS && sent != -ENOMEM) break;
    sys::sleep_ns(kPauseNs);
  }
  return sent;
}

}  // namespace start

void heartbeat() noexcept {
  start::Pulse* const pulse = start::own_pulse.pulse.load(std::memory_order_relaxed);
  if (pulse == nullptr || start::own_pulse.token.load() != sys::process_token()) return;
  pulse->last_beat_ns.store(sys::now_ns(), std::memory_order_relaxed);
}

}  // namespace brood
