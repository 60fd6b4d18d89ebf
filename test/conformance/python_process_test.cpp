// What CPython's own tests check of processes (docs/conformance.md says which is which), once for
// each start method: children know nothing but their arguments.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <numeric>
#include <stdexcept>
#include <streambuf>
#include <string>
#include <thread>
#include <vector>

#include "brood/brood.hpp"
#include "support/host.hpp"
#include "support/ledger.hpp"
#include "support/pools.hpp"
#include "support/processes.hpp"

namespace brood::test {
namespace {

ProcessOptions by(StartMethod method, std::string name = {}) {
  return {.name = std::move(name), .start = method};
}

class PythonProcessTest : public StartMethodTest {
 protected:
  static ProcessOptions options(std::string name = {}) { return by(GetParam(), std::move(name)); }
  [[nodiscard]] std::string path(const std::string& name) const { return folder_.path(name); }

 private:
  TempFolder folder_;
};
BROOD_FOR_EACH_START_METHOD(PythonProcessTest);

void sleep_ms(int ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }
void sleep_long() { sleep_ms(1'000'000); }

// ---- many processes, and trees of them

TEST_P(PythonProcessTest, AHundredShortOnesAndAHundredTerminatedOnes) {
  constexpr int kMany = 100;
  std::vector<Process> all;
  for (int i = 0; i < kMany; ++i) all.emplace_back(options(), sleep_ms, 10);
  for (Process& p : all) p.start();
  for (Process& p : all) {
    EXPECT_TRUE(p.join_for(kHangGuard));
    EXPECT_EQ(p.exit_code(), 0);
  }
  all.clear();
  for (int i = 0; i < kMany; ++i) {
    all.emplace_back(options(), sleep_long);
    all.back().start();
  }
  // Some have hardly begun to exist.
  for (Process& p : all) p.terminate();
  for (Process& p : all) {
    EXPECT_TRUE(p.join_for(kHangGuard));
    EXPECT_EQ(p.exit_code(), -SIGTERM);
  }
}

// A node of the tree writes its path, as digits after a leading one, and then its children do.
void write_tree(const std::string& to, int node, StartMethod method) {
  record(to, node);
  if (node >= 100) return;
  for (const int digit : {0, 1}) {
    Process p(by(method), write_tree, to, node * 10 + digit, method);
    p.start();
    p.join();
  }
}

TEST_P(PythonProcessTest, ATreeOfChildrenIsDoneDepthFirst) {
  write_tree(path("tree"), 1, GetParam());
  EXPECT_EQ(recorded(path("tree")), (std::vector<std::int64_t>{1, 10, 100, 101, 11, 110, 111}));
}

std::int64_t hundredfold(std::int64_t n) { return n * 100; }

TEST_P(PythonProcessTest, APoolOfTwoHundredWorkersWorks) {
  PoolOptions options;
  options.workers = 200;
  options.start = GetParam();
  Pool pool(options);
  std::vector<std::int64_t> numbers(1000);
  std::iota(numbers.begin(), numbers.end(), 0);
  const std::vector<std::int64_t> results = pool.map(hundredfold, numbers);
  for (std::size_t i = 0; i < numbers.size(); ++i) EXPECT_EQ(results.at(i), numbers[i] * 100);
  pool.close();
  pool.join();
}

// ---- life

TEST_P(PythonProcessTest, JoinsThatNeedNotWaitReturnAtOnce) {
  Process p(options(), sleep_long);
  p.start();
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_FALSE(p.join_for(0s));
  EXPECT_FALSE(p.join_for(-1s));
  EXPECT_FALSE(p.join_for(std::chrono::nanoseconds::min()));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, kPromisedSecond);
  EXPECT_TRUE(p.is_alive());
  p.kill();
  p.join();
}

void write_ids(const std::string& to) {
  record(to, getpid());
  record(to, gettid());
}

TEST_P(PythonProcessTest, ItsFunctionRunsInItsMainThread) {
  Process p(options(), write_ids, path("ids"));
  p.start();
  p.join();
  EXPECT_EQ(recorded(path("ids")), (std::vector<std::int64_t>{p.pid(), p.pid()}));
  EXPECT_NE(p.pid(), getpid());
}

int calls_of_handler = 0;
void disturb_parent(int parent, const std::string& gate) {
  for (int i = 0; i < 5; ++i) {
    sleep_ms(10);
    kill(parent, SIGUSR1);
  }
  wait_at_gate(gate);
}

TEST_P(PythonProcessTest, AJoinIsNotEndedByASignal) {
  const StartMethod method = GetParam();
  const std::string gate = path("gate");
  const HostRun run = run_host([=] {
    struct sigaction action{};
    action.sa_handler = [](int) { ++calls_of_handler; };  // and no SA_RESTART
    sigaction(SIGUSR1, &action, nullptr);
    Process p(by(method), disturb_parent, getpid(), gate);
    p.start();
    HOST_CHECK(!p.join_for(200ms));
    HOST_CHECK(calls_of_handler > 0);
    open_gate(gate);
    p.join();
    HOST_CHECK(p.exit_code() == 0);
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
}

// ---- threads

void leave_threads(const std::string& to) {
  std::thread([] { sleep_long(); }).detach();
  const std::jthread joined([to] {
    sleep_ms(100);
    record(to, 1);
  });
}

// C++ has no list of threads to wait for: who wants a thread to finish joins it (std::jthread does
// so by itself), and the end of the function is that of detached ones, as it is in main().
TEST_P(PythonProcessTest, ThreadsThatAreJoinedAreWaitedForAndDetachedOnesAreNot) {
  Process p(options(), leave_threads, path("out"));
  p.start();
  EXPECT_TRUE(p.join_for(kHangGuard));
  EXPECT_EQ(p.exit_code(), 0);
  EXPECT_EQ(recorded(path("out")).size(), 1U);
}

TEST_P(PythonProcessTest, AnyThreadMayStartAProcessThatAsksForItsMethod) {
  std::vector<std::thread> threads;
  std::atomic<int> right{0};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      const std::string to = path("ids" + std::to_string(t));
      Process p(options(), write_ids, to);
      p.start();
      p.join();
      // The child has one thread, whichever of ours it was made by.
      const bool alone = recorded(to) == std::vector<std::int64_t>{p.pid(), p.pid()};
      if (p.exit_code() == 0 && alone) ++right;
    });
  }
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(right.load(), 4);
}

// ---- descriptors

void count_descriptors(const std::string& to, const std::string& gate) {
  record(to, static_cast<std::int64_t>(open_files(getpid()).size()));
  wait_at_gate(gate);
}

TEST_P(PythonProcessTest, SiblingsDoNotInheritEachOthersDescriptors) {
  if (GetParam() == StartMethod::fork) {
    GTEST_SKIP() << "a copy has what its original has: a pidfd of each sibling";
  }
  std::vector<Process> all;
  for (std::size_t i = 1; i <= 5; ++i) {
    all.emplace_back(options(), count_descriptors, path("counts"), path("gate"));
    all.back().start();
    ASSERT_TRUE(wait_until([&] { return recorded(path("counts")).size() == i; }));
  }
  open_gate(path("gate"));
  for (Process& p : all) p.join();
  EXPECT_EQ(counted(path("counts")).size(), 1U) << "all have the same number";
}

ExitCode has_descriptor(int fd, std::int64_t inode) {
  struct stat found{};
  const bool same = fstat(fd, &found) == 0 && static_cast<std::int64_t>(found.st_ino) == inode;
  return {same ? 1 : 0};
}

TEST_P(PythonProcessTest, AChildDoesNotHoldUnrelatedDescriptors) {
  if (GetParam() == StartMethod::fork) GTEST_SKIP() << "a copy has what its original has";
  const int fd = open(path("file").c_str(), O_RDWR | O_CREAT, 0600);
  ASSERT_GE(fd, 0);
  struct stat file{};
  ASSERT_EQ(fstat(fd, &file), 0);
  Process p(options(), has_descriptor, fd, static_cast<std::int64_t>(file.st_ino));
  p.start();
  p.join();
  close(fd);
  EXPECT_EQ(p.exit_code(), 0);
}

// ---- streams

struct BrokenStream : std::streambuf {
  int sync() override { throw std::runtime_error("this stream can't be flushed"); }
  int overflow(int /*c*/) override { return traits_type::eof(); }
};
void break_stream(std::ostream& stream) {
  static auto* const broken = new BrokenStream;  // streams are flushed after all else
  stream.rdbuf(broken);
  stream.exceptions(std::ios::badbit | std::ios::failbit);
}
void break_own_streams() {
  for (std::ostream* stream : {&std::cout, &std::clog}) break_stream(*stream);
  close(STDOUT_FILENO);
  close(STDERR_FILENO);
  std::printf("into nothing");
}

TEST_P(PythonProcessTest, AHostWithBrokenStreamsStartsProcesses) {
  const StartMethod method = GetParam();
  const HostRun run = run_host([method] {
    for (std::ostream* stream : {&std::cout, &std::clog}) break_stream(*stream);
    for (int i = 0; i < 2; ++i) {
      Process p(by(method), sleep_ms, 0);
      p.start();
      p.join();
      HOST_CHECK(p.exit_code() == 0);
      close(STDOUT_FILENO);
    }
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
}

TEST_P(PythonProcessTest, ABrokenStreamDoesNotKeepOthersFromBeingFlushed) {
  const StartMethod method = GetParam();
  const HostRun run = run_host([method] {
    std::ios::sync_with_stdio(false);
    std::clog.rdbuf(std::cout.rdbuf());
    break_stream(std::cout);
    std::clog << "once\n";
    Process p(by(method), sleep_ms, 0);
    p.start();
    p.join();
    return p.exit_code().value_or(99);
  });
  EXPECT_EQ(run.end, "exit 0");
  EXPECT_EQ(run.out, "once\n");
}

TEST_P(PythonProcessTest, AChildThatBreaksItsStreamsEndsWell) {
  Process p(options(), break_own_streams);
  p.start();
  p.join();
  EXPECT_EQ(p.exit_code(), 0);
}

// ---- a closed standard input

void write_number(const std::string& to) { record(to, 1); }
void start_one_more(const std::string& to, StartMethod method) {
  Process p(by(method), write_number, to);
  p.start();
  p.join();
}
ExitCode use_a_pool(StartMethod method) {
  PoolOptions options;
  options.workers = 2;
  options.start = method;
  Pool pool(options);
  const std::vector<std::int64_t> results =
      pool.map(hundredfold, std::vector<std::int64_t>{1, 2, 3});
  return {results == std::vector<std::int64_t>{100, 200, 300} ? 0 : 1};
}

TEST_P(PythonProcessTest, WithoutStandardInputProcessesInProcessesWork) {
  const StartMethod method = GetParam();
  const std::string to = path("out");
  const HostRun run = run_host([=] {
    close(STDIN_FILENO);
    Process p(by(method), start_one_more, to, method);
    p.start();
    p.join();
    return p.exit_code().value_or(99);
  });
  EXPECT_EQ(run.end, "exit 0");
  EXPECT_EQ(recorded(to).size(), 1U);
}

TEST_P(PythonProcessTest, WithoutStandardInputPoolsInProcessesWork) {
  const StartMethod method = GetParam();
  const HostRun run = run_host([method] {
    close(STDIN_FILENO);
    Process p(by(method), use_a_pool, method);
    p.start();
    p.join();
    return p.exit_code().value_or(99);
  });
  EXPECT_EQ(run.end, "exit 0");
}

// ---- the service process

TEST_P(PythonProcessTest, TheWardenIgnoresTheTerminalsSignals) {
  Process before(options(), sleep_ms, 0);
  before.start();
  before.join();
  const std::vector<ProcessInfo> wardens = named(children_of(getpid()), "brood:warden");
  ASSERT_EQ(wardens.size(), 1U);
  const int warden = wardens.front().pid;
  for (const int signal : {SIGINT, SIGQUIT, SIGHUP}) kill(warden, signal);
  Process after(options(), sleep_ms, 0);
  after.start();
  after.join();
  EXPECT_EQ(after.exit_code(), 0);
  EXPECT_TRUE(runs(warden)) << "the same one, and for children too";
  Process nested(options(), start_one_more, path("out"), GetParam());
  nested.start();
  nested.join();
  EXPECT_EQ(recorded(path("out")).size(), 1U);
  EXPECT_EQ(named(children_of(getpid()), "brood:warden").size(), 1U);
}

}  // namespace
}  // namespace brood::test
