// Signals that this process has asked to be told of: noted by a handler that does no more, to be
// served by whoever waits.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "sys/futex.hpp"

namespace brood::sys {

inline constexpr int kLastSignal = 64;

// What the note of a signal is for.
enum class SignalUse : std::uint8_t {
  none,
  kept,       // until somebody takes it
  interrupt,  // every thread is told once
};

// Wakes one thread from a poll().
struct SignalBell {
  std::atomic<int> fd{-1};
  std::atomic<bool> taken{false};
  SignalBell* next = nullptr;
};

// Made by the first who asks, and never destroyed: a handler may be in it at any time.
//
// Threads:   any, and signal handlers.
// Blocking:  never.
// Ownership: of its bells, for ever; their number is that of the threads that waited at once.
// Errors:    -errno, with nothing changed.
// Death:     nothing here is shared. In a forked copy it is not the current one any more: a signal
//            that arrives there does what it did before it was caught.
//
// Memory ordering: a sleeper takes its bell (or reads the count), then looks at the notes; the
// handler writes the note, then counts and rings every taken bell; all seq_cst. So either the
// sleeper sees the note or the handler sees the sleeper.
class SignalInbox {
  template <class Array>
  static auto& at(Array& array, int signal) noexcept {
    return array[static_cast<std::size_t>(signal)];
  }

 public:
  SignalInbox() noexcept;
  SignalInbox(const SignalInbox&) = delete;
  SignalInbox& operator=(const SignalInbox&) = delete;

  // This process's; nullptr if it never asked for one.
  static SignalInbox* current() noexcept {
    SignalInbox* inbox = the_inbox.load(std::memory_order_acquire);
    return inbox != nullptr && inbox->is_mine() ? inbox : nullptr;
  }
  // By one thread at a time.
  void make_current() noexcept { the_inbox.store(this, std::memory_order_release); }

  // Has the signal noted from now on, for `use` (not none); notes for another use are dropped.
  // 0 or -errno.
  int catch_signal(int signal, SignalUse use) noexcept;
  // The signal gets its default effect, or none; notes of it are dropped. 0 or -errno.
  int let_go(int signal, bool ignored) noexcept;
  // The same where there is no inbox.
  static int set_effect(int signal, bool ignored) noexcept;
  [[nodiscard]] SignalUse use(int signal) const noexcept {
    return at(uses_, signal).load(std::memory_order_acquire);
  }

  // ---- kept signals: a bit for each, that of signal 1 being 1

  static std::uint64_t bit(int signal) noexcept { return std::uint64_t{1} << (signal - 1); }
  [[nodiscard]] std::uint64_t kept() const noexcept { return kept_.load(); }
  // Takes the lowest of those in `which`; 0: there is none.
  int take(std::uint64_t which) noexcept;

  // ---- interrupts: counted, and remembered by the number of a signal's last

  [[nodiscard]] std::uint64_t interrupts() const noexcept { return interrupts_.load(); }
  // The latest that came after the `seen`-th: signal and number; {0, seen} if there is none.
  struct Interrupt {
    int signal;
    std::uint64_t number;
  };
  [[nodiscard]] Interrupt last_interrupt(std::uint64_t seen) const noexcept;

  // ---- sleeping

  // Changes whenever there is something to look at: a word for futex waits.
  [[nodiscard]] const FutexWord& count() const noexcept { return count_; }
  // Wakes everybody who sleeps on the count or has a bell.
  void ring() noexcept;

  // For a thread that is about to poll(); may have been rung already. Allocates the first time that
  // so many wait. nullptr: there is no memory or descriptor for one.
  SignalBell* take_bell() noexcept;
  static void give_back(SignalBell* bell) noexcept { bell->taken.store(false); }
  // False if its descriptor is not what it was.
  static bool silence(SignalBell& bell) noexcept;
  // Instead of giving it back: it is of no use any more.
  static void give_up(SignalBell& bell) noexcept { bell.fd.store(-1); }

 private:
  static std::atomic<SignalInbox*> the_inbox;
  static void note(int signal) noexcept;

  [[nodiscard]] bool is_mine() const noexcept;
  void note_interrupt(int signal) noexcept;
  void drop_notes(int signal, SignalUse except) noexcept;

  std::uint64_t token_;
  std::array<std::atomic<SignalUse>, kLastSignal + 1> uses_{};
  std::array<std::atomic<std::uint64_t>, kLastSignal + 1> last_{};  // interrupt of each signal
  std::atomic<std::uint64_t> kept_{0};
  std::atomic<std::uint64_t> interrupts_{0};
  FutexWord count_{0};
  std::atomic<SignalBell*> bells_{nullptr};
};

}  // namespace brood::sys
