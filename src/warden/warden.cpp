#include "warden/warden.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <new>

#include "channel/burial.hpp"
#include "shm/objects.hpp"
#include "shm/owner_table.hpp"
#include "sys/clock.hpp"
#include "sys/epoll.hpp"
#include "sys/memory.hpp"
#include "sys/process.hpp"
#include "sys/procfs.hpp"
#include "sys/signals.hpp"
#include "warden/custody.hpp"
#include "warden/names.hpp"
#include "warden/protocol.hpp"

namespace brood::warden {

namespace {

constexpr std::size_t kMaxMembers = 16384;
constexpr std::uint64_t kSocketTag = UINT64_MAX;
// A supervisor that is asked to end first ends its workers and what these left behind.
constexpr std::int64_t kSupervisorGraceNs = 300'000'000;
// How often those are looked after whose end the system refused to tell.
constexpr std::int64_t kLookAfterNs = 100'000'000;
// After the host's death all is to be gone within a second.
constexpr std::int64_t kLastStandNs = 800'000'000;
// Objects that may have become nobody's are looked for together.
constexpr std::int64_t kCollectAfterNs = 20'000'000;
// Idle memory of theirs goes back; after the last sign of use it is looked for so often more.
constexpr std::int64_t kTrimAfterNs = 1'000'000'000;
constexpr int kTrims = 4;
// After news that may have been lost, those are looked for whom the family has and we don't.
constexpr std::int64_t kAuditAfterNs = 100'000'000;

struct Member {
  Announcement said;
  sys::Fd pidfd;
  sys::Fd line;                 // of one that was born here: who asked for it hears of its end
  std::int64_t kill_at_ns = 0;  // 0: not condemned
  bool heard = true;            // its end is told by events_; else it is looked after now and then
  [[nodiscard]] bool ends_with_parent() const noexcept {
    return said.kind != MemberKind::process || said.daemon != 0;
  }
};

class Warden {
 public:
  explicit Warden(const WardenStart& start) noexcept
      : start_(start),
        owners_(start.family->owners, start.family->lives),
        members_(static_cast<Member*>(sys::map_private(kMaxMembers * sizeof(Member)))) {}

  [[nodiscard]] bool prepare() noexcept {
    if (members_ == nullptr || !names_.prepare() || events_.open() < 0) return false;
    if (events_.add(start_.socket, kSocketTag) < 0) return false;
    if (sys::want_senders(start_.socket) < 0) return false;
    Announcement host;
    host.kind = MemberKind::host;
    host.pid = start_.host_pid;
    host.owner = {shm::kHostSlot, 1};
    host.has_owner = 1;
    objects_.know_members(start_.family->owners);
    objects_.when_side_ends(channel::side_ended);
    objects_.attach(start_.objects.region(), {shm::kWardenSlot, 1});
    if (!custody_.prepare()) return false;
    return enlist(host, sys::Fd(start_.host_pidfd)) != nullptr;
  }

  void run() noexcept {
    for (;;) {
      std::array<std::uint64_t, 32> tags;
      const int count = events_.wait(tags, next_look_ns());
      for (int i = 0; i < count; ++i) {
        const std::uint64_t tag = tags[static_cast<std::size_t>(i)];
        if (tag == kSocketTag) {
          hear();
        } else {
          bury(static_cast<std::size_t>(tag));
        }
      }
      look_after_unheard();
      look_after_objects();
      kill_condemned();
      // Processes that outlive the host may still need a warden.
      if (host_gone_ && !anyone_left() && nobody_is_coming()) return names_.remove_all();
    }
  }

 private:
  [[nodiscard]] std::size_t free_index() const noexcept {
    std::size_t index = 0;
    while (index < used_ && members_[index].pidfd) ++index;
    return index;
  }

  // nullptr: there is no room.
  Member* enlist(const Announcement& said, sys::Fd pidfd) noexcept {
    const std::size_t index = free_index();
    if (index == kMaxMembers) return nullptr;
    // There may be no memory, or too many watches of this user's: a member it is all the same.
    const bool heard = events_.add(pidfd.get(), index) >= 0;
    if (index == used_) ++used_;
    Member* member = std::construct_at(&members_[index]);
    member->said = said;
    member->heard = heard;
    unheard_ += heard ? 0U : 1U;
    member->pidfd = std::move(pidfd);
    // The parent may have died before we heard of the child.
    if (member->ends_with_parent() && said.kind != MemberKind::host &&
        !is_member(said.parent_pid)) {
      condemn(*member);
    }
    return member;
  }

  [[nodiscard]] bool is_member(std::int32_t pid) const noexcept {
    for (std::size_t i = 0; i < used_; ++i) {
      if (members_[i].pidfd && members_[i].said.pid == pid) return true;
    }
    return false;
  }

  void hear() noexcept {
    for (;;) {
      std::array<std::byte, std::max(sizeof(Announcement), sizeof(NameMessage))> packet;
      sys::Fd pidfd;
      sys::Sender sender;
      const long length = sys::receive_packet_from(start_.socket, packet, pidfd, sender);
      if (length == -EAGAIN) return;
      if (length <= 0) {
        if (length == 0 || length == -EMSGSIZE) continue;  // nobody of ours says that
        audit_soon();
        return;
      }
      if (length == sizeof(NameMessage)) {
        NameMessage message;
        std::memcpy(static_cast<void*>(&message), packet.data(), sizeof message);
        names_.hear(message, pidfd);
        continue;
      }
      Announcement said;
      std::memcpy(static_cast<void*>(&said), packet.data(), sizeof said);
      if (length != sizeof said || said.kind == MemberKind::host ||
          said.kind > MemberKind::worker) {
        continue;
      }
      if (said.request == Request::collect) {
        collect_soon();
      } else if (said.request == Request::deposit && pidfd) {
        custody_.take(said.object, pidfd, objects_);
      } else if (said.request == Request::claim && pidfd) {
        custody_.give(said.object, pidfd, objects_);
      } else if (said.request == Request::end_children) {
        end_children(said.parent_pid, sender.user_id);
      } else if (said.request == Request::birth && pidfd) {
        bear(said, std::move(pidfd), sender.pid);
      } else if (said.request == Request::none && pidfd) {
        enlist(said, std::move(pidfd));
      }
    }
  }

  // ---- children of our own

  void bear(Announcement said, sys::Fd line, int asker_pid) noexcept {
    if (start_.birth == nullptr) return say_unborn(line, ENOSYS);
    if (free_index() == kMaxMembers) return say_unborn(line, EAGAIN);
    // Of an asker that has died meanwhile, the claim is buried.
    if (said.has_owner != 0 && !is_claimed(said.owner)) return say_unborn(line, ESRCH);
    said.parent_pid = asker_pid;
    sys::Fd pidfd;
    const long pid = sys::clone_quiet(pidfd);
    if (pid == 0) start_.birth({line.get(), asker_pid, said.owner});
    if (pid < 0) return say_unborn(line, static_cast<int>(-pid));
    said.pid = static_cast<std::int32_t>(pid);
    if (said.has_owner != 0) owners_.settle(said.owner, said.pid);
    enlist(said, std::move(pidfd))->line = std::move(line);
  }

  [[nodiscard]] bool is_claimed(shm::OwnerId owner) const noexcept {
    if (owner.slot >= owners_.size()) return false;
    const shm::OwnerWord word = owners_.look(owner.slot);
    return word.state == shm::OwnerState::claimed && word.epoch == owner.epoch;
  }

  static void say_unborn(const sys::Fd& line, int error) noexcept {
    LineMessage message;
    message.news = LineNews::unborn;
    message.error = error;
    sys::send_packet(line.get(), std::as_bytes(std::span(&message, 1)), -1, false);
  }

  // It has ended: it is a zombie of ours no longer than this.
  static void reap_own(Member& member) noexcept {
    if (!member.line) return;
    LineMessage message;
    message.news = LineNews::ended;
    message.pid = member.said.pid;
    sys::ExitStatus status;
    if (sys::reap(member.pidfd.get(), status) == 1) {
      message.status = status.to_wait_status();
      message.user_ns = status.usage.user_ns;
      message.system_ns = status.usage.system_ns;
      message.peak_rss_bytes = status.usage.peak_rss_bytes;
      sys::send_packet(member.line.get(), std::as_bytes(std::span(&message, 1)), -1, false);
    }
    member.line.reset();
  }

  void bury(std::size_t index) noexcept {
    if (index >= used_ || !members_[index].pidfd) return;
    Member& member = members_[index];
    if (sys::has_ended(member.pidfd.get(), 0) != 1) return;
    const Announcement said = member.said;
    reap_own(member);
    let_go(member);
    bury_claims_of(said.pid);
    if (said.has_owner != 0) bury_owner(said.owner);
    if (said.kind == MemberKind::host) host_gone_ = true;
    // It may have had children that it could not tell us of.
    audit_soon();
    for (std::size_t i = 0; i < used_; ++i) {
      Member& other = members_[i];
      if (other.pidfd && other.said.parent_pid == said.pid && other.ends_with_parent()) {
        condemn(other);
      }
    }
  }

  // ---- what the dead held

  // A place in the family is free again when nothing names its last tenant any more.
  void bury_owner(shm::OwnerId owner) noexcept {
    if (owner.slot >= owners_.size()) return;
    const shm::OwnerWord word = owners_.look(owner.slot);
    if (word.epoch != owner.epoch || word.state == shm::OwnerState::free) return;
    owners_.mark_dead(owner);
    if (objects_.bury(owner, channel::bury_in)) collect_soon();
    trims_left_ = kTrims;
    owners_.release(owner);
  }

  // Places for children that the dead was about to start. It may have held things for them already.
  void bury_claims_of(std::int32_t registrar_pid) noexcept {
    for (std::size_t slot = 0; slot < owners_.size(); ++slot) {
      const shm::OwnerWord word = owners_.look(static_cast<std::uint16_t>(slot));
      if (word.state != shm::OwnerState::claimed || word.pid != registrar_pid) continue;
      const shm::OwnerId owner{static_cast<std::uint16_t>(slot), word.epoch};
      if (!is_known(owner)) bury_owner(owner);
    }
  }

  void audit_soon() noexcept {
    if (audit_at_ns_ == 0) audit_at_ns_ = sys::now_ns() + kAuditAfterNs;
  }

  // Members whose announcement never came, by what the owner table says of them.
  void audit() noexcept {
    for (std::size_t i = 0; i < owners_.size(); ++i) {
      const auto slot = static_cast<std::uint16_t>(i);
      const shm::OwnerWord word = owners_.look(slot);
      const bool is_used = word.state != shm::OwnerState::free && slot > shm::kWardenSlot;
      if (!is_used || word.pid <= 0 || is_known({slot, word.epoch})) continue;
      sys::Fd pidfd(sys::open_pidfd(word.pid));
      if (pidfd.get() == -ESRCH) {
        bury_owner({slot, word.epoch});
      } else if (pidfd && word.state == shm::OwnerState::live) {
        // Whoever it is: nothing but its own end ends it.
        Announcement said;
        said.pid = word.pid;
        said.owner = {slot, word.epoch};
        said.has_owner = 1;
        enlist(said, std::move(pidfd));
      }
    }
  }

  [[nodiscard]] bool is_known(shm::OwnerId owner) const noexcept {
    for (std::size_t i = 0; i < used_; ++i) {
      const Member& member = members_[i];
      if (member.pidfd && member.said.has_owner != 0 && member.said.owner == owner) return true;
    }
    return false;
  }

  void collect_soon() noexcept {
    if (collect_at_ns_ == 0) collect_at_ns_ = sys::now_ns() + kCollectAfterNs;
    trims_left_ = kTrims;
  }

  void look_after_objects() noexcept {
    const std::int64_t now = sys::now_ns();
    if (audit_at_ns_ != 0 && now >= audit_at_ns_) {
      audit_at_ns_ = 0;
      audit();
    }
    if (collect_at_ns_ != 0 && now >= collect_at_ns_) {
      collect_at_ns_ = objects_.collect() ? now + kCollectAfterNs : 0;
      custody_.drop_ended(objects_);
    }
    if (trims_left_ == 0) return;
    if (trim_at_ns_ == 0) {
      trim_at_ns_ = now + kTrimAfterNs;
    } else if (now >= trim_at_ns_) {
      --trims_left_;
      const bool done = objects_.arena().give_back(now, kTrimAfterNs) == 0;
      trim_at_ns_ = done || trims_left_ == 0 ? 0 : now + kTrimAfterNs;
      if (done) trims_left_ = 0;
    }
  }

  // A process is killed on purpose: those that it started go with it, as far as `user_id`, who
  // wishes it, might kill them without us.
  void end_children(std::int32_t parent_pid, std::uint32_t user_id) noexcept {
    for (std::size_t i = 0; i < used_; ++i) {
      Member& member = members_[i];
      const bool is_child = member.pidfd && member.said.parent_pid == parent_pid &&
                            member.said.kind == MemberKind::process &&
                            member.said.pid != parent_pid;
      if (!is_child || member.kill_at_ns != 0) continue;
      if (user_id != 0 && sys::user_of(member.said.pid) != user_id) continue;
      condemn(member);
      end_children(member.said.pid, user_id);
    }
  }

  void let_go(Member& member) noexcept {
    unheard_ -= member.heard ? 0U : 1U;
    // A child just born has a copy of it, so that closing ours would not do.
    if (member.heard) events_.remove(member.pidfd.get());
    member.heard = true;
    member.pidfd.reset();
  }

  void look_after_unheard() noexcept {
    for (std::size_t i = 0; i < used_ && unheard_ > 0; ++i) {
      if (members_[i].pidfd && !members_[i].heard) bury(i);
    }
  }

  void condemn(Member& member) noexcept {
    if (member.kill_at_ns != 0) return;
    const std::int64_t now = sys::now_ns();
    if (member.said.kind == MemberKind::supervisor) {
      sys::send_signal(member.pidfd.get(), sys::signal_number::kTerminate);
      sys::send_signal(member.pidfd.get(), sys::signal_number::kContinue);
      member.kill_at_ns = now + kSupervisorGraceNs;
    } else {
      sys::send_signal(member.pidfd.get(), sys::signal_number::kKill);
      member.kill_at_ns = now + kLastStandNs;
    }
  }

  void kill_condemned() noexcept {
    const std::int64_t now = sys::now_ns();
    for (std::size_t i = 0; i < used_; ++i) {
      Member& member = members_[i];
      if (!member.pidfd || member.kill_at_ns == 0 || now < member.kill_at_ns) continue;
      sys::send_signal(member.pidfd.get(), sys::signal_number::kKill);
      if (now >= member.kill_at_ns + kLastStandNs) {
        // What the kernel would not kill (a process in an uninterruptible call) is left to it.
        let_go(member);
      }
    }
  }

  [[nodiscard]] std::int64_t next_look_ns() const noexcept {
    std::int64_t next = unheard_ > 0 ? sys::now_ns() + kLookAfterNs : sys::kForever;
    if (collect_at_ns_ != 0) next = collect_at_ns_ < next ? collect_at_ns_ : next;
    if (audit_at_ns_ != 0) next = audit_at_ns_ < next ? audit_at_ns_ : next;
    if (trim_at_ns_ != 0) next = trim_at_ns_ < next ? trim_at_ns_ : next;
    for (std::size_t i = 0; i < used_; ++i) {
      const Member& member = members_[i];
      if (!member.pidfd || member.kill_at_ns == 0) continue;
      const std::int64_t now = sys::now_ns();
      const std::int64_t at =
          now < member.kill_at_ns ? member.kill_at_ns : member.kill_at_ns + kLastStandNs;
      next = at < next ? at : next;
    }
    return next;
  }

  // Who announces itself looks at this word afterwards: either it sees that we leave, or we see
  // its announcement now.
  [[nodiscard]] bool nobody_is_coming() noexcept {
    sys::FutexWord& watching = start_.family->header.warden_watches;
    watching.store(shm::kWardenLeaves, std::memory_order_seq_cst);
    hear();
    if (!anyone_left()) return true;
    watching.store(shm::kWardenWatches, std::memory_order_seq_cst);
    return false;
  }

  [[nodiscard]] bool anyone_left() const noexcept {
    for (std::size_t i = 0; i < used_; ++i) {
      if (members_[i].pidfd) return true;
    }
    return false;
  }

  WardenStart start_;
  shm::OwnerTable owners_;
  sys::ReadableSet events_;
  NameTable names_;
  Member* members_;
  std::size_t used_ = 0;     // members_[used_...] were never written
  std::size_t unheard_ = 0;  // members that events_ does not tell of
  bool host_gone_ = false;
  shm::Objects objects_;
  Custody custody_;
  std::int64_t collect_at_ns_ = 0;  // 0: nothing to collect
  std::int64_t audit_at_ns_ = 0;    // 0: nobody to look for
  std::int64_t trim_at_ns_ = 0;     // 0: no memory to give back
  int trims_left_ = 0;
};

}  // namespace

void warden_main(const WardenStart& start) noexcept {
  sys::reset_signals();
  sys::ignore_terminal_signals();
  const std::array keep = {start.socket, start.host_pidfd, start.member_socket, start.segment_fd,
                           start.objects.fd};
  sys::close_all_but(keep);
  // It must not keep a pipe open that the host's reader waits to see closed.
  for (const int stream : {0, 1, 2}) sys::redirect_to_null(stream);
  sys::raise_fd_limit();
  sys::set_process_name("brood:warden");
  sys::hold_until_death(start.family->lives[shm::kWardenSlot].life);

  Warden warden(start);
  if (!warden.prepare()) sys::exit_now(1);
  start.family->header.warden_watches.store(shm::kWardenWatches, std::memory_order_release);
  sys::futex_wake(&start.family->header.warden_watches, sys::kWakeAll);
  warden.run();
  sys::exit_now(0);
}

}  // namespace brood::warden
