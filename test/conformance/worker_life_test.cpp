// How long workers live: recycling, limits on memory, pools that shrink and grow, pools in pools.
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <numeric>
#include <optional>
#include <ranges>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "brood/brood.hpp"
#include "support/host.hpp"
#include "support/ledger.hpp"
#include "support/pools.hpp"
#include "support/processes.hpp"

namespace brood::test {
namespace {

class WorkerLifeTest : public PoolConformance {
 protected:
  [[nodiscard]] std::string path(const std::string& name) const { return folder_.path(name); }

 private:
  TempFolder folder_;
};
BROOD_FOR_EACH_START_METHOD(WorkerLifeTest);

constexpr std::size_t kMiB = std::size_t{1} << 20;

int own_pid() { return getpid(); }
int twice(int n) { return 2 * n; }
int pid_of(int /*n*/) { return getpid(); }

std::map<int, int> counted_by_pid(const std::vector<int>& pids) {
  std::map<int, int> counts;
  for (const int pid : pids) ++counts[pid];
  return counts;
}

// ---- recycling

TEST_P(WorkerLifeTest, AWorkerRunsSoManyTasksAndNoMore) {
  PoolOptions options = with(2);
  options.max_tasks_per_worker = 3;
  Pool pool(options);
  std::vector<Future<int>> futures;
  for (int i = 0; i < 60; ++i) futures.push_back(pool.submit(own_pid));
  std::vector<int> pids;
  for (Future<int>& future : futures) pids.push_back(future.get());
  for (const auto& [pid, times] : counted_by_pid(pids)) EXPECT_LE(times, 3) << pid;
  EXPECT_EQ(pool.stats().died, 0U);
  EXPECT_EQ(pool.stats().retried, 0U);
  // One by one, too; and all is counted.
  for (int i = 0; i < 20; ++i) EXPECT_EQ(pool.apply(twice, i), 2 * i);
  EXPECT_TRUE(wait_until([&] { return pool.stats().done == 80; })) << pool.stats().done;
  pool.close();
  EXPECT_TRUE(pool.join_for(kHangGuard));
}

int left_behind = 0;
int count_what_is_left_behind() { return left_behind++; }

TEST_P(WorkerLifeTest, IsolatedTasksMeetNothingThatAnotherLeft) {
  PoolOptions options = with(2);
  options.isolated = true;
  Pool pool(options);
  std::vector<Future<int>> futures;
  for (int i = 0; i < 20; ++i) futures.push_back(pool.submit(count_what_is_left_behind));
  for (Future<int>& future : futures) EXPECT_EQ(future.get(), 0);
  const auto count = [](int /*n*/) { return count_what_is_left_behind(); };
  for (const int met : pool.map(count, std::vector<int>(20), {.chunk_size = 5})) EXPECT_EQ(met, 0);
  EXPECT_EQ(pool.stats().died, 0U);
  options.max_tasks_per_worker = 2;
  EXPECT_THROW(Pool{options}, StartError);
}

TEST_P(WorkerLifeTest, InMapTheElementsCount) {
  PoolOptions options = with(2);
  options.max_tasks_per_worker = 10;
  Pool pool(options);
  std::vector<int> numbers(250);
  std::iota(numbers.begin(), numbers.end(), 0);
  const std::vector<int> pids = pool.map(pid_of, numbers, {.chunk_size = 50});
  for (const auto& [pid, times] : counted_by_pid(pids)) EXPECT_LE(times, 10) << pid;
  const std::vector<int> doubled = pool.map(twice, numbers, {.chunk_size = 250});
  for (std::size_t i = 0; i < numbers.size(); ++i) EXPECT_EQ(doubled[i], 2 * numbers[i]);
  EXPECT_EQ(pool.stats().died, 0U);
  EXPECT_EQ(pool.stats().retried, 0U);
}

TEST_P(WorkerLifeTest, OneTaskPerWorkerIsOneProcessPerTask) {
  PoolOptions options = with(2);
  options.max_tasks_per_worker = 1;
  Pool pool(options);
  const std::vector<int> pids = pool.map(pid_of, std::vector<int>(40));
  EXPECT_EQ(counted_by_pid(pids).size(), 40U);
}

TEST_P(WorkerLifeTest, TheReplacementIsReadyBeforeTheOldOneLeaves) {
  PoolOptions options = with(1);
  options.max_tasks_per_worker = 1;
  const std::string ledger = path("ready");
  options.initializer = {[](const std::string& to) { record(to, getpid()); }, ledger};
  Pool pool(options);
  for (int i = 0; i < 10; ++i) {
    // Of whom the next task will be run by.
    const int pid = pool.apply([] {
      std::atexit([] { usleep(20000); });
      return getpid();
    });
    const int next = pool.apply(own_pid);
    EXPECT_NE(next, pid);
    const auto ready = recorded(ledger);
    EXPECT_EQ(std::ranges::count(ready, next), 1);
  }
}

TEST_P(WorkerLifeTest, CloseRightAfterSubmittingRunsAll) {
  PoolOptions options = with(2);
  options.max_tasks_per_worker = 1;
  Pool pool(options);
  std::vector<Future<int>> futures;
  for (int i = 0; i < 30; ++i) futures.push_back(pool.submit(twice, i));
  pool.close();
  EXPECT_TRUE(pool.join_for(kHangGuard));
  for (int i = 0; i < 30; ++i) EXPECT_EQ(futures[static_cast<std::size_t>(i)].get(), 2 * i);
}

TEST_P(WorkerLifeTest, NoReplacementEscapesTheEndOfThePool) {
  for (int round = 0; round < 10; ++round) {
    PoolOptions options = with(2);
    options.max_tasks_per_worker = 1;
    if (round % 2 == 0) options.preload = {twice, 1};
    Pool pool(options);
    std::vector<Future<int>> futures;
    for (int i = 0; i < 30; ++i) futures.push_back(pool.submit(twice, i));
    EXPECT_EQ(futures[static_cast<std::size_t>(round)].get(), 2 * round);
    pool.terminate();
    EXPECT_TRUE(pool.join_for(kHangGuard));
  }
}

TEST_P(WorkerLifeTest, AmongDeathsEachTaskStillHasItsOutcome) {
  PoolOptions options = with(2);
  options.max_tasks_per_worker = 2;
  Pool pool(options);
  const auto sometimes = [](int n) {
    if (n % 5 == 3) kill(getpid(), SIGKILL);
    return n;
  };
  std::vector<int> numbers(60);
  std::iota(numbers.begin(), numbers.end(), 0);
  const auto results = pool.map_results(sometimes, numbers, {.chunk_size = 12});
  for (std::size_t i = 0; i < results.size(); ++i) {
    if (i % 5 == 3) {
      EXPECT_THROW(static_cast<void>(results[i].value()), WorkerDied) << i;
    } else {
      EXPECT_EQ(results[i].value(), static_cast<int>(i));
    }
  }
}

void leak(std::size_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  std::memset(memory, 1, bytes);
}

TEST_P(WorkerLifeTest, AWorkerThatHasGrownIsReplacedAfterTheTask) {
  PoolOptions options = with(1);
  options.recycle_above_bytes = 32 * kMiB;
  Pool pool(options);
  const auto leak_and_tell = [](std::size_t bytes) {
    leak(bytes);
    return getpid();
  };
  const int first = pool.apply(own_pid);
  EXPECT_EQ(pool.apply(leak_and_tell, 4 * kMiB), first);
  EXPECT_EQ(pool.apply(leak_and_tell, 40 * kMiB), first);
  EXPECT_TRUE(wait_until([&] { return pool.apply(own_pid) != first; }));
  EXPECT_EQ(pool.stats().died, 0U);
  // What is not its own does not count.
  const Array<char> shared(64 * kMiB);
  const int second = pool.apply(own_pid);
  const auto fill = [](Array<char> all) {
    std::ranges::fill(all, 'x');
    return getpid();
  };
  EXPECT_EQ(pool.apply(fill, shared), second);
  EXPECT_EQ(pool.apply(own_pid), second);
}

TEST_P(WorkerLifeTest, ATaskThatTakesTooMuchMemoryDiesOfIt) {
  PoolOptions options = with(2);
  options.memory_limit_bytes = 64 * kMiB;
  Pool pool(options);
  const auto take = [](std::size_t bytes) {
    leak(bytes);
    for (;;) pause();
  };
  for (int i = 0; i < 2; ++i) {
    const Death death = death_of([&] { pool.apply(take, 100 * kMiB); });
    EXPECT_TRUE(death.out_of_memory);
    EXPECT_EQ(death.memory_limit_bytes, 64 * kMiB);
    const std::string what = WorkerDied(death).what();
    EXPECT_NE(what.find("PoolOptions::memory_limit_bytes, 67108864"), std::string::npos) << what;
    EXPECT_EQ(death.signal, SIGKILL);
  }
  const auto elements = [](int n) {
    if (n == 2) {
      leak(100 * kMiB);
      for (;;) pause();
    }
    leak(kMiB);
    return n;
  };
  const Death death =
      death_of([&] { pool.map(elements, std::vector<int>{0, 1, 2, 3}, {.chunk_size = 4}); });
  EXPECT_TRUE(death.out_of_memory);
  EXPECT_EQ(death.memory_limit_bytes, 64 * kMiB);
  EXPECT_EQ(death.index, 2U);
  EXPECT_FALSE(death_of([&] { pool.apply([] { kill(getpid(), SIGKILL); }); }).out_of_memory);
  // An allocation that fails is an exception like any other.
  EXPECT_THROW(pool.apply([]() -> int { throw std::bad_alloc(); }), std::bad_alloc);
}

TEST_P(WorkerLifeTest, TooMuchMemoryInTheInitializerIsItsFailure) {
  PoolOptions options = with(1);
  options.memory_limit_bytes = 32 * kMiB;
  options.initializer = [] {
    leak(80 * kMiB);
    for (;;) pause();
  };
  Pool pool(options);
  try {
    pool.apply(own_pid);
    ADD_FAILURE() << "no failure";
  } catch (const InitializerFailed& e) {
    const Death death = death_of([&] { std::rethrow_exception(e.cause()); });
    EXPECT_TRUE(death.out_of_memory);
    EXPECT_EQ(death.memory_limit_bytes, 32 * kMiB);
  }
}

// A group of this machine with a limit on memory, for whoever enters it.
class MemoryGroup {
 public:
  explicit MemoryGroup(std::size_t bytes) {
    const std::string limit = std::to_string(bytes);
    for (const auto& [folder, file] : {std::pair{"/sys/fs/cgroup/memory", "/memory.limit_in_bytes"},
                                       std::pair{"/sys/fs/cgroup", "/memory.max"}}) {
      path_ = std::string(folder) + "/brood-test-" + std::to_string(getpid());
      if (access((std::string(folder) + "/cgroup.procs").c_str(), W_OK) != 0) continue;
      if (mkdir(path_.c_str(), 0755) != 0) continue;
      if (access((path_ + file).c_str(), W_OK) == 0 && write(file, limit)) return;
      rmdir(path_.c_str());
    }
    path_.clear();
  }
  ~MemoryGroup() {
    if (!path_.empty()) rmdir(path_.c_str());
  }
  MemoryGroup(const MemoryGroup&) = delete;
  MemoryGroup& operator=(const MemoryGroup&) = delete;

  [[nodiscard]] bool exists() const { return !path_.empty(); }
  [[nodiscard]] bool enter() const { return write("/cgroup.procs", std::to_string(getpid())); }

 private:
  [[nodiscard]] bool write(const std::string& file, const std::string& text) const {
    std::ofstream out(path_ + file);
    out << text;
    return static_cast<bool>(out.flush());
  }
  std::string path_;
};

// Under fork, where the workers are in the group that their host has entered.
TEST(WorkerMemoryTest, WhatTheKernelKillsForWantOfMemoryIsNamed) {
  const MemoryGroup group(200 * kMiB);
  if (!group.exists()) GTEST_SKIP() << "no control groups for memory that this user can make";
  const HostRun run = run_host([&] {
    HOST_CHECK(group.enter());
    Pool pool({.workers = 1, .start = StartMethod::fork});
    HOST_CHECK(pool.apply(twice, 1) == 2);
    const Death killed = death_of([&] { pool.apply([] { kill(getpid(), SIGKILL); }); });
    const Death starved = death_of([&] { pool.apply(leak, 400 * kMiB); });
    HOST_CHECK(!killed.out_of_memory && starved.out_of_memory && starved.signal == SIGKILL);
    HOST_CHECK(pool.apply(twice, 2) == 4);
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0") << run.out;
}

// ---- how many

std::size_t workers_of(const Pool& pool) {
  std::size_t count = 0;
  for (const auto& worker : pool.stats().workers) count += worker.pid != 0 ? 1U : 0U;
  return count;
}

TEST_P(WorkerLifeTest, IdleWorkersLeaveAndComeBackWhenThereIsWork) {
  PoolOptions options = with(4);
  options.idle_timeout = 20ms;
  options.min_workers = 1;
  Pool pool(options);
  EXPECT_EQ(pool.apply(twice, 4), 8);
  ASSERT_TRUE(wait_until([&] { return workers_of(pool) == 1; })) << workers_of(pool);
  // As many as there is work for.
  const std::string gate = path("gate");
  std::vector<Future<int>> futures;
  const auto wait_there = [](const std::string& until) {
    wait_at_gate(until);
    return getpid();
  };
  for (int i = 0; i < 4; ++i) futures.push_back(pool.submit(wait_there, gate));
  EXPECT_TRUE(wait_until([&] { return pool.stats().running == 4; })) << pool.stats().running;
  open_gate(gate);
  std::set<int> pids;
  for (Future<int>& future : futures) pids.insert(future.get());
  EXPECT_EQ(pids.size(), 4U);
  EXPECT_TRUE(wait_until([&] { return workers_of(pool) == 1; }));
  EXPECT_EQ(pool.stats().died, 0U);
  for (int i = 0; i < 200; ++i) {
    EXPECT_EQ(pool.apply(twice, i), 2 * i);
    if (i % 20 == 0) std::this_thread::sleep_for(25ms);  // on the edge of leaving
  }
}

TEST_P(WorkerLifeTest, APoolIsResizedWhileTasksRun) {
  Pool pool(with(2));
  const std::string gate = path("gate");
  std::vector<Future<int>> futures;
  const auto wait_there = [](const std::string& until) {
    wait_at_gate(until);
    return getpid();
  };
  for (int i = 0; i < 6; ++i) futures.push_back(pool.submit(wait_there, gate));
  EXPECT_TRUE(wait_until([&] { return pool.stats().running == 2; }));
  pool.resize(6);
  EXPECT_TRUE(wait_until([&] { return pool.stats().running == 6; })) << pool.stats().running;
  pool.resize(1);
  EXPECT_TRUE(wait_until([&] { return pool.stats().workers.size() == 1; }));
  open_gate(gate);
  for (Future<int>& future : futures) EXPECT_GT(future.get(), 0);
  EXPECT_EQ(pool.stats().died, 0U);
  EXPECT_TRUE(wait_until([&] {
    const auto pids = pool.map(pid_of, std::vector<int>(20), {.chunk_size = 1});
    return counted_by_pid(pids).size() == 1;
  }));
  EXPECT_THROW(pool.resize(0), Error);
  EXPECT_THROW(pool.resize(1000), Error);
  pool.resize(3);
  EXPECT_TRUE(wait_until([&] { return workers_of(pool) == 3; }));
  pool.close();
  EXPECT_THROW(pool.resize(2), PoolClosed);
  EXPECT_TRUE(pool.join_for(kHangGuard));
}

TEST_P(WorkerLifeTest, ResizedAgainAndAgainUnderLoadItLosesNothing) {
  Pool pool(with(3));
  std::vector<Future<int>> futures;
  for (int i = 0; i < 2000; ++i) {
    futures.push_back(pool.submit(twice, i));
    if (i % 50 == 0) pool.resize(1 + static_cast<std::size_t>(i / 50) % 6);
  }
  for (int i = 0; i < 2000; ++i) EXPECT_EQ(futures[static_cast<std::size_t>(i)].get(), 2 * i);
  EXPECT_EQ(pool.stats().died, 0U);
}

// A worker may be told to leave just when it has stopped at a chunk.
TEST_P(WorkerLifeTest, ResizedWhileWorkersWearOutInTheMidstOfChunksItLosesNothing) {
  PoolOptions options = with(3);
  options.max_tasks_per_worker = 3;
  Pool pool(options);
  for (std::size_t i = 0; i < 40; ++i) {
    auto results = pool.map_async(twice, std::views::iota(0, 40), {.chunk_size = 10});
    pool.resize(1 + i % 4);
    const std::vector<int> values = results.get();
    for (int k = 0; k < 40; ++k) EXPECT_EQ(values[static_cast<std::size_t>(k)], 2 * k);
  }
  EXPECT_EQ(pool.stats().died, 0U);
}

TEST_P(WorkerLifeTest, ATaskThatKillsALeavingWorkerFailsLikeAnyOther) {
  Pool pool(with(2));
  const std::string gate = path("gate");
  const auto die_there = [](const std::string& until) {
    wait_at_gate(until);
    kill(getpid(), SIGKILL);
  };
  auto first = pool.submit(die_there, gate);
  auto second = pool.submit(die_there, gate);
  ASSERT_TRUE(wait_until([&] { return pool.stats().running == 2; }));
  pool.resize(1);
  open_gate(gate);
  EXPECT_THROW(first.get(), WorkerDied);
  EXPECT_THROW(second.get(), WorkerDied);
  EXPECT_EQ(pool.apply(twice, 1), 2);
}

// ---- pools in pools

TEST_P(WorkerLifeTest, APoolInAWorkerHasItsShareOfTheProcessors) {
  const auto nested = [] { return PoolOptions().workers; };
  EXPECT_EQ(PoolOptions().workers, cpu_count());
  EXPECT_EQ(Pool(with(1)).apply(nested), cpu_count());
  EXPECT_EQ(Pool(with(cpu_count())).apply(nested), 1U);
  EXPECT_EQ(Pool(with(cpu_count() + 1)).apply(nested), 1U);
  const auto deeper = [](StartMethod method) {
    return Pool({.start = method}).apply([] { return PoolOptions().workers; });
  };
  EXPECT_EQ(Pool(with(cpu_count())).apply(deeper, GetParam()), 1U);
}

int run_nested(const std::string& ledger, StartMethod method) {
  Pool pool({.workers = 2, .start = method, .initializer = {twice, 1}});
  for (const int pid : pool.map(pid_of, std::vector<int>(20))) record(ledger, pid);
  record(ledger, pool.apply([] { return getppid(); }));
  kill(getpid(), SIGKILL);
  return 0;
}

TEST_P(WorkerLifeTest, APoolInAWorkerDiesWithIt) {
  Pool pool(with(1));
  const std::string ledger = path("pids");
  EXPECT_THROW(pool.apply(run_nested, ledger, GetParam()), WorkerDied);
  for (const std::int64_t pid : recorded(ledger)) {
    EXPECT_TRUE(wait_until([&] { return !runs(static_cast<int>(pid)); }, kPromisedSecond)) << pid;
  }
  EXPECT_EQ(pool.apply(twice, 1), 2);
}

// ---- pools in programs

TEST_P(WorkerLifeTest, StaticPoolsAndThoseLeftOpenEndWithTheProgram) {
  for (const bool exits : {false, true}) {
    Host host([&] {
      static Pool kept(with(1));
      static std::optional<Pool> later;
      later.emplace(with(2));
      // Never destroyed.
      PoolOptions options = with(1);
      options.preload = {twice, 1};
      static auto* const leaked = new Pool(options);
      HOST_CHECK(kept.apply(twice, 1) == 2 && later->apply(twice, 2) == 4);
      HOST_CHECK(leaked->apply(twice, 3) == 6);
      static auto pending = later->submit([] {
        for (;;) pause();
      });
      if (exits) std::exit(0);
      return 0;
    });
    EXPECT_EQ(host.end(), "exit 0");
    EXPECT_TRUE(host.is_gone_within(kPromisedSecond)) << describe(host.family());
  }
}

TEST_P(WorkerLifeTest, PoolsAreMadeInSeveralThreadsAtOnce) {
  std::vector<std::thread> threads;
  std::vector<int> sums(4);
  for (std::size_t i = 0; i < sums.size(); ++i) {
    threads.emplace_back([&, i] {
      PoolOptions options = with(2);
      options.initializer = {twice, 1};
      options.preload = {twice, 2};
      Pool pool(options);
      for (const int n : pool.map(twice, {1, 2, 3})) sums[i] += n;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(sums, (std::vector<int>{12, 12, 12, 12}));
}

}  // namespace
}  // namespace brood::test
