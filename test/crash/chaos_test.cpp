// Workers are killed by the thousand, at known steps of their work: each task ends exactly once.
//
// A victim is stopped first. Only when the kernel shows it as stopped is its step read, and only
// if it owns a task then is it killed: so the number of tasks that die is known exactly.
#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <numeric>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "brood/pool.hpp"
#include "support/memory.hpp"
#include "support/pool_spy.hpp"
#include "support/processes.hpp"
#include "support/time.hpp"

namespace brood::test {
namespace {

using shm::WorkerStage;

constexpr int kTasks = kSanitized ? 10'000 : 100'000;
constexpr int kKills = kSanitized ? 400 : 2'000;
constexpr int kLeastPerStage = kSanitized ? 20 : 100;
constexpr std::size_t kWorkers = 3;

std::uint64_t seed_of_this_run() {
  const char* given = std::getenv("BROOD_CHAOS_SEED");
  const std::uint64_t seed =
      given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
  std::printf("BROOD_CHAOS_SEED=%llu\n", static_cast<unsigned long long>(seed));
  return seed;
}

// ---- what is computed

// 32 to 64 KiB, in pieces: so many that decoding and encoding take their time.
using Parcel = std::vector<std::string>;

Parcel parcel_of(std::uint64_t number) {
  const std::size_t pieces = 128 + number * 37 % 128;
  Parcel parcel;
  parcel.reserve(pieces);
  for (std::size_t i = 0; i < pieces; ++i) {
    parcel.emplace_back(256, static_cast<char>('a' + (number + i) % 23));
  }
  return parcel;
}

std::uint64_t checksum(const Parcel& parcel) {
  std::uint64_t sum = parcel.size();
  for (const std::string& piece : parcel) {
    for (std::size_t at = 0; at + 8 <= piece.size(); at += 8) {
      std::uint64_t word = 0;
      std::memcpy(&word, piece.data() + at, sizeof word);
      sum = (sum ^ word) * 0x9e3779b97f4a7c15ULL;
    }
  }
  return sum;
}

struct Job {
  std::uint64_t number;
  std::uint64_t sum;
  Parcel parcel;
};

Job job_of(std::uint64_t number) {
  Job job{number, 0, parcel_of(number)};
  job.sum = checksum(job.parcel);
  return job;
}

// A torn argument is an exception: neither value nor death.
Job work(Job job) {
  if (checksum(job.parcel) != job.sum) throw std::logic_error("torn argument");
  return job_of(job.number + 1);
}

void expect_result_of(std::uint64_t number, const Job& result) {
  ASSERT_EQ(result.number, number + 1);
  ASSERT_EQ(result.sum, checksum(result.parcel));
  ASSERT_EQ(result.parcel.size(), parcel_of(number + 1).size());
}

// ---- who kills

class Killer {
 public:
  Killer(std::uint64_t seed, int signal) : random_(seed), signal_(signal) {}

  // A task (or element) is killed at most so often: as often as it has retries.
  void spare_after(int deaths) { most_deaths_ = deaths; }

  // Tries one worker; true if it was killed while it had a task.
  bool strike() {
    const std::vector<std::uint16_t> slots = spy_.active_slots();
    if (slots.empty()) return false;
    const std::uint16_t slot = slots[random_() % slots.size()];
    const Sighting before = spy_.look(slot);
    if (before.pid <= 0 || before.stage == WorkerStage::idle) return false;
    // A crash takes its time: nobody dies twice.
    if (before.pid == last_victim_[slot]) return false;
    const int pidfd = static_cast<int>(syscall(SYS_pidfd_open, before.pid, 0));
    if (pidfd < 0) return false;
    const bool killed = strike_at(before, pidfd);
    close(pidfd);
    return killed;
  }

  [[nodiscard]] int kills() const {
    return std::accumulate(per_stage_.begin(), per_stage_.end(), 0);
  }
  [[nodiscard]] int kills(WorkerStage stage) const {
    return per_stage_[static_cast<std::size_t>(stage)];
  }
  [[nodiscard]] const PoolSpy& spy() const { return spy_; }

  [[nodiscard]] std::string report() const {
    return std::to_string(kills()) + " kills: " + std::to_string(kills(WorkerStage::claimed)) +
           " claimed, " + std::to_string(kills(WorkerStage::running)) + " running, " +
           std::to_string(kills(WorkerStage::replying)) + " replying, " +
           std::to_string(kills(WorkerStage::idle)) + " just claimed or almost done";
  }

 private:
  static void send(int pidfd, int signal) {
    syscall(SYS_pidfd_send_signal, pidfd, signal, nullptr, 0);
  }

  bool strike_at(const Sighting& before, int pidfd) {
    // The pidfd is of that worker only if the slot still says so.
    if (spy_.look(before.slot).pid != before.pid) return false;
    send(pidfd, SIGSTOP);
    const bool stopped = wait_until([&] {
      const auto process = look_at(before.pid);
      return !process || !process->runs() || process->state == 'T';
    });
    if (!stopped) return false;
    const auto process = look_at(before.pid);
    const Sighting seen = spy_.look(before.slot);
    const bool is_it = process && process->state == 'T' && seen.pid == before.pid;
    if (!is_it || !seen.owns_task || !may_die(seen)) {
      send(pidfd, SIGCONT);
      return false;
    }
    last_victim_[seen.slot] = seen.pid;
    ++per_stage_[static_cast<std::size_t>(seen.stage)];
    send(pidfd, signal_);
    send(pidfd, SIGCONT);
    return true;
  }

  bool may_die(const Sighting& seen) {
    if (most_deaths_ < 0) return true;
    int& deaths = deaths_[{seen.index, seen.generation, seen.progress}];
    if (deaths >= most_deaths_) return false;
    ++deaths;
    return true;
  }

  PoolSpy spy_{kWorkers};
  std::mt19937_64 random_;
  int signal_;
  int most_deaths_ = -1;
  std::map<std::uint16_t, int> last_victim_;  // by slot
  std::array<int, 4> per_stage_{};
  std::map<std::tuple<std::uint32_t, std::uint32_t, std::uint32_t>, int> deaths_;
};

// ---- the runs

PoolOptions chaos_pool(unsigned retries) {
  PoolOptions options;
  options.workers = kWorkers;
  options.retries = retries;
  options.name = "chaos";
  return options;
}

struct Tally {
  int tasks = 0;
  int values = 0;
  int deaths = 0;
};

void take(std::uint64_t number, Future<Job>& future, Tally& tally) {
  std::optional<Job> result;
  try {
    result = future.get_for(kHangGuard);
    ASSERT_TRUE(result) << "task " << number << " hangs";
    ++tally.values;
  } catch (const WorkerDied& e) {
    ++tally.deaths;
    return;
  } catch (const std::exception& e) {
    FAIL() << "task " << number << ": " << e.what();
  }
  expect_result_of(number, *result);
}

// A window of pending tasks moves over all of them; in between, workers are killed. Where workers
// are slow to come back, it takes some more tasks to kill as many.
Tally run_tasks(Pool& pool, Killer& killer, int tasks, int kills) {
  constexpr std::size_t kWindow = 48;
  Tally tally;
  std::deque<std::pair<std::uint64_t, Future<Job>>> window;
  const auto goes_on = [&](int i) {
    return i < tasks || (killer.kills() < kills && i < tasks * 20);
  };
  for (int i = 0; goes_on(i) && !testing::Test::HasFatalFailure(); ++i) {
    ++tally.tasks;
    const auto number = static_cast<std::uint64_t>(i);
    window.emplace_back(number, pool.submit(work, job_of(number)));
    // Evenly: so many kills by now. Some strikes miss, so all are due a little before the end.
    const auto due = static_cast<int>(std::int64_t{kills} * (i + 1) / (tasks - tasks / 50));
    for (int tries = 0; tries < 20 && killer.kills() < due; ++tries) killer.strike();
    while (window.size() > kWindow) {
      take(window.front().first, window.front().second, tally);
      window.pop_front();
    }
  }
  for (auto& [number, future] : window) take(number, future, tally);
  return tally;
}

// Everything that tasks used is free again; the pages too, once they were idle for a second.
void expect_accounts_at_start(Pool& pool, const PoolSpy& spy, const PoolSpy::Accounts& start) {
  ASSERT_TRUE(wait_until([&] {
    const PoolSpy::Accounts now = spy.accounts();
    return now.records_in_use == start.records_in_use &&
           now.inbox.live_blocks == start.inbox.live_blocks &&
           now.outbox.live_blocks == start.outbox.live_blocks &&
           now.inbox.claims_in_progress == 0 && now.outbox.claims_in_progress == 0;
  })) << spy.accounts().inbox.live_blocks
      << " blocks in the inbox, " << spy.accounts().outbox.live_blocks << " in the outbox, "
      << spy.accounts().records_in_use << " records in use, claims "
      << spy.accounts().inbox.claims_in_progress << " and "
      << spy.accounts().outbox.claims_in_progress;
  EXPECT_TRUE(wait_until([&] {
    const PoolSpy::Accounts now = spy.accounts();
    return now.inbox.pages_with_memory <= start.inbox.pages_with_memory &&
           now.outbox.pages_with_memory <= start.outbox.pages_with_memory;
  })) << spy.accounts().inbox.pages_with_memory
      << " and " << spy.accounts().outbox.pages_with_memory << " pages keep their memory";
  EXPECT_EQ(spy.broken_invariant(), "");
  const PoolStats stats = pool.stats();
  EXPECT_EQ(stats.pending, 0U);
  EXPECT_EQ(stats.running, 0U);
}

void expect_all_stages(const Killer& killer, int at_least) {
  std::printf("%s\n", killer.report().c_str());
  EXPECT_GE(killer.kills(WorkerStage::claimed), at_least);
  EXPECT_GE(killer.kills(WorkerStage::running), at_least);
  EXPECT_GE(killer.kills(WorkerStage::replying), at_least);
}

TEST(ChaosTest, EachTaskEndsOnceWithItsValueOrItsWorkersDeath) {
  const std::uint64_t seed = seed_of_this_run();
  Pool pool(chaos_pool(0));
  Killer killer(seed, SIGKILL);
  const PoolSpy::Accounts start = killer.spy().accounts();
  const Tally tally = run_tasks(pool, killer, kTasks, kKills);
  EXPECT_GE(tally.tasks, kTasks);
  EXPECT_EQ(tally.values + tally.deaths, tally.tasks);
  EXPECT_EQ(tally.deaths, killer.kills());
  EXPECT_GE(killer.kills(), kKills);
  expect_all_stages(killer, kLeastPerStage);
  expect_accounts_at_start(pool, killer.spy(), start);
  EXPECT_EQ(pool.stats().died, static_cast<std::uint64_t>(killer.kills()));
}

TEST(ChaosTest, WithRetriesAllValuesAreRight) {
  const std::uint64_t seed = seed_of_this_run();
  Pool pool(chaos_pool(3));
  Killer killer(seed, SIGKILL);
  killer.spare_after(3);
  const PoolSpy::Accounts start = killer.spy().accounts();
  const Tally tally = run_tasks(pool, killer, kTasks / 5, kKills / 4);
  EXPECT_EQ(tally.values, tally.tasks);
  EXPECT_GE(killer.kills(), kKills / 4);
  expect_all_stages(killer, kLeastPerStage / 4);
  expect_accounts_at_start(pool, killer.spy(), start);
  EXPECT_EQ(pool.stats().retried, static_cast<std::uint64_t>(killer.kills()));
}

TEST(ChaosTest, CrashesCostNoMoreThanKills) {
  const std::uint64_t seed = seed_of_this_run();
  Pool pool(chaos_pool(0));
  Killer killer(seed, SIGSEGV);
  const PoolSpy::Accounts start = killer.spy().accounts();
  const Tally tally = run_tasks(pool, killer, kTasks / 5, kKills / 4);
  EXPECT_EQ(tally.values + tally.deaths, tally.tasks);
  EXPECT_EQ(tally.deaths, killer.kills());
  expect_all_stages(killer, kLeastPerStage / 4);
  expect_accounts_at_start(pool, killer.spy(), start);
}

TEST(ChaosTest, AMapWithRetriesHasAllItsResultsInOrder) {
  const std::uint64_t seed = seed_of_this_run();
  Pool pool(chaos_pool(3));
  Killer killer(seed, SIGKILL);
  killer.spare_after(3);
  const PoolSpy::Accounts start = killer.spy().accounts();
  const int maps = kSanitized ? 5 : 40;
  constexpr int kElements = 400;
  std::atomic<bool> over{false};
  std::jthread hunter([&] {
    while (!over.load()) {
      killer.strike();
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  });
  for (int m = 0; m < maps; ++m) {
    std::vector<Job> jobs;
    for (int i = 0; i < kElements; ++i) jobs.push_back(job_of(static_cast<std::uint64_t>(i)));
    const std::vector<Job> results = pool.map(work, jobs);
    ASSERT_EQ(results.size(), jobs.size());
    for (std::size_t i = 0; i < results.size(); ++i) expect_result_of(i, results[i]);
  }
  over.store(true);
  hunter.join();
  expect_all_stages(killer, 5);
  expect_accounts_at_start(pool, killer.spy(), start);
}

}  // namespace
}  // namespace brood::test
