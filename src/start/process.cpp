#include "brood/process.hpp"

#include <algorithm>
#include <chrono>
#include <exception>
#include <span>
#include <utility>
#include <vector>

#include "brood/detail/object.hpp"
#include "brood/signals.hpp"
#include "start/child.hpp"
#include "start/child_main.hpp"
#include "start/current.hpp"
#include "start/fork.hpp"
#include "start/hooks.hpp"
#include "start/keeper.hpp"
#include "start/nursery.hpp"
#include "start/process_name.hpp"
#include "start/surroundings.hpp"
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
  const ProcessOptions& settings;
  shm::OwnerId owner;
  int parent_pid;
  const std::string& parent_name;
  const start::Preparation* preparation;       // nullptr: it differs from the caller in nothing
  std::vector<detail::ObjectHandle>& handles;  // in the arguments
  sys::Fd& line;                               // to tell on whether that could be had
  const start::Keeping& keeping;
  sys::Fd (&keepers_line)[2];  // the host's end, and the keeper's
};

// The options of a forked child.
void take_options(const ForkedLife& life) noexcept {
  try {
    const warden::Family& family = *warden::Family::current();
    start::take_descriptors(life.preparation->descriptors);
    if (life.settings.close_fds) {
      std::vector<int> keep = life.settings.keep_fds;
      keep.insert(keep.end(), {family.socket(), family.segment_fd(), family.objects_fd(),
                               family.warden_pidfd(), life.line.get(), life.keepers_line[1].get()});
      sys::close_all_but(keep);
    }
    if (!life.keeping.wanted) start::take_limits(life.preparation->surroundings);
    start::take_on(life.preparation->surroundings);
  } catch (const std::exception& e) {
    start::tell_refused(life.line, e.what());
  }
  start::tell_ready(life.line);
  // Its end says so, too, should nothing have got through.
  life.line.reset();
}

// noexcept: nothing may lead from here into the copy of the code that called start().
[[noreturn]] void forked_main(ProcessTarget& target, const ForkedLife& life) noexcept {
  warden::Family::remain_in_child(life.owner);
  // Of a parent killed before it did so, the warden buries the claim.
  if (!warden::Family::current()->owners().settle_self(life.owner, sys::process_id())) {
    sys::exit_now(1);
  }
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
  // Otherwise our parent tells, once we have ended.
  if (watched) family.owners().life(life.owner.slot).note.store(1, std::memory_order_release);
  if (life.settings.daemon && !life.keeping.wanted && !watched) sys::exit_now(1);
  life.keepers_line[0].reset();
  // The warden would end what depends on a stranger.
  if (life.keeping.wanted && !watched) {
    start::tell_refused(life.keepers_line[1], "the warden of its family could not be told of it");
  }
  if (life.preparation != nullptr) take_options(life);
  const std::string parent_name = life.parent_name;
  // If it is our parent no more, its number may be somebody else's.
  sys::Fd parent(sys::open_pidfd(life.parent_pid));
  if (sys::parent_id() != life.parent_pid) parent.reset();
  start::begin_life(life.settings.name, parent_name, life.parent_pid, std::move(parent));
  if (life.keeping.wanted) {
    start::keep({life.keeping, life.settings.name, life.keepers_line[1].release(),
                 life.preparation != nullptr ? &life.preparation->surroundings : nullptr});
  }
  start::run_after_fork_actions();
  start::leave_child(start::run_user_code(life.settings.name, [&] {
    for (const ObjectHandle& handle : life.handles) handle.adopt();
    life.handles.clear();
    return target.run();
  }));
}

// Holds for a child, until it is sure to be there.
class Gifts {
 public:
  // Throws StaleHandle.
  Gifts(std::vector<ObjectHandle> handles, std::uint16_t slot)
      : handles_(std::move(handles)), slot_(slot) {
    for (; given_ < handles_.size(); ++given_) {
      if (handles_[given_].give_to(slot_)) continue;
      take_back();
      throw StaleHandle("brood: an object that is to be passed to a process is gone");
    }
  }
  ~Gifts() { take_back(); }
  Gifts(const Gifts&) = delete;
  Gifts& operator=(const Gifts&) = delete;

  [[nodiscard]] std::vector<ObjectHandle>& handles() noexcept { return handles_; }
  void keep() noexcept { given_ = 0; }

 private:
  void take_back() noexcept {
    while (given_ > 0) handles_[--given_].take_back_from(slot_);
  }

  std::vector<ObjectHandle> handles_;
  std::uint16_t slot_;
  std::size_t given_ = 0;
};

// What the call that is sent refers to.
SentCall send_collecting(const ProcessTarget& target, std::vector<ObjectHandle>& handles) {
  HandleCollector collector;
  SentCall call = target.send();
  handles = std::move(collector.handles());
  return call;
}

}  // namespace

struct ProcessHandle::State {
  explicit State(ProcessOptions s) : settings(std::move(s)), token(sys::process_token()) {
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
    std::vector<ObjectHandle> handles;
    if (target.carries_handles()) send_collecting(target, handles);
    Gifts gifts(std::move(handles), owner.slot);
    std::optional<start::Preparation> ready;
    const start::Keeping keeping = start::keeping_of(settings);
    sys::Fd line[2];
    sys::Fd keepers_line[2];
    if (keeping.wanted) make_line(keepers_line);
    if (start::changes_anything(settings)) {
      ready = start::prepare(settings);
      make_line(line);
    }
    start::Forked forked = start::fork_now(start::ForkFor::process, asked_for);
    if (forked.pid == 0) {
      forked_main(target, {settings, owner, self, start::process_name(), ready ? &*ready : nullptr,
                           gifts.handles(), line[1], keeping, keepers_line});
    }
    warden::Family::current()->owners().settle(owner, forked.pid);
    start::ChildRecord record;
    record.pid = forked.pid;
    record.pidfd = std::move(forked.pidfd);
    record.owner = owner;
    line[1].reset();
    keepers_line[1].reset();
    try {
      if (ready) start::await_ready(line[0], record.pidfd, settings.name);
      if (keeping.wanted) await_kept(record, std::move(keepers_line[0]));
    } catch (...) {
      sys::has_ended(record.pidfd.get(), kNoDeadline);
      sys::ExitStatus status;
      sys::reap(record.pidfd.get(), status);
      warden::Family::current()->owners().mark_dead(owner);
      throw;
    }
    if (ready) keep_captured(record, *ready);
    gifts.keep();
    return record;
  }

  static void make_line(sys::Fd (&line)[2]) {
    sys::require(sys::packet_socket_pair(line), "making a line to a new process");
  }

  void await_kept(start::ChildRecord& record, sys::Fd line) const {
    const auto news = start::await_ready(line, record.pidfd, settings.name);
    record.kept = std::make_unique<start::KeptProcess>(std::move(line), record.pid);
    if (news) record.kept->hear(*news);
  }

  start::ChildRecord bear_one(const ProcessTarget& target, shm::OwnerId owner,
                              StartMethod method) const {
    std::vector<ObjectHandle> handles;
    SentCall call = send_collecting(target, handles);
    Gifts gifts(std::move(handles), owner.slot);
    start::require_known_code(call.thunk, call.function);
    start::BirthOrder order;
    order.method = method;
    order.name = settings.name;
    order.daemon = settings.daemon;
    order.owner = owner;
    order.preparation = start::prepare(settings);
    order.keeping = start::keeping_of(settings);
    sys::Fd keepers_line[2];
    if (order.keeping.wanted) make_line(keepers_line);
    const int keepers_end = keepers_line[1].get();
    if (keepers_end >= 0) order.descriptors = std::span(&keepers_end, 1);
    start::ChildRecord record;
    keep_captured(record, order.preparation);
    start::Born born = start::bear(std::move(order), std::move(call));
    record.pid = born.pid;
    record.pidfd = std::move(born.pidfd);
    record.line = std::move(born.line);
    record.owner = owner;
    keepers_line[1].reset();
    if (keepers_line[0]) {
      try {
        await_kept(record, std::move(keepers_line[0]));
      } catch (...) {
        sys::has_ended(record.pidfd.get(), kNoDeadline);
        throw;
      }
    }
    gifts.keep();
    return record;
  }

  static void keep_captured(start::ChildRecord& record, const start::Preparation& ready) {
    record.output.reset(sys::copy_above_streams(ready.descriptors.captured_output.get()));
    record.errors.reset(sys::copy_above_streams(ready.descriptors.captured_errors.get()));
  }

  void finish() noexcept {
    if (token != sys::process_token() || child == nullptr) return;
    const bool ended = sys::has_ended(child->pidfd(), 0) == 1;
    if (!ended && (settings.daemon || std::uncaught_exceptions() > 0)) child->end_by_force();
    child->join();
  }

  ProcessOptions settings;
  std::uint64_t token;
  int parent_pid = sys::process_id();
  std::shared_ptr<start::Child> child;  // null before the start
};

ProcessHandle::ProcessHandle(ProcessOptions options)
    : state_(std::make_unique<State>(std::move(options))) {}
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

void ProcessHandle::require_unstarted() const {
  state().require_mine();
  if (state().child != nullptr) throw Error("brood: a Process is started once; make another");
}

void ProcessHandle::start(ProcessTarget& target) {
  start::bury_ended_children();
  const start::Choice choice = start::choose(state().settings.start);
  target.check(choice.method == StartMethod::spawn ? Addresses::of_its_own : Addresses::of_a_copy);
  warden::Family& family = warden::Family::join();
  const std::optional<shm::OwnerId> owner = start::claim_place(family.owners());
  if (!owner) {
    throw StartError("brood: " + std::to_string(shm::kFamilySlots) +
                     " processes of this family are alive; end some first");
  }
  try {
    start::ChildRecord record = choice.method == StartMethod::fork
                                    ? state().fork_one(target, *owner, choice.asked_for)
                                    : state().bear_one(target, *owner, choice.method);
    record.name = state().settings.name;
    record.daemon = state().settings.daemon;
    auto child = std::make_shared<start::Child>(std::move(record));
    start::add_child(child);
    state().child = std::move(child);
  } catch (...) {
    family.owners().release(*owner);
    throw;
  }
}

bool ProcessHandle::join_until(DeadlineNs deadline) {
  state().started();
  // What a signal's handler does meanwhile may include joining this one, and putting another in its
  // place.
  const std::shared_ptr<start::Child> child = state().child;
  const long ended = start::has_ended_serving_signals(child->pidfd(), deadline);
  if (sys::require(ended, "waiting for a process") == 0) return false;
  return child->wait_until(sys::kForever);
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
  if (const auto kept = state().child->look_at_keeper()) {
    death.attempts = static_cast<int>(kept->restarts) + 1;
    death.hung = kept->hung;
  }
  constexpr std::size_t kTailBytes = 4096;
  death.stderr_tail = captured(2);
  if (death.stderr_tail.size() > kTailBytes) {
    death.stderr_tail.erase(0, death.stderr_tail.size() - kTailBytes);
  }
  return WorkerDied(std::move(death));
}

int ProcessHandle::pid() const noexcept {
  return state_ != nullptr && state_->child != nullptr ? state_->child->pid() : 0;
}
unsigned ProcessHandle::restarts() const noexcept {
  if (state_ == nullptr || state_->child == nullptr) return 0;
  const auto kept = state_->child->look_at_keeper();
  return kept ? kept->restarts : 0;
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
void ProcessHandle::terminate() {
  state().started().send_signal(sys::signal_number::kTerminate, true);
}
void ProcessHandle::interrupt() {
  state().started().send_signal(sys::signal_number::kInterrupt, true);
}
void ProcessHandle::kill() { state().started().kill(); }

std::optional<ProcessUsage> ProcessHandle::usage() {
  if (pid() == 0) return std::nullopt;
  constexpr std::int64_t kLookAgainNs = 100'000'000;
  while (is_alive()) {
    start::Child& child = state().started();
    const auto kept = child.look_at_keeper();
    const sys::UsageAtEnd before = kept ? kept->usage_before : sys::UsageAtEnd{};
    const bool runs = !kept || kept->runs;
    const int number = kept ? kept->pid : pid();
    const auto now = runs ? sys::usage_of(number) : sys::UsageNow{};
    if (now) {
      return ProcessUsage{std::chrono::nanoseconds(before.user_ns + now->user_ns),
                          std::chrono::nanoseconds(before.system_ns + now->system_ns),
                          now->rss_bytes,
                          std::max(before.peak_rss_bytes, runs ? sys::peak_rss_of(number) : 0)};
    }
    // A process that ends just now has no usage of its own any more: then look again.
    if (kept) {
      child.await_news_of_keeper(sys::now_ns() + kLookAgainNs);
    } else {
      static_cast<void>(join_until(kNoDeadline));
    }
  }
  const std::optional<sys::ExitStatus> status = state().child->status();
  if (!status) return std::nullopt;
  return ProcessUsage{std::chrono::nanoseconds(status->usage.user_ns),
                      std::chrono::nanoseconds(status->usage.system_ns), 0,
                      status->usage.peak_rss_bytes};
}

std::string ProcessHandle::captured(int stream) const {
  if (pid() == 0) return {};
  const int file = state().child->captured(stream);
  if (file < 0) return {};
  std::string text(
      static_cast<std::size_t>(sys::require(sys::file_bytes(file), "reading what was captured")),
      '\0');
  const long got = sys::require(sys::read_at(file, std::as_writable_bytes(std::span(text)), 0),
                                "reading what was captured");
  text.resize(static_cast<std::size_t>(got));
  return text;
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
