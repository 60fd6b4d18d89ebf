// More workers than processors: short tasks wake no more of them than are of use, and that keeps
// no task waiting that needs one.
#include <sys/types.h>
#include <unistd.h>

#include <csignal>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <set>
#include <vector>

#include "brood/brood.hpp"
#include "support/pools.hpp"
#include "support/processes.hpp"

namespace brood::test {
namespace {

using ManyWorkersTest = PoolConformance;
BROOD_FOR_EACH_START_METHOD(ManyWorkersTest);

constexpr std::size_t kTooMany = 4;  // beside those that there are processors for

int own_pid() { return getpid(); }
pid_t parent_of_worker() { return getppid(); }
void meet(Barrier barrier) { barrier.wait(); }
pid_t pid_at(Barrier barrier) {
  barrier.wait();
  return getpid();
}
void hold(Event end) { end.wait(); }

std::size_t many_workers() { return cpu_count() + kTooMany; }

// Until workers know that tasks are short. The processes that ran the last of them.
std::set<pid_t> run_short_tasks(Pool& pool, int count) {
  std::deque<Future<int>> window;
  std::set<pid_t> pids;
  for (int i = 0; i < count; ++i) {
    window.push_back(pool.submit(own_pid));
    if (window.size() < 256) continue;
    pids.insert(window.front().get());
    window.pop_front();
  }
  pids.clear();
  for (Future<int>& future : window) pids.insert(future.get());
  return pids;
}

// Each of these tasks ends only when all run.
void have_all_meet(Pool& pool) {
  const Barrier barrier(static_cast<std::int64_t>(many_workers()));
  std::vector<Future<void>> meeting;
  for (std::size_t i = 0; i < many_workers(); ++i) meeting.push_back(pool.submit(meet, barrier));
  for (Future<void>& future : meeting) {
    ASSERT_TRUE(future.wait_for(kHangGuard)) << "a task waits although a worker sleeps";
    future.get();
  }
}

TEST_P(ManyWorkersTest, AllOfThemRunTheLongTasksThatFollowShortOnes) {
  Pool pool(with(many_workers()));
  for (int round = 0; round < 5; ++round) {
    run_short_tasks(pool, 5'000);
    have_all_meet(pool);
  }
}

// Nobody asks for a result meanwhile, who might find that something is wrong.
TEST_P(ManyWorkersTest, AStoppedWorkerHoldsUpNoTaskButItsOwn) {
  Pool pool(with(many_workers()));
  for (int round = 0; round < 5; ++round) {
    const std::set<pid_t> pids = run_short_tasks(pool, 5'000);
    constexpr std::size_t kTasks = 2'000;
    std::vector<Future<int>> futures;
    for (std::size_t i = 0; i < kTasks / 2; ++i) futures.push_back(pool.submit(own_pid));
    for (const pid_t pid : pids) kill(pid, SIGSTOP);
    for (std::size_t i = 0; i < kTasks / 2; ++i) futures.push_back(pool.submit(own_pid));
    const auto count_ready = [&] {
      std::size_t ready = 0;
      for (const Future<int>& future : futures) ready += future.ready() ? 1U : 0U;
      return ready;
    };
    if (pids.size() < many_workers()) {
      EXPECT_TRUE(wait_until([&] { return count_ready() + pids.size() >= kTasks; }))
          << count_ready() << " of " << kTasks << ", with " << pids.size() << " stopped";
    }
    for (const pid_t pid : pids) kill(pid, SIGCONT);
    for (Future<int>& future : futures) EXPECT_TRUE(future.wait_for(kHangGuard));
  }
}

TEST_P(ManyWorkersTest, WhoIsStoppedBeforeItComesKeepsNoTaskThatNobodyWaitsFor) {
  Pool pool(with(3));
  const Barrier barrier(3);
  std::vector<Future<pid_t>> pids;
  for (int i = 0; i < 3; ++i) pids.push_back(pool.submit(pid_at, barrier));
  for (Future<pid_t>& future : pids) {
    const pid_t pid = future.get();
    ASSERT_TRUE(stop_and_see(pid));
    // Two in turn: the second finds the other one as it is after the first.
    for (int i = 0; i < 2; ++i) {
      const Future<int> next = pool.submit(own_pid);
      EXPECT_TRUE(wait_until([&] { return next.ready(); })) << "others sleep";
    }
    kill(pid, SIGCONT);
  }
}

// The one that is woken for the task before may be the stopped one: so each of them is in its turn.
TEST_P(ManyWorkersTest, AStoppedWorkerKeepsNobodyWaitingForRoom) {
  PoolOptions options = with(2);
  options.max_pending = 1;
  Pool pool(options);
  const Barrier barrier(2);
  Future<pid_t> pids[] = {pool.submit(pid_at, barrier), pool.submit(pid_at, barrier)};
  for (Future<pid_t>& future : pids) {
    const pid_t pid = future.get();
    ASSERT_TRUE(stop_and_see(pid));
    Future<int> taken = pool.submit(own_pid);
    std::optional<Future<int>> next = pool.submit_for(kHangGuard, own_pid);
    EXPECT_TRUE(next.has_value()) << "the other one sleeps";
    kill(pid, SIGCONT);
    EXPECT_TRUE(taken.wait_for(kHangGuard));
    EXPECT_TRUE(!next || next->wait_for(kHangGuard));
  }
}

// Who tells that workers which were said to be coming don't come may itself be stopped.
TEST_P(ManyWorkersTest, AStoppedSupervisorHoldsUpNoTaskThatIsWaitedFor) {
  Pool pool(with(many_workers()));
  have_all_meet(pool);
  run_short_tasks(pool, 5'000);
  const pid_t supervisor = pool.submit(parent_of_worker).get();
  ASSERT_TRUE(stop_and_see(supervisor));
  const Event end;
  std::vector<Future<void>> long_ones;
  for (std::size_t i = 0; i < cpu_count(); ++i) long_ones.push_back(pool.submit(hold, end));
  Future<int> next = pool.submit(own_pid);
  EXPECT_TRUE(next.wait_for(kHangGuard)) << "it waits although workers sleep";
  kill(supervisor, SIGCONT);
  end.set();
  for (Future<void>& future : long_ones) EXPECT_TRUE(future.wait_for(kHangGuard));
}

}  // namespace
}  // namespace brood::test
