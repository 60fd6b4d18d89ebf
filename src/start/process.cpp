#include "brood/process.hpp"

#include <atomic>
#include <cstdio>
#include <exception>

#include "start/child_main.hpp"
#include "start/demangle.hpp"
#include "start/fork.hpp"
#include "start/hooks.hpp"
#include "start/process_name.hpp"
#include "sys/clock.hpp"
#include "sys/identity.hpp"
#include "sys/process.hpp"
#include "sys/signals.hpp"
#include "sys/syscall.hpp"
#include "warden/family.hpp"

namespace brood::detail {

namespace {

constexpr std::int64_t kTermGraceNs = 1'000'000'000;

// "Process-2" is the second of the first process; "Process-2:1" the first of that one.
struct Naming {
  std::string of_this_process;
  std::atomic<unsigned> children{0};
};
Naming& naming() {
  static auto* const the_naming = new Naming;
  return *the_naming;
}

std::string next_name() {
  Naming& names = naming();
  const std::string number = std::to_string(names.children.fetch_add(1) + 1);
  return names.of_this_process.empty() ? "Process-" + number : names.of_this_process + ":" + number;
}

// The status of a child whose function threw; what it threw is on stderr.
int report_uncaught(const std::string& name) noexcept {
  try {
    std::string type = current_exception_type();
    std::string text;
    try {
      throw;
    } catch (const std::exception& e) {
      text = e.what();
    } catch (...) {
      text = "(no text)";
    }
    std::fprintf(stderr, "brood: process %s ended with an uncaught %s: %s\n", name.c_str(),
                 type.c_str(), text.c_str());
  } catch (...) {
    std::fputs("brood: a process ended with an uncaught exception\n", stderr);
  }
  return 1;
}

int run_target(ProcessTarget& target, const std::string& name) noexcept {
  try {
    return target.run();
  } catch (...) {
    return report_uncaught(name);
  }
}

}  // namespace

struct ProcessHandle::State {
  explicit State(ProcessSettings s) : settings(std::move(s)), token(sys::process_token()) {
    if (settings.name.empty()) settings.name = next_name();
  }

  void require_mine() const {
    if (token != sys::process_token()) {
      throw Error("brood: this Process belongs to the process that made it");
    }
  }
  void require_started() const {
    require_mine();
    if (pid == 0) throw Error("brood: this process was not started");
  }

  [[noreturn]] void child_main(ProcessTarget& target, int parent_pid) {
    warden::Family::remain_in_child();
    start::become_child({.process_name = settings.name.c_str()});
    warden::Family& family = *warden::Family::current();
    sys::hold_until_death(family.owners().life(owner.slot));
    // It tells the warden itself: a parent killed now would leave a daemon that nobody knows of.
    warden::Announcement said;
    said.kind = warden::MemberKind::process;
    said.daemon = settings.daemon ? 1 : 0;
    said.pid = sys::process_id();
    said.parent_pid = parent_pid;
    said.owner = owner;
    said.has_owner = 1;
    const bool watched = warden::announce_self(said, family.socket(), family.layout());
    if (settings.daemon && !watched) sys::exit_now(1);
    naming().of_this_process = settings.name;
    naming().children.store(0);
    start::set_process_name(settings.name);
    start::run_after_fork_actions();
    start::leave_child(run_target(target, settings.name));
  }

  // Takes the status once the child has ended.
  bool poll_end(DeadlineNs deadline) {
    if (ended) return true;
    const long result = sys::has_ended(pidfd.get(), deadline);
    if (sys::require(result, "waiting for a process") == 0) return false;
    take_status();
    return true;
  }

  void take_status() noexcept {
    sys::ExitStatus taken;
    if (sys::reap(pidfd.get(), taken) == 1) status = taken;
    ended = true;
    // As the warden does for those it has heard of: this one may have died before it was.
    if (warden::Family* family = warden::Family::current()) {
      family->owners().mark_dead(owner);
      family->owners().release(owner);
    }
  }

  void end_by_force() noexcept {
    sys::send_signal(pidfd.get(), sys::signal_number::kTerminate);
    if (sys::has_ended(pidfd.get(), sys::now_ns() + kTermGraceNs) != 1) {
      sys::send_signal(pidfd.get(), sys::signal_number::kKill);
    }
  }

  void finish() noexcept {
    if (token != sys::process_token()) {
      pidfd.release();
      return;
    }
    if (pid == 0 || ended) return;
    if (settings.daemon || std::uncaught_exceptions() > 0) end_by_force();
    // Where the system refuses to wait, it is asked again now and then.
    while (sys::has_ended(pidfd.get(), kNoDeadline) != 1) sys::sleep_ns(1'000'000);
    take_status();
  }

  ProcessSettings settings;
  std::uint64_t token;
  int pid = 0;
  shm::OwnerId owner;  // its slot in the family's table
  sys::Fd pidfd;
  bool ended = false;
  std::optional<sys::ExitStatus> status;
};

ProcessHandle::ProcessHandle(ProcessSettings settings)
    : state_(std::make_unique<State>(std::move(settings))) {}
ProcessHandle::ProcessHandle(ProcessHandle&&) noexcept = default;
ProcessHandle& ProcessHandle::operator=(ProcessHandle&& other) noexcept {
  if (this != &other) {
    if (state_ != nullptr) state_->finish();
    state_ = std::move(other.state_);
  }
  return *this;
}
ProcessHandle::~ProcessHandle() {
  if (state_ != nullptr) state_->finish();
}

ProcessHandle::State& ProcessHandle::state() const {
  if (state_ == nullptr) throw Error("brood: this Process was moved from");
  return *state_;
}

void ProcessHandle::start(ProcessTarget& target) {
  state().require_mine();
  if (state().pid != 0) throw Error("brood: a Process is started once; make another");
  target.check();
  warden::Family& family = warden::Family::join();
  const int self = sys::process_id();
  const std::optional<shm::OwnerId> owner = family.owners().claim(self);
  if (!owner) {
    throw StartError("brood: " + std::to_string(shm::kFamilySlots) +
                     " processes of this family are alive; end some first");
  }
  state().owner = *owner;
  try {
    start::Forked child = start::fork_now(start::ForkFor::process, state().settings.fork_asked_for);
    if (child.pid == 0) state().child_main(target, self);
    family.owners().settle(*owner, child.pid);
    state().owner = *owner;
    state().pid = child.pid;
    state().pidfd = std::move(child.pidfd);
  } catch (...) {
    family.owners().release(*owner);
    throw;
  }
}

bool ProcessHandle::join_until(DeadlineNs deadline) {
  state().require_started();
  return state().poll_end(deadline);
}

bool ProcessHandle::is_alive() {
  if (state_ == nullptr) return false;
  state().require_mine();
  return state().pid != 0 && !state().poll_end(sys::now_ns());
}

std::optional<int> ProcessHandle::exit_code() {
  if (state_ == nullptr || state().pid == 0 || is_alive()) return std::nullopt;
  const std::optional<sys::ExitStatus>& status = state().status;
  if (!status) return std::nullopt;
  return status->signal != 0 ? -status->signal : status->code;
}

std::optional<WorkerDied> ProcessHandle::death() {
  if (exit_code().value_or(0) >= 0) return std::nullopt;
  const sys::ExitStatus status = state().status.value_or(sys::ExitStatus{});
  Death death;
  death.pid = state().pid;
  death.signal = status.signal;
  death.core_dumped = status.core;
  return WorkerDied(std::move(death));
}

int ProcessHandle::pid() const noexcept { return state_ != nullptr ? state_->pid : 0; }
const std::string& ProcessHandle::name() const { return state().settings.name; }
bool ProcessHandle::daemon() const { return state().settings.daemon; }

void ProcessHandle::set_daemon(bool daemon) {
  if (state().pid != 0) throw Error("brood: whether a process is a daemon is set before it starts");
  state().settings.daemon = daemon;
}

void ProcessHandle::send_signal(int signal) {
  state().require_started();
  if (!state().ended) sys::send_signal(state().pidfd.get(), signal);
}
void ProcessHandle::terminate() { send_signal(sys::signal_number::kTerminate); }
void ProcessHandle::kill() { send_signal(sys::signal_number::kKill); }

int ProcessHandle::sentinel() const {
  state().require_started();
  return state().pidfd.get();
}

}  // namespace brood::detail
