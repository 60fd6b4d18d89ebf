#include "brood/signals.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <utility>

#include "brood/detail/pool_core.hpp"
#include "start/waits.hpp"
#include "sys/clock.hpp"
#include "sys/futex.hpp"
#include "sys/identity.hpp"
#include "sys/signal_inbox.hpp"
#include "sys/signals.hpp"
#include "sys/syscall.hpp"

namespace brood {

namespace {

using Handler = std::function<void(int)>;

// The inbox of this process, and what its notes are for.
class SignalTable : public sys::SignalInbox {
 public:
  // Makes it if there is none; the mutex of a table that was copied by a fork may be held for ever.
  static SignalTable& get() {
    static std::atomic<std::uint64_t> making{0};  // the process that makes one
    for (;;) {
      if (sys::SignalInbox* inbox = current()) return of(*inbox);
      const std::uint64_t self = sys::process_token();
      std::uint64_t other = making.load();
      if (other == self || !making.compare_exchange_strong(other, self)) {
        sys::yield();
        continue;
      }
      return make([] { making.store(0); });
    }
  }
  static SignalTable& of(sys::SignalInbox& inbox) { return static_cast<SignalTable&>(inbox); }

  void handle(int signal, Handler handler) {
    // What was there is destroyed last, and so without the lock: it may hold anything.
    auto kept = std::make_shared<const Handler>(std::move(handler));
    const std::lock_guard lock(mutex_);
    std::swap(handlers_[static_cast<std::size_t>(signal)], kept);
    const std::uint64_t old = handled_.fetch_or(bit(signal));
    const int result = catch_signal(signal, sys::SignalUse::kept);
    if (result == 0) return;
    handled_.store(old);
    std::swap(handlers_[static_cast<std::size_t>(signal)], kept);
    sys::require(result, "catching a signal");
  }

  void interrupt(int signal) {
    std::shared_ptr<const Handler> old;
    const std::lock_guard lock(mutex_);
    seen();  // this thread takes part from now on
    sys::require(catch_signal(signal, sys::SignalUse::interrupt), "catching a signal");
    old = remove_handler(signal);
  }

  void end_use(int signal, bool ignored) {
    std::shared_ptr<const Handler> old;
    const std::lock_guard lock(mutex_);
    sys::require(let_go(signal, ignored), "setting a signal's effect");
    old = remove_handler(signal);
  }

  // The set as bits; all of them are kept for wait() from now on.
  std::uint64_t keep_for_wait(std::span<const int> signals) {
    const std::lock_guard lock(mutex_);
    std::uint64_t set = 0;
    for (const int signal : signals) {
      set |= bit(signal);
      const bool has_handler = (handled_.load() & bit(signal)) != 0;
      if (has_handler || use(signal) == sys::SignalUse::interrupt) {
        throw Error("brood: " + signals::name(signal) +
                    " has a handler or interrupts waits: it is not to be waited for as well");
      }
    }
    for (const int signal : signals) {
      if (use(signal) == sys::SignalUse::kept) continue;
      sys::require(catch_signal(signal, sys::SignalUse::kept), "catching a signal");
    }
    return set;
  }

  bool serve() {
    bool any = false;
    // Each once: a handler that raises its own signal must not keep us here.
    std::uint64_t due = kept() & handled_.load();
    while (const int signal = take(due)) {
      due &= ~bit(signal);
      const std::shared_ptr<const Handler> handler = handler_of(signal);
      if (handler == nullptr) continue;
      any = true;
      const Count count(*this);
      (*handler)(signal);
    }
    tell_of_interrupts();
    return any;
  }

  // How many handlers have run, for pause().
  [[nodiscard]] std::uint64_t served() const noexcept { return served_.load(); }

 private:
  SignalTable() = default;

  template <class Done>
  static SignalTable& make(Done done) {
    struct Guard {
      Done done;
      ~Guard() { done(); }
    };
    const Guard guard{done};
    if (sys::SignalInbox* inbox = current()) return of(*inbox);
    std::unique_ptr<SignalTable> table(new SignalTable);
    sys::SignalBell* bell = table->take_bell();
    if (bell == nullptr) throw SystemError(EMFILE, "making a descriptor that wakes waits");
    give_back(bell);
    table->make_current();
    return *table.release();
  }

  // Counts a handler also if it throws.
  struct Count {
    explicit Count(SignalTable& t) : table(t) {}
    ~Count() {
      table.served_.fetch_add(1);
      table.ring();
    }
    Count(const Count&) = delete;
    Count& operator=(const Count&) = delete;
    SignalTable& table;
  };

  [[nodiscard]] std::shared_ptr<const Handler> handler_of(int signal) {
    const std::lock_guard lock(mutex_);
    return handlers_[static_cast<std::size_t>(signal)];
  }

  [[nodiscard]] std::shared_ptr<const Handler> remove_handler(int signal) {
    handled_.fetch_and(~bit(signal));
    return std::exchange(handlers_[static_cast<std::size_t>(signal)], nullptr);
  }

  // The number of the last interrupt that the calling thread was told of. A thread that is new here
  // knows what any other knows.
  std::uint64_t& seen() noexcept {
    struct Seen {
      const SignalTable* table;
      std::uint64_t number;
    };
    static thread_local Seen mine{nullptr, 0};
    if (mine.table != this) mine = {this, told_.load()};
    return mine.number;
  }

  void tell_of_interrupts() {
    std::uint64_t& known = seen();
    if (interrupts() <= known) return;
    const Interrupt last = last_interrupt(known);
    if (last.signal == 0) return;
    known = last.number;
    std::uint64_t told = told_.load();
    while (told < known && !told_.compare_exchange_weak(told, known)) {
    }
    throw Interrupted("brood: interrupted by " + signals::name(last.signal), last.signal);
  }

  std::mutex mutex_;
  std::array<std::shared_ptr<const Handler>, sys::kLastSignal + 1> handlers_;
  std::atomic<std::uint64_t> handled_{0};  // bits of those that have one
  std::atomic<std::uint64_t> told_{0};     // the last interrupt that any thread was told of
  std::atomic<std::uint64_t> served_{0};
};

void require_signal(int signal) {
  if (!sys::is_signal(signal)) {
    throw Error("brood: " + std::to_string(signal) + " is not the number of a signal");
  }
}

void require_changeable(int signal) {
  require_signal(signal);
  if (signal == sys::signal_number::kKill || signal == sys::signal_number::kStop) {
    throw Error("brood: " + signals::name(signal) + " can't be caught or ignored");
  }
}

void require_catchable(int signal) {
  require_changeable(signal);
  if (sys::is_fault(signal)) {
    throw Error("brood: " + signals::name(signal) +
                " says that an instruction failed: it can't be served later");
  }
}

void set_effect(int signal, bool ignored) {
  if (sys::SignalInbox* inbox = sys::SignalInbox::current()) {
    SignalTable::of(*inbox).end_use(signal, ignored);
  } else {
    sys::require(sys::SignalInbox::set_effect(signal, ignored), "setting a signal's effect");
  }
}

// Until `enough` says so; false if the time was up first. It is asked after other signals'
// handlers.
template <class Enough>
bool sleep_until_signal(const Enough& enough, std::int64_t deadline_ns,
                        const std::uint64_t* mask = nullptr) {
  std::array<sys::PollEntry, 1> room;
  start::Sleeper sleeper;
  for (;;) {
    sleeper.prepare();
    start::serve_signals();
    if (enough()) return true;
    const int seen = sleeper.sleep(room, deadline_ns, mask);
    if (seen == 0) return enough();
    if (seen != -EINTR) sys::require(seen, "waiting for a signal");
  }
}

std::optional<int> wait_until(std::span<const int> signals, std::int64_t deadline_ns) {
  if (signals.empty()) throw Error("brood: to wait for no signal would never end");
  for (const int signal : signals) require_catchable(signal);
  std::uint64_t mask = 0;
  sys::require(sys::read_blocked_signals(mask), "reading the signal mask");
  SignalTable& table = SignalTable::get();
  const std::uint64_t set = table.keep_for_wait(signals);
  // Open to them just while it sleeps: they may be blocked, as for sigwait().
  mask &= ~set;
  int taken = 0;
  sleep_until_signal([&] { return (taken = table.take(set)) != 0; }, deadline_ns, &mask);
  return taken != 0 ? std::optional(taken) : std::nullopt;
}

}  // namespace

bool start::serve_signals_of(sys::SignalInbox& inbox) { return SignalTable::of(inbox).serve(); }

namespace signals {

void on(int signal, std::function<void(int)> handler) {
  require_catchable(signal);
  if (handler == nullptr) throw Error("brood: the handler of a signal is empty");
  SignalTable::get().handle(signal, std::move(handler));
}

void interrupt_on(int signal) {
  require_catchable(signal);
  SignalTable::get().interrupt(signal);
}

void ignore(int signal) {
  require_changeable(signal);
  set_effect(signal, true);
}

void default_action(int signal) {
  require_signal(signal);
  if (signal == sys::signal_number::kKill || signal == sys::signal_number::kStop) return;
  set_effect(signal, false);
}

bool dispatch() { return start::serve_signals(); }

void pause() {
  SignalTable& table = SignalTable::get();
  const std::uint64_t before = table.served();
  sleep_until_signal([&] { return table.served() != before; }, sys::kForever);
}

int wait(std::span<const int> signals) {
  return wait_until(signals, sys::kForever).value_or(0);  // never empty
}
int wait(std::initializer_list<int> signals) {
  return wait(std::span(signals.begin(), signals.size()));
}
std::optional<int> wait_for(std::span<const int> signals, std::chrono::nanoseconds limit) {
  return wait_until(signals, detail::deadline_after(limit));
}
std::optional<int> wait_for(std::initializer_list<int> signals, std::chrono::nanoseconds limit) {
  return wait_for(std::span(signals.begin(), signals.size()), limit);
}

void kill(int pid, int signal) {
  if (signal != 0) require_signal(signal);
  if (pid <= 0) {
    throw Error("brood: " + std::to_string(pid) + " is not the number of one process");
  }
  sys::require(sys::kill_by_number(pid, signal), "sending a signal");
}

std::chrono::nanoseconds alarm(std::chrono::nanoseconds after) {
  if (after.count() < 0) throw Error("brood: an alarm can't be in the past");
  const std::int64_t left = sys::set_alarm(after.count());
  return std::chrono::nanoseconds(sys::require(left, "setting an alarm"));
}

std::string name(int signal) {
  require_signal(signal);
  const sys::SignalName known = sys::signal_name(signal);
  std::string text = std::string("SIG") + known.base;
  if (known.after != 0) text += "+" + std::to_string(known.after);
  return text;
}

int from_name(std::string_view name) {
  std::string_view base = name.starts_with("SIG") ? name.substr(3) : name;
  int distance = 0;
  if (const std::size_t sign = base.find_first_of("+-"); sign != std::string_view::npos) {
    const std::string_view digits = base.substr(sign + 1);
    const auto [end, error] =
        std::from_chars(digits.data(), digits.data() + digits.size(), distance);
    const bool whole =
        error == std::errc{} && end == digits.data() + digits.size() && distance >= 0;
    // Up from the first, down from the last.
    const std::string_view start = base[sign] == '+' ? "RTMIN" : "RTMAX";
    if (base[sign] == '-') distance = -distance;
    base = whole && base.substr(0, sign) == start ? start : "";
  }
  const int first = sys::find_signal(base);
  const bool far = first != 0 && (distance > sys::kLastSignal || distance < -sys::kLastSignal ||
                                  !sys::is_signal(first + distance));
  if (first == 0 || far) throw Error("brood: no signal is called " + std::string(name));
  return first + distance;
}

}  // namespace signals

}  // namespace brood
