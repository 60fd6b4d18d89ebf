// Everything that can happen to tasks, at once: time limits, deadlines, cancelling, stop tokens,
// retries, exceptions, workers that are recycled, killed, terminated and stopped, and a pool whose
// size changes. Each task has one outcome, which fits what was done to it, and the accounts agree.
//
//   BROOD_SEED=n       which task is what, and which blows fall, in which order; printed
//   BROOD_SWEEP=full   a million tasks
#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <random>
#include <set>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "brood/brood.hpp"
#include "support/pool_spy.hpp"
#include "support/pools.hpp"
#include "support/processes.hpp"
#include "support/time.hpp"

namespace brood::test {
namespace {

constexpr std::size_t kWorkers = 3;
constexpr std::size_t kDrivers = 2;  // threads that submit
constexpr std::size_t kWindow = 64;  // tasks of each that have not been looked at
constexpr std::size_t kGroup = 16;   // tasks with one stop token
constexpr std::size_t kElements = 60;
constexpr unsigned kRetriesOfElements = 1;

bool is_full_sweep() {
  const char* sweep = std::getenv("BROOD_SWEEP");
  return sweep != nullptr && std::string(sweep) == "full";
}

std::size_t task_count() { return is_full_sweep() ? 1'000'000 : kSanitized ? 4'000 : 20'000; }

std::uint64_t seed_of_this_run() {
  const char* given = std::getenv("BROOD_SEED");
  return given != nullptr ? std::strtoull(given, nullptr, 10) : seed_of_the_day();
}

// ---- what tasks do

enum class Act : std::uint8_t { work, nap, fail, fail_once, crash, exit, hang, obey };

struct Order {
  std::uint32_t number = 0;
  Act act = Act::work;
  std::uint32_t size = 0;
};

// In each worker: how often each task was begun.
Array<std::uint32_t>* begun_here = nullptr;
void set_up_worker(Array<std::uint32_t> begun) {
  begun_here = new Array<std::uint32_t>(std::move(begun));
}

std::uint32_t count_begin(std::uint32_t number) {
  return std::atomic_ref((*begun_here)[number]).fetch_add(1);
}

std::string result_of(const Order& order) {
  return std::string(order.size, static_cast<char>('a' + order.number % 26)) +
         std::to_string(order.number);
}

std::string run_order(Order order, const std::string& payload) {
  const std::uint32_t before = count_begin(order.number);
  if (payload != result_of(order)) throw std::logic_error("torn argument");
  switch (order.act) {
    case Act::nap:
      std::this_thread::sleep_for(std::chrono::microseconds(200 + order.number % 2000));
      break;
    case Act::fail_once:
      if (before > 0) break;
      [[fallthrough]];
    case Act::fail:
      throw std::out_of_range(std::to_string(order.number));
    case Act::crash:
      raise(SIGSEGV);
      break;
    case Act::exit:
      std::_Exit(7);
    case Act::hang:
      for (;;) pause();
    case Act::obey:
      while (!stop_requested()) std::this_thread::yield();
      break;
    default:
      break;
  }
  return result_of(order);
}

std::string run_element(Order order) { return run_order(order, result_of(order)); }

// ---- what is planned for them

enum class Cancel : std::uint8_t { never, at_once, late };

struct Plan {
  Order order;
  TaskOptions options;
  Cancel cancel = Cancel::never;
  bool stops_group = false;
};

class Random {
 public:
  explicit Random(std::uint64_t seed) : engine_(seed) {}
  std::uint64_t below(std::uint64_t bound) { return engine_() % bound; }
  bool once_in(std::uint64_t times) { return below(times) == 0; }

 private:
  std::mt19937_64 engine_;
};

Act draw_act(Random& random) {
  const std::uint64_t draw = random.below(2000);
  if (draw < 4) return Act::hang;
  if (draw < 12) return Act::obey;
  if (draw < 16) return Act::crash;
  if (draw < 20) return Act::exit;
  if (draw < 100) return Act::fail;
  if (draw < 150) return Act::fail_once;
  if (draw < 180) return Act::nap;
  return Act::work;
}

// Depends on the seed and the number alone, whatever else happens.
Plan plan_of(std::uint64_t seed, std::size_t number) {
  Random random(seed * 1'000'003 + number);
  Plan plan;
  plan.order.number = static_cast<std::uint32_t>(number);
  plan.order.act = draw_act(random);
  const std::uint64_t size = random.below(100);
  plan.order.size = static_cast<std::uint32_t>(size < 60   ? random.below(40)
                                               : size < 97 ? random.below(3000)
                                                           : random.below(60'000));
  plan.options.priority = static_cast<Priority>(random.below(3));
  plan.options.retries = static_cast<unsigned>(random.once_in(2) ? 0 : random.below(4));
  plan.options.retry_exceptions = random.once_in(2);
  const bool has_to_be_stopped = plan.order.act == Act::hang || plan.order.act == Act::obey;
  if (has_to_be_stopped || random.once_in(20)) {
    plan.options.timeout = std::chrono::microseconds(500 + random.below(3000));
  }
  if (random.once_in(40)) {
    plan.options.deadline = std::chrono::steady_clock::now() +
                            std::chrono::microseconds(random.below(8000)) * kSlowness;
  }
  if (random.once_in(30)) plan.cancel = random.once_in(2) ? Cancel::at_once : Cancel::late;
  plan.stops_group = random.once_in(40 * kGroup);
  return plan;
}

// ---- who strikes

struct Blows {
  int killed = 0;
  int terminated = 0;
  int stopped = 0;
  int resized = 0;
};

std::size_t killed_by(const Blows& blows) {
  return static_cast<std::size_t>(blows.killed + blows.terminated + blows.stopped);
}

// One blow for so many tasks, in the order that the seed gives.
class Hunter {
 public:
  Hunter(Pool& pool, const PoolSpy& spy, std::uint64_t seed)
      : pool_(pool), spy_(spy), random_(seed) {}

  // Until it is told to stop; `submitted` is how far the others are.
  void hunt(const std::stop_token& stop, const std::atomic<std::size_t>& submitted) {
    constexpr std::size_t kTasksForABlow = 100;
    std::size_t due = kTasksForABlow;
    while (!stop.stop_requested()) {
      if (submitted.load() < due) {
        std::this_thread::sleep_for(100us);
        continue;
      }
      strike();
      due += kTasksForABlow;
    }
  }

  [[nodiscard]] bool has_hit(int pid) {
    const std::scoped_lock lock(mutex_);
    return victims_.contains(pid);
  }
  [[nodiscard]] const Blows& blows() const { return blows_; }

 private:
  void strike() {
    const std::uint64_t draw = random_.below(16);
    const std::uint64_t aim = random_.below(1000);
    const auto pause = std::chrono::microseconds(random_.below(3000));
    if (draw == 0) {
      ++blows_.resized;
      return pool_.resize(1 + aim % 6);
    }
    const std::vector<std::uint16_t> slots = spy_.active_slots();
    if (slots.empty()) return;
    const std::uint16_t slot = slots[aim % slots.size()];
    const int pid = spy_.look(slot).pid;
    if (pid <= 0) return;
    const int pidfd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
    if (pidfd < 0) return;
    // The pidfd is of that worker only if the slot still says so.
    if (spy_.look(slot).pid == pid && is_set_up(slot)) strike_at(pid, pidfd, draw, pause);
    close(pidfd);
  }

  // Before, SIGTERM is taken for the initializer's own failure, which ends the pool.
  [[nodiscard]] bool is_set_up(std::uint16_t slot) const {
    return spy_.view().desk(slot).prepared.load() != 0;
  }

  void strike_at(int pid, int pidfd, std::uint64_t draw, std::chrono::microseconds pause) {
    const auto send = [pidfd](int signal) {
      syscall(SYS_pidfd_send_signal, pidfd, signal, nullptr, 0);
    };
    const bool dies = draw < 10 || draw >= 13;
    if (dies) {
      const std::scoped_lock lock(mutex_);
      victims_.insert(pid);
    }
    if (draw < 7) {
      ++blows_.killed;
      return send(SIGKILL);
    }
    if (draw < 10) {
      ++blows_.terminated;
      return send(SIGTERM);
    }
    ++blows_.stopped;
    send(SIGSTOP);
    std::this_thread::sleep_for(pause);
    send(dies ? SIGKILL : SIGCONT);
  }

  Pool& pool_;
  const PoolSpy& spy_;
  Random random_;
  Blows blows_;
  std::mutex mutex_;
  std::set<int> victims_;
};

// ---- what comes of it

struct Tally {
  std::size_t tasks = 0;
  std::size_t values = 0;
  std::size_t exceptions = 0;
  std::size_t own_deaths = 0;
  std::size_t deaths = 0;
  std::size_t timeouts = 0;
  std::size_t cancelled = 0;

  void add(const Tally& other) {
    tasks += other.tasks;
    values += other.values;
    exceptions += other.exceptions;
    own_deaths += other.own_deaths;
    deaths += other.deaths;
    timeouts += other.timeouts;
    cancelled += other.cancelled;
  }
  [[nodiscard]] std::size_t outcomes() const {
    return values + exceptions + own_deaths + deaths + timeouts + cancelled;
  }
};

// What all threads of a run share.
struct Scene {
  Scene(Pool& the_pool, Hunter& the_hunter, Array<std::uint32_t> counts, std::uint64_t the_seed)
      : pool(the_pool), hunter(the_hunter), begun(std::move(counts)), seed(the_seed) {}

  Pool& pool;
  Hunter& hunter;
  Array<std::uint32_t> begun;
  std::uint64_t seed;
  std::atomic<std::size_t> submitted{0};
};

std::string describe(const Plan& plan) {
  const TaskOptions& options = plan.options;
  return "task " + std::to_string(plan.order.number) + " (act " +
         std::to_string(static_cast<int>(plan.order.act)) + ", retries " +
         std::to_string(*options.retries) + (options.timeout ? ", timeout" : "") +
         (options.deadline ? ", deadline" : "") + ", cancel " +
         std::to_string(static_cast<int>(plan.cancel)) + ")";
}

void check_death(const Scene& scene, const Order& order, unsigned retries, const Death& death,
                 Tally& tally) {
  const bool crashed = order.act == Act::crash && death.signal == SIGSEGV;
  const bool exited = order.act == Act::exit && death.signal == 0 && death.exit_code == 7;
  if (crashed || exited) {
    ++tally.own_deaths;
  } else {
    ++tally.deaths;
    EXPECT_TRUE(scene.hunter.has_hit(death.pid)) << "nobody killed worker " << death.pid;
    EXPECT_TRUE(death.signal == SIGKILL || death.signal == SIGTERM) << death.signal;
  }
  EXPECT_EQ(death.attempts, static_cast<int>(retries) + 1);
}

void check_value(const Order& order, const std::string& value) {
  const bool can_return =
      order.act == Act::work || order.act == Act::nap || order.act == Act::fail_once;
  EXPECT_TRUE(can_return);
  EXPECT_TRUE(value == result_of(order));
}

void check_begins(const Scene& scene, const Order& order, unsigned retries, bool was_run) {
  const std::uint32_t begins = std::atomic_ref(scene.begun[order.number]).load();
  EXPECT_LE(begins, retries + 1);
  EXPECT_TRUE(begins >= 1 || !was_run);
}

// A task on its way, and what was done to it meanwhile.
struct Underway {
  Plan plan;
  Future<std::string> future;
  std::stop_source group;
  bool cancelled = false;
};

void check_outcome(const Scene& scene, Underway& task, Tally& tally) {
  const Plan& plan = task.plan;
  const unsigned retries = *plan.options.retries;
  bool was_run = true;
  try {
    auto value = task.future.get_for(kHangGuard);
    ASSERT_TRUE(value) << "hangs";
    check_value(plan.order, *value);
    EXPECT_FALSE(task.cancelled);
    ++tally.values;
  } catch (const std::out_of_range& e) {
    EXPECT_TRUE(plan.order.act == Act::fail || plan.order.act == Act::fail_once);
    EXPECT_EQ(e.what(), std::to_string(plan.order.number));
    EXPECT_FALSE(task.cancelled);
    ++tally.exceptions;
  } catch (const WorkerDied& e) {
    check_death(scene, plan.order, retries, e, tally);
    EXPECT_FALSE(task.cancelled);
    was_run = false;  // it may have died before the first line
  } catch (const TaskTimeout& e) {
    EXPECT_TRUE(plan.options.timeout || plan.options.deadline);
    EXPECT_LE(e.attempts(), static_cast<int>(retries) + 1);
    EXPECT_FALSE(task.cancelled);
    was_run = false;
    ++tally.timeouts;
  } catch (const Cancelled&) {
    EXPECT_TRUE(task.cancelled || task.group.stop_requested());
    was_run = false;
    ++tally.cancelled;
  } catch (const std::exception& e) {
    ADD_FAILURE() << e.what();
  }
  check_begins(scene, plan.order, retries, was_run);
}

// Every kDrivers-th task; a window of them moves on.
Tally drive(Scene& scene, std::size_t driver, std::size_t tasks) {
  Tally tally;
  std::deque<Underway> window;
  const auto take = [&] {
    Underway& task = window.front();
    SCOPED_TRACE(describe(task.plan));
    if (task.plan.cancel == Cancel::late) task.cancelled = task.future.cancel();
    check_outcome(scene, task, tally);
    window.pop_front();
  };
  std::stop_source group;
  for (std::size_t i = driver; i < tasks && !testing::Test::HasFailure(); i += kDrivers) {
    Plan plan = plan_of(scene.seed, i);
    if (++tally.tasks % kGroup == 0) group = std::stop_source();
    plan.options.stop = group.get_token();
    auto future = scene.pool.submit(plan.options, run_order, plan.order, result_of(plan.order));
    window.push_back({plan, std::move(future), group});
    if (plan.cancel == Cancel::at_once) window.back().cancelled = window.back().future.cancel();
    if (plan.stops_group) group.request_stop();
    ++scene.submitted;
    while (window.size() > kWindow) take();
  }
  while (!window.empty()) take();
  return tally;
}

void check_element(const Scene& scene, const Order& order, const Result<std::string>& result,
                   Tally& tally) {
  bool was_run = true;
  try {
    check_value(order, result.value());
    ++tally.values;
  } catch (const std::out_of_range& e) {
    EXPECT_TRUE(order.act == Act::fail || order.act == Act::fail_once);
    EXPECT_EQ(e.what(), std::to_string(order.number));
    ++tally.exceptions;
  } catch (const WorkerDied& e) {
    check_death(scene, order, kRetriesOfElements, e, tally);
    was_run = false;
  } catch (const std::exception& e) {
    ADD_FAILURE() << e.what();
  }
  check_begins(scene, order, kRetriesOfElements, was_run);
}

// Maps beside the other tasks, one after the other. Nothing stops their elements.
Tally map_meanwhile(const std::stop_token& stop, Scene& scene, std::size_t first) {
  Tally tally;
  Random random(scene.seed + 2);
  while (!stop.stop_requested() && !testing::Test::HasFailure()) {
    std::vector<Order> orders;
    for (std::size_t i = 0; i < kElements; ++i) {
      Order order{static_cast<std::uint32_t>(first + i), draw_act(random),
                  static_cast<std::uint32_t>(random.below(200))};
      if (order.act == Act::hang || order.act == Act::obey) order.act = Act::work;
      orders.push_back(order);
      scene.begun[order.number] = 0;
    }
    const auto results = scene.pool.map_results(run_element, orders, {.chunk_size = 7});
    for (std::size_t i = 0; i < kElements; ++i) {
      SCOPED_TRACE("element " + std::to_string(i));
      check_element(scene, orders[i], results[i], tally);
      ++tally.tasks;
    }
    std::this_thread::sleep_for(5ms);
  }
  return tally;
}

void print_row(const char* name, const Tally& tally) {
  std::printf("%-9s %9zu %9zu %9zu %9zu %9zu %9zu %9zu\n", name, tally.tasks, tally.values,
              tally.exceptions, tally.own_deaths, tally.deaths, tally.timeouts, tally.cancelled);
}

void print_table(const Tally& singles, const Tally& elements, const Blows& blows,
                 const PoolStats& stats) {
  std::printf("%-9s %9s %9s %9s %9s %9s %9s %9s\n", "", "all", "value", "exception", "crashed",
              "killed", "timeout", "cancelled");
  print_row("tasks", singles);
  print_row("elements", elements);
  std::printf("blows: %d SIGKILL, %d SIGTERM, %d SIGSTOP, %d resize; ", blows.killed,
              blows.terminated, blows.stopped, blows.resized);
  std::printf("stats: %zu done, %zu died, %zu retried, %zu timed out, %zu cancelled\n", stats.done,
              stats.died, stats.retried, stats.timed_out, stats.cancelled);
}

void expect_works_still(Pool& pool) {
  pool.resize(kWorkers);
  std::vector<Future<int>> futures;
  for (int i = 0; i < 200; ++i) futures.push_back(pool.submit([](int n) { return 2 * n; }, i));
  for (int i = 0; i < 200; ++i) {
    EXPECT_EQ(futures[static_cast<std::size_t>(i)].get_for(kHangGuard), 2 * i);
  }
  EXPECT_EQ(pool.stats().workers.size(), kWorkers);
}

void expect_all_free(const PoolSpy& spy, const PoolSpy::Accounts& start) {
  EXPECT_TRUE(wait_until([&] {
    const PoolSpy::Accounts now = spy.accounts();
    return now.records_in_use == start.records_in_use &&
           now.inbox.live_blocks == start.inbox.live_blocks &&
           now.outbox.live_blocks == start.outbox.live_blocks &&
           now.inbox.claims_in_progress == 0 && now.outbox.claims_in_progress == 0;
  })) << spy.accounts().inbox.live_blocks
      << " blocks in the inbox, " << spy.accounts().outbox.live_blocks << " in the outbox, "
      << spy.accounts().records_in_use << " records in use";
  EXPECT_EQ(spy.broken_invariant(), "");
}

PoolOptions chaos_options(const Array<std::uint32_t>& begun) {
  PoolOptions options;
  options.workers = kWorkers;
  options.initializer = {set_up_worker, begun};
  options.max_tasks_per_worker = 300;
  options.grace = 2ms;
  options.retries = kRetriesOfElements;
  options.name = "chaos";
  return options;
}

class ChaosEverythingTest : public StartMethodTest {};
BROOD_FOR_EACH_START_METHOD(ChaosEverythingTest);

TEST_P(ChaosEverythingTest, EachTaskHasOneOutcomeThatFitsWhatWasDoneToIt) {
  const std::uint64_t seed = seed_of_this_run();
  std::printf("BROOD_SEED=%llu\n", static_cast<unsigned long long>(seed));
  const std::size_t tasks = task_count();
  const Array<std::uint32_t> begun(tasks + kElements);
  PoolOptions options = chaos_options(begun);
  options.start = GetParam();
  Pool pool(options);
  const PoolSpy spy(kWorkers);
  const PoolSpy::Accounts start = spy.accounts();
  Hunter hunter(pool, spy, seed + 1);
  Scene scene(pool, hunter, begun, seed);

  std::array<Tally, kDrivers> driven;
  Tally elements;
  {
    std::jthread hunting([&](const std::stop_token& stop) { hunter.hunt(stop, scene.submitted); });
    std::jthread mapping(
        [&](const std::stop_token& stop) { elements = map_meanwhile(stop, scene, tasks); });
    std::array<std::jthread, kDrivers> drivers;
    for (std::size_t d = 0; d < kDrivers; ++d) {
      drivers[d] = std::jthread([&, d] { driven[d] = drive(scene, d, tasks); });
    }
  }
  Tally singles;
  for (const Tally& tally : driven) singles.add(tally);
  EXPECT_EQ(singles.outcomes(), singles.tasks);
  EXPECT_EQ(elements.outcomes(), elements.tasks);

  // Workers that are killed for a task which has its outcome already may not be done with yet.
  EXPECT_TRUE(wait_until([&] {
    const PoolStats now = pool.stats();
    return now.pending + now.running == 0;
  }));
  const PoolStats stats = pool.stats();
  print_table(singles, elements, hunter.blows(), stats);
  EXPECT_EQ(stats.cancelled, singles.cancelled);
  // Counted before the end is tried: a worker that is killed in between has counted it for nothing.
  EXPECT_GE(stats.timed_out, singles.timeouts);
  EXPECT_LE(stats.timed_out, singles.timeouts + killed_by(hunter.blows()));
  EXPECT_GE(stats.died,
            singles.own_deaths + singles.deaths + elements.own_deaths + elements.deaths);
  // A worker that dies between the end of its task and the count of it has not counted it.
  EXPECT_LE(stats.done, singles.tasks + elements.tasks);
  EXPECT_GE(stats.done + stats.died, singles.tasks + elements.tasks);
  expect_works_still(pool);
  expect_all_free(spy, start);
}

}  // namespace
}  // namespace brood::test
