#include "start/hooks.hpp"

#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <utility>

#include "brood/error.hpp"
#include "brood/hooks.hpp"
#include "brood/log.hpp"
#include "start/demangle.hpp"
#include "sys/identity.hpp"
#include "sys/process.hpp"

namespace brood {

namespace {

using Action = std::function<void()>;

// Both lists are changed by a single store, without a lock: a child that is forked meanwhile finds
// them whole. What it inherits and must not run stays where it is, since its destructor is the
// parent's business too.

struct ExitAction {
  Action action;
  std::uint64_t process;  // the only one to run it
  ExitAction* below = nullptr;
};
constinit std::atomic<ExitAction*> last_exit_action{nullptr};

struct ForkAction {
  Action action;
  std::atomic<ForkAction*> next{nullptr};
};
constinit std::atomic<ForkAction*> first_fork_action{nullptr};

void require_something(const Action& action) {
  if (!action) throw Error("brood: there is nothing to call");
}

void log_current_exception(const char* where) {
  std::string text = std::string("brood: an exception left an action of ") + where + ": ";
  text += current_exception_type();
  try {
    throw;
  } catch (const std::exception& e) {
    text.append(": ").append(e.what());
  } catch (...) {
    // Its type says what there is to say.
  }
  log(LogLevel::error, text);
}

void run(const Action& action, const char* where) noexcept {
  try {
    try {
      action();
    } catch (...) {
      log_current_exception(where);
    }
  } catch (...) {
    log(LogLevel::error, "brood: an exception left an action, and no memory to say more");
  }
}

// The C library calls it once for each registration, those that a forked child inherited included.
void run_last_exit_action() {
  ExitAction* last = last_exit_action.load(std::memory_order_acquire);
  do {
    if (last == nullptr || last->process != sys::process_token()) return;
    // Only this function takes anything out, so that no address comes back meanwhile.
  } while (!last_exit_action.compare_exchange_weak(last, last->below, std::memory_order_acq_rel));
  const std::unique_ptr<ExitAction> owned(last);
  run(owned->action, "at_exit");
}

}  // namespace

void at_exit(Action action) {
  require_something(action);
  std::unique_ptr<ExitAction> fresh(new ExitAction{std::move(action), sys::process_token()});
  if (sys::at_exit(run_last_exit_action) != 0) throw std::bad_alloc();
  ExitAction* const added = fresh.release();
  added->below = last_exit_action.load(std::memory_order_relaxed);
  while (!last_exit_action.compare_exchange_weak(added->below, added, std::memory_order_release)) {
  }
}

void after_fork(Action action) {
  require_something(action);
  std::unique_ptr<ForkAction> fresh(new ForkAction{std::move(action)});
  std::atomic<ForkAction*>* place = &first_fork_action;
  ForkAction* taken = nullptr;
  while (!place->compare_exchange_weak(taken, fresh.get(), std::memory_order_acq_rel)) {
    if (taken != nullptr) place = &std::exchange(taken, nullptr)->next;
  }
  fresh.release();  // NOLINT(bugprone-unused-return-value): the list has it
}

namespace start {

void run_after_fork_actions() noexcept {
  // Those that an action adds are for the next generation.
  const ForkAction* last = nullptr;
  const ForkAction* const first = first_fork_action.load(std::memory_order_acquire);
  for (const ForkAction* at = first; at != nullptr; at = at->next.load(std::memory_order_acquire)) {
    last = at;
  }
  for (const ForkAction* at = first; at != nullptr; at = at->next.load(std::memory_order_acquire)) {
    run(at->action, "after_fork");
    if (at == last) break;
  }
}

}  // namespace start

}  // namespace brood
