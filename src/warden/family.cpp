#include "warden/family.hpp"

#include <atomic>
#include <cerrno>
#include <memory>
#include <string>
#include <utility>

#include "brood/error.hpp"
#include "sys/clock.hpp"
#include "sys/identity.hpp"
#include "sys/memory.hpp"
#include "sys/process.hpp"
#include "sys/signals.hpp"
#include "sys/syscall.hpp"
#include "warden/start_error.hpp"
#include "warden/warden.hpp"

namespace brood::warden {

namespace {

constexpr std::int64_t kWardenStartNs = 5'000'000'000;

// Never destroyed: members of static objects may need it until the last instruction.
std::atomic<Family*> the_family{nullptr};

// A mutex that a fork can't leave locked for ever: the word names the process of its holder.
class FoundingLock {
 public:
  FoundingLock() noexcept {
    const std::uint64_t self = sys::process_token();
    for (;;) {
      std::uint64_t holder = word().load(std::memory_order_relaxed);
      const bool free = holder != self;  // 0, or copied from a parent
      if (free && word().compare_exchange_weak(holder, self, std::memory_order_acquire)) return;
      sys::yield();
    }
  }
  ~FoundingLock() { word().store(0, std::memory_order_release); }
  FoundingLock(const FoundingLock&) = delete;
  FoundingLock& operator=(const FoundingLock&) = delete;

 private:
  static std::atomic<std::uint64_t>& word() noexcept {
    static std::atomic<std::uint64_t> holder{0};
    return holder;
  }
};

// 0: not set; then it is what the machine has.
std::atomic<std::size_t> the_object_limit{0};

std::size_t object_limit() noexcept {
  const std::size_t limit = the_object_limit.load(std::memory_order_relaxed);
  return limit != 0 ? limit : sys::physical_memory();
}

}  // namespace

void Family::limit_objects(std::size_t bytes) noexcept {
  the_object_limit.store(bytes, std::memory_order_relaxed);
}

Family* Family::current() noexcept {
  Family* family = the_family.load(std::memory_order_acquire);
  if (family == nullptr || family->member_token_ != sys::process_token()) return nullptr;
  return family;
}

Family& Family::join() {
  Family* family = current();
  if (family == nullptr) {
    const FoundingLock lock;
    family = current();
    if (family == nullptr) {
      // What a plain fork copied is another process's membership; it is left alone.
      Family* const inherited = the_family.load(std::memory_order_acquire);
      std::unique_ptr<Family> founded(new Family);
      founded->found(nullptr, false);
      founded->inherited_ = inherited;
      family = founded.release();
      the_family.store(family, std::memory_order_release);
    }
  }
  family->require_usable();
  return *family;
}

void Family::require_usable() {
  if (warden_lost()) {
    throw FamilyBroken("the warden of this family of processes was killed; start the program anew");
  }
  if (!has_place_) {
    throw StartError(
        "brood: too many processes of this family are alive for this worker to start any");
  }
  if (is_protected_.load(std::memory_order_acquire)) {
    sys::require(sys::make_writable(segment_.base(), segment_.size()),
                 "opening the family's shared memory for writing");
    is_protected_.store(false, std::memory_order_release);
  }
}

Family& Family::found_with_nursery(BirthFn birth, bool copy_threads) {
  const FoundingLock lock;
  Family* const inherited = the_family.load(std::memory_order_acquire);
  std::unique_ptr<Family> founded(new Family);
  founded->inherited_ = inherited;
  // Before the warden is copied: the children find it here.
  the_family.store(founded.get(), std::memory_order_release);
  try {
    founded->found(birth, copy_threads);
  } catch (...) {
    the_family.store(inherited, std::memory_order_release);
    throw;
  }
  return *founded.release();
}

void Family::found(BirthFn birth, bool copy_threads) {
  segment_ = shm::Segment("brood:family", sizeof(shm::FamilyLayout));
  segment_.reserve(0, sizeof(shm::FamilyLayout));
  owners_ = shm::OwnerTable(layout().owners, layout().lives);
  has_nursery_ = birth != nullptr;
  const int self = sys::process_id();
  for (const std::uint16_t slot : {shm::kHostSlot, shm::kWardenSlot}) {
    owners_.claim_slot(slot, self);
    owners_.settle({slot, 1}, self);
  }

  sys::Fd wardens_end;
  {
    sys::Fd ends[2];
    sys::require(sys::packet_socket_pair(ends), "connecting to the warden");
    socket_ = std::move(ends[0]);
    wardens_end = std::move(ends[1]);
  }
  const sys::Fd host_pidfd(
      static_cast<int>(sys::require(sys::open_pidfd(self), "opening a pidfd of this process")));
  // A sandbox may forbid what ends processes: better not to start any.
  sys::require(sys::send_signal(host_pidfd.get(), 0), "signalling a process by its pidfd");
  space_.found(layout(), socket_.get(), object_limit());
  start_warden({&layout(), wardens_end.get(), host_pidfd.get(), self, birth, socket_.get(),
                segment_.fd(), space_.segment()},
               copy_threads);
  member_token_ = sys::process_token();
  space_.publish();
}

void Family::start_warden(const WardenStart& start, bool copy_threads) {
  long pid = 0;
  {
    const sys::SignalsBlocked blocked;
    // Only the C library's own fork leaves the heap usable when other threads were in it.
    pid = copy_threads ? sys::fork_orphan(warden_pidfd_) : sys::clone_quiet(warden_pidfd_);
    if (pid == 0) warden_main(start);
  }
  if (pid < 0) throw_start_error(static_cast<int>(-pid));
  warden_pid_ = static_cast<int>(pid);

  const std::int64_t deadline = sys::now_ns() + kWardenStartNs;
  while (layout().header.warden_watches.load(std::memory_order_acquire) == 0) {
    sys::futex_wait(&layout().header.warden_watches, 0, sys::now_ns() + 10'000'000);
    if (sys::has_ended(warden_pidfd_.get(), 0) == 1 || sys::now_ns() > deadline) {
      sys::send_signal(warden_pidfd_.get(), sys::signal_number::kKill);
      sys::has_ended(warden_pidfd_.get(), sys::now_ns() + kWardenStartNs);
      sys::ExitStatus status;
      sys::reap(warden_pidfd_.get(), status);
      throw StartError(
          "the warden process could not start: see the limits on processes, memory "
          "and open files");
    }
  }
}

int Family::remain_in_newborn(shm::OwnerId me) noexcept {
  Family* family = the_family.load(std::memory_order_acquire);
  if (family == nullptr) return -ESRCH;
  const int warden = sys::parent_id();
  const int pidfd = sys::open_pidfd(warden);
  if (pidfd < 0) return pidfd;
  family->warden_pidfd_.reset(pidfd);
  family->warden_pid_ = warden;
  family->member_token_ = sys::process_token();
  family->space_.enter(me, family->socket_.get());
  return 0;
}

int Family::move_descriptors_above(int number) noexcept {
  for (sys::Fd* fd : {&socket_, &warden_pidfd_, &segment_.file(), &space_.segment_file()}) {
    const int moved = sys::move_above(fd->get(), number);
    if (moved < 0) return moved;
    fd->release();
    fd->reset(moved);
  }
  space_.move_descriptors(socket_.get());
  return 0;
}

void Family::remain_after_exec(shm::OwnerId me, sys::Fd segment, sys::Fd objects, sys::Fd socket) {
  std::unique_ptr<Family> family(new Family);
  family->segment_ = shm::Segment(std::move(segment), sizeof(shm::FamilyLayout));
  family->owners_ = shm::OwnerTable(family->layout().owners, family->layout().lives);
  family->socket_ = std::move(socket);
  family->space_.find(family->layout(), family->socket_.get(), std::move(objects), object_limit());
  family->has_nursery_ = true;
  the_family.store(family.get(), std::memory_order_release);
  sys::require(remain_in_newborn(me), "opening a pidfd of the warden");
  static_cast<void>(family.release());
}

bool Family::warden_lost() const noexcept {
  const std::uint32_t life =
      layout().lives[shm::kWardenSlot].life.word.load(std::memory_order_acquire);
  if (life != 0) return (life & sys::kFutexOwnerDied) != 0;
  // It could not hold its word (a sandbox may forbid that), so there is no early sign.
  return sys::has_ended(warden_pidfd_.get(), 0) == 1;
}

Family* Family::inherited() noexcept { return the_family.load(std::memory_order_acquire); }

void Family::remain_in_child(shm::OwnerId me) noexcept {
  Family* family = the_family.load(std::memory_order_acquire);
  if (family == nullptr) return;
  family->member_token_ = sys::process_token();
  family->space_.enter(me, family->socket_.get());
}

void Family::remain_in_worker(shm::OwnerId me, bool has_place) noexcept {
  Family* family = the_family.load(std::memory_order_acquire);
  if (family == nullptr) return;
  family->member_token_ = sys::process_token();
  family->has_place_ = has_place;
  ObjectSpace::enter_worker(me, has_place);
  const int error = sys::make_read_only(family->segment_.base(), family->segment_.size());
  family->is_protected_.store(error == 0, std::memory_order_release);
}

void Family::disband() noexcept {
  Family* family = current();
  if (family == nullptr) return;
  sys::send_signal(family->warden_pidfd_.get(), sys::signal_number::kKill);
  sys::has_ended(family->warden_pidfd_.get(), sys::now_ns() + kWardenStartNs);
  sys::ExitStatus status;
  sys::reap(family->warden_pidfd_.get(), status);
  the_family.store(nullptr, std::memory_order_release);
  delete family;
}

}  // namespace brood::warden
