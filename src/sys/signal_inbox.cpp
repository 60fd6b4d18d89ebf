#include "sys/signal_inbox.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/eventfd.h>

#include <bit>
#include <new>

#include "sys/fd.hpp"
#include "sys/identity.hpp"
#include "sys/syscall.hpp"

namespace brood::sys {

static_assert(std::atomic<std::uint64_t>::is_always_lock_free &&
              std::atomic<SignalBell*>::is_always_lock_free);

std::atomic<SignalInbox*> SignalInbox::the_inbox{nullptr};

namespace {

// What a signal does that is not, or no longer, for us.
std::array<struct sigaction, kLastSignal + 1> before_caught;

void restore_and_raise(int signal) noexcept {
  ::sigaction(signal, &before_caught[static_cast<std::size_t>(signal)], nullptr);
  // Delivered once the handler has returned.
  call(SYS_tgkill, call(SYS_getpid), call(SYS_gettid), signal);
}

}  // namespace

SignalInbox::SignalInbox() noexcept : token_(process_token()) {}

bool SignalInbox::is_mine() const noexcept { return token_ == process_token(); }

void SignalInbox::note(int signal) noexcept {
  SignalInbox* inbox = current();
  if (inbox == nullptr) {
    restore_and_raise(signal);
    return;
  }
  switch (inbox->use(signal)) {
    // Let go a moment ago, or caught by the process that this one is a forked copy of.
    case SignalUse::none:
      restore_and_raise(signal);
      return;
    case SignalUse::kept:
      inbox->kept_.fetch_or(bit(signal));
      break;
    case SignalUse::interrupt:
      inbox->note_interrupt(signal);
      break;
  }
  inbox->ring();
}

void SignalInbox::note_interrupt(int signal) noexcept {
  const std::uint64_t number = interrupts_.fetch_add(1) + 1;
  std::atomic<std::uint64_t>& last = at(last_, signal);
  std::uint64_t known = last.load();
  while (known < number && !last.compare_exchange_weak(known, number)) {
  }
}

void SignalInbox::ring() noexcept {
  count_.fetch_add(1);
  futex_wake(&count_, kWakeAll);
  for (SignalBell* bell = bells_.load(); bell != nullptr; bell = bell->next) {
    if (!bell->taken.load()) continue;
    const std::uint64_t one = 1;
    call(SYS_write, bell->fd.load(), &one, sizeof one);
  }
}

int SignalInbox::catch_signal(int signal, SignalUse use) noexcept {
  struct sigaction action{};
  action.sa_handler = [](int number) { note(number); };
  // What the host waits for by itself goes on; our own waits end all the same.
  action.sa_flags = SA_RESTART | SA_ONSTACK;
  sigfillset(&action.sa_mask);
  struct sigaction before{};
  if (::sigaction(signal, nullptr, &before) != 0) return -errno;
  if (before.sa_handler != action.sa_handler) at(before_caught, signal) = before;
  const SignalUse old = at(uses_, signal).exchange(use);
  if (::sigaction(signal, &action, nullptr) != 0) {
    const int error = errno;
    at(uses_, signal).store(old);
    return -error;
  }
  if (old != use) drop_notes(signal, use);
  return 0;
}

void SignalInbox::drop_notes(int signal, SignalUse except) noexcept {
  if (except != SignalUse::kept) kept_.fetch_and(~bit(signal));
  if (except != SignalUse::interrupt) at(last_, signal).store(0);
}

int SignalInbox::set_effect(int signal, bool ignored) noexcept {
  struct sigaction action{};
  action.sa_handler = ignored ? SIG_IGN : SIG_DFL;
  if (::sigaction(signal, &action, nullptr) != 0) return -errno;
  at(before_caught, signal) = action;
  return 0;
}

int SignalInbox::let_go(int signal, bool ignored) noexcept {
  const int result = set_effect(signal, ignored);
  if (result < 0) return result;
  at(uses_, signal).store(SignalUse::none);
  drop_notes(signal, SignalUse::none);
  return 0;
}

int SignalInbox::take(std::uint64_t which) noexcept {
  for (;;) {
    const std::uint64_t there = kept_.load() & which;
    if (there == 0) return 0;
    const int signal = std::countr_zero(there) + 1;
    if ((kept_.fetch_and(~bit(signal)) & bit(signal)) != 0) return signal;
  }
}

SignalInbox::Interrupt SignalInbox::last_interrupt(std::uint64_t seen) const noexcept {
  Interrupt found{0, seen};
  for (int signal = 1; signal <= kLastSignal; ++signal) {
    const std::uint64_t number = at(last_, signal).load();
    if (number > found.number) found = {signal, number};
  }
  return found;
}

SignalBell* SignalInbox::take_bell() noexcept {
  for (SignalBell* bell = bells_.load(); bell != nullptr; bell = bell->next) {
    if (!bell->taken.exchange(true)) return bell;
  }
  auto* bell = new (std::nothrow) SignalBell;
  if (bell == nullptr) return nullptr;
  const int fd = above_streams(static_cast<int>(call(SYS_eventfd2, 0, EFD_CLOEXEC | EFD_NONBLOCK)));
  if (fd < 0) {
    delete bell;
    return nullptr;
  }
  bell->fd.store(fd);
  bell->taken.store(true);
  bell->next = bells_.load();
  while (!bells_.compare_exchange_weak(bell->next, bell)) {
  }
  return bell;
}

bool SignalInbox::silence(SignalBell& bell) noexcept {
  std::uint64_t rings = 0;
  const long result = call_restarting(SYS_read, bell.fd.load(), &rings, sizeof rings);
  return result != -EBADF && result != -EINVAL;
}

}  // namespace brood::sys
