#include "start/child.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <new>
#include <span>
#include <unordered_map>
#include <utility>

#include "start/nursery.hpp"
#include "sys/clock.hpp"
#include "sys/epoll.hpp"
#include "sys/identity.hpp"
#include "sys/procfs.hpp"
#include "sys/signals.hpp"
#include "sys/syscall.hpp"
#include "warden/family.hpp"

namespace brood::start {

namespace {

constexpr std::int64_t kTermGraceNs = 1'000'000'000;
// The warden reaps at once; if it was stopped, the status is not waited for for ever.
constexpr std::int64_t kLongestReapNs = 5'000'000'000;

// The list of one process. A copy that a fork made belongs to nobody, and its lock may be held.
struct Children {
  std::uint64_t token = sys::process_token();
  Children* inherited = nullptr;  // kept reachable, so that it is no leak
  std::mutex mutex;
  std::unordered_map<const Child*, std::weak_ptr<Child>> living;
  sys::ReadableSet ends;  // their pidfds; open while there are any
};

std::atomic<Children*> the_children{nullptr};

void end_all_at_exit();

Children* mine_or_null(Children* list) noexcept {
  return list != nullptr && list->token == sys::process_token() ? list : nullptr;
}

Children* children_if_any() noexcept {
  return mine_or_null(the_children.load(std::memory_order_acquire));
}

Children& children() {
  Children* found = the_children.load(std::memory_order_acquire);
  if (Children* mine = mine_or_null(found)) return *mine;
  auto fresh = std::make_unique<Children>();
  fresh->inherited = found;
  // Only what was seen not to be ours is replaced: another thread may just have made ours.
  if (!the_children.compare_exchange_strong(found, fresh.get())) return *found;
  // It fails for want of memory only: then the end of this process waits for no child.
  static_cast<void>(sys::at_exit(end_all_at_exit));
  return *fresh.release();
}

void forget(const Child& child) noexcept {
  Children* list = children_if_any();
  if (list == nullptr) return;
  const std::lock_guard lock(list->mutex);
  if (list->living.erase(&child) == 0) return;
  list->ends.remove(child.pidfd());
  if (list->living.empty()) list->ends = sys::ReadableSet{};
}

// As multiprocessing does at the end of a program: daemons are ended, others waited for.
void end_all_at_exit() {
  for (const std::shared_ptr<Child>& child : living_children()) {
    if (child->daemon()) child->send_signal(sys::signal_number::kTerminate, true);
  }
  for (const std::shared_ptr<Child>& child : living_children()) {
    if (child->daemon()) child->end_by_force();
    child->join();
  }
}

}  // namespace

Child::Child(ChildRecord record) : record_(std::move(record)), token_(sys::process_token()) {}

Child::~Child() {
  if (is_mine()) {
    forget(*this);
    return;
  }
  // A copy: the numbers may be somebody else's by now.
  const_cast<ChildRecord&>(record_).pidfd.release();
  const_cast<ChildRecord&>(record_).line.release();
  const_cast<ChildRecord&>(record_).output.release();
  const_cast<ChildRecord&>(record_).errors.release();
  if (record_.kept != nullptr) record_.kept->abandon();
}

int Child::pid() const noexcept {
  return record_.kept != nullptr && is_mine() ? record_.kept->look().pid : record_.pid;
}

std::optional<KeptProcess::Known> Child::look_at_keeper() const noexcept {
  if (record_.kept == nullptr || !is_mine()) return std::nullopt;
  return record_.kept->look();
}

void Child::await_news_of_keeper(detail::DeadlineNs deadline) const noexcept {
  if (record_.kept != nullptr) record_.kept->await_change(deadline);
}

bool Child::is_mine() const noexcept { return token_ == sys::process_token(); }

bool Child::wait_until(detail::DeadlineNs deadline) {
  {
    const std::lock_guard lock(mutex_);
    if (ended_) return true;
  }
  const long result = sys::has_ended(record_.pidfd.get(), deadline);
  if (sys::require(result, "waiting for a process") == 0) return false;
  take_status();
  return true;
}

void Child::take_status() noexcept {
  {
    const std::lock_guard lock(mutex_);
    if (ended_) return;
    if (record_.line) {
      if (const auto end = read_end(record_.line, sys::now_ns() + kLongestReapNs)) {
        status_ = sys::ExitStatus::from_wait_status(end->status);
        status_->usage = {end->user_ns, end->system_ns, end->peak_rss_bytes};
      }
    } else {
      sys::ExitStatus taken;
      if (sys::reap(record_.pidfd.get(), taken) == 1) status_ = taken;
      announce_unheard(record_.pid, record_.pidfd.get(), record_.owner);
    }
    if (record_.kept != nullptr) {
      // The keeper ended likewise, but for what only it could know.
      const std::optional<sys::ExitStatus> told = record_.kept->look().ended;
      const sys::UsageAtEnd usage = status_ ? status_->usage : sys::UsageAtEnd{};
      if (told && status_) status_ = *told, status_->usage = usage;
      if (told && !status_) status_ = told;
    }
    ended_ = true;
  }
  forget(*this);
}

void announce_unheard(int pid, int pidfd, shm::OwnerId owner) noexcept {
  warden::Family* family = warden::Family::current();
  if (family == nullptr) return;
  if (family->owners().life(owner.slot).note.load(std::memory_order_acquire) != 0) return;
  warden::Announcement said;
  said.pid = pid;
  said.parent_pid = sys::process_id();
  said.owner = owner;
  said.has_owner = 1;
  constexpr int kTries = 3;
  for (int i = 0; i < kTries; ++i) {
    const auto bytes = std::as_bytes(std::span(&said, 1));
    if (sys::send_packet(family->socket(), bytes, pidfd, true) == 0) return;
  }
}

std::optional<shm::OwnerId> claim_place(shm::OwnerTable& owners) noexcept {
  constexpr std::int64_t kLongestBurialNs = 1'000'000'000;
  constexpr std::int64_t kPauseNs = 100'000;
  const std::int64_t deadline = sys::now_ns() + kLongestBurialNs;
  for (;;) {
    if (const auto place = owners.claim(sys::process_id())) return place;
    if (sys::now_ns() >= deadline) return std::nullopt;
    sys::sleep_ns(kPauseNs);
  }
}

// One that is born from the warden is known to it.
bool Child::is_unheard() const noexcept {
  if (record_.line || !is_mine()) return false;
  warden::Family* family = warden::Family::current();
  return family != nullptr &&
         family->owners().life(record_.owner.slot).note.load(std::memory_order_acquire) == 0;
}

std::optional<sys::ExitStatus> Child::status() const {
  const std::lock_guard lock(mutex_);
  return status_;
}

void Child::send_signal(int signal, bool to_end) noexcept {
  const std::lock_guard lock(mutex_);
  if (ended_) return;
  if (record_.kept == nullptr) {
    sys::send_signal(record_.pidfd.get(), signal);
  } else if (record_.kept->order(signal, to_end) < 0 && to_end) {
    kill_all_of(record_.pid, record_.pidfd.get());
  }
}

void Child::kill() noexcept {
  const std::lock_guard lock(mutex_);
  if (ended_) return;
  // The keeper does it, so that it can tell what the incarnation used; and it reaps it.
  if (record_.kept != nullptr && record_.kept->order(sys::signal_number::kKill, true) == 0) {
    sys::send_signal(record_.pidfd.get(), sys::signal_number::kContinue);
    return;
  }
  kill_all_of(record_.pid, record_.pidfd.get());
}

void kill_all_of(int pid, int pidfd) noexcept {
  try {
    sys::kill_tree(pid, pidfd);
  } catch (...) {
    // Without memory to list its descendants, at least the process itself.
  }
  sys::send_signal(pidfd, sys::signal_number::kKill);
  // What it had the warden make for it is no child of its own.
  if (warden::Family* family = warden::Family::current()) {
    warden::Announcement said;
    said.request = warden::Request::end_children;
    said.parent_pid = pid;
    sys::send_packet(family->socket(), std::as_bytes(std::span(&said, 1)), -1, false);
  }
}

void Child::end_by_force() noexcept {
  send_signal(sys::signal_number::kTerminate, true);
  if (sys::has_ended(record_.pidfd.get(), sys::now_ns() + kTermGraceNs) != 1) kill();
}

void Child::join() noexcept {
  constexpr std::int64_t kPauseNs = 1'000'000;
  for (int ended = 0; ended != 1; ended = sys::has_ended(record_.pidfd.get(), sys::kForever)) {
    if (ended == -EBADF)
      return;  // somebody has closed our descriptor: nothing tells of it any more
    if (ended < 0) sys::sleep_ns(kPauseNs);
  }
  take_status();
}

void add_child(const std::shared_ptr<Child>& child) {
  Children& list = children();
  const std::lock_guard lock(list.mutex);
  if (list.ends.fd() < 0) list.ends.open();
  list.living.emplace(child.get(), child);
  // Without it, looking finds the child all the same when it is asked for by name.
  list.ends.add(child->pidfd(), reinterpret_cast<std::uint64_t>(child.get()));
}

void bury_ended_children() noexcept {
  Children* list = children_if_any();
  if (list == nullptr) return;
  std::array<std::uint64_t, 64> tags;
  for (;;) {
    std::array<std::shared_ptr<Child>, tags.size()> ended;
    std::size_t count = 0;
    {
      const std::lock_guard lock(list->mutex);
      if (list->living.empty()) return;
      const int found = list->ends.wait(tags, 0);
      for (int i = 0; i < found; ++i) {
        const auto entry =
            list->living.find(reinterpret_cast<const Child*>(tags[static_cast<std::size_t>(i)]));
        if (entry != list->living.end()) ended[count++] = entry->second.lock();
      }
    }
    if (count == 0) return;
    for (std::size_t i = 0; i < count; ++i) {
      if (ended[i] != nullptr) static_cast<void>(ended[i]->wait_until(0));
    }
  }
}

bool bury_unheard_children() noexcept {
  Children* list = children_if_any();
  if (list == nullptr) return false;
  bool unheard = false;
  try {
    // Let go of without the lock: the last to have a child takes it off the list.
    std::vector<std::shared_ptr<Child>> living;
    {
      const std::lock_guard lock(list->mutex);
      for (const auto& [unused, entry] : list->living) living.push_back(entry.lock());
    }
    unheard = std::ranges::any_of(
        living, [](const auto& child) { return child != nullptr && child->is_unheard(); });
  } catch (const std::bad_alloc&) {
    unheard = true;
  }
  if (unheard) bury_ended_children();
  return unheard;
}

std::vector<std::shared_ptr<Child>> living_children() {
  bury_ended_children();
  std::vector<std::shared_ptr<Child>> found;
  Children* list = children_if_any();
  if (list == nullptr) return found;
  const std::lock_guard lock(list->mutex);
  for (const auto& [unused, entry] : list->living) {
    if (std::shared_ptr<Child> child = entry.lock()) found.push_back(std::move(child));
  }
  // By numbers that stay as they are meanwhile: a keeper may just start another incarnation.
  std::vector<std::pair<int, std::shared_ptr<Child>>> numbered;
  for (std::shared_ptr<Child>& child : found) {
    const int pid = child->pid();
    numbered.emplace_back(pid, std::move(child));
  }
  std::ranges::sort(numbered, {}, [](const auto& entry) { return entry.first; });
  std::ranges::transform(numbered, found.begin(),
                         [](auto& entry) { return std::move(entry.second); });
  return found;
}

}  // namespace brood::start
