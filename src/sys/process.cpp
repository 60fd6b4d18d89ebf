#include "sys/process.hpp"

#include <fcntl.h>
#include <linux/futex.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <optional>

#include "sys/clock.hpp"
#include "sys/exit_lock.hpp"
#include "sys/futex.hpp"
#include "sys/memory.hpp"
#include "sys/process_mutex.hpp"
#include "sys/syscall.hpp"

namespace brood::sys {

namespace {

// The C library locks its list of exit handlers and forgets to unlock it in a forked child, which
// would then hang in its first use of the list.
constinit ProcessMutex changing_exit_handlers;

// Of this process, and so of its copies. That mutex is ours: a user's thread may register handlers,
// too, or be in exit().
constinit bool copied_beside_threads = false;

constexpr int kPidfdType = 3;  // P_PIDFD, which older headers lack

// What the C library caches about the calling thread, and what fork() would put right in a child.
struct LibcThread {
  int* tid = nullptr;
  robust_list_head* robust = nullptr;

  static LibcThread find() noexcept {
    LibcThread self;
    int* tid = nullptr;
    // Where the kernel clears the id at thread exit is where glibc keeps it. Believed only if the
    // id stands there.
    if (call(SYS_prctl, PR_GET_TID_ADDRESS, &tid, 0, 0, 0) >= 0 && tid != nullptr &&
        *tid == static_cast<int>(call(SYS_gettid))) {
      self.tid = tid;
    }
    robust_list_head* head = nullptr;
    std::size_t length = 0;
    if (call(SYS_get_robust_list, 0, &head, &length) >= 0 && length == sizeof *head) {
      self.robust = head;
    }
    return self;
  }

  // In the child: it holds none of the parent's robust mutexes, and the kernel knows no list yet.
  void repair_in_child() const noexcept {
    if (robust == nullptr) return;
    robust->list.next = &robust->list;
    robust->list_op_pending = nullptr;
    reinterpret_cast<void**>(robust)[-1] = robust;
    call(SYS_set_robust_list, robust, sizeof *robust);
  }
};

struct Detour {
  void* resume[5];  // __builtin_setjmp's
  int helper = 0;
  int pid = -1;
  int pidfd = -1;
};

// Runs in a process that shares the caller's memory while the caller's thread stands still: its
// fork() takes and releases the C library's locks as that of any thread would, but the child's
// parent is this short-lived process.
int fork_in_passing(void* arg) {
  auto* detour = static_cast<Detour*>(arg);
  detour->helper = process_id();
  const pid_t pid = ::fork();
  if (pid == 0) __builtin_longjmp(detour->resume, 1);
  detour->pid = pid < 0 ? -errno : pid;
  if (pid <= 0) return 0;
  detour->pidfd = open_pidfd(pid);
  // The child waits for our end: nothing of it has run yet.
  if (detour->pidfd < 0) {
    call(SYS_kill, pid, SIGKILL);
    detour->pid = detour->pidfd;
  }
  return 0;
}

// Holds a child until its parent has its pidfd: a child that ran before that might end before
// that, too.
class HeldChild {
 public:
  HeldChild() noexcept : word_(static_cast<FutexWord*>(static_cast<void*>(map_shared_page()))) {}
  ~HeldChild() {
    if (word_ != nullptr) unmap(word_, kPageBytes);
  }
  HeldChild(const HeldChild&) = delete;
  HeldChild& operator=(const HeldChild&) = delete;
  [[nodiscard]] bool usable() const noexcept { return word_ != nullptr; }

  void let_go() noexcept {
    word_->store(1, std::memory_order_release);
    futex_wake(word_, 1);
  }
  // In the child; without a parent there is nothing to wait for.
  void wait(int parent) const noexcept {
    while (word_->load(std::memory_order_acquire) == 0 && parent_id() == parent) {
      futex_wait(word_, 0, now_ns() + 10'000'000);
    }
  }

 private:
  FutexWord* word_;
};

}  // namespace

int process_id() noexcept { return static_cast<int>(call(SYS_getpid)); }
int thread_id() noexcept { return static_cast<int>(call(SYS_gettid)); }
int parent_id() noexcept { return static_cast<int>(call(SYS_getppid)); }

int thread_count() noexcept {
  struct stat info{};
  const long result = call(SYS_newfstatat, AT_FDCWD, "/proc/self/task", &info, 0);
  if (result < 0) return static_cast<int>(result);
  return static_cast<int>(info.st_nlink) - 2;
}

namespace {
// Of a child for which there is no pidfd. Nobody else reaps it, so the number is still its own.
void kill_and_reap(long pid) noexcept {
  call(SYS_kill, pid, SIGKILL);
  siginfo_t info{};
  call_restarting(SYS_waitid, P_PID, pid, &info, WEXITED | __WALL, nullptr);
}
}  // namespace

namespace {
long clone_with(clone_args& args) noexcept {
  const LibcThread thread = LibcThread::find();
  if (thread.tid != nullptr) {
    args.flags |= CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID;
    args.child_tid = reinterpret_cast<std::uintptr_t>(thread.tid);
  }
  const long pid = call(SYS_clone3, &args, sizeof args);
  if (pid == 0) thread.repair_in_child();
  return pid;
}
}  // namespace

long clone_sibling() noexcept {
  clone_args args{};
  args.flags = CLONE_PARENT;  // the exit signal is then the caller's own
  return clone_with(args);
}

long clone_quiet(Fd& pidfd, int exit_signal) noexcept {
  int fd = -1;
  clone_args args{};
  args.flags = CLONE_PIDFD;
  args.pidfd = reinterpret_cast<std::uintptr_t>(&fd);
  args.exit_signal = static_cast<std::uint64_t>(exit_signal);
  const long pid = clone_with(args);
  if (pid <= 0) return pid;
  fd = above_streams(fd);
  if (fd < 0) {
    kill_and_reap(pid);
    return fd;
  }
  pidfd.reset(fd);
  return pid;
}

long fork_loud(Fd& pidfd) noexcept {
  HeldChild held;
  if (!held.usable()) return -ENOMEM;
  const int parent = process_id();
  pid_t pid = 0;
  {
    const std::lock_guard lock(changing_exit_handlers);
    pid = ::fork();
  }
  if (pid < 0) return -errno;
  if (pid == 0) {
    copied_beside_threads = true;
    held.wait(parent);
    return 0;
  }
  const int fd = open_pidfd(pid);
  if (fd < 0) {
    kill_and_reap(pid);
    return fd;
  }
  pidfd.reset(fd);
  held.let_go();
  return pid;
}

[[gnu::noinline]] long fork_orphan(Fd& pidfd) noexcept {
  constexpr std::size_t kStackBytes = 64 * 1024;
  Detour detour;
  auto* stack = static_cast<std::byte*>(map_private(kStackBytes));
  if (stack == nullptr) return -ENOMEM;
  const std::lock_guard lock(changing_exit_handlers);
  if (__builtin_setjmp(detour.resume) != 0) {
    copied_beside_threads = true;
    while (parent_id() == detour.helper) sleep_ns(20'000);
    return 0;
  }
  const int helper =
      ::clone(fork_in_passing, stack + kStackBytes, CLONE_VM | CLONE_VFORK | CLONE_FILES, &detour);
  const int error = helper < 0 ? -errno : 0;
  if (helper > 0) {
    siginfo_t info{};
    call_restarting(SYS_waitid, P_PID, helper, &info, WEXITED | __WALL, nullptr);
  }
  unmap(stack, kStackBytes);
  if (error != 0) return error;
  if (detour.pid > 0) pidfd.reset(detour.pidfd);
  return detour.pid;
}

ExitStatus ExitStatus::from_wait_status(int status) noexcept {
  ExitStatus result;
  if (WIFSIGNALED(status)) {
    result.signal = WTERMSIG(status);
    result.core = WCOREDUMP(status);
  } else {
    result.code = WEXITSTATUS(status);
  }
  return result;
}

int ExitStatus::to_wait_status() const noexcept {
  constexpr int kCore = 0x80;
  return signal != 0 ? signal | (core ? kCore : 0) : (code & 0xff) << 8;
}

int open_pidfd(int pid) noexcept {
  const long fd = call(SYS_pidfd_open, pid, 0);
  return above_streams(static_cast<int>(fd));
}

namespace {

std::uint64_t ns_of(const timeval& time) noexcept {
  return static_cast<std::uint64_t>(time.tv_sec) * 1'000'000'000 +
         static_cast<std::uint64_t>(time.tv_usec) * 1000;
}

UsageAtEnd usage_in(const rusage& used) noexcept {
  return {ns_of(used.ru_utime), ns_of(used.ru_stime),
          static_cast<std::uint64_t>(used.ru_maxrss) * 1024};
}

ExitStatus status_of(const siginfo_t& info) noexcept {
  ExitStatus status;
  if (info.si_code == CLD_EXITED) {
    status.code = info.si_status;
  } else {
    status.signal = info.si_status;
    status.core = info.si_code == CLD_DUMPED;
  }
  return status;
}

int reap_by(int type, int id, ExitStatus& status) noexcept {
  siginfo_t info{};
  rusage used{};
  const long result =
      call_restarting(SYS_waitid, type, id, &info, WEXITED | WNOHANG | __WALL, &used);
  if (result < 0) return static_cast<int>(result);
  if (info.si_pid == 0) return 0;
  status = status_of(info);
  status.usage = usage_in(used);
  return 1;
}

}  // namespace

int reap(int pidfd, ExitStatus& status) noexcept { return reap_by(kPidfdType, pidfd, status); }

int peek_ended_child() noexcept {
  siginfo_t info{};
  const long result =
      call_restarting(SYS_waitid, P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT | __WALL, nullptr);
  return result < 0 ? static_cast<int>(result) : info.si_pid;
}

bool is_child(int pid) noexcept {
  siginfo_t info{};
  return call_restarting(SYS_waitid, P_PID, pid, &info, WEXITED | WNOHANG | WNOWAIT | __WALL,
                         nullptr) >= 0;
}

int reap_child(int pid, ExitStatus& status) noexcept { return reap_by(P_PID, pid, status); }

int group_of(int pid) noexcept { return static_cast<int>(call(SYS_getpgid, pid)); }
void lead_process_group() noexcept { call(SYS_setpgid, 0, 0); }
void kill_group(int leader_pid) noexcept { call(SYS_kill, -leader_pid, SIGKILL); }

namespace {

// -errno, or whether it has ended, by its parent's or anybody else's means.
int look_at_end(int pidfd) noexcept {
  siginfo_t info{};
  const long found = call_restarting(SYS_waitid, kPidfdType, pidfd, &info,
                                     WEXITED | WNOWAIT | WNOHANG | __WALL, nullptr);
  if (found == 0) return info.si_pid != 0 ? 1 : 0;
  const int signalled = send_signal(pidfd, 0);
  if (signalled == -ESRCH) return 1;
  return signalled == -EBADF ? -EBADF : 0;
}

// Where a limit allows fewer descriptors than one waits for, the kernel refuses to poll.
int has_ended_without_poll(int pidfd, std::int64_t deadline_ns) noexcept {
  constexpr std::int64_t kPauseNs = 1'000'000;
  for (;;) {
    if (const int ended = look_at_end(pidfd); ended != 0) return ended;
    if (deadline_ns != kForever && now_ns() >= deadline_ns) return 0;
    sleep_ns(kPauseNs);
  }
}

}  // namespace

int has_ended(int pidfd, std::int64_t deadline_ns) noexcept {
  const int result = becomes_readable(pidfd, deadline_ns);
  return result == -EINVAL ? has_ended_without_poll(pidfd, deadline_ns) : result;
}

int becomes_readable(int fd, std::int64_t deadline_ns) noexcept {
  pollfd entry{fd, POLLIN, 0};
  for (;;) {
    timespec limit{};
    const std::int64_t left =
        deadline_ns == kForever ? 0 : std::max<std::int64_t>(deadline_ns - now_ns(), 0);
    limit.tv_sec = left / 1'000'000'000;
    limit.tv_nsec = left % 1'000'000'000;
    const long result =
        call(SYS_ppoll, &entry, 1, deadline_ns == kForever ? nullptr : &limit, nullptr, 0);
    if (result == -EINTR) continue;
    // A descriptor that somebody closed proves nothing.
    if (result == 1 && (entry.revents & POLLIN) == 0) return -EBADF;
    return static_cast<int>(result);
  }
}

int send_signal(int pidfd, int signal) noexcept {
  return static_cast<int>(call(SYS_pidfd_send_signal, pidfd, signal, nullptr, 0));
}

void die_with_parent() noexcept { call(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0); }
void adopt_orphans() noexcept { call(SYS_prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); }
void set_process_name(const char* name) noexcept { call(SYS_prctl, PR_SET_NAME, name, 0, 0, 0); }

int usable_cpus() noexcept {
  constexpr std::size_t kMaskBytes = 8192 / 8;
  unsigned char mask[kMaskBytes];
  const long bytes = call(SYS_sched_getaffinity, 0, kMaskBytes, mask);
  int count = 0;
  for (long i = 0; i < bytes; ++i) count += __builtin_popcount(mask[i]);
  return std::max(count, 1);
}

int at_exit(void (*handler)()) noexcept {
  const std::lock_guard lock(changing_exit_handlers);
  return ::atexit(handler) == 0 ? 0 : -ENOMEM;
}

void at_exit_first(void (*hook)(int status, void* context)) noexcept {
  std::optional<ExitLockFreed> freed;
  if (copied_beside_threads) freed.emplace();
  ::on_exit(hook, nullptr);
}

void exit_now(int code) noexcept {
  for (;;) call(SYS_exit_group, code);
}

}  // namespace brood::sys
