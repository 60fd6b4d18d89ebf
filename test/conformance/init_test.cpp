// init(), and children that are no copies of who asks for them: what they take over, what is
// refused, what becomes of them when others die.
#include <dlfcn.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <memory>
#include <mutex>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "brood/brood.hpp"
#include "support/host.hpp"
#include "support/ledger.hpp"
#include "support/pools.hpp"
#include "support/processes.hpp"
#include "warden/family.hpp"

namespace brood::test {
namespace {

// ---- init() itself

void do_nothing() {}
ExitCode return_code(int code) { return {code}; }

std::string error_of(const std::function<void()>& action) {
  try {
    action();
    return "nothing";
  } catch (const StartError& e) {
    return std::string("StartError: ") + e.what();
  } catch (const std::exception& e) {
    return std::string("another: ") + e.what();
  }
}

TEST(InitTest, WithoutItOnlyForkIsThere) {
  EXPECT_EQ(start_method(), StartMethod::fork);
  for (const StartMethod method : {StartMethod::forkserver, StartMethod::spawn}) {
    Process p({.start = method}, do_nothing);
    EXPECT_NE(error_of([&] { p.start(); }).find("needs brood::init"), std::string::npos);
    EXPECT_EQ(p.pid(), 0);
    EXPECT_NE(error_of([&] { set_start_method(method); }).find("needs brood::init"),
              std::string::npos);
    EXPECT_EQ(start_method(), StartMethod::fork);
    PoolOptions options;
    options.start = method;
    EXPECT_NE(error_of([&] { const Pool pool(options); }).find("needs brood::init"),
              std::string::npos);
  }
}

TEST(InitTest, AfterItForkserverIsTheDefault) {
  init();
  EXPECT_EQ(start_method(), StartMethod::forkserver);
  init();
  const int warden = warden::Family::current()->warden_pid();
  init();
  EXPECT_EQ(warden::Family::current()->warden_pid(), warden) << "again, it does nothing";
  Process p([] { return ExitCode{getppid() == warden::Family::current()->warden_pid() ? 3 : 4}; });
  p.start();
  p.join();
  EXPECT_EQ(p.exit_code(), 3);
}

TEST(InitTest, TheDefaultMayBeSetAndChildrenHaveItToo) {
  const HostRun run = run_host([] {
    init();
    set_start_method(StartMethod::spawn);
    Process p([] { return ExitCode{start_method() == StartMethod::spawn ? 5 : 6}; });
    p.start();
    p.join();
    HOST_CHECK(p.exit_code() == 5);
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
}

TEST(InitTest, BesideThreadsItThrowsUnlessTheyAreAccepted) {
  const HostRun run = run_host([] {
    std::atomic<bool> over{false};
    std::atomic<bool> begun{false};
    std::thread other([&] {
      begun.store(true);
      while (!over.load()) std::this_thread::yield();
    });
    // AddressSanitizer's own locks may be held while a thread begins: they would stay so in a copy.
    while (!begun.load()) std::this_thread::yield();
    HOST_CHECK(error_of([] { init(); }).find("2 threads") != std::string::npos);
    HOST_CHECK(start_method() == StartMethod::fork);
    init({.allow_threads = true});
    Process p(return_code, 9);
    p.start();
    p.join();
    HOST_CHECK(p.exit_code() == 9);
    over.store(true);
    other.join();
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
}

TEST(InitTest, AfterThePoolItIsTooLate) {
  const Pool pool(1);
  EXPECT_NE(error_of([] { init(); }).find("before the first pool"), std::string::npos);
}

TEST(InitTest, AfterASharedObjectToo) {
  const Lock lock;
  EXPECT_NE(error_of([] { init(); }).find("shared object"), std::string::npos);
}

TEST(InitTest, ALimitOnSharedMemoryHoldsForEveryPool) {
  const HostRun run = run_host([] {
    init({.arena_limit_bytes = std::size_t{8} << 20, .huge_pages = true});
    Pool pool(1);
    HOST_CHECK(pool.apply([](const std::string& s) { return s.size(); },
                          std::string(1 << 20, 'x')) == 1 << 20);
    bool refused = false;
    try {
      pool.apply([](const std::string& s) { return s.size(); }, std::string(64 << 20, 'x'));
    } catch (const ArenaFull&) {
      refused = true;
    }
    HOST_CHECK(refused);
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
}

// ---- what children take over

class TakeOverTest : public testing::TestWithParam<StartMethod> {
 protected:
  [[nodiscard]] std::string path(const std::string& name) const { return folder_.path(name); }
  [[nodiscard]] std::string text_of(const std::string& name) const { return read_file(path(name)); }

 private:
  TempFolder folder_;
};
BROOD_FOR_EACH_START_METHOD(TakeOverTest);

// Runs `function` in a child of a host that has called `change` after init().
template <class Change, class F, class... Args>
std::string run_after(StartMethod method, Change&& change, F function, const Args&... args) {
  const HostRun run = run_host([&] {
    prepare_for(method);
    change();
    Process p({.start = method}, function, args...);
    try {
      p.start();
    } catch (const StartError& e) {
      say(e.what());
      return 3;
    }
    p.join();
    return p.exit_code().value_or(98);
  });
  return run.end + (run.out.empty() ? "" : ": " + run.out);
}

void describe_self(const std::string& path) {
  std::ofstream out(path);
  char directory[4096] = "";
  out << (getcwd(directory, sizeof directory) != nullptr ? directory : "?") << "\n";
  const mode_t mask = umask(0);
  umask(mask);
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  rlimit stack{};
  getrlimit(RLIMIT_STACK, &stack);
  cpu_set_t processors;
  sched_getaffinity(0, sizeof processors, &processors);
  const char* added = std::getenv("BROOD_ADDED");
  out << std::oct << mask << std::dec << " " << files.rlim_cur << " " << stack.rlim_cur << " "
      << CPU_COUNT(&processors) << " " << getpriority(PRIO_PROCESS, 0) << " "
      << (added != nullptr ? added : "none") << " " << (std::getenv("HOME") != nullptr) << "\n";
}

TEST_P(TakeOverTest, DirectoryMaskLimitsProcessorsNicenessAndEnvironmentAreThoseOfNow) {
  const std::string out = path("self");
  const auto change = [] {
    if (chdir("/usr/lib") != 0) std::exit(90);
    umask(031);
    const rlimit files{100, 1000};
    setrlimit(RLIMIT_NOFILE, &files);
    const rlimit stack{4 << 20, RLIM_INFINITY};
    setrlimit(RLIMIT_STACK, &stack);
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(static_cast<std::size_t>(sched_getcpu()), &one);
    sched_setaffinity(0, sizeof one, &one);
    setpriority(PRIO_PROCESS, 0, 7);
    setenv("BROOD_ADDED", "later", 1);
    unsetenv("HOME");
  };
  ASSERT_EQ(run_after(GetParam(), change, describe_self, out), "exit 0");
  EXPECT_EQ(text_of("self"), "/usr/lib\n31 100 4194304 1 7 later 0\n");
}

void print_a_line() { std::printf("printed by the child\n"); }

TEST_P(TakeOverTest, OutputGoesWhereItGoesNow) {
  const std::string out = path("out");
  const auto change = [&out] {
    const int file = open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    dup2(file, 1);
    close(file);
  };
  EXPECT_EQ(run_after(GetParam(), change, print_a_line), "exit 0");
  EXPECT_EQ(text_of("out"), "printed by the child\n");
}

TEST_P(TakeOverTest, ClosedStreamsStayClosed) {
  const auto change = [] {
    close(0);
    close(1);
    close(2);
  };
  const auto is_closed = [] {
    std::printf("lost\n");
    std::fprintf(stderr, "lost\n");
    return ExitCode{fcntl(1, F_GETFD) == -1 && fcntl(2, F_GETFD) == -1 ? 0 : 44};
  };
  EXPECT_EQ(run_after(GetParam(), change, is_closed), "exit 0");
}

// ---- authority

constexpr unsigned kNobody = 65534;

void become_nobody() {
  if (setgroups(0, nullptr) != 0 || setresgid(kNobody, kNobody, kNobody) != 0 ||
      setresuid(kNobody, kNobody, kNobody) != 0) {
    std::exit(91);
  }
}

ExitCode is_nobody_for_good() {
  uid_t ids[3];
  if (getresuid(&ids[0], &ids[1], &ids[2]) != 0) return {50};
  for (const uid_t id : ids) {
    if (id != kNobody) return {51};
  }
  if (getgid() != kNobody || getgroups(0, nullptr) != 0) return {52};
  if (setuid(0) == 0 || setgid(0) == 0) return {53};
  if (field_of_status(getpid(), "CapEff") != "0000000000000000" ||
      field_of_status(getpid(), "CapPrm") != "0000000000000000") {
    return {54};
  }
  return {0};
}

TEST_P(TakeOverTest, AHostThatGaveUpRootHasChildrenWithoutIt) {
  if (getuid() != 0) GTEST_SKIP() << "needs to be root";
  // Under spawn the new user has to be allowed to execute the program: else the start is refused.
  const std::string end = run_after(GetParam(), become_nobody, is_nobody_for_good);
  EXPECT_TRUE(end == "exit 0" || (GetParam() == StartMethod::spawn &&
                                  end.find("executing the program") != std::string::npos))
      << end;
}

TEST_P(TakeOverTest, CapabilitiesThatAreLostAreLostForChildren) {
  if (getuid() != 0) GTEST_SKIP() << "needs to be root";
  constexpr int kNetRaw = 13;
  const auto lacks_it = [] {
    const std::string bounding = field_of_status(getpid(), "CapBnd");
    return ExitCode{(std::stoull(bounding, nullptr, 16) >> 13U & 1U) == 0 ? 0 : 55};
  };
  EXPECT_EQ(
      run_after(GetParam(), [] { prctl(PR_CAPBSET_DROP, kNetRaw, 0, 0, 0); }, lacks_it), "exit 0");
}

class RefusedAuthorityTest : public TakeOverTest {};
INSTANTIATE_TEST_SUITE_P(, RefusedAuthorityTest,
                         testing::Values(StartMethod::forkserver, StartMethod::spawn),
                         start_method_name);

TEST_P(RefusedAuthorityTest, WhatCannotBeGivenIsRefused) {
  if (getuid() != 0) GTEST_SKIP() << "needs to be root";
  const std::string root = path("root");
  mkdir(root.c_str(), 0755);
  struct Case {
    std::function<void()> change;
    std::string reason;
  };
  const std::vector<Case> cases = {
      {[] { prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); }, "another no_new_privs flag"},
      {[] {
         if (unshare(CLONE_NEWUTS) != 0) std::exit(92);
       },
       "other namespaces"},
      {[root] {
         if (chroot(root.c_str()) != 0) std::exit(93);
       },
       "another root directory"},
  };
  for (const Case& refused : cases) {
    // There is no /proc there, in which the sanitizer looks for leaks.
    if (kSanitized && refused.reason == "another root directory") continue;
    const std::string end = run_after(GetParam(), refused.change, do_nothing);
    EXPECT_TRUE(end.starts_with("exit 3") && end.find(refused.reason) != std::string::npos)
        << refused.reason << ": " << end;
  }
}

// ---- deaths

class BornTest : public StartMethodTest {
 protected:
  [[nodiscard]] std::string path(const std::string& name) const { return folder_.path(name); }

 private:
  TempFolder folder_;
};
INSTANTIATE_TEST_SUITE_P(, BornTest, testing::Values(StartMethod::forkserver, StartMethod::spawn),
                         start_method_name);

void record_and_wait(const std::string& path, const std::string& gate) {
  record(path, getpid());
  wait_at_gate(gate);
}

TEST_P(BornTest, IfTheWardenIsKilledChildrenFinishAndStartsAreFamilyBroken) {
  const StartMethod method = GetParam();
  const std::string pid = path("pid");
  const std::string gate = path("gate");
  const HostRun run = run_host([=] {
    prepare_for(method);
    Process running({.start = method}, record_and_wait, pid, gate);
    running.start();
    HOST_CHECK(wait_until([&] { return recorded(pid).size() == 1; }));
    kill(warden::Family::current()->warden_pid(), SIGKILL);
    HOST_CHECK(running.is_alive());
    Process later({.start = method}, do_nothing);
    HOST_CHECK(wait_until([&] { return warden::Family::current()->warden_lost(); }));
    HOST_CHECK(outcome_of([&] { later.start(); }) == "FamilyBroken");
    open_gate(gate);
    HOST_CHECK(running.join_for(kHangGuard));
    HOST_CHECK(!running.exit_code().has_value());  // who would know
    HOST_CHECK(!running.is_alive());
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0") << run.out;
}

TEST_P(BornTest, ChildrenAreReapedThoughNobodyJoins) {
  std::vector<Process> all;
  for (int i = 0; i < 20; ++i) {
    all.emplace_back(ProcessOptions{.start = GetParam()}, do_nothing);
    all.back().start();
  }
  EXPECT_TRUE(wait_until([&] {
    return std::ranges::none_of(all, [](const Process& p) { return look_at(p.pid()).has_value(); });
  })) << "zombies of the warden";
  for (Process& p : all) EXPECT_EQ(p.exit_code(), 0);
}

TEST_P(BornTest, AReadableSentinelMeansThatTheStatusIsKnown) {
  for (int i = 0; i < 50; ++i) {
    Process p({.start = GetParam()}, return_code, i);
    p.start();
    pollfd entry{p.sentinel(), POLLIN, 0};
    ASSERT_EQ(poll(&entry, 1, 60'000), 1);
    ASSERT_EQ(p.exit_code(), i);
  }
}

TEST_P(BornTest, AStartThatFailsChangesNothing) {
  if (kSanitized) GTEST_SKIP() << "without descriptors the sanitizer takes objects for broken";
  const StartMethod method = GetParam();
  const HostRun run = run_host([=] {
    prepare_for(method);
    rlimit before{};
    getrlimit(RLIMIT_NOFILE, &before);
    rlimit few = before;
    few.rlim_cur = 1;
    Process p({.start = method}, do_nothing);
    setrlimit(RLIMIT_NOFILE, &few);
    const std::string error = error_of([&] { p.start(); });
    setrlimit(RLIMIT_NOFILE, &before);
    HOST_CHECK(error != "nothing");
    HOST_CHECK(p.pid() == 0);
    Process again({.start = method}, return_code, 4);
    again.start();
    again.join();
    HOST_CHECK(again.exit_code() == 4);
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0") << run.out;
}

// ---- many, and beside threads

class ManyTest : public StartMethodTest {};
BROOD_FOR_EACH_START_METHOD(ManyTest);

TEST_P(ManyTest, AThousandOfWhichAHundredAtOnceAreKilledAtRandomLeaveNothing) {
  constexpr int kAll = kSanitized ? 200 : 1000;
  constexpr std::size_t kAtOnce = 100;
  std::mt19937 random(seed_of_the_day());
  struct Victim {
    std::unique_ptr<Process> process;
    bool is_killed;
  };
  std::vector<Victim> living;
  int started = 0;
  const auto start_one = [&] {
    const bool is_killed = random() % 2 == 0;
    const int pause_us = static_cast<int>(random() % 3000);
    living.push_back({std::make_unique<Process>(
                          ProcessOptions{.start = GetParam()},
                          [](int us, bool for_ever) {
                            usleep(static_cast<unsigned>(us));
                            while (for_ever) pause();
                            return ExitCode{7};
                          },
                          pause_us, is_killed),
                      is_killed});
    living.back().process->start();
    ++started;
  };
  const auto end_one = [&](std::size_t index) {
    Victim& victim = living[index];
    if (victim.is_killed) victim.process->kill();
    ASSERT_TRUE(victim.process->join_for(kHangGuard));
    ASSERT_EQ(victim.process->exit_code(), victim.is_killed ? -SIGKILL : 7);
    living.erase(living.begin() + static_cast<std::ptrdiff_t>(index));
  };
  while ((started < kAll || !living.empty()) && !HasFatalFailure()) {
    if (started < kAll && living.size() < kAtOnce) {
      start_one();
    } else {
      end_one(random() % living.size());
    }
  }
}

TEST(InitTest, BesideEightBusyThreadsFiveThousandChildrenAreStarted) {
  constexpr int kChildren = kSanitized ? 300 : 5000;
  init();
  std::atomic<bool> over{false};
  std::mutex contended;
  std::vector<std::thread> busy;
  for (unsigned t = 0; t < 8; ++t) {
    busy.emplace_back([&, t] {
      std::mt19937 random(t);
      std::vector<std::unique_ptr<std::string>> kept(16);
      while (!over.load(std::memory_order_relaxed)) {
        kept[random() % kept.size()] = std::make_unique<std::string>(random() % 5000, 'x');
        const std::lock_guard lock(contended);
        std::ostringstream log;
        log << "thread " << t << " has " << kept.size();
        // The processor is for the children, too.
        if (random() % 64 == 0) std::this_thread::yield();
      }
    });
  }
  for (int i = 0; i < kChildren; ++i) {
    Process p([](int n) { return ExitCode{std::to_string(n).size() == 4 ? 1 : 0}; }, i);
    p.start();
    ASSERT_TRUE(p.join_for(kHangGuard)) << "child " << i;
    ASSERT_EQ(p.exit_code(), i >= 1000 ? 1 : 0);
  }
  over.store(true);
  for (std::thread& t : busy) t.join();
}

}  // namespace
}  // namespace brood::test
