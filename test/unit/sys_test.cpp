// The door to the kernel: descriptors, futexes, children, signals, memory files.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "brood/error.hpp"
#include "support/processes.hpp"
#include "support/time.hpp"
#include "sys/clock.hpp"
#include "sys/epoll.hpp"
#include "sys/fd.hpp"
#include "sys/futex.hpp"
#include "sys/identity.hpp"
#include "sys/memory.hpp"
#include "sys/process.hpp"
#include "sys/procfs.hpp"
#include "sys/signals.hpp"
#include "sys/syscall.hpp"

namespace brood::sys {
namespace {

using test::wait_until;

bool is_open(int fd) { return fcntl(fd, F_GETFD) >= 0; }
bool closes_on_exec(int fd) { return (fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0; }
Fd some_fd() { return Fd(open("/dev/null", O_RDWR | O_CLOEXEC)); }

std::int64_t soon() { return now_ns() + 20'000'000; }
std::int64_t late() { return now_ns() + test::kHangGuard.count(); }

// Memory that this process and those forked from it see.
template <class T>
struct Shared {
  T* value =
      new (mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)) T{};
  Shared() = default;
  Shared(const Shared&) = delete;
  Shared& operator=(const Shared&) = delete;
  ~Shared() { munmap(value, sizeof(T)); }
  T* operator->() const { return value; }
  T& operator*() const { return *value; }
};

// The exit status of a plain forked child that runs `body`; 200 and more: the signal.
int in_child(const std::function<int()>& body) {
  const pid_t pid = fork();
  if (pid == 0) _exit(body());
  int status = 0;
  if (waitpid(pid, &status, 0) != pid) return -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 200 + WTERMSIG(status);
}

// The same for a quiet child.
int in_quiet_child(const std::function<int()>& body) {
  Fd pidfd;
  const long pid = clone_quiet(pidfd);
  if (pid == 0) exit_now(body());
  if (pid < 0 || has_ended(pidfd.get(), late()) != 1) return -1;
  ExitStatus status;
  if (reap(pidfd.get(), status) != 1) return -1;
  return status.signal != 0 ? 200 + status.signal : status.code;
}

// ---- descriptors

TEST(SysFdTest, ADescriptorHasOneOwnerThatClosesIt) {
  Fd a = some_fd();
  ASSERT_TRUE(a);
  const int number = a.get();
  Fd b = std::move(a);
  EXPECT_FALSE(a);
  EXPECT_EQ(a.get(), -1);
  EXPECT_TRUE(is_open(number));
  Fd c = some_fd();
  const int other = c.get();
  c = std::move(b);
  EXPECT_FALSE(is_open(other)) << "what it had before is closed";
  EXPECT_EQ(c.get(), number);
  EXPECT_EQ(c.release(), number);
  EXPECT_TRUE(is_open(number)) << "no longer ours to close";
  c.reset(number);
  c.reset();
  EXPECT_FALSE(is_open(number));
}

TEST(SysFdTest, DescriptorsGoAboveTheStreamsAlsoWhereStreamsAreClosed) {
  const int status = in_child([] {
    for (const int stream : {0, 1, 2}) close(stream);
    const int low = open("/dev/null", O_RDWR);
    if (low != 0) return 1;
    const int high = above_streams(low);
    if (high < 3 || is_open(0) || !closes_on_exec(high)) return 2;
    if (above_streams(high) != high || above_streams(-EMFILE) != -EMFILE) return 3;
    Fd ends[2];
    if (packet_socket_pair(ends) != 0 || ends[0].get() < 3 || ends[1].get() < 3) return 4;
    if (create_memory_file("x", 4096) < 3 || open_pidfd(getpid()) < 3) return 5;
    Fd pidfd;
    const long child = clone_quiet(pidfd);
    if (child == 0) exit_now(0);
    if (pidfd.get() < 3 || has_ended(pidfd.get(), late()) != 1) return 6;
    ExitStatus ended;
    if (reap(pidfd.get(), ended) != 1) return 7;
    ReadableSet set;
    if (set.open() != 0 || set.fd() < 3) return 8;
    return is_open(0) || is_open(1) || is_open(2) ? 9 : 0;
  });
  EXPECT_EQ(status, 0);
}

TEST(SysFdTest, AllDescriptorsButThoseToKeepAreClosed) {
  const int status = in_child([] {
    std::vector<int> fds;
    for (int i = 0; i < 20; ++i) fds.push_back(dup(2));
    const int far = fcntl(2, F_DUPFD, 900);
    const std::array keep = {fds[7], fds[3], -1, far, fds[3]};
    close_all_but(keep);
    for (const int fd : fds) {
      if (is_open(fd) != (fd == fds[3] || fd == fds[7])) return 1;
    }
    if (!is_open(far) || !is_open(0) || !is_open(1) || !is_open(2)) return 2;
    close_all_but({});
    return is_open(fds[3]) || is_open(far) || !is_open(2) ? 3 : 0;
  });
  EXPECT_EQ(status, 0);
}

TEST(SysFdTest, AStreamIsRedirectedToNullWhetherItWasOpenOrNot) {
  const int status = in_child([] {
    close(0);
    if (redirect_to_null(0) != 0 || redirect_to_null(1) != 0) return 1;
    char byte = 'x';
    if (read(0, &byte, 1) != 0 || write(1, &byte, 1) != 1) return 2;
    return closes_on_exec(0) || closes_on_exec(1) ? 3 : 0;
  });
  EXPECT_EQ(status, 0);
}

TEST(SysFdTest, PacketsKeepTheirBoundsAndCarryADescriptor) {
  Fd ends[2];
  ASSERT_EQ(packet_socket_pair(ends), 0);
  EXPECT_TRUE(closes_on_exec(ends[0].get()) && closes_on_exec(ends[1].get()));
  int pipe_ends[2];
  ASSERT_EQ(pipe2(pipe_ends, O_CLOEXEC), 0);
  const Fd reading(pipe_ends[0]);
  Fd writing(pipe_ends[1]);
  const std::array<std::byte, 5> first{std::byte{1}, std::byte{2}};
  const std::array<std::byte, 3> second{std::byte{3}};
  EXPECT_EQ(send_packet(ends[0].get(), first, writing.get(), true), 0);
  EXPECT_EQ(send_packet(ends[0].get(), second, -1, false), 0);
  writing.reset();

  std::array<std::byte, 64> buffer{};
  Fd passed;
  EXPECT_EQ(receive_packet(ends[1].get(), buffer, passed), 5);
  EXPECT_EQ(buffer[1], std::byte{2});
  ASSERT_TRUE(passed);
  EXPECT_TRUE(closes_on_exec(passed.get()));
  EXPECT_EQ(write(passed.get(), "p", 1), 1);
  char byte = 0;
  EXPECT_EQ(read(reading.get(), &byte, 1), 1);
  EXPECT_EQ(byte, 'p') << "the same pipe under another number";

  EXPECT_EQ(receive_packet(ends[1].get(), buffer, passed), 3);
  EXPECT_FALSE(passed) << "none came along, the former one is closed";
  EXPECT_EQ(receive_packet(ends[1].get(), buffer, passed), -EAGAIN);
}

TEST(SysFdTest, OfSeveralDescriptorsInAPacketAllButOneStayOutside) {
  Fd ends[2];
  ASSERT_EQ(packet_socket_pair(ends), 0);
  char byte = 'x';
  iovec part{&byte, 1};
  const int two[2] = {ends[0].get(), ends[1].get()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof two)> control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof two);
  std::memcpy(CMSG_DATA(header), two, sizeof two);
  ASSERT_EQ(sendmsg(ends[0].get(), &message, 0), 1);

  const std::size_t before = test::open_files(getpid()).size();
  std::array<std::byte, 8> buffer{};
  Fd passed;
  EXPECT_EQ(receive_packet(ends[1].get(), buffer, passed), 1);
  EXPECT_TRUE(passed);
  EXPECT_EQ(test::open_files(getpid()).size(), before + 1);
}

TEST(SysFdTest, PacketsThatDoNotFitOrHaveNobodyToReadThemAreErrors) {
  Fd ends[2];
  ASSERT_EQ(packet_socket_pair(ends), 0);
  const std::vector<std::byte> big(100);
  ASSERT_EQ(send_packet(ends[0].get(), big, -1, false), 0);
  std::array<std::byte, 10> small{};
  Fd passed;
  EXPECT_EQ(receive_packet(ends[1].get(), small, passed), -EMSGSIZE);

  int error = 0;
  for (int i = 0; i < 100'000 && error == 0; ++i) {
    error = send_packet(ends[0].get(), big, -1, false);
  }
  EXPECT_EQ(error, -EAGAIN) << "a full socket";
  ends[0].reset();
  while (receive_packet(ends[1].get(), std::span(small), passed) == -EMSGSIZE) {
  }
  EXPECT_EQ(receive_packet(ends[1].get(), small, passed), 0) << "the peer is gone";
  EXPECT_EQ(send_packet(ends[1].get(), big, -1, false), -EPIPE) << "and no SIGPIPE";
}

TEST(SysFdTest, AReadableSetTellsWhichDescriptorIsReadable) {
  Fd ends[2];
  Fd others[2];
  ASSERT_EQ(packet_socket_pair(ends), 0);
  ASSERT_EQ(packet_socket_pair(others), 0);
  ReadableSet set;
  ASSERT_EQ(set.open(), 0);
  ASSERT_EQ(set.add(ends[0].get(), 11), 0);
  ASSERT_EQ(set.add(others[0].get(), 22), 0);
  EXPECT_EQ(set.add(others[0].get(), 22), -EEXIST);
  std::array<std::uint64_t, 4> tags{};
  EXPECT_EQ(set.wait(tags, soon()), 0);
  const std::array<std::byte, 1> packet{};
  ASSERT_EQ(send_packet(others[1].get(), packet, -1, false), 0);
  ASSERT_EQ(set.wait(tags, kForever), 1);
  EXPECT_EQ(tags[0], 22U);
  EXPECT_EQ(set.remove(others[0].get()), 0);
  EXPECT_EQ(set.wait(tags, soon()), 0);
}

// ---- futexes

TEST(SysFutexTest, AWaitEndsAtItsLimitOrAtOnceIfTheWordHasChanged) {
  const FutexWord word{5};
  EXPECT_EQ(futex_wait(&word, 6, late()), -EAGAIN);
  const std::int64_t begin = now_ns();
  EXPECT_EQ(futex_wait(&word, 5, begin + 20'000'000), -ETIMEDOUT);
  EXPECT_GE(now_ns() - begin, 20'000'000);
  EXPECT_EQ(futex_wait(&word, 5, begin), -ETIMEDOUT) << "a limit in the past";
  EXPECT_EQ(futex_wake(&word, kWakeAll), 0);
}

TEST(SysFutexTest, OneOfManyWordsEndsTheWait) {
  for (std::size_t count : {std::size_t{1}, std::size_t{7}, kMaxFutexWaiters}) {
    std::vector<FutexWord> words(count);
    std::vector<FutexWaiter> waiters;
    for (const FutexWord& word : words) waiters.push_back({&word, 0});
    EXPECT_EQ(futex_wait_any(waiters, soon()), -ETIMEDOUT);
    std::atomic<bool> over{false};
    std::thread waker([&] {
      while (!over.load()) futex_wake(&words.back(), kWakeAll);
    });
    EXPECT_EQ(futex_wait_any(waiters, late()), static_cast<int>(count - 1));
    over.store(true);
    waker.join();
    words.front().store(1);
    EXPECT_EQ(futex_wait_any(waiters, late()), -EAGAIN) << "one has changed already";
  }
}

// ---- life words

TEST(SysLifeTest, TheDeathOfItsHolderMarksTheWordAndWakesAWaiter) {
  Shared<RobustWord> life;
  Fd pidfd;
  const long pid = clone_quiet(pidfd);
  if (pid == 0) {
    if (hold_until_death(*life) != 0) exit_now(1);
    futex_wake(&life->word, kWakeAll);
    for (;;) pause();
  }
  ASSERT_GT(pid, 0);
  const std::uint32_t alive = static_cast<std::uint32_t>(pid) | kFutexWaiters;
  ASSERT_TRUE(wait_until([&] { return life->word.load() == alive; }));
  std::atomic<bool> waiting{false};
  int woken = -1;
  std::thread waiter([&] {
    const std::array<FutexWaiter, 1> words{{{&life->word, alive}}};
    waiting.store(true);
    woken = futex_wait_any(words, late());
  });
  ASSERT_TRUE(wait_until([&] { return waiting.load(); }));
  EXPECT_EQ(send_signal(pidfd.get(), SIGKILL), 0);
  waiter.join();
  EXPECT_TRUE(woken == 0 || woken == -EAGAIN) << woken;
  EXPECT_NE(life->word.load() & kFutexOwnerDied, 0U);
  EXPECT_EQ(has_ended(pidfd.get(), late()), 1);
  ExitStatus status;
  EXPECT_EQ(reap(pidfd.get(), status), 1);
  EXPECT_EQ(status.signal, SIGKILL);
  EXPECT_EQ(reap(pidfd.get(), status), -ECHILD) << "only once";
  EXPECT_EQ(send_signal(pidfd.get(), 0), -ESRCH);
}

TEST(SysLifeTest, LifeWordsAndRobustMutexesOfOneThreadDoNotDisturbEachOther) {
  struct Both {
    RobustWord first, second;
    pthread_mutex_t mutexes[3];
  };
  Shared<Both> both;
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
  for (pthread_mutex_t& mutex : both->mutexes) pthread_mutex_init(&mutex, &attributes);
  pthread_mutexattr_destroy(&attributes);

  const int status = in_quiet_child([&] {
    pthread_mutex_t* const m = both->mutexes;
    if (pthread_mutex_lock(&m[0]) != 0 || hold_until_death(both->first) != 0) return 1;
    if (pthread_mutex_lock(&m[1]) != 0 || hold_until_death(both->second) != 0) return 2;
    if (pthread_mutex_unlock(&m[0]) != 0 || pthread_mutex_lock(&m[2]) != 0) return 3;
    return pthread_mutex_unlock(&m[1]) != 0 ? 4 : 5;
  });
  EXPECT_EQ(status, 5);
  EXPECT_NE(both->first.word.load() & kFutexOwnerDied, 0U);
  EXPECT_NE(both->second.word.load() & kFutexOwnerDied, 0U);
  EXPECT_EQ(pthread_mutex_trylock(&both->mutexes[0]), 0);
  EXPECT_EQ(pthread_mutex_trylock(&both->mutexes[1]), 0);
  EXPECT_EQ(pthread_mutex_trylock(&both->mutexes[2]), EOWNERDEAD);
  pthread_mutex_consistent(&both->mutexes[2]);
  for (pthread_mutex_t& mutex : both->mutexes) pthread_mutex_unlock(&mutex);
}

// ---- dying

TEST(SysProcfsTest, TheStatusOfADeadProcessIsKnownBeforeItIsReaped) {
  struct Case {
    std::function<int()> body;
    int status;
  };
  const std::vector<Case> cases = {{[] { return 7; }, 7 << 8},
                                   {[] { return raise(SIGKILL); }, SIGKILL}};
  EXPECT_FALSE(status_of_dying(getpid()).has_value());
  for (const Case& one : cases) {
    Fd pidfd;
    const long pid = clone_quiet(pidfd);
    if (pid == 0) exit_now(one.body());
    ASSERT_EQ(has_ended(pidfd.get(), late()), 1);
    EXPECT_EQ(status_of_dying(static_cast<int>(pid)), one.status);
    ExitStatus status;
    EXPECT_EQ(reap(pidfd.get(), status), 1);
    EXPECT_FALSE(status_of_dying(static_cast<int>(pid)).has_value()) << "gone";
  }
}

TEST(SysProcfsTest, PrivateWritableMemoryIsStackHeapAndGlobals) {
  static int global = 0;
  int local = 0;
  const auto on_heap = std::make_unique<int>(0);
  static const int constant = 5;
  const std::vector<MemoryRange> ranges = private_writable_memory().value();
  const auto holds = [&](const void* address) {
    const auto at = reinterpret_cast<std::uintptr_t>(address);
    for (const MemoryRange& range : ranges) {
      if (at >= range.begin && at < range.end) return true;
    }
    return false;
  };
  EXPECT_TRUE(holds(&global) && holds(&local) && holds(on_heap.get()));
  EXPECT_FALSE(holds(&constant) || holds("text"));
}

TEST(SysProcfsTest, UsageIsThatOfTheProcess) {
  const auto usage = usage_of(getpid());
  ASSERT_TRUE(usage.has_value());
  EXPECT_GT(usage->rss_bytes, std::uint64_t{1} << 16);
  EXPECT_FALSE(usage_of(-1).has_value());
}

// ---- children

TEST(SysProcfsTest, OwnMemoryIsWhatIsNotShared) {
  if (test::kSanitized) GTEST_SKIP() << "the tool's own memory grows with all other";
  constexpr std::size_t kBytes = std::size_t{16} << 20U;
  const auto grown_by = [&](int flags) {
    const std::uint64_t before = own_memory_of(getpid()).value();
    void* memory = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
    std::memset(memory, 1, kBytes);
    const std::uint64_t after = own_memory_of(getpid()).value();
    munmap(memory, kBytes);
    return after > before ? after - before : 0;
  };
  EXPECT_GT(grown_by(MAP_PRIVATE), kBytes * 3 / 4);
  EXPECT_LT(grown_by(MAP_SHARED), kBytes / 4);
  EXPECT_FALSE(own_memory_of(INT_MAX));
}

TEST(SysProcfsTest, ALabelledNumberIsFoundByItsWholeLabel) {
  const std::string path = "/tmp/brood-labels-" + std::to_string(getpid());
  std::ofstream(path) << "oom 3\noom_kill_disable 0\noom_kill 12\nmax many\n";
  EXPECT_EQ(labelled_number(path.c_str(), "oom_kill"), 12U);
  EXPECT_EQ(labelled_number(path.c_str(), "oom"), 3U);
  EXPECT_EQ(labelled_number(path.c_str(), "max"), std::nullopt);
  EXPECT_EQ(labelled_number(path.c_str(), "low"), std::nullopt);
  std::remove(path.c_str());
  EXPECT_EQ(labelled_number(path.c_str(), "oom"), std::nullopt);
}

TEST(SysProcessTest, ASiblingIsAChildOfOnesParent) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  Fd pidfd;
  const long child = clone_quiet(pidfd);
  ASSERT_GE(child, 0);
  if (child == 0) {
    const long sibling = clone_sibling();
    if (sibling == 0) exit_now(7);
    static_cast<void>(!write(ends[1], &sibling, sizeof sibling));
    exit_now(is_child(static_cast<int>(sibling)) ? 1 : 0);
  }
  long sibling = 0;
  ASSERT_EQ(read(ends[0], &sibling, sizeof sibling), static_cast<ssize_t>(sizeof sibling));
  ASSERT_GT(sibling, 0);
  EXPECT_TRUE(is_child(static_cast<int>(sibling)));
  ExitStatus status;
  EXPECT_EQ(has_ended(pidfd.get(), kForever), 1);
  EXPECT_EQ(reap(pidfd.get(), status), 1);
  EXPECT_EQ(status.code, 0);
  const Fd other(open_pidfd(static_cast<int>(sibling)));
  EXPECT_EQ(has_ended(other.get(), kForever), 1);
  EXPECT_EQ(reap_child(static_cast<int>(sibling), status), 1);
  EXPECT_EQ(status.code, 7);
  EXPECT_FALSE(is_child(static_cast<int>(sibling)));
  close(ends[0]);
  close(ends[1]);
}

TEST(SysProcessTest, AQuietChildIsInvisibleToWaitAndIsReapedByItsPidfd) {
  Fd pidfd;
  const long pid = clone_quiet(pidfd);
  if (pid == 0) exit_now(9);
  ASSERT_GT(pid, 0);
  EXPECT_TRUE(closes_on_exec(pidfd.get()));
  ASSERT_EQ(has_ended(pidfd.get(), late()), 1);
  EXPECT_EQ(waitpid(-1, nullptr, 0), -1);
  EXPECT_EQ(errno, ECHILD);
  ExitStatus status;
  EXPECT_EQ(reap(pidfd.get(), status), 1);
  EXPECT_EQ(status.code, 9);
  EXPECT_EQ(status.signal, 0);
}

TEST(SysProcessTest, AChildThatRunsHasNotEndedAndHasNoStatus) {
  Fd pidfd;
  const long pid = clone_quiet(pidfd);
  if (pid == 0) {
    for (;;) pause();
  }
  ExitStatus status;
  EXPECT_EQ(has_ended(pidfd.get(), soon()), 0);
  EXPECT_EQ(reap(pidfd.get(), status), 0);
  EXPECT_EQ(send_signal(pidfd.get(), SIGTERM), 0);
  EXPECT_EQ(has_ended(pidfd.get(), kForever), 1);
  EXPECT_EQ(reap(pidfd.get(), status), 1);
  EXPECT_EQ(status.signal, SIGTERM);
}

TEST(SysProcessTest, TheCLibraryKnowsAQuietChildAsWhatItIs) {
  static pthread_mutex_t plain = PTHREAD_MUTEX_INITIALIZER;
  static pthread_mutex_t recursive = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ERRORCHECK);
  static pthread_mutex_t robust;
  pthread_mutex_init(&robust, &attributes);
  pthread_mutexattr_destroy(&attributes);
  pthread_mutex_lock(&robust);  // on this thread's list while the child is made

  const int status = in_quiet_child([] {
    if (gettid() != getpid() || thread_id() != process_id()) return 1;
    if (pthread_kill(pthread_self(), 0) != 0) return 2;
    if (pthread_mutex_lock(&plain) != 0 || pthread_mutex_unlock(&plain) != 0) return 3;
    for (int i = 0; i < 2; ++i) {
      if (pthread_mutex_lock(&recursive) != 0) return 4;
    }
    if ((recursive.__data.__owner) != gettid()) return 5;
    for (int i = 0; i < 2; ++i) {
      if (pthread_mutex_unlock(&recursive) != 0) return 6;
    }
    if (pthread_mutex_trylock(&robust) != EBUSY) return 7;  // the parent's, not its own
    std::thread other([] {
      const auto text = std::make_unique<std::string>(1000, 'x');
      if (gettid() == getpid() || text->size() != 1000) exit_now(8);
    });
    other.join();
    return 0;
  });
  EXPECT_EQ(status, 0);
  EXPECT_EQ(pthread_mutex_unlock(&robust), 0);
  pthread_mutex_destroy(&robust);
}

TEST(SysProcessTest, RobustMutexesThatAQuietChildHoldsTellOfItsDeath) {
  Shared<pthread_mutex_t> mutex;
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
  pthread_mutex_init(mutex.value, &attributes);
  pthread_mutexattr_destroy(&attributes);
  EXPECT_EQ(in_quiet_child([&] {
              pthread_mutex_lock(mutex.value);
              return raise(SIGKILL);
            }),
            200 + SIGKILL);
  EXPECT_EQ(pthread_mutex_lock(mutex.value), EOWNERDEAD);
  pthread_mutex_consistent(mutex.value);
  pthread_mutex_unlock(mutex.value);
}

TEST(SysProcessTest, ALoudChildIsVisibleToWait) {
  Fd pidfd;
  const long pid = fork_loud(pidfd);
  if (pid == 0) _exit(6);
  ASSERT_GT(pid, 0);
  int status = 0;
  EXPECT_EQ(waitpid(-1, &status, 0), pid);
  EXPECT_EQ(WEXITSTATUS(status), 6);
  EXPECT_EQ(has_ended(pidfd.get(), late()), 1);
  ExitStatus taken;
  EXPECT_EQ(reap(pidfd.get(), taken), -ECHILD) << "the host was faster";
}

TEST(SysProcessTest, AnOrphanOfAThreadedProcessIsNobodysChildAndMayUseTheHeap) {
  std::atomic<bool> over{false};
  std::vector<std::thread> storm;
  for (int t = 0; t < 4; ++t) {
    storm.emplace_back([&] {
      while (!over.load()) {
        for (std::size_t n = 1; n < 50'000; n *= 2) std::make_unique<std::string>(n, 'x');
      }
    });
  }
  Shared<std::atomic<int>> right;
  for (int round = 0; round < 30; ++round) {
    Fd pidfd;
    const long pid = fork_orphan(pidfd);
    if (pid == 0) {
      std::vector<std::string> texts;
      for (std::size_t n = 0; n < 100; ++n) texts.emplace_back(n * 100, 'y');
      const bool well = gettid() == getpid() && texts.back().size() == 9900;
      right->fetch_add(well ? 1 : 0);
      _exit(0);
    }
    ASSERT_GT(pid, 0);
    ASSERT_EQ(has_ended(pidfd.get(), late()), 1);
    ExitStatus status;
    EXPECT_EQ(reap(pidfd.get(), status), -ECHILD);
  }
  over.store(true);
  for (std::thread& t : storm) t.join();
  EXPECT_EQ(right->load(), 30);
  EXPECT_EQ(waitpid(-1, nullptr, 0), -1) << "not even a helper was left";
  EXPECT_EQ(errno, ECHILD);
}

TEST(SysProcessTest, ThreadsAreCounted) {
  EXPECT_EQ(thread_count(), 1);
  std::atomic<bool> over{false};
  std::thread other([&] {
    while (!over.load()) std::this_thread::yield();
  });
  EXPECT_EQ(thread_count(), 2);
  over.store(true);
  other.join();
}

TEST(SysProcessTest, AWaitStatusIsReadAsTheKernelMeansIt) {
  EXPECT_EQ(ExitStatus::from_wait_status(5 << 8).code, 5);
  EXPECT_EQ(ExitStatus::from_wait_status(5 << 8).signal, 0);
  EXPECT_EQ(ExitStatus::from_wait_status(SIGSEGV).signal, SIGSEGV);
  EXPECT_FALSE(ExitStatus::from_wait_status(SIGSEGV).core);
  EXPECT_TRUE(ExitStatus::from_wait_status(SIGSEGV | 0x80).core);
}

TEST(SysProcessTest, EachProcessHasATokenOfItsOwnWhoeverForkedIt) {
  const std::uint64_t mine = process_token();
  EXPECT_NE(mine, 0U);
  EXPECT_EQ(process_token(), mine);
  const auto has_another = [mine] {
    const std::uint64_t its = process_token();
    return its != mine && its != 0 && process_token() == its ? 0 : 1;
  };
  EXPECT_EQ(in_child(has_another), 0);
  EXPECT_EQ(in_quiet_child(has_another), 0);
}

// ---- signals

std::atomic<int> handled{0};

TEST(SysSignalsTest, SignalsAreHeldBackForAsLongAsTheyAreBlocked) {
  handled.store(0);
  on_signal(SIGUSR1, [](int) { handled.fetch_add(1); });
  {
    const SignalsBlocked blocked;
    raise(SIGUSR1);
    {
      const SignalsBlocked inner;
    }
    EXPECT_EQ(handled.load(), 0);
  }
  EXPECT_EQ(handled.load(), 1);
  std::signal(SIGUSR1, SIG_DFL);
}

TEST(SysSignalsTest, ResetSignalsGivesDefaultsAndAnEmptyMask) {
  const int status = in_child([] {
    std::signal(SIGTERM, SIG_IGN);
    std::signal(SIGUSR1, [](int) {});
    SignalsBlocked blocked;
    blocked.keep();
    reset_signals();
    raise(SIGTERM);
    return 1;
  });
  EXPECT_EQ(status, 200 + SIGTERM);
}

TEST(SysSignalsTest, ACrashIsReportedAndThenTakesItsCourse) {
  static Shared<Crash> seen;
  const auto crashes_with = [](const std::function<void()>& crash) {
    return in_child([&] {
      on_crash([](const Crash& c) { *seen = c; });
      crash();
      return 1;
    });
  };
  // Volatile, or the compiler sees what is wrong with it.
  static volatile std::uintptr_t nowhere = 0x10;
  EXPECT_EQ(crashes_with([] { *reinterpret_cast<volatile int*>(nowhere) = 1; }), 200 + SIGSEGV);
  EXPECT_EQ(seen->signal, SIGSEGV);
  EXPECT_EQ(seen->fault_address, 0x10U);
  EXPECT_EQ(crashes_with([] { raise(SIGABRT); }), 200 + SIGABRT);
  EXPECT_EQ(seen->signal, SIGABRT);
  EXPECT_EQ(seen->fault_address, 0U);
  EXPECT_EQ(crashes_with([] { kill(getpid(), SIGSEGV); }), 200 + SIGSEGV);
  EXPECT_EQ(seen->fault_address, 0U) << "a signal that was sent has no address";
}

// ---- memory

TEST(SysMemoryTest, AMemoryFileTakesMemoryAsItIsReservedAndGivesItBack) {
  constexpr std::size_t kBytes = std::size_t{64} << 20;
  const Fd file(create_memory_file("brood:test", kBytes));
  ASSERT_TRUE(file);
  EXPECT_TRUE(closes_on_exec(file.get()));
  EXPECT_EQ(memory_in_use(file.get()), 0);
  ASSERT_EQ(reserve_extent(file.get(), kPageBytes, 4 * kPageBytes), 0);
  EXPECT_EQ(memory_in_use(file.get()), static_cast<long>(4 * kPageBytes));
  Mapping mapping;
  ASSERT_EQ(mapping.map(file.get(), kBytes), 0);
  ASSERT_EQ(mapping.size(), kBytes);
  mapping.data()[kPageBytes] = std::byte{7};
  ASSERT_EQ(release_extent(file.get(), kPageBytes, 4 * kPageBytes), 0);
  EXPECT_EQ(memory_in_use(file.get()), 0);
  EXPECT_EQ(mapping.data()[kPageBytes], std::byte{0});
  EXPECT_LT(ftruncate(file.get(), 4096), 0) << "it can't shrink under a reader";
  EXPECT_LT(ftruncate(file.get(), 2 * kBytes), 0);

  Mapping moved = std::move(mapping);
  EXPECT_EQ(mapping.data(), nullptr);
  const auto address = reinterpret_cast<std::uintptr_t>(moved.data());
  EXPECT_TRUE(is_mapped(address));
  moved.unmap();
  EXPECT_FALSE(is_mapped(address));
}

TEST(SysMemoryTest, ALimitOnFileSizesIsAnErrorAndNoSignal) {
  const int status = in_child([] {
    const rlimit limit{1 << 20, 1 << 20};
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) return 1;
    if (create_memory_file("x", 2 << 20) != -EFBIG) return 2;
    return create_memory_file("x", 1 << 20) < 0 ? 3 : 0;
  });
  EXPECT_EQ(status, 0);
}

TEST(SysMemoryTest, MemoryCanBeMadeReadOnly) {
  const int status = in_child([] {
    auto* bytes = static_cast<char*>(map_private(2 * kPageBytes));
    if (bytes == nullptr || make_read_only(bytes, kPageBytes) != 0) return 1;
    bytes[kPageBytes] = 1;
    *static_cast<volatile char*>(bytes) = 1;
    return 2;
  });
  EXPECT_EQ(status, 200 + SIGSEGV);
}

TEST(SysMemoryTest, APageThatIsWipedOnForkReadsAsZerosInChildren) {
  auto* word = static_cast<std::uint64_t*>(map_wiped_on_fork());
  ASSERT_NE(word, nullptr);
  *word = 42;
  EXPECT_EQ(in_child([&] { return static_cast<int>(*word); }), 0);
  EXPECT_EQ(in_quiet_child([&] { return static_cast<int>(*word); }), 0);
  EXPECT_EQ(*word, 42U);
  unmap(word, kPageBytes);
}

// ---- the door itself

long refuses_everything(long, long, long, long, long, long, long) noexcept { return -EPERM; }

TEST(SysSyscallTest, TheKernelCanBeReplacedAndPutBack) {
  const KernelFn real = replace_kernel(refuses_everything);
  EXPECT_EQ(call(SYS_getpid), -EPERM);
  EXPECT_EQ(replace_kernel(real), refuses_everything);
  EXPECT_EQ(call(SYS_getpid), getpid());
  EXPECT_THROW(require(-ENOENT, "looking"), Error);
  EXPECT_EQ(require(5, "looking"), 5);
}

int interruptions = 0;
long interrupts_thrice(long nr, long a, long b, long c, long d, long e, long f) noexcept {
  if (nr == SYS_fallocate && interruptions++ < 3) return -EINTR;
  return kernel(nr, a, b, c, d, e, f);
}

TEST(SysSyscallTest, WhatWasInterruptedIsDoneAgain) {
  const Fd file(create_memory_file("x", kPageBytes));
  interruptions = 0;
  const KernelFn real = replace_kernel(interrupts_thrice);
  EXPECT_EQ(reserve_extent(file.get(), 0, kPageBytes), 0);
  replace_kernel(real);
  EXPECT_EQ(interruptions, 4);
  EXPECT_EQ(memory_in_use(file.get()), static_cast<long>(kPageBytes));
}

}  // namespace
}  // namespace brood::sys
