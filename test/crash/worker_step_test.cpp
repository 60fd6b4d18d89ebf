// A worker is killed after each instruction from being woken for a task until it sleeps again,
// while the caller sleeps in get().
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <filesystem>
#include <functional>
#include <memory>
#include <numeric>
#include <optional>
#include <ostream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "brood/brood.hpp"
#include "pool/protocol/task.hpp"
#include "support/every_instruction.hpp"
#include "support/pool_spy.hpp"
#include "support/pools.hpp"
#include "support/processes.hpp"
#include "support/stepper.hpp"
#include "sys/clock.hpp"
#include "sys/futex.hpp"

namespace brood::test {
namespace {

// Shared with the workers.
struct Board {
  std::atomic<int> runs{0};  // calls of the task, or of the element that it looks at
  std::atomic<bool> open{false};
};
Board* board = nullptr;

// ---- what is computed

int twice(int n) {
  board->runs.fetch_add(1);
  return 2 * n;
}
std::string repeated(std::string text) {
  board->runs.fetch_add(1);
  return text + text;
}
int fail_shortly(int /*n*/) {
  board->runs.fetch_add(1);
  throw std::out_of_range("no");
}
int fail_at_length(int /*n*/) {
  board->runs.fetch_add(1);
  throw std::out_of_range(std::string(500, 'x'));
}
// Longer than it may: that is known as soon as it asks.
int stop_when_late(int /*n*/) {
  board->runs.fetch_add(1);
  while (!stop_requested()) {
  }
  return 1;
}
int negated(int n) { return -n; }
std::string element(int n) { return std::string(static_cast<std::size_t>(n) * 20, 'e'); }
void wait_for_opening() {
  while (!board->open.load()) usleep(100);
}

const std::string kText(600, 't');

struct Task {
  // What became of it, as text; `died` if its worker died.
  std::function<std::string(Pool&)> run;
  std::string value;
  int elements = 1;
  bool limited = false;  // runs longer than it may, so its worker's death may be told as that
};

constexpr const char* kDied = "WorkerDied";

template <class Action>
std::string outcome(Action&& action) {
  try {
    return action();
  } catch (const WorkerDied& e) {
    return kDied + std::string(" ") + std::to_string(e.index);
  } catch (const TaskTimeout& e) {
    return "TaskTimeout";
  } catch (const std::out_of_range& e) {
    return std::string("out_of_range ") + e.what();
  } catch (const std::exception& e) {
    return std::string("exception ") + e.what();
  }
}

std::string map_elements(Pool& pool) {
  std::vector<int> numbers(4);
  std::iota(numbers.begin(), numbers.end(), 0);
  MapOptions options;
  options.chunk_size = 4;
  std::string text;
  for (const std::string& part : pool.map(element, numbers, options)) text += part + "|";
  return text;
}

std::string mapped() {
  std::string text;
  for (int i = 0; i < 4; ++i) text += element(i) + "|";
  return text;
}

Task inline_task() {
  return {[](Pool& pool) { return std::to_string(pool.submit(twice, 21).get()); }, "42"};
}
Task block_task() {
  return {[](Pool& pool) { return pool.submit(repeated, kText).get(); }, kText + kText};
}
Task short_exception() {
  return {[](Pool& pool) { return std::to_string(pool.submit(fail_shortly, 1).get()); },
          "out_of_range no"};
}
Task long_exception() {
  return {[](Pool& pool) { return std::to_string(pool.submit(fail_at_length, 1).get()); },
          "out_of_range " + std::string(500, 'x')};
}
Task map_chunk() { return {map_elements, mapped(), 4}; }
Task told_by_a_queue() {
  return {[](Pool& pool) {
            CompletionQueue queue;
            auto future = pool.submit(twice, 21);
            queue.add(future, 5);
            return std::to_string(*queue.next()) + " " + std::to_string(future.get());
          },
          "5 42"};
}
Task told_by_a_descriptor() {
  return {[](Pool& pool) {
            auto future = pool.submit(twice, 21);
            pollfd door = {future.fileno(), POLLIN, 0};
            while (poll(&door, 1, -1) < 0) {
            }
            return future.ready() ? std::to_string(future.get()) : "not ready";
          },
          "42"};
}
Task late_task() {
  return {[](Pool& pool) {
            return std::to_string(pool.submit({.timeout = 1ns}, stop_when_late, 1).get());
          },
          "TaskTimeout", 1, true};
}

std::vector<int> tasks_of_this_process() {
  std::vector<int> tids;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task")) {
    tids.push_back(std::stoi(entry.path().filename()));
  }
  return tids;
}

// ---- where it is computed

struct Case {
  const char* name;
  Task task;
  std::size_t workers = 1;
  unsigned retries = 0;
  enum class Other { sleeps, busy, stopped } other = Other::sleeps;  // of two workers
  bool looks = false;    // workers look for work before they sleep
  bool wrapped = false;  // the ring has, and the records' generations are about to
};

void PrintTo(const Case& what, std::ostream* out) { *out << what.name; }

using Other = Case::Other;
const Case kCases[] = {
    {"worker: inline reply", inline_task()},
    {"worker: inline reply, looking before sleeping", inline_task(), 1, 0, Other::sleeps, true},
    {"worker: inline reply, ring wrapped", inline_task(), 1, 0, Other::sleeps, false, true},
    // Mostly another's reply: the caller wakes one more when the first is slow.
    {"worker: inline reply, another asleep", inline_task(), 2},
    {"worker: inline reply, another woken in vain", inline_task(), 2, 0, Other::stopped},
    {"worker: inline reply, another busy", inline_task(), 2, 0, Other::busy},
    {"worker: inline reply, retried", inline_task(), 1, 1},
    {"worker: block reply", block_task()},
    {"worker: block reply, retried, ring wrapped", block_task(), 2, 1, Other::stopped, false, true},
    {"worker: exception", short_exception()},
    {"worker: exception in a block", long_exception()},
    {"worker: chunk of map", map_chunk()},
    {"worker: chunk of map, retried", map_chunk(), 1, 1},
    {"worker: told by a completion queue", told_by_a_queue()},
    {"worker: told by a descriptor", told_by_a_descriptor()},
    {"worker: longer than it may", late_task()},
    {"worker: longer than it may, retried", late_task(), 1, 1},
};

class WorkerStepTest : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    void* page =
        mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(page, MAP_FAILED);
    board = new (page) Board;
    // Workers that see one processor don't look for work.
    if (!GetParam().looks) here_ = std::make_unique<OnOneProcessor>();
    PoolOptions options;
    options.workers = GetParam().workers;
    options.retries = GetParam().retries;
    options.grace = 1h;  // steps take their time
    pool_.emplace(options);
    spy_.emplace(GetParam().workers);
    ASSERT_TRUE(wait_until([&] { return !spy_->active_slots().empty(); }));
    supervisor_ = look_at(spy_->look(spy_->active_slots().front()).pid)->parent;
    here_.reset();
    here_ = std::make_unique<OnOneProcessor>();
    if (GetParam().other == Other::busy) busy_ = pool_->submit(wait_for_opening);
    expect_quiet();
    start_ = spy_->accounts();
    if (GetParam().wrapped) {
      for (int i = 0; i < 1100; ++i) ASSERT_EQ(pool_->apply(twice, i), 2 * i);
    }
  }
  void TearDown() override {
    board->open.store(true);
    if (busy_.valid()) busy_.get();
    pool_.reset();
    here_.reset();
    munmap(board, sizeof(Board));
  }

  // All workers are there and asleep, and a spare is ready.
  void expect_quiet() {
    ASSERT_TRUE(wait_until([&] { return is_quiet(); })) << "the pool does not come to rest";
  }

  [[nodiscard]] bool is_asleep(std::uint16_t slot) const {
    const auto& view = spy_->view();
    const auto& idle = view.shared().idle[slot / shm::kIdleSlots];
    const auto process = look_at(view.entry(slot).pid.load());
    return (idle.state.load() & std::uint64_t{1} << (slot % shm::kIdleSlots)) != 0 && process &&
           process->state == 'S';
  }

  [[nodiscard]] bool is_quiet() const {
    const auto& view = spy_->view();
    // The supervisor first: as long as it cleans up after a death it rings everyone's bell.
    const auto supervisor = look_at(supervisor_);
    if (!supervisor || supervisor->state != 'S') return false;
    std::size_t asleep = 0;
    std::size_t spares = 0;
    for (std::uint16_t slot = shm::kFirstWorkerSlot; slot < view.geometry().slots; ++slot) {
      const shm::WorkerRole role = view.entry(slot).role.load();
      const bool prepared = view.desk(slot).prepared.load() == 1;
      if (role == shm::WorkerRole::active && prepared && is_asleep(slot)) ++asleep;
      if (role == shm::WorkerRole::parked && prepared) ++spares;
    }
    return asleep == GetParam().workers - (GetParam().other == Other::busy ? 1U : 0U) &&
           spares == 1;
  }

  // Whom the next task will wake.
  [[nodiscard]] std::uint16_t next_to_wake() const {
    for (const std::uint16_t slot : spy_->active_slots()) {
      if (is_asleep(slot)) return slot;
    }
    return 0;
  }

  // Until they go on, only the victim can take the task, however slow it is.
  [[nodiscard]] std::vector<int> stop_others(std::uint16_t victim) const {
    std::vector<int> pids;
    if (GetParam().other != Other::stopped) return pids;
    for (const std::uint16_t slot : spy_->active_slots()) {
      if (slot == victim) continue;
      pids.push_back(spy_->view().entry(slot).pid.load());
      EXPECT_TRUE(stop_and_see(pids.back()));
    }
    return pids;
  }

  [[nodiscard]] bool is_told(bool done) const {
    return done || spy_->accounts().records_in_use > start_.records_in_use;
  }

  EveryInstruction::Run kill_after(long n);
  void expect_outcome(const Sighting& last, const std::string& outcome);
  void expect_accounts_at_start();

  std::optional<Pool> pool_;
  std::optional<PoolSpy> spy_;
  int supervisor_ = 0;
  Future<void> busy_;
  PoolSpy::Accounts start_;
  std::unique_ptr<OnOneProcessor> here_;
  Path path_;
};

// The caller: submits, sleeps in get(), tells what it got.
class Caller {
 public:
  Caller(Pool& pool, const Task& task)
      : thread_([this, &pool, &task] {
          outcome_ = outcome([&] { return task.run(pool); });
          done_.store(true);
        }) {}
  [[nodiscard]] bool done() const { return done_.load(); }
  // Empty if it hangs.
  [[nodiscard]] std::string outcome_in_time() {
    if (!wait_until([&] { return done(); })) return {};
    return outcome_;
  }

 private:
  std::string outcome_;
  std::atomic<bool> done_{false};
  std::jthread thread_;
};

EveryInstruction::Run WorkerStepTest::kill_after(long n) {
  EveryInstruction::Run run;
  expect_quiet();
  if (HasFatalFailure()) return run;
  if (GetParam().wrapped) {
    for (std::uint32_t i = 0; i < spy_->view().records(); ++i) {
      spy_->view().request(i).generation = 0xffffffff;
    }
  }
  board->runs.store(0);
  const PoolStats before = pool_->stats();
  std::uint16_t slot = 0;
  EXPECT_TRUE(wait_until([&] { return (slot = next_to_wake()) != 0; }));
  Sighting last;
  std::string outcome;
  {
    Stepper victim(spy_->view().entry(slot).pid.load());
    here_->bring(victim.pid());
    // The supervisor may have rung once more after a death.
    while (victim.step() == Stepper::Seen::step) {
    }
    const std::vector<int> stopped = stop_others(slot);
    Caller caller(*pool_, GetParam().task);
    // Killed in its sleep, it has been told before.
    if (n == 0) wait_until([&] { return is_told(caller.done()); });
    run = path_.go(victim, n, [&] { return caller.done(); });
    last = spy_->look(slot);
    victim.kill();
    for (const int pid : stopped) kill(pid, SIGCONT);
    outcome = caller.outcome_in_time();
  }
  expect_outcome(last, outcome);
  const PoolStats after = pool_->stats();
  const bool retried = last.owns_task && GetParam().retries > 0 &&
                       last.progress < static_cast<std::uint32_t>(GetParam().task.elements);
  EXPECT_TRUE(wait_until([&] { return pool_->stats().died == before.died + 1; }));
  if (!GetParam().task.limited) {
    EXPECT_EQ(after.retried, before.retried + (retried ? 1U : 0U));
  }
  EXPECT_EQ(pool_->apply(twice, 4), 8);
  expect_accounts_at_start();
  return run;
}

bool is_death(const std::string& outcome) { return outcome.starts_with(kDied); }

// At the kill the record said whose the task was; so it is known what must become of it.
void WorkerStepTest::expect_outcome(const Sighting& last, const std::string& outcome) {
  const Task& task = GetParam().task;
  const bool is_map = task.elements > 1;
  const bool all_finished = is_map && last.progress >= static_cast<std::uint32_t>(task.elements);
  const bool dies = last.owns_task && GetParam().retries == 0 && !all_finished;
  const std::uint32_t index = is_map ? last.progress : 0;
  const std::string expected = dies ? kDied + std::string(" ") + std::to_string(index) : task.value;
  const bool either = task.limited && last.owns_task;
  EXPECT_TRUE(outcome == expected || (either && (outcome == task.value || is_death(outcome))))
      << outcome << ", not " << expected << ", at stage " << static_cast<int>(last.stage)
      << ", progress " << last.progress << (outcome.empty() ? ": the caller hangs" : "");
  if (is_map) return;
  const int runs = board->runs.load();
  EXPECT_LE(runs, 1 + static_cast<int>(GetParam().retries));
  EXPECT_TRUE(last.owns_task || runs == 1 || task.limited) << runs << " runs";
}

void WorkerStepTest::expect_accounts_at_start() {
  const auto all_free = [&] {
    // The record of a task that had its outcome before its worker let go is collected later.
    if (GetParam().task.limited) pool_->apply(twice, 5);
    const PoolSpy::Accounts now = spy_->accounts();
    return now.records_in_use == start_.records_in_use &&
           now.inbox.live_blocks == start_.inbox.live_blocks &&
           now.outbox.live_blocks == start_.outbox.live_blocks &&
           now.inbox.claims_in_progress == 0 && now.outbox.claims_in_progress == 0;
  };
  EXPECT_TRUE(wait_until(all_free))
      << spy_->accounts().inbox.live_blocks << " blocks in the inbox, "
      << spy_->accounts().outbox.live_blocks << " in the outbox, "
      << spy_->accounts().records_in_use << " records in use";
  expect_quiet();
  EXPECT_EQ(spy_->broken_invariant(), "");
}

TEST_P(WorkerStepTest, KilledAfterEveryInstruction) {
  EveryInstruction every(GetParam().name, 1000ms);
  // The first worker is the only one that nobody died before.
  every.sweep([&](long n) { return kill_after(n); }, 2);
}

// Nobody but the supervisor can wake a caller whose worker died before it did so itself.
TEST(WorkerWakeStepTest, ADeathBetweenTheEndOfATaskAndTheWakeWakesTheCaller) {
  PoolOptions options;
  options.workers = 1;
  Pool pool(options);
  const PoolSpy spy(1);
  ASSERT_TRUE(wait_until([&] { return spy.active_slots().size() == 1; }));
  const std::uint16_t slot = spy.active_slots().front();
  ASSERT_EQ(pool.apply(negated, 1), -1);
  Stepper victim(spy.look(slot).pid);
  while (victim.step() != Stepper::Seen::asleep) {
  }
  auto future = pool.submit(negated, 2);
  const shm::TaskState& state = spy.view().state(0);
  const auto word = [&] { return shm::TaskWord::unpack(state.word.load()); };
  // As the caller sleeps, but without looking up now and then.
  const auto half = pool::announce_waiter(spy.view().state(0), word().generation);
  ASSERT_TRUE(half);
  while (word().phase != shm::TaskPhase::done) ASSERT_NE(victim.step(), Stepper::Seen::ended);
  std::atomic<int> woken{1};
  std::jthread sleeper([&] {
    const auto expected = static_cast<std::uint32_t>(state.word.load());
    const auto guard = static_cast<std::int64_t>(kHangGuard.count());
    woken.store(sys::futex_wait(pool::sleeping_half(state), expected, sys::now_ns() + guard));
  });
  ASSERT_TRUE(wait_until([&] {
    return std::ranges::all_of(tasks_of_this_process(), [](int tid) {
      return tid == getpid() || look_at(tid)->state == 'S';
    });
  }));
  victim.kill();
  sleeper.join();
  EXPECT_EQ(woken.load(), 0);
  EXPECT_EQ(future.get(), -2);
}

INSTANTIATE_TEST_SUITE_P(, WorkerStepTest, testing::ValuesIn(kCases), name_of_case<Case>);

}  // namespace
}  // namespace brood::test
