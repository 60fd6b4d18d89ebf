// Signals: sending them, and being told of them where that is safe.
#pragma once

#include "brood/detail/cpp20.hpp"

#include <chrono>
#include <functional>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "brood/error.hpp"

namespace brood::signals {

// A handler of on() is an ordinary function that may lock, allocate, throw and wait: it never runs
// in the middle of something else, as those of sigaction() do, but inside *brood waits*, that is
//
//   Process::join, join_for   Future::get, get_for, wait, wait_for...   brood::wait
//   Pool::map, apply, join, join_for, shutdown                          pause(), wait(), dispatch()
//   what queues, pipes, locks, semaphores, events, conditions and barriers wait for
//
// of whatever thread: the first that waits, at once if one does. Such a wait looks for signals when
// it begins, even if it then need not wait, and while it sleeps. Whatever else interrupts a system
// call goes unnoticed by waits.
//
//   Threads:   all functions from any thread. What is done with a signal is a matter of the whole
//              process. Handlers may run in several threads at once if several wait.
//   Blocking:  pause() and wait(), wait_for().
//   Ownership: handlers are kept until they are replaced. The first call of on(), interrupt_on(),
//              pause() or wait() takes a descriptor of this process for good, and each further
//              thread that waits at the same time one more; until then, nothing here exists.
//   Errors:    Error for a number that is no signal, or that can't be treated so; SystemError; in
//              both cases nothing was changed. What a handler throws leaves the wait it runs in,
//              which has then done nothing.
//   Death:     processes that brood starts begin with all signals at their defaults and no
//              handlers. In children that you fork yourself, a signal that was named here does what
//              it did before.
//
// A signal that arrives again before it was served is served once. A thread that blocks a signal
// (pthread_sigmask) goes on blocking it. Waits that sleep already when the process first calls
// on(), interrupt_on() or wait() may take no part.

// ---- being told

// `signal` is a number of <csignal>. Has `handler` called with it, instead of what was done before.
// Not for SIGKILL and SIGSTOP, which can't be had, and SIGSEGV, SIGBUS, SIGFPE and SIGILL, which
// can't be put off.
void on(int signal, std::function<void(int)> handler);

// Has the signal end brood waits with Interrupted, in every thread once: the wait in progress, or
// else the thread's next. A thread that has not waited since the process first named a signal here
// is spared if another thread was told. So cleaning up after Interrupted may wait; the next signal
// interrupts that, too. Destructors wait uninterrupted.
void interrupt_on(int signal);

// It has no effect. SIGKILL and SIGSTOP can't be ignored.
void ignore(int signal);
// It has the effect that it has in any program: most end it. What arrived and was not served yet is
// forgotten.
void default_action(int signal);

// Serves what has arrived, without waiting: for loops that compute. Whether any handler ran.
bool dispatch();

// Until a handler has run, in whatever thread, or Interrupted. One that arrived before and was not
// served yet counts: nothing is missed between looking at what it changes and this call.
void pause();

// The next of these signals that arrives: sigwait(). From the first call that names it on, a signal
// has no other effect than that (until on(), ignore()...), so one that arrives while nobody waits
// is there for the next who does; also if all threads block it. Of several, the lowest number.
// Other signals' handlers run meanwhile. Error for a signal of on() or interrupt_on(), and for an
// empty set.
int wait(std::span<const int> signals);
int wait(std::initializer_list<int> signals);
// The same with a limit: empty if none arrived by then.
std::optional<int> wait_for(std::span<const int> signals, std::chrono::nanoseconds limit);
std::optional<int> wait_for(std::initializer_list<int> signals, std::chrono::nanoseconds limit);

// ---- sending

// To one process, by its number; 0 only asks whether there is one. SystemError (ESRCH, EPERM) if
// not. For a Process, better its own send_signal(): numbers are given to others once it was joined.
void kill(int pid, int signal);

// SIGALRM to this process after that time, once; zero: not any more. There is one such timer, that
// of ::alarm(). Returns what was left of the previous one. Without on(SIGALRM) it ends the process.
std::chrono::nanoseconds alarm(std::chrono::nanoseconds after);

// ---- names

// "SIGTERM"; "SIGRTMIN+3".
[[nodiscard]] std::string name(int signal);
// Of "SIGTERM" or "TERM", "SIGRTMAX-1" or "RTMIN+3".
[[nodiscard]] int from_name(std::string_view name);

}  // namespace brood::signals
