// Started processes as the process that started them sees them.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "brood/detail/pool_core.hpp"
#include "shm/arena.hpp"
#include "shm/owner_table.hpp"
#include "start/keeper.hpp"
#include "sys/fd.hpp"
#include "sys/process.hpp"

namespace brood::start {

// What is known of a process from its start on.
struct ChildRecord {
  int pid = 0;
  sys::Fd pidfd;
  sys::Fd line;  // of one born from the warden, which reaps it; else it is ours to reap
  std::unique_ptr<KeptProcess> kept;  // if it has a keeper: this is that
  shm::OwnerId owner;
  sys::Fd output;  // what it writes is in these, if that is captured
  sys::Fd errors;
  std::string name;
  bool daemon = false;
};

// Threads: any. Blocking: wait_until(). Ownership: of the descriptors, and of the zombie if it is
// ours; shared by the Process and the list of children. In a process that the user forks, copies
// are inert. Errors: SystemError from wait_until() if the system refuses to wait. Death: that of
// the process is what it tells.
class Child {
 public:
  explicit Child(ChildRecord record);
  ~Child();
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  // Of the incarnation, if it has a keeper; whose end the pidfd tells is the keeper.
  [[nodiscard]] int pid() const noexcept;
  // nullopt: it has no keeper.
  [[nodiscard]] std::optional<KeptProcess::Known> look_at_keeper() const noexcept;
  void await_news_of_keeper(detail::DeadlineNs deadline) const noexcept;
  [[nodiscard]] int pidfd() const noexcept { return record_.pidfd.get(); }
  [[nodiscard]] const std::string& name() const noexcept { return record_.name; }
  [[nodiscard]] bool daemon() const noexcept { return record_.daemon; }
  [[nodiscard]] bool is_mine() const noexcept;
  // It has not told the warden of itself yet.
  [[nodiscard]] bool is_unheard() const noexcept;
  // The file with what it has written to stream 1 or 2; -1: that is not captured.
  [[nodiscard]] int captured(int stream) const noexcept {
    return (stream == 1 ? record_.output : record_.errors).get();
  }

  // True: it has ended, its status is known or known to be lost, and it is no zombie.
  bool wait_until(detail::DeadlineNs deadline);
  // After that. nullopt: nobody knows, because somebody else has reaped it.
  [[nodiscard]] std::optional<sys::ExitStatus> status() const;

  // Nothing if it has ended. `to_end`: it is not to be started again.
  void send_signal(int signal, bool to_end = false) noexcept;
  // SIGKILL to it and all that comes from it.
  void kill() noexcept;
  // SIGTERM, and after a second SIGKILL to it and all below it.
  void end_by_force() noexcept;
  // The kernel may refuse to wait: it is asked again now and then.
  void join() noexcept;

 private:
  void take_status() noexcept;

  const ChildRecord record_;
  const std::uint64_t token_;  // of the process that started it
  mutable std::mutex mutex_;   // guards what follows
  bool ended_ = false;
  std::optional<sys::ExitStatus> status_;
};

// SIGKILL to a process that was not reaped and to all that comes from it.
void kill_all_of(int pid, int pidfd) noexcept;

// A place in the family. Those of processes that have just ended are free once the warden has seen
// to what they held: waits a second for that.
std::optional<shm::OwnerId> claim_place(shm::OwnerTable& owners) noexcept;
// Of a child that has ended and may have done so before it could tell the warden that it was there:
// what it held is still held.
void announce_unheard(int pid, int pidfd, shm::OwnerId owner) noexcept;

// Those that this process has started and that are not known to have ended. Looking takes the
// status of those that have: at the latest then they are no zombies any more.
//
// Threads: any. Blocking: never. Errors: std::bad_alloc.
std::vector<std::shared_ptr<Child>> living_children();
void add_child(const std::shared_ptr<Child>& child);
// The same look, without a list: for every call that has to do with processes.
void bury_ended_children() noexcept;

// Waits that only the warden ends look up now and then: a child that died before the warden was
// told of it is for us to tell. True: there are children of whom it is not known yet whether that
// will be so.
bool bury_unheard_children() noexcept;

}  // namespace brood::start
