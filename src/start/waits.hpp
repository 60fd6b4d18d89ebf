// Sleeping with an ear for signals: what every wait of the user's is made of.
#pragma once

#include <cstdint>
#include <span>

#include "sys/futex.hpp"
#include "sys/poll.hpp"
#include "sys/signal_inbox.hpp"

namespace brood::start {

// Runs the handlers that are due, then throws Interrupted if this thread is to be told of one. What
// a handler throws leaves, too. Whether any handler ran.
bool serve_signals_of(sys::SignalInbox& inbox);
inline bool serve_signals() {
  sys::SignalInbox* inbox = sys::SignalInbox::current();
  return inbox != nullptr && serve_signals_of(*inbox);
}

// One wait on descriptors. In a loop: prepare(), look whether there is a reason not to sleep (which
// includes serve_signals()), sleep(). A signal that arrives in between ends the sleep.
class Sleeper {
 public:
  Sleeper() noexcept = default;
  ~Sleeper();
  Sleeper(const Sleeper&) = delete;
  Sleeper& operator=(const Sleeper&) = delete;

  void prepare() noexcept;
  // As sys::poll, of all entries but the last, which is room for ours; -EINTR: look again.
  int sleep(std::span<sys::PollEntry> entries, std::int64_t deadline_ns,
            const std::uint64_t* mask = nullptr) noexcept;

 private:
  void answer_bell(const sys::PollEntry& own) noexcept;

  sys::SignalInbox* inbox_ = nullptr;
  sys::SignalBell* bell_ = nullptr;
};

// As sys::poll and sys::has_ended, serving signals meanwhile. `entries` has room at its end.
int poll_serving_signals(std::span<sys::PollEntry> entries, std::int64_t deadline_ns);
int has_ended_serving_signals(int pidfd, std::int64_t deadline_ns);

// As sys::futex_wait, serving signals first; returns also when there are others to serve.
void futex_wait_serving_signals(const void* word, std::uint32_t expected, std::int64_t deadline_ns);

// The same on several words; `words` has room at its end. Of more than the kernel takes, the first.
void futex_wait_any_serving_signals(std::span<sys::FutexWaiter> words, std::int64_t deadline_ns);

}  // namespace brood::start
