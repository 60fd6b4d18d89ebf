// What runs in workers before tasks, and what a task may ask about its worker.
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <set>
#include <stdexcept>
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

class WorkerSetupTest : public PoolConformance {
 protected:
  [[nodiscard]] std::string path(const std::string& name) const { return folder_.path(name); }

 private:
  TempFolder folder_;
};
BROOD_FOR_EACH_START_METHOD(WorkerSetupTest);

int loaded = 0;  // in a worker: by its initializer
int preloaded = 0;

void load(int number) { loaded = number; }
void load_text(const std::string& text, Queue<int> queue) {
  loaded = static_cast<int>(text.size());
  queue.put(getpid());
}
void preload(const std::string& ledger, int number) {
  record(ledger, getpid());
  preloaded += number;
}
int read_loaded() { return loaded; }
int read_preloaded() { return preloaded; }
int own_pid() { return getpid(); }
int twice(int n) { return 2 * n; }

// ---- initializer

TEST_P(WorkerSetupTest, TheInitializerRunsInEachWorkerBeforeItsFirstTask) {
  PoolOptions options = with(2);
  options.initializer = {load, 7};
  Pool pool(options);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(pool.apply(read_loaded), 7);
  EXPECT_THROW(pool.apply([] { kill(getpid(), SIGKILL); }), WorkerDied);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(pool.apply(read_loaded), 7);
}

TEST_P(WorkerSetupTest, ItMayBeWhatATaskMayBe) {
  PoolOptions options = with(1);
  Queue<int> queue;
  options.initializer = {load_text, "four", queue};
  {
    Pool pool(options);
    EXPECT_EQ(pool.apply(read_loaded), 4);
    EXPECT_GT(queue.get(), 0);
  }
  const int n = 5;
  options.initializer = [n] { loaded = n; };
  EXPECT_EQ(Pool(options).apply(read_loaded), 5);
  options.initializer =
      brood::bind_front([](const std::string& text) { loaded = static_cast<int>(text.size()); },
                        std::string(1000, 'x'));
  EXPECT_EQ(Pool(options).apply(read_loaded), 1000);
  int here = 3;
  options.initializer = [&here] { loaded = here; };
  EXPECT_THROW(Pool{options}, NotSendable);
}

// What the pool's failure is, and that it stays so.
template <class Cause>
void expect_failed(Pool& pool, const std::string& text) {
  try {
    pool.apply(twice, 1);
    ADD_FAILURE() << "no failure";
  } catch (const InitializerFailed& e) {
    EXPECT_NE(std::string(e.what()).find(text), std::string::npos) << e.what();
    ASSERT_NE(e.cause(), nullptr);
    EXPECT_THROW(std::rethrow_exception(e.cause()), Cause);
  }
  EXPECT_THROW(static_cast<void>(pool.submit(twice, 1)), InitializerFailed);
  pool.close();
  EXPECT_TRUE(pool.join_for(kHangGuard));
}

TEST_P(WorkerSetupTest, WhatItThrowsIsWhatAllTasksGet) {
  PoolOptions options = with(2);
  options.initializer = [] { throw std::out_of_range("no model"); };
  Pool pool(options);
  std::vector<Future<int>> futures;
  try {
    for (int i = 0; i < 10; ++i) futures.push_back(pool.submit(twice, i));
  } catch (const InitializerFailed&) {
    // The pool may know by now.
  }
  for (Future<int>& future : futures) EXPECT_THROW(future.get(), InitializerFailed);
  expect_failed<std::out_of_range>(pool,
                                   "the initializer of the pool threw std::out_of_range: "
                                   "no model");
}

TEST_P(WorkerSetupTest, ItsExceptionMayBeAnyAndLong) {
  struct Odd {};
  PoolOptions options = with(1);
  options.initializer = [] { throw Odd(); };
  Pool odd(options);
  expect_failed<RemoteError>(odd, "Odd");
  options.initializer = [] { throw std::runtime_error(std::string(5000, 'x')); };
  Pool lengthy(options);
  expect_failed<std::runtime_error>(lengthy, "xxxxxxxx");
}

TEST_P(WorkerSetupTest, IfItsProcessEndsTheDeathIsTheCause) {
  PoolOptions options = with(1);
  options.initializer = [] { std::exit(3); };
  Pool exits(options);
  expect_failed<WorkerDied>(exits, "exited with status 3");
  options.initializer = [] {
    const rlimit none{};
    setrlimit(RLIMIT_CORE, &none);
    raise(SIGSEGV);
  };
  Pool crashes(options);
  expect_failed<WorkerDied>(crashes, "killed by signal 11");
}

TEST_P(WorkerSetupTest, KilledFromOutsideItIsRunAgainElsewhereButNotForEver) {
  PoolOptions options = with(1);
  options.restart_limit = 5;
  const std::string ledger = path("runs");
  options.initializer = {[](const std::string& to) {
                           record(to, 1);
                           if (recorded(to).size() < 3) kill(getpid(), SIGKILL);
                         },
                         ledger};
  EXPECT_EQ(Pool(options).apply(twice, 4), 8);
  options.restart_limit = 3;
  options.initializer = [] { kill(getpid(), SIGKILL); };
  Pool pool(options);
  expect_failed<WorkerDied>(pool, "killed by signal 9");
}

TEST_P(WorkerSetupTest, AReplacementsFailureEndsThePoolToo) {
  PoolOptions options = with(1);
  const std::string ledger = path("runs");
  options.initializer = {[](const std::string& to) {
                           record(to, 1);
                           if (recorded(to).size() > 2) throw std::runtime_error("once too often");
                         },
                         ledger};
  Pool pool(options);
  EXPECT_EQ(pool.apply(twice, 1), 2);
  const auto ends = [&] {
    try {
      pool.apply([] { kill(getpid(), SIGKILL); });
    } catch (const WorkerDied&) {
      return false;
    } catch (const InitializerFailed&) {
      return true;
    }
    return false;
  };
  EXPECT_TRUE(wait_until(ends));
}

TEST_P(WorkerSetupTest, APoolEndsWhileItsInitializerRuns) {
  PoolOptions options = with(2);
  options.initializer = [] {
    for (;;) pause();
  };
  Pool pool(options);
  Future<int> future = pool.submit(twice, 1);
  pool.terminate();
  EXPECT_TRUE(pool.join_for(kHangGuard));
  EXPECT_THROW(future.get(), PoolClosed);
}

// ---- preload

TEST_P(WorkerSetupTest, PreloadRunsOnceAndWorkersHaveWhatItLoaded) {
  PoolOptions options = with(3);
  const std::string ledger = path("preloads");
  options.preload = {preload, ledger, 5};
  options.initializer = {load, 1};
  Pool pool(options);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(pool.apply(read_preloaded), 5);
  EXPECT_THROW(pool.apply([] { kill(getpid(), SIGKILL); }), WorkerDied);
  EXPECT_EQ(pool.map([](int n) { return n + preloaded + loaded; }, {1, 2, 3}),
            (std::vector<int>{7, 8, 9}));
  ASSERT_EQ(recorded(ledger).size(), 1U);
  EXPECT_NE(pool.apply(own_pid), recorded(ledger).front());
  EXPECT_EQ(preloaded, 0);
  pool.close();
  EXPECT_TRUE(pool.join_for(kHangGuard));
}

TEST_P(WorkerSetupTest, ItsFailureIsThatOfThePool) {
  PoolOptions options = with(1);
  options.preload = [] { throw std::invalid_argument("no data"); };
  Pool throws(options);
  expect_failed<std::invalid_argument>(throws, "preload of the pool threw");
  options.preload = [] { _exit(4); };
  Pool exits(options);
  expect_failed<WorkerDied>(exits, "exited with status 4");
  options.preload = [] { std::thread([] { pause(); }).detach(); };
  Pool threads(options);
  expect_failed<std::runtime_error>(threads, "threads");
}

TEST_P(WorkerSetupTest, IfItsProcessIsKilledItLoadsAgain) {
  PoolOptions options = with(1);
  const std::string ledger = path("preloads");
  options.preload = {preload, ledger, 5};
  Pool pool(options);
  EXPECT_EQ(pool.apply(read_preloaded), 5);
  kill(static_cast<int>(recorded(ledger).front()), SIGKILL);
  ASSERT_TRUE(wait_until([&] { return recorded(ledger).size() == 2; }));
  for (int i = 0; i < 5; ++i) {
    EXPECT_THROW(pool.apply([] { kill(getpid(), SIGKILL); }), WorkerDied);
    EXPECT_EQ(pool.apply(read_preloaded), 5);
  }
}

TEST_P(WorkerSetupTest, APoolEndsWhileItPreloads) {
  PoolOptions options = with(1);
  options.preload = [] {
    for (;;) pause();
  };
  {
    Pool pool(options);
    Future<int> future = pool.submit(twice, 1);
    EXPECT_FALSE(future.wait_for(20ms));
    EXPECT_FALSE(pool.shutdown(1ms, 10ms));
    EXPECT_THROW(future.get(), PoolClosed);
  }
  const Pool dropped(options);
}

TEST_P(WorkerSetupTest, NothingIsLeftOfAKilledHostOrSupervisor) {
  for (const bool loads : {false, true}) {
    for (const bool supervisor : {false, true}) {
      const std::string ledger = path(std::to_string(loads) + std::to_string(supervisor));
      Host host([&] {
        PoolOptions options = with(1);
        options.preload = {[](const std::string& to, bool stay) {
                             record(to, getppid());
                             while (stay) pause();
                           },
                           ledger, loads};
        Pool pool(options);
        if (!loads) HOST_CHECK(pool.apply(twice, 1) == 2);
        say("ready");
        HOST_CHECK(outcome_of([&] { pool.apply([] { pause(); }); }) == "BrokenPool");
        return 0;
      });
      ASSERT_EQ(host.read_line(), "ready");
      ASSERT_TRUE(wait_until([&] { return recorded(ledger).size() == 1; }));
      if (supervisor) {
        kill(static_cast<int>(recorded(ledger).front()), SIGKILL);
      } else {
        host.send(SIGKILL);
      }
      EXPECT_EQ(host.end(), supervisor ? "exit 0" : "signal 9");
      EXPECT_TRUE(host.is_gone_within(kPromisedSecond)) << describe(host.family());
    }
  }
}

// ---- prepare

TEST_P(WorkerSetupTest, PrepareIsTheLastBeforeTheFirstTask) {
  PoolOptions options = with(2);
  const std::string ledger = path("places");
  options.initializer = {load, 1};
  options.prepare = {[](const std::string& to) {
                       record(to, static_cast<std::int64_t>(worker_index()));
                       loaded += 10;
                     },
                     ledger};
  Pool pool(options);
  for (int i = 0; i < 10; ++i) EXPECT_EQ(pool.apply(read_loaded), 11);
  const std::size_t index = pool.apply([] { return worker_index(); });
  EXPECT_LT(index, 2U);
  EXPECT_EQ(pool.stats().workers.size(), 2U);
  options.prepare = [] { throw std::length_error("not here"); };
  Pool fails(options);
  expect_failed<std::length_error>(fails, "prepare of the pool threw");
}

// ---- what a task may ask

TEST_P(WorkerSetupTest, WorkersAreNumbered) {
  Pool pool(with(3));
  std::set<std::size_t> seen;
  EXPECT_TRUE(wait_until([&] {
    for (const std::size_t index : pool.map(
             [](int) {
               usleep(100);
               return worker_index();
             },
             std::vector<int>(30), {.chunk_size = 1})) {
      seen.insert(index);
    }
    return seen.size() == 3;
  }));
  EXPECT_EQ(*seen.rbegin(), 2U);
  EXPECT_THROW(static_cast<void>(worker_index()), Error);
  EXPECT_THROW(static_cast<void>(task_seed()), Error);
  EXPECT_THROW(worker_state<int>(), Error);
}

struct Model {
  explicit Model(std::string n, std::string l) : name(std::move(n)), ledger(std::move(l)) {}
  ~Model() { record(ledger, getpid()); }
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;
  std::string name;
  std::string ledger;
  int uses = 0;
};

TEST_P(WorkerSetupTest, AWorkersStateStaysFromTaskToTaskAndIsDestroyedAtItsEnd) {
  PoolOptions options = with(1);
  const std::string ledger = path("ends");
  options.initializer = {[](const std::string& to) { worker_state<Model>("big", to); }, ledger};
  Pool pool(options);
  const auto use = [] {
    Model& model = worker_state<Model>();
    return model.name + std::to_string(++model.uses);
  };
  EXPECT_EQ(pool.apply(use), "big1");
  EXPECT_EQ(pool.apply(use), "big2");
  EXPECT_EQ(pool.apply([] { return ++worker_state<int>(); }), 1);
  EXPECT_EQ(pool.apply([] { return ++worker_state<int>(); }), 2);
  EXPECT_TRUE(recorded(ledger).empty());
  const int worker = pool.apply(own_pid);
  pool.close();
  EXPECT_TRUE(pool.join_for(kHangGuard));
  const auto ended = recorded(ledger);
  EXPECT_EQ(std::ranges::count(ended, worker), 1);
}

std::vector<std::uint64_t> seeds_with(PoolOptions options, std::size_t workers, std::size_t chunk) {
  options.workers = workers;
  options.seed = 42;
  Pool pool(options);
  std::vector<std::uint64_t> seeds = {pool.apply([] { return task_seed(); })};
  const auto seed_of = [](int) { return task_seed(); };
  for (const std::uint64_t seed : pool.map(seed_of, std::vector<int>(50), {.chunk_size = chunk})) {
    seeds.push_back(seed);
  }
  for (const std::uint64_t seed : pool.imap(seed_of, std::vector<int>(10))) seeds.push_back(seed);
  return seeds;
}

TEST_P(WorkerSetupTest, ATasksSeedDependsOnItsNumberAlone) {
  const std::vector<std::uint64_t> seeds = seeds_with(with(1), 1, 7);
  EXPECT_EQ(seeds, seeds_with(with(1), 3, 0));
  EXPECT_EQ(seeds, seeds_with(with(1), 2, 50));
  EXPECT_EQ(std::set<std::uint64_t>(seeds.begin(), seeds.end()).size(), seeds.size());
  Pool other(with(1));
  EXPECT_NE(other.apply([] { return task_seed(); }), seeds.front());
}

TEST_P(WorkerSetupTest, ATaskThatIsStartedAgainHasTheSameSeed) {
  PoolOptions options = with(2);
  options.retries = 10;
  Pool pool(options);
  const std::string ledger = path("seeds");
  const auto fail_at_first = [](const std::string& to) {
    record(to, static_cast<std::int64_t>(task_seed()));
    if (recorded(to).size() < 3) kill(getpid(), SIGKILL);
    return task_seed();
  };
  const auto seed = static_cast<std::int64_t>(pool.apply(fail_at_first, ledger));
  EXPECT_EQ(recorded(ledger), (std::vector<std::int64_t>{seed, seed, seed}));
}

// ---- what workers have

TEST_P(WorkerSetupTest, WorkersHaveWhatTheOptionsGiveThem) {
  PoolOptions options = with(1);
  options.worker.nice = 5;
  options.worker.cwd = path("");
  options.worker.env = {{{"ONLY", "this one"}}};
  options.worker.rlimits = {{Resource::core_bytes, 4096}};
  options.worker.out = Output::null;
  options.inner_threads = 3;
  Pool pool(options);
  EXPECT_EQ(pool.apply([] { return getpriority(PRIO_PROCESS, 0); }), 5);
  EXPECT_EQ(pool.apply([] { return std::filesystem::current_path(); }),
            std::filesystem::canonical(path("")));
  const auto variable = [](const std::string& name) {
    const char* value = std::getenv(name.c_str());
    return std::string(value != nullptr ? value : "(none)");
  };
  EXPECT_EQ(pool.apply(variable, "ONLY"), "this one");
  EXPECT_EQ(pool.apply(variable, "PATH"), "(none)");
  EXPECT_EQ(pool.apply(variable, "OMP_NUM_THREADS"), "3");
  EXPECT_EQ(pool.apply([] {
    rlimit core{};
    getrlimit(RLIMIT_CORE, &core);
    return core.rlim_cur;
  }),
            4096U);
  EXPECT_EQ(pool.apply([] { return std::filesystem::read_symlink("/proc/self/fd/1").string(); }),
            "/dev/null");
}

TEST_P(WorkerSetupTest, WhatHasNoMeaningForWorkersIsRefused) {
  const auto refusal_of = [](const PoolOptions& options) -> std::string {
    try {
      const Pool pool(options);
    } catch (const StartError& e) {
      return e.what();
    }
    return "it was made";
  };
  PoolOptions options = with(1);
  options.worker.name = "x";
  EXPECT_NE(refusal_of(options).find("PoolOptions::worker.name"), std::string::npos);
  options = with(1);
  options.worker.restart.max = 1;
  EXPECT_NE(refusal_of(options).find("PoolOptions::worker.restart"), std::string::npos);
  options = with(1);
  options.worker.err = Output::capture;
  EXPECT_NE(refusal_of(options).find("err = capture"), std::string::npos);
  options = with(1);
  options.worker.nice = 99;
  EXPECT_NE(refusal_of(options).find("nice 99"), std::string::npos);
  options = with(1);
  options.min_workers = 2;
  EXPECT_NE(refusal_of(options).find("min_workers"), std::string::npos);
  // Only the kernel knows that it can't be.
  options = with(1);
  options.worker.rlimits = {{Resource::open_files, std::uint64_t{1} << 40U}};
  Pool pool(options);
  expect_failed<std::runtime_error>(pool, "rlimits: resource 7");
}

TEST_P(WorkerSetupTest, InnerThreadsAreTheWorkersShare) {
  const auto threads = [] { return std::string(std::getenv("OPENBLAS_NUM_THREADS")); };
  EXPECT_EQ(Pool(with(1)).apply(threads), std::to_string(cpu_count()));
  EXPECT_EQ(Pool(with(20)).apply(threads),
            std::to_string(std::max<std::size_t>(cpu_count() / 20, 1)));
  PoolOptions options = with(1);
  options.inner_threads = 0;
  EXPECT_TRUE(Pool(options).apply([] { return std::getenv("OMP_NUM_THREADS") == nullptr; }));
  EXPECT_EQ(std::getenv("OPENBLAS_NUM_THREADS"), nullptr);
}

// ---- what tasks print

void print_and_throw() {
  std::printf("thrown\n");
  throw std::runtime_error("after it has printed");
}
void print_without_stdio() {
  std::ios::sync_with_stdio(false);
  std::cout << "on its own\n";
}

// Of a pool that is not even joined: whoever has the result may end it.
TEST_P(WorkerSetupTest, WhatATaskPrintedIsThereWhenItsResultIs) {
  const std::string printed = path("printed");
  const Fd file(open(printed.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  const auto text = [&] {
    std::ifstream lines(printed);
    return std::string(std::istreambuf_iterator<char>(lines), {});
  };
  PoolOptions options = with(1);
  options.worker.out = file.get();
  Pool pool(options);
  pool.apply([] { std::printf("printf\n"); });
  EXPECT_EQ(text(), "printf\n");
  pool.apply([] { std::cout << "cout\n"; });
  EXPECT_EQ(text(), "printf\ncout\n");
  EXPECT_THROW(pool.apply(print_and_throw), std::runtime_error);
  EXPECT_EQ(text(), "printf\ncout\nthrown\n");
  pool.map([](int i) { std::printf("%d\n", i); }, {1, 2, 3});
  EXPECT_EQ(text(), "printf\ncout\nthrown\n1\n2\n3\n");
  pool.apply(print_without_stdio);
  EXPECT_EQ(text(), "printf\ncout\nthrown\n1\n2\n3\non its own\n");
}

int print_and_tell_pid() {
  std::printf("printf\n");
  std::cout << "cout\n";
  return getpid();
}
int print_both_ways_and_tell_pid() {
  std::ios::sync_with_stdio(false);
  return print_and_tell_pid();
}

TEST_P(WorkerSetupTest, ThatNobodyReadsWhatATaskPrintedIsNoDeath) {
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  const Fd written(ends[1]);
  close(ends[0]);
  PoolOptions options = with(1);
  options.worker.out = written.get();
  Pool pool(options);
  const int pid = pool.apply(print_and_tell_pid);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(pool.apply(print_and_tell_pid), pid);
  EXPECT_EQ(pool.apply(print_both_ways_and_tell_pid), pid);
  EXPECT_EQ(pool.apply(print_both_ways_and_tell_pid), pid);
  // What a task writes out itself is its own affair.
  const auto print_now = [] {
    std::printf("now\n");
    std::fflush(stdout);
  };
  EXPECT_EQ(death_of([&] { pool.apply(print_now); }).signal, SIGPIPE);
}

}  // namespace
}  // namespace brood::test
