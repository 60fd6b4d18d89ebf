#include "support/kernel_faults.hpp"

#include <fcntl.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "sys/syscall.hpp"

namespace brood::test {

namespace {

constexpr std::size_t kNumbers = 1024;  // more than there are calls

struct SharedPlan {
  std::atomic<Role> role;
  std::atomic<std::size_t> kind;
  std::atomic<int> error;
  std::atomic<int> nth;  // 0: no fault
  std::atomic<bool> for_good;
  std::atomic<int> happened;
  std::atomic<bool> warden_started;
  std::atomic<int> interrupted_of;  // 0: none
  std::atomic<int> interrupted_out_of;
  std::array<std::atomic<int>, kRoles> interrupted;
  std::array<std::array<std::atomic<int>, kMaxCallKinds>, kRoles> counted;
  std::array<std::atomic<bool>, kNumbers> seen;
};

// In a page that reads as zeros in every new process.
struct OwnCounts {
  std::atomic<Role> role;
  std::array<std::atomic<int>, kMaxCallKinds> calls;
  std::atomic<int> interruptible;
};
static_assert(sizeof(OwnCounts) <= 4096);

SharedPlan* the_plan = nullptr;
OwnCounts* own = nullptr;
std::atomic<Role> role_of_parent{Role::unknown};  // the forked copy tells a child
std::atomic<Role> role_of_next_child{Role::other};
sys::KernelFn before = nullptr;

Role find_role() noexcept {
  Role role = Role::other;
  if (role_of_parent.load() == Role::host) {
    role = the_plan->warden_started.exchange(true) ? role_of_next_child.load() : Role::warden;
  } else if (role_of_parent.load() == Role::supervisor) {
    role = Role::worker;
  } else if (role_of_parent.load() == Role::process) {
    role = Role::incarnation;
  } else if (role_of_parent.load() == Role::warden) {
    role = role_of_next_child.load();
  }
  role_of_parent.store(role);
  own->role.store(role);
  return role;
}

void raise_to(std::atomic<int>& most, int value) noexcept {
  int seen = most.load();
  while (seen < value && !most.compare_exchange_weak(seen, value)) {
  }
}

bool is_of(const CallKind& kind, long nr, long a, long b) noexcept {
  return kind.number == nr && (kind.applies == nullptr || kind.applies(a, b));
}

// Whether the call that is the `count`-th of the planned kind in this process is to fail.
bool is_due(int count) noexcept {
  const int nth = the_plan->nth.load();
  if (the_plan->for_good.load()) {
    if (count < nth) return false;
    the_plan->happened.fetch_add(1);
    return true;
  }
  int never = 0;
  return count == nth && the_plan->happened.compare_exchange_strong(never, 1);
}

// What took effect is not interrupted, nor can a sandbox's refusal be.
bool may_be_interrupted(const CallKind& kind) noexcept {
  return !kind.done_all_the_same &&
         std::find(kind.errors.begin(), kind.errors.end(), EINTR) != kind.errors.end();
}

bool is_interrupted(Role role) noexcept {
  const int of = the_plan->interrupted_of.load();
  if (of == 0) return false;
  if (own->interruptible.fetch_add(1) % the_plan->interrupted_out_of.load() >= of) return false;
  the_plan->interrupted[static_cast<std::size_t>(role)].fetch_add(1);
  return true;
}

long fail_as_planned(long nr, long a, long b, long c, long d, long e, long f) noexcept {
  Role role = own->role.load();
  if (role == Role::unknown) role = find_role();
  if (nr >= 0 && static_cast<std::size_t>(nr) < kNumbers) {
    the_plan->seen[static_cast<std::size_t>(nr)].store(true, std::memory_order_relaxed);
  }
  const std::vector<CallKind>& kinds = call_kinds();
  for (std::size_t i = 0; i < kinds.size(); ++i) {
    if (!is_of(kinds[i], nr, a, b)) continue;
    const int count = own->calls[i].fetch_add(1) + 1;
    raise_to(the_plan->counted[static_cast<std::size_t>(role)][i], count);
    const bool planned =
        the_plan->nth.load() != 0 && the_plan->kind.load() == i && the_plan->role.load() == role;
    if (may_be_interrupted(kinds[i]) && is_interrupted(role)) return -EINTR;
    if (!planned || !is_due(count)) continue;
    if (kinds[i].done_all_the_same) sys::kernel(nr, a, b, c, d, e, f);
    return -the_plan->error.load();
  }
  return sys::kernel(nr, a, b, c, d, e, f);
}

// ---- which calls of a number are meant

bool waits_on_futex(long /*word*/, long operation) noexcept {
  constexpr long kOperation = 127;
  constexpr long kWaitBitset = 9;
  return (operation & kOperation) == kWaitBitset;
}
bool copies_descriptor(long /*fd*/, long command) noexcept { return command == F_DUPFD_CLOEXEC; }
bool seals(long /*fd*/, long command) noexcept { return command == F_ADD_SEALS; }
bool reads_seals(long /*fd*/, long command) noexcept { return command == F_GET_SEALS; }
bool sets_flags(long /*fd*/, long command) noexcept { return command == F_SETFD; }
bool sets_status(long /*fd*/, long command) noexcept { return command == F_SETFL; }
bool sets_owner(long /*fd*/, long command) noexcept { return command == F_SETOWN; }

std::vector<CallKind> make_kinds() {
  return {
      // Descriptors.
      {"close", SYS_close, {EINTR, EIO}, nullptr, true},
      {"close_range", SYS_close_range, {ENOSYS, EPERM, ENOMEM}},
      {"dup3", SYS_dup3, {EINTR, EBUSY, EMFILE}},
      {"fcntl (copy)", SYS_fcntl, {EMFILE, EINVAL}, copies_descriptor},
      {"fcntl (seal)", SYS_fcntl, {EPERM, EBUSY, EINVAL}, seals},
      {"fcntl (read seals)", SYS_fcntl, {EINVAL, EBADF}, reads_seals},
      {"fcntl (flags)", SYS_fcntl, {EPERM}, sets_flags},
      {"fcntl (status)", SYS_fcntl, {EPERM, ENOMEM}, sets_status},
      {"fcntl (owner)", SYS_fcntl, {EPERM, ENOMEM}, sets_owner},
      {"pipe2", SYS_pipe2, {EMFILE, ENFILE, ENOMEM}},
      {"openat", SYS_openat, {EMFILE, ENFILE, EINTR, ENOENT, EACCES, ENOMEM}},
      {"pread64", SYS_pread64, {EINTR, EIO, ENOMEM}},
      {"pwrite64", SYS_pwrite64, {EINTR, ENOSPC, ENOMEM, EFBIG}},
      {"linkat", SYS_linkat, {EEXIST, ENOENT, EACCES, EPERM, EXDEV, ENOSPC, ENOMEM}},
      {"unlinkat", SYS_unlinkat, {ENOENT, EACCES, EPERM, ENOMEM}},
      {"mkdirat", SYS_mkdirat, {EACCES, EEXIST, ENOENT, ENOSPC, EROFS, ENOMEM}},
      // Only where there are no files without a name.
      {"renameat2", SYS_renameat2, {EINVAL, EEXIST, EACCES, ENOSPC, EROFS}, nullptr, false, true},
      {"flock", SYS_flock, {EINTR, EAGAIN, ENOLCK, EPERM}},
      {"getdents64", SYS_getdents64, {ENOENT, ENOMEM}},
      {"readlinkat", SYS_readlinkat, {ENOENT, EACCES, ENOMEM}},
      // Only where progress is to be drawn.
      {"ioctl", SYS_ioctl, {ENOTTY, EIO}, nullptr, false, true},
      {"fchdir", SYS_fchdir, {EACCES, ENOTDIR}},
      {"setsockopt", SYS_setsockopt, {ENOPROTOOPT, EPERM}},
      {"read", SYS_read, {EINTR, EIO, ENOMEM, ESRCH}},
      {"write", SYS_write, {EINTR, EAGAIN, EBADF, EPIPE, EIO, ENOSPC}},
      {"newfstatat", SYS_newfstatat, {ENOMEM, ENOENT, EACCES}},
      {"prlimit64", SYS_prlimit64, {EPERM, ENOSYS}},
      {"socket", SYS_socket, {EMFILE, ENFILE, ENOMEM, ENOBUFS, EAFNOSUPPORT, EPERM}},
      {"bind", SYS_bind, {ENOMEM, EACCES, EADDRINUSE}},
      {"socketpair", SYS_socketpair, {EMFILE, ENFILE, ENOMEM, ENOBUFS, EAFNOSUPPORT, EPERM}},
      {"sendmsg", SYS_sendmsg, {EINTR, EAGAIN, ENOBUFS, ENOMEM, ETOOMANYREFS, EPIPE}},
      {"recvmsg", SYS_recvmsg, {EINTR, EAGAIN, ENOMEM, ECONNRESET}},
      {"epoll_create1", SYS_epoll_create1, {EMFILE, ENFILE, ENOMEM}},
      {"epoll_ctl", SYS_epoll_ctl, {ENOMEM, ENOSPC}},
      {"epoll_pwait", SYS_epoll_pwait, {EINTR}},
      {"ppoll", SYS_ppoll, {EINTR, ENOMEM, EINVAL}},
      // Memory.
      {"memfd_create", SYS_memfd_create, {ENOMEM, EMFILE, ENFILE, ENOSYS, EPERM}},
      {"ftruncate", SYS_ftruncate, {EINTR, EFBIG, EPERM, EINVAL}},
      {"fallocate", SYS_fallocate, {ENOSPC, ENOMEM, EINTR, EOPNOTSUPP, EPERM}},
      {"fstat", SYS_fstat, {ENOMEM}, nullptr, false, true},
      {"mmap", SYS_mmap, {ENOMEM, EAGAIN, EPERM, ENFILE}},
      {"munmap", SYS_munmap, {ENOMEM}, nullptr, true},
      {"mprotect", SYS_mprotect, {ENOMEM, EACCES}},
      {"madvise", SYS_madvise, {EINVAL, ENOMEM, EAGAIN}},
      // ENOMEM is no failure but the answer that nothing is mapped there; it has to be true.
      {"mincore", SYS_mincore, {EAGAIN, ENOSYS, EPERM}},
      // Processes.
      {"clone3", SYS_clone3, {EAGAIN, ENOMEM, EMFILE, ENOSPC, EPERM, ENOSYS, EINVAL}},
      {"pidfd_open", SYS_pidfd_open, {EMFILE, ENFILE, ENOMEM, ENODEV, ENOSYS, EPERM}},
      {"pidfd_send_signal", SYS_pidfd_send_signal, {EPERM, ENOSYS}},
      {"kill", SYS_kill, {EPERM}},
      {"setitimer", SYS_setitimer, {EPERM}},
      {"eventfd2", SYS_eventfd2, {EMFILE, ENFILE, ENODEV, ENOMEM, EPERM}},
      // ECHILD too is an answer.
      {"waitid", SYS_waitid, {EINTR}},
      // Only orphans are asked, and a dead worker is one until it is reaped.
      {"getpgid", SYS_getpgid, {ESRCH, EPERM}, nullptr, false, true},
      {"setpgid", SYS_setpgid, {EPERM, EACCES, ESRCH}},
      {"prctl", SYS_prctl, {EPERM, EINVAL}},
      {"rt_sigprocmask", SYS_rt_sigprocmask, {EPERM}},
      {"sched_getaffinity", SYS_sched_getaffinity, {EINVAL, EPERM, ENOSYS}},
      {"sched_setaffinity", SYS_sched_setaffinity, {EINVAL, EPERM}, nullptr, false, true},
      {"getpriority", SYS_getpriority, {EPERM, ENOSYS}},
      {"setpriority", SYS_setpriority, {EPERM, EACCES}, nullptr, false, true},
      {"setgroups", SYS_setgroups, {EPERM, ENOMEM}},
      {"setresgid", SYS_setresgid, {EPERM, EAGAIN}},
      {"setresuid", SYS_setresuid, {EPERM, EAGAIN}},
      {"capset", SYS_capset, {EPERM}},
      {"execve", SYS_execve, {ENOENT, EACCES, ENOMEM, E2BIG}, nullptr, false, true},
      {"get_robust_list", SYS_get_robust_list, {EPERM, ENOSYS}},
      {"set_robust_list", SYS_set_robust_list, {EINVAL, ENOSYS}},
      // Waiting. Waking nobody is no failure that the kernel knows.
      {"futex (wait)", SYS_futex, {EINTR, EAGAIN, ETIMEDOUT, ENOMEM}, waits_on_futex},
      {"futex_waitv", SYS_futex_waitv, {EINTR, EAGAIN, ETIMEDOUT, ENOMEM, ENOSYS, EINVAL}},
      {"nanosleep", SYS_nanosleep, {EINTR}, nullptr, false, true},
      {"sched_yield", SYS_sched_yield, {EPERM}, nullptr, false, true},
  };
}

constexpr std::array kExempt = {
    ExemptCall{"getpid", SYS_getpid, "has no errors"},
    ExemptCall{"gettid", SYS_gettid, "has no errors"},
    ExemptCall{"getppid", SYS_getppid, "has no errors"},
    ExemptCall{"umask", SYS_umask, "has no errors"},
    ExemptCall{"exit_group", SYS_exit_group, "has no errors"},
    ExemptCall{"rt_sigtimedwait", SYS_rt_sigtimedwait, "only says that nothing is pending"},
    ExemptCall{"getrandom", SYS_getrandom, "is made before main()"},
    ExemptCall{"write", SYS_write, "is made to event descriptors that always have room"},
    ExemptCall{"tgkill", SYS_tgkill,
               "is made by the handler of a crash, which then has nothing left"},
};

}  // namespace

const char* name_of(Role role) {
  static constexpr std::array<const char*, kRoles> kNames = {
      "unknown", "host", "warden", "supervisor", "worker", "process", "incarnation", "other"};
  return kNames[static_cast<std::size_t>(role)];
}

// Made before the first process that is to be counted; never destroyed.
const std::vector<CallKind>& call_kinds() {
  static const auto* const kinds = new std::vector<CallKind>(make_kinds());
  return *kinds;
}

std::span<const ExemptCall> exempt_calls() { return kExempt; }

std::string describe(const PlannedFault& fault) {
  return std::string(name_of(fault.role)) + ": " + call_kinds()[fault.kind].name + " " +
         std::to_string(fault.nth) + (fault.for_good ? " and later" : "") + " failed with " +
         strerrorname_np(fault.error);
}

std::size_t kind_named(const char* name) {
  const std::vector<CallKind>& kinds = call_kinds();
  for (std::size_t i = 0; i < kinds.size(); ++i) {
    if (std::strcmp(kinds[i].name, name) == 0) return i;
  }
  std::abort();
}

void prepare_faults() {
  if (the_plan != nullptr) return;
  if (call_kinds().size() > kMaxCallKinds) std::abort();
  void* shared =
      mmap(nullptr, sizeof(SharedPlan), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  void* page =
      mmap(nullptr, sizeof(OwnCounts), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED || page == MAP_FAILED) std::abort();
  if (madvise(page, sizeof(OwnCounts), MADV_WIPEONFORK) != 0) std::abort();
  own = static_cast<OwnCounts*>(page);
  the_plan = static_cast<SharedPlan*>(shared);
}

FaultyKernel::FaultyKernel() {
  prepare_faults();
  heal();
  the_plan->warden_started.store(false);
  std::memset(static_cast<void*>(own), 0, sizeof(OwnCounts));
  own->role.store(Role::host);
  role_of_parent.store(Role::host);
  before = sys::replace_kernel(fail_as_planned);
}

FaultyKernel::~FaultyKernel() {
  heal();
  sys::replace_kernel(before);
}

void FaultyKernel::next_child_is(Role role) noexcept { role_of_next_child.store(role); }

void FaultyKernel::plan(const PlannedFault& fault) noexcept {
  heal();
  the_plan->happened.store(0);
  the_plan->role.store(fault.role);
  the_plan->kind.store(fault.kind);
  the_plan->error.store(fault.error);
  the_plan->for_good.store(fault.for_good);
  the_plan->nth.store(fault.nth);
}

void FaultyKernel::heal() noexcept {
  the_plan->nth.store(0);
  the_plan->interrupted_of.store(0);
}

void FaultyKernel::interrupt(int of, int out_of) noexcept {
  for (auto& count : the_plan->interrupted) count.store(0);
  the_plan->interrupted_out_of.store(out_of);
  the_plan->interrupted_of.store(of);
}
int FaultyKernel::interrupted(Role role) noexcept {
  return the_plan->interrupted[static_cast<std::size_t>(role)].load();
}

int FaultyKernel::happened() noexcept { return the_plan->happened.load(); }

int FaultyKernel::counted(Role role, std::size_t kind) noexcept {
  return the_plan->counted[static_cast<std::size_t>(role)][kind].load();
}
bool FaultyKernel::was_seen(long number) noexcept {
  return the_plan->seen[static_cast<std::size_t>(number)].load();
}
void FaultyKernel::forget_counts() noexcept {
  for (auto& kinds : the_plan->counted) {
    for (auto& count : kinds) count.store(0);
  }
}

}  // namespace brood::test
