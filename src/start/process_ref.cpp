// Processes by who they are to the calling one.
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "brood/error.hpp"
#include "brood/process.hpp"
#include "start/child.hpp"
#include "start/current.hpp"
#include "start/process_name.hpp"
#include "start/waits.hpp"
#include "sys/clock.hpp"
#include "sys/process.hpp"
#include "sys/signals.hpp"
#include "sys/syscall.hpp"

namespace brood {

namespace detail {

// Of a child: `child`. Of others: the rest.
struct KnownProcess {
  std::shared_ptr<start::Child> child;
  int pid = 0;
  std::string name;
  std::shared_ptr<const sys::Fd> pidfd;  // may be empty: it had ended when we came

  [[nodiscard]] bool has_ended_by(DeadlineNs deadline) const {
    const int fd = child != nullptr ? child->pidfd() : pidfd->get();
    if (fd < 0) return true;
    const long ended = start::has_ended_serving_signals(fd, deadline);
    if (sys::require(ended, "waiting for a process") == 0) return false;
    return child == nullptr || child->wait_until(kNoDeadline);
  }
};

}  // namespace detail

int ProcessRef::pid() const noexcept {
  return process_->child != nullptr ? process_->child->pid() : process_->pid;
}

const std::string& ProcessRef::name() const noexcept {
  return process_->child != nullptr ? process_->child->name() : process_->name;
}

bool ProcessRef::daemon() const noexcept {
  return process_->child != nullptr && process_->child->daemon();
}

bool ProcessRef::is_alive() const { return !process_->has_ended_by(sys::now_ns()); }

void ProcessRef::join() const {
  if (pid() == sys::process_id()) throw Error("brood: a process can't wait for its own end");
  static_cast<void>(process_->has_ended_by(detail::kNoDeadline));
}

bool ProcessRef::join_for(std::chrono::nanoseconds limit) const {
  return process_->has_ended_by(detail::deadline_after(limit));
}

void ProcessRef::send_signal(int signal) const {
  if (process_->child != nullptr) {
    process_->child->send_signal(signal);
  } else if (*process_->pidfd) {
    sys::send_signal(process_->pidfd->get(), signal);
  }
}

void ProcessRef::terminate() const {
  if (process_->child != nullptr) {
    process_->child->send_signal(sys::signal_number::kTerminate, true);
  } else {
    send_signal(sys::signal_number::kTerminate);
  }
}

void ProcessRef::kill() const {
  if (process_->child != nullptr) {
    process_->child->kill();
  } else {
    send_signal(sys::signal_number::kKill);
  }
}

int ProcessRef::sentinel() const noexcept {
  return process_->child != nullptr ? process_->child->pidfd() : process_->pidfd->get();
}

ProcessRef current_process() {
  const int self = sys::process_id();
  auto pidfd = std::make_shared<const sys::Fd>(
      static_cast<int>(sys::require(sys::open_pidfd(self), "opening a pidfd of this process")));
  return ProcessRef(std::make_shared<const detail::KnownProcess>(
      detail::KnownProcess{nullptr, self, start::process_name(), std::move(pidfd)}));
}

std::optional<ProcessRef> parent_process() {
  const start::ParentProcess& parent = start::parent_of_this();
  if (parent.pid == 0) return std::nullopt;
  return ProcessRef(std::make_shared<const detail::KnownProcess>(
      detail::KnownProcess{nullptr, parent.pid, parent.name, parent.pidfd}));
}

std::vector<ProcessRef> active_children() {
  std::vector<ProcessRef> all;
  for (std::shared_ptr<start::Child>& child : start::living_children()) {
    all.push_back(ProcessRef(std::make_shared<const detail::KnownProcess>(
        detail::KnownProcess{std::move(child), 0, {}, nullptr})));
  }
  return all;
}

}  // namespace brood
