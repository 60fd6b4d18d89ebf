#include "start/waits.hpp"

#include <algorithm>
#include <array>
#include <cerrno>

#include "start/child.hpp"
#include "sys/clock.hpp"
#include "sys/futex.hpp"
#include "sys/process.hpp"

namespace brood::start {

Sleeper::~Sleeper() {
  if (bell_ != nullptr) sys::SignalInbox::give_back(bell_);
}

void Sleeper::prepare() noexcept {
  if (inbox_ == nullptr) inbox_ = sys::SignalInbox::current();
  if (inbox_ != nullptr && bell_ == nullptr) bell_ = inbox_->take_bell();
}

int Sleeper::sleep(std::span<sys::PollEntry> entries, std::int64_t deadline_ns,
                   const std::uint64_t* mask) noexcept {
  sys::PollEntry& own = entries.back();
  own = {};
  if (bell_ != nullptr) own.fd = bell_->fd.load();
  const bool deaf = inbox_ != nullptr && bell_ == nullptr;
  const std::int64_t look_up_ns = deaf ? sys::now_ns() + sys::kLookUpNs : sys::kForever;
  const int seen = sys::poll(entries, std::min(deadline_ns, look_up_ns), mask);
  if (seen == 0 && look_up_ns < deadline_ns) return -EINTR;
  if (seen <= 0 || own.seen == 0) return seen;
  answer_bell(own);
  if (seen > 1) return seen - 1;
  // A handler may raise its own signal each time that it runs: that must not put off the end.
  return sys::now_ns() < deadline_ns ? -EINTR : 0;
}

void Sleeper::answer_bell(const sys::PollEntry& own) noexcept {
  if (!own.invalid() && sys::SignalInbox::silence(*bell_)) return;
  sys::SignalInbox::give_up(*bell_);
  bell_ = nullptr;
}

int poll_serving_signals(std::span<sys::PollEntry> entries, std::int64_t deadline_ns) {
  Sleeper sleeper;
  for (;;) {
    sleeper.prepare();
    serve_signals();
    const std::int64_t until_ns = bury_unheard_children()
                                      ? std::min(deadline_ns, sys::now_ns() + sys::kLookUpNs)
                                      : deadline_ns;
    const int seen = sleeper.sleep(entries, until_ns);
    const bool looks_up = seen == 0 && until_ns != deadline_ns;
    if (seen != -EINTR && !looks_up) return seen;
  }
}

int has_ended_serving_signals(int pidfd, std::int64_t deadline_ns) {
  std::array<sys::PollEntry, 2> entries{{{.fd = pidfd}, {}}};
  int seen = poll_serving_signals(entries, deadline_ns);
  while (seen == -EINVAL) {
    // The kernel refuses to poll under the present limit on descriptors.
    serve_signals();
    const std::int64_t look_up_ns = std::min(deadline_ns, sys::now_ns() + sys::kLookUpNs);
    const int ended = sys::has_ended(pidfd, look_up_ns);
    if (ended != 0 || look_up_ns == deadline_ns) return ended;
  }
  // A descriptor that somebody closed proves nothing.
  return seen > 0 && !entries[0].readable() ? -EBADF : seen;
}

void futex_wait_serving_signals(const void* word, std::uint32_t expected,
                                std::int64_t deadline_ns) {
  sys::SignalInbox* inbox = sys::SignalInbox::current();
  if (inbox == nullptr) {
    sys::futex_wait(word, expected, deadline_ns);
    return;
  }
  const std::uint32_t count = inbox->count().load();
  serve_signals_of(*inbox);
  const std::array<sys::FutexWaiter, 2> words{
      {{static_cast<const sys::FutexWord*>(word), expected}, {&inbox->count(), count}}};
  const int result = sys::futex_wait_any(words, deadline_ns);
  if (result >= 0 || result == -EAGAIN || result == -EINTR || result == -ETIMEDOUT) return;
  sys::futex_wait(word, expected, std::min(deadline_ns, sys::now_ns() + sys::kLookUpNs));
}

void futex_wait_any_serving_signals(std::span<sys::FutexWaiter> words, std::int64_t deadline_ns) {
  std::size_t count = std::min(words.size(), sys::kMaxFutexWaiters) - 1;
  if (sys::SignalInbox* inbox = sys::SignalInbox::current(); inbox != nullptr) {
    const std::uint32_t signals = inbox->count().load();
    serve_signals_of(*inbox);
    words[count++] = {&inbox->count(), signals};
  }
  const int result = sys::futex_wait_any(words.first(count), deadline_ns);
  if (result >= 0 || result == -EAGAIN || result == -EINTR || result == -ETIMEDOUT) return;
  // The system can't: sleep on one of them, for as long as the others can wait.
  constexpr std::int64_t kPatienceNs = 5'000'000;
  sys::futex_wait(words[0].word, words[0].expected,
                  std::min(deadline_ns, sys::now_ns() + kPatienceNs));
}

}  // namespace brood::start
