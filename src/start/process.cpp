#include "brood/process.hpp"

#include <chrono>
#include <exception>
#include <utility>

#include "brood/signals.hpp"
#include "start/child.hpp"
#include "start/child_main.hpp"
#include "start/current.hpp"
#include "start/fork.hpp"
#include "start/hooks.hpp"
#include "start/nursery.hpp"
#include "start/process_name.hpp"
#include "start/waits.hpp"
#include "sys/clock.hpp"
#include "sys/identity.hpp"
#include "sys/process.hpp"
#include "sys/procfs.hpp"
#include "sys/signals.hpp"
#include "sys/syscall.hpp"
#include "warden/family.hpp"
#include "warden/protocol.hpp"

namespace brood::detail {

namespace {

// In a child that a fork has made.
struct ForkedLife {
  const ProcessSettings& settings;
  shm::OwnerId owner;
  int parent_pid;
  const std::string& parent_name;
};

// noexcept: nothing may lead from here into the copy of the code that called start().
[[noreturn]] void forked_main(ProcessTarget& target, const ForkedLife& life) noexcept {
  warden::Family::remain_in_child();
  start::become_child({.process_name = life.settings.name.c_str()});
  warden::Family& family = *warden::Family::current();
  sys::hold_until_death(family.owners().life(life.owner.slot));
  // It tells the warden itself: a parent killed now would leave a daemon that nobody knows of.
  warden::Announcement said;
  said.kind = warden::MemberKind::process;
  said.daemon = life.settings.daemon ? 1 : 0;
  said.pid = sys::process_id();
  said.parent_pid = life.parent_pid;
  said.owner = life.owner;
  said.has_owner = 1;
  const bool watched = warden::announce_self(said, family.socket(), family.layout());
  if (life.settings.daemon && !watched) sys::exit_now(1);
  const std::string parent_name = life.parent_name;
  // If it is our parent no more, its number may be somebody else's.
  sys::Fd parent(sys::open_pidfd(life.parent_pid));
  if (sys::parent_id() != life.parent_pid) parent.reset();
  start::begin_life(life.settings.name, parent_name, life.parent_pid, std::move(parent));
  start::run_after_fork_actions();
  start::leave_child(start::run_user_code(life.settings.name, [&] { return target.run(); }));
}

}  // namespace

struct ProcessHandle::State {
  explicit State(ProcessSettings s) : settings(std::move(s)), token(sys::process_token()) {
    if (settings.name.empty()) settings.name = start::next_child_name();
  }

  void require_mine() const {
    if (token != sys::process_token()) {
      throw Error("brood: this Process belongs to the process that made it");
    }
  }
  start::Child& started() const {
    require_mine();
    if (child == nullptr) throw Error("brood: this process was not started");
    return *child;
  }

  start::ChildRecord fork_one(ProcessTarget& target, shm::OwnerId owner, bool asked_for) const {
    const int self = sys::process_id();
    start::Forked forked = start::fork_now(start::ForkFor::process, asked_for);
    if (forked.pid == 0) forked_main(target, {settings, owner, self, start::process_name()});
    warden::Family::current()->owners().settle(owner, forked.pid);
    return {forked.pid, std::move(forked.pidfd), {}, owner, settings.name, settings.daemon};
  }

  start::ChildRecord bear_one(const ProcessTarget& target, shm::OwnerId owner,
                              StartMethod method) const {
    SentCall call = target.send();
    start::require_known_code(call.thunk, call.function);
    start::BirthOrder order;
    order.method = method;
    order.name = settings.name;
    order.daemon = settings.daemon;
    order.owner = owner;
    start::Born born = start::bear(order, std::move(call));
    return {born.pid, std::move(born.pidfd), std::move(born.line),
            owner,    settings.name,         settings.daemon};
  }

  void finish() noexcept {
    if (token != sys::process_token() || child == nullptr) return;
    const bool ended = sys::has_ended(child->pidfd(), 0) == 1;
    if (!ended && (settings.daemon || std::uncaught_exceptions() > 0)) child->end_by_force();
    child->join();
  }

  ProcessSettings settings;
  std::uint64_t token;
  int parent_pid = sys::process_id();
  std::shared_ptr<start::Child> child;  // null before the start
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
  if (state().child != nullptr) throw Error("brood: a Process is started once; make another");
  start::bury_ended_children();
  const start::Choice choice = start::choose(state().settings.start);
  target.check(choice.method == StartMethod::spawn ? Addresses::of_its_own : Addresses::of_a_copy);
  warden::Family& family = warden::Family::join();
  const std::optional<shm::OwnerId> owner = family.owners().claim(sys::process_id());
  if (!owner) {
    throw StartError("brood: " + std::to_string(shm::kFamilySlots) +
                     " processes of this family are alive; end some first");
  }
  try {
    start::ChildRecord record = choice.method == StartMethod::fork
                                    ? state().fork_one(target, *owner, choice.asked_for)
                                    : state().bear_one(target, *owner, choice.method);
    auto child = std::make_shared<start::Child>(std::move(record));
    start::add_child(child);
    state().child = std::move(child);
  } catch (...) {
    family.owners().release(*owner);
    throw;
  }
}

bool ProcessHandle::join_until(DeadlineNs deadline) {
  start::Child& child = state().started();
  // What a signal's handler does meanwhile may include joining this one.
  const long ended = start::has_ended_serving_signals(child.pidfd(), deadline);
  if (sys::require(ended, "waiting for a process") == 0) return false;
  return child.wait_until(sys::kForever);
}

bool ProcessHandle::is_alive() {
  if (state_ == nullptr) return false;
  state().require_mine();
  start::bury_ended_children();
  return state().child != nullptr && !state().child->wait_until(sys::now_ns());
}

std::optional<int> ProcessHandle::exit_code() {
  if (state_ == nullptr || state().child == nullptr || is_alive()) return std::nullopt;
  const std::optional<sys::ExitStatus> status = state().child->status();
  if (!status) return std::nullopt;
  return status->signal != 0 ? -status->signal : status->code;
}

std::optional<WorkerDied> ProcessHandle::death() {
  if (exit_code().value_or(0) >= 0) return std::nullopt;
  const sys::ExitStatus status = state().child->status().value_or(sys::ExitStatus{});
  Death death;
  death.pid = state().child->pid();
  death.signal = status.signal;
  death.core_dumped = status.core;
  return WorkerDied(std::move(death));
}

int ProcessHandle::pid() const noexcept {
  return state_ != nullptr && state_->child != nullptr ? state_->child->pid() : 0;
}
const std::string& ProcessHandle::name() const { return state().settings.name; }
bool ProcessHandle::daemon() const { return state().settings.daemon; }

void ProcessHandle::set_daemon(bool daemon) {
  if (state().child != nullptr) {
    throw Error("brood: whether a process is a daemon is set before it starts");
  }
  state().settings.daemon = daemon;
}

void ProcessHandle::send_signal(int signal) { state().started().send_signal(signal); }
void ProcessHandle::terminate() { send_signal(sys::signal_number::kTerminate); }
void ProcessHandle::interrupt() { send_signal(sys::signal_number::kInterrupt); }
void ProcessHandle::kill() { state().started().kill(); }

std::optional<ProcessUsage> ProcessHandle::usage() {
  if (pid() == 0) return std::nullopt;
  if (is_alive()) {
    // A process that ends just now has no usage of its own any more: then look again.
    if (const auto now = sys::usage_of(pid())) {
      return ProcessUsage{std::chrono::nanoseconds(now->user_ns),
                          std::chrono::nanoseconds(now->system_ns), now->rss_bytes,
                          sys::peak_rss_of(pid())};
    }
    static_cast<void>(join_until(kNoDeadline));
  }
  const std::optional<sys::ExitStatus> status = state().child->status();
  if (!status) return std::nullopt;
  return ProcessUsage{std::chrono::nanoseconds(status->usage.user_ns),
                      std::chrono::nanoseconds(status->usage.system_ns), 0,
                      status->usage.peak_rss_bytes};
}

void ProcessHandle::close() {
  if (state_ == nullptr) return;
  if (is_alive()) throw Error("brood: a process that runs can't be closed: join() it, or kill()");
  state_ = nullptr;
}

std::string ProcessHandle::describe() {
  if (state_ == nullptr) return "<Process closed>";
  std::string text = "<Process name='" + name() + "'";
  if (pid() != 0) text += " pid=" + std::to_string(pid());
  text += " parent=" + std::to_string(state().parent_pid);
  if (state().token != sys::process_token()) {
    text += " unknown";
  } else if (pid() == 0) {
    text += " initial";
  } else if (is_alive()) {
    text += " started";
  } else if (const std::optional<int> code = exit_code()) {
    const std::string signal = *code < 0 ? signals::name(-*code) : "";
    text +=
        " stopped" +
        (*code == 0 ? "" : " exitcode=" + (signal.empty() ? std::to_string(*code) : "-" + signal));
  } else {
    text += " stopped exitcode=unknown";
  }
  return text + (daemon() ? " daemon>" : ">");
}

int ProcessHandle::sentinel() const { return state().started().pidfd(); }

}  // namespace brood::detail
