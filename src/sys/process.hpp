// Starting, signalling and reaping processes.
#pragma once

#include <cstdint>

#include "sys/fd.hpp"

namespace brood::sys {

int process_id() noexcept;
int thread_id() noexcept;  // equals process_id() in the main thread
int parent_id() noexcept;

// How many threads this process has, or -errno.
int thread_count() noexcept;

// The copies of the calling process. Each returns the child's id in the parent (with a
// pidfd of it in `pidfd`), 0 in the child, or -errno.
//
// clone_quiet: by default the child ends without a signal and is invisible to the host's wait(-1);
// it is reaped by reap() alone. No fork handlers run and no lock of the C library is taken, so that
// the child of a process with several threads must not use the heap. Of a process with one thread,
// the child is as good as a forked one.
long clone_quiet(Fd& pidfd, int exit_signal = 0) noexcept;
//
// fork_loud: the C library's fork(): the child may use the heap although other threads existed;
// its end sends SIGCHLD and it is visible to wait(-1).
long fork_loud(Fd& pidfd) noexcept;
//
// fork_orphan: like fork_loud, but the child is nobody's child: it is adopted by the nearest
// subreaper or by init, which reaps it. (If that is the caller itself, the child is as loud as
// that of fork_loud.)
long fork_orphan(Fd& pidfd) noexcept;

// clone_sibling: as clone_quiet, but the child is a child of the caller's parent, ends with the
// signal that the caller ends with, and the caller gets its number alone.
long clone_sibling() noexcept;

// What a process and its reaped children have used, as the kernel counts it at their end.
struct UsageAtEnd {
  std::uint64_t user_ns = 0;  // processor time
  std::uint64_t system_ns = 0;
  std::uint64_t peak_rss_bytes = 0;
};

// How a process ended, as wait() tells it.
struct ExitStatus {
  int code = 0;       // if it exited
  int signal = 0;     // if a signal killed it
  bool core = false;  // a core file was written
  UsageAtEnd usage;
  static ExitStatus from_wait_status(int status) noexcept;
  [[nodiscard]] int to_wait_status() const noexcept;
};

// A descriptor that becomes readable when the process has ended. -errno if there is none.
int open_pidfd(int pid) noexcept;

// Takes the status of an ended child. 1: taken; 0: still runs; -errno (-ECHILD: not our child, or
// reaped by someone else).
int reap(int pidfd, ExitStatus& status) noexcept;

// Proof that the process behind the pidfd has ended; waits for it until deadline_ns (now_ns()).
// 1: ended; 0: not yet; -errno.
int has_ended(int pidfd, std::int64_t deadline_ns) noexcept;

// The same for any descriptor. 1: there is something to read, also an end of file; 0; -errno.
int becomes_readable(int fd, std::int64_t deadline_ns) noexcept;

// 0 or -errno (-ESRCH: it has ended and was reaped).
int send_signal(int pidfd, int signal) noexcept;

// For service processes, which have no children but ours: some child that has ended and is not
// reaped yet; 0: none has; -errno (-ECHILD: there is none). Then reap_child: as reap().
int peek_ended_child() noexcept;
int reap_child(int pid, ExitStatus& status) noexcept;
// Whether it is a child of the caller's that was not reaped.
bool is_child(int pid) noexcept;

// Makes the caller the first of a process group, whose number is its own.
void lead_process_group() noexcept;
int group_of(int pid) noexcept;  // -errno if there is no such process
// SIGKILL to everyone in the group of a child that has not been reaped.
void kill_group(int leader_pid) noexcept;

// The caller is killed when its parent dies. Lost on a change of credentials.
void die_with_parent() noexcept;
// Orphans below the caller become its children.
void adopt_orphans() noexcept;
// Shown by ps and top; 15 characters.
void set_process_name(const char* name) noexcept;

// Processors in the calling thread's affinity mask, at least 1.
int usable_cpus() noexcept;

[[noreturn]] void exit_now(int code) noexcept;
// As std::atexit, but never under way in another thread while one of the copies above is made: the
// child's own end would hang. 0 or -ENOMEM.
int at_exit(void (*handler)()) noexcept;
// Has `hook` called at the end of exit() with its status, before handlers registered earlier.
void at_exit_first(void (*hook)(int status, void* context)) noexcept;

}  // namespace brood::sys
