// Conditions (CPython: _TestCondition).
#include <mutex>
#include <random>

#include "support/sync.hpp"

namespace brood::test {
namespace {

class ConditionTest : public SyncTest {
 protected:
  // "<Condition(<RLock(None, 0)>, 2)>".
  static bool waiting_are(const Condition& condition, std::size_t count) {
    const std::string end = ", " + std::to_string(count) + ")>";
    return wait_until([&] { return printed(condition).ends_with(end); });
  }
};
BROOD_FOR_EACH_START_METHOD(ConditionTest);

void sleep_once(const Condition& condition, const SharedWord& woken) {
  const std::lock_guard guard(condition);
  condition.wait();
  say_so(woken);
}
void sleep_for_long(const Condition& condition, const SharedWord& woken,
                    std::chrono::milliseconds limit) {
  const std::lock_guard guard(condition);
  if (condition.wait_for(limit)) std::abort();
  say_so(woken);
}

TEST_P(ConditionTest, ANotificationWakesOne) {
  const Condition condition;
  const SharedWord woken(0);
  std::vector<Process> processes;
  processes.push_back(run(sleep_once, condition, woken));
  std::thread thread([&] { sleep_once(condition, woken); });
  ASSERT_TRUE(waiting_are(condition, 2));
  EXPECT_EQ(woken.word().load(), 0U);
  for (std::uint64_t n = 1; n <= 2; ++n) {
    const std::unique_lock guard(condition);
    condition.notify();
    EXPECT_TRUE(waiting_are(condition, 2 - n));
    EXPECT_EQ(woken.word().load(), n - 1) << "it needs the lock to go on";
    condition.unlock();
    EXPECT_TRUE(comes_to(woken, n));
    condition.lock();
  }
  thread.join();
  join_all(processes);
  EXPECT_EQ(printed(condition), "<Condition(<RLock(None, 0)>, 0)>");
}

TEST_P(ConditionTest, AllOrSomeAreNotifiedAndNobodyIsRemembered) {
  const Condition condition{Lock()};
  const SharedWord woken(0);
  condition.notify_all();  // nobody is there: it is gone
  std::vector<Process> processes;
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    processes.push_back(run(sleep_once, condition, woken));
    threads.emplace_back([&] { sleep_once(condition, woken); });
  }
  ASSERT_TRUE(waiting_are(condition, 6));
  condition.notify(2);
  ASSERT_TRUE(comes_to(woken, 2));
  EXPECT_TRUE(waiting_are(condition, 4));
  condition.notify_one();
  ASSERT_TRUE(comes_to(woken, 3));
  EXPECT_TRUE(waiting_are(condition, 3));
  condition.notify(100);
  ASSERT_TRUE(comes_to(woken, 6));
  for (std::thread& thread : threads) thread.join();
  join_all(processes);
  EXPECT_EQ(woken.word().load(), 6U);
}

TEST_P(ConditionTest, ALimitEndsAWaitAndTheLockIsHeldAgain) {
  const Condition condition;
  const SharedWord woken(0);
  std::vector<Process> processes;
  processes.push_back(run(sleep_for_long, condition, woken, 20ms));
  ASSERT_TRUE(comes_to(woken, 1));
  const std::unique_lock guard(condition);
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_FALSE(condition.wait_for(10ms));
  EXPECT_GE(std::chrono::steady_clock::now() - begin, 10ms);
  EXPECT_FALSE(condition.wait_until(std::chrono::system_clock::now() + 1ms));
  EXPECT_EQ(printed(condition), "<Condition(<RLock(MainProcess, 1)>, 0)>");
  join_all(processes);
}

TEST_P(ConditionTest, APredicateIsWaitedFor) {
  const Condition condition;
  const SharedWord state(0);
  std::vector<Process> processes;
  processes.push_back(run(
      [](const Condition& mine, const SharedWord& number) {
        {
          const std::lock_guard guard(mine);
          number.word().store(1);
          mine.notify();
          mine.wait_for([&] { return number.word().load() == 4; });
        }
      },
      condition, state));
  {
    std::unique_lock guard(condition);
    condition.wait([&] { return state.word().load() == 1; });
    EXPECT_FALSE(condition.wait_for(5ms, [&] { return state.word().load() == 4; }));
    EXPECT_FALSE(condition.wait_for([&] { return state.word().load() == 4; }, 5ms));
  }
  for (std::uint64_t n = 2; n <= 4; ++n) {
    const std::lock_guard guard(condition);
    state.word().store(n);
    condition.notify();
    EXPECT_TRUE(condition.wait_for(1h, [] { return true; }));
  }
  join_all(processes);
}

TEST_P(ConditionTest, AnRLockIsGivenUpHoweverOftenItWasLocked) {
  const RLock lock;
  const Condition condition(lock);
  std::vector<Process> processes;
  {
    const std::lock_guard one(lock);
    const std::lock_guard two(condition);
    processes.push_back(run(
        [](const Condition& mine, const RLock& same) {
          const std::lock_guard guard(same);
          mine.notify_all();
        },
        condition, lock));
    condition.wait();
    EXPECT_EQ(printed(lock), "<RLock(MainProcess, 2)>");
  }
  EXPECT_FALSE(lock.locked());
  join_all(processes);
}

TEST_P(ConditionTest, WaitingNeedsTheLock) {
  const Condition condition;
  EXPECT_THROW(condition.wait(), Error);
  EXPECT_THROW(condition.wait_for(1h), Error);
  EXPECT_THROW(condition.wait_for(1h, [] { return false; }), Error);
  condition.lock();
  std::thread([&] { EXPECT_THROW(condition.wait(), Error); }).join();
  condition.unlock();
  Condition moved = condition;
  const Condition there = std::move(moved);
  EXPECT_THROW(moved.notify(), Error);  // NOLINT(bugprone-use-after-move)
}

TEST_P(ConditionTest, MoreThanHaveCellsAreWokenToo) {
  constexpr int kMany = 110;
  const Condition condition;
  std::atomic<int> inside{0};
  std::atomic<bool> open{false};
  std::vector<std::thread> threads;
  for (int i = 0; i < kMany; ++i) {
    threads.emplace_back([&] {
      const std::lock_guard guard(condition);
      ++inside;
      condition.wait([&] { return open.load(); });
    });
  }
  ASSERT_TRUE(wait_until([&] { return inside == kMany; }));
  {
    const std::lock_guard guard(condition);
    open = true;
    condition.notify_all();
  }
  for (std::thread& thread : threads) thread.join();
}

// test_wait_result: a signal amid a wait.
TEST_P(ConditionTest, ASignalInterruptsAWaitWhichHasItsLockAgain) {
  const StartMethod method = GetParam();
  const HostRun host = run_host([method] {
    const Condition condition;
    std::unique_lock guard(condition);
    HOST_CHECK(!condition.wait_for(1ms));
    signals::interrupt_on(SIGALRM);
    signals::alarm(20ms);
    HOST_CHECK(outcome_of([&] { condition.wait_for(kHangGuard); }).starts_with("Error"));
    HOST_CHECK(printed(condition) == "<Condition(<RLock(MainProcess, 1)>, 0)>");
    Process process(
        ProcessOptions{.start = method},
        [](const Condition& mine) {
          const std::lock_guard locked(mine);
          mine.notify();
        },
        condition);
    process.start();
    HOST_CHECK(condition.wait_for(kHangGuard));
    process.join();
    return 0;
  });
  EXPECT_EQ(host.end, "exit 0");
}

// ---- deaths

TEST_P(ConditionTest, ANotificationOfTheDeadPassesOn) {
  const Condition condition;
  const SharedWord woken(0);
  Process first = run(sleep_once, condition, woken);
  ASSERT_TRUE(waiting_are(condition, 1));
  std::vector<Process> processes;
  processes.push_back(run(sleep_once, condition, woken));
  ASSERT_TRUE(waiting_are(condition, 2));
  {
    // It is given to the first, which can't go on without the lock.
    const std::lock_guard guard(condition);
    condition.notify();
    ASSERT_TRUE(waiting_are(condition, 1));
    first.kill();
    first.join();
    EXPECT_TRUE(waiting_are(condition, 0)) << "the warden passes it on";
  }
  EXPECT_TRUE(comes_to(woken, 1));
  join_all(processes);
}

TEST_P(ConditionTest, WhoDiesWaitingIsNotNotified) {
  const Condition condition;
  const SharedWord woken(0);
  Process first = run(sleep_once, condition, woken);
  ASSERT_TRUE(waiting_are(condition, 1));
  std::vector<Process> processes;
  processes.push_back(run(sleep_once, condition, woken));
  ASSERT_TRUE(waiting_are(condition, 2));
  first.kill();
  first.join();
  ASSERT_TRUE(waiting_are(condition, 1));
  condition.notify();
  EXPECT_TRUE(comes_to(woken, 1));
  join_all(processes);
}

TEST_P(ConditionTest, WhoseLocksOwnerDiedHoldsItAndIsTold) {
  const Condition condition;
  std::vector<Process> processes;
  const std::lock_guard guard(condition);
  Process process = run(
      [](const Condition& mine) {
        mine.lock();
        mine.notify();
        die_now();
      },
      condition);
  EXPECT_THROW(condition.wait(), OwnerDied);
  EXPECT_EQ(printed(condition), "<Condition(<RLock(MainProcess, 1)>, 0)>");
  std::thread([&] { EXPECT_THROW(condition.lock(), OwnerDied); }).join();
  condition.unlock();
  EXPECT_THROW(condition.lock(), OwnerDied) << "nobody has recovered it";
  EXPECT_TRUE(condition.recover());
  condition.lock();
  process.join();
}

// Turns are passed round by notifications; whoever is killed is replaced.
void take_turns(const Condition& condition, const SharedWord& turns) {
  for (;;) {
    try {
      const std::lock_guard guard(condition);
      turns.word().fetch_add(1);
      condition.notify();
      condition.wait_for(50ms);
    } catch (const OwnerDied&) {
      condition.recover();
    }
  }
}

TEST_P(ConditionTest, KilledAtRandomMomentsTheyLeaveItUsable) {
  const Condition condition;
  const SharedWord turns(0);
  std::mt19937_64 random(seed_of_the_day());
  const auto start = [&] { return run(take_turns, condition, turns); };
  std::vector<Process> processes;
  for (int i = 0; i < 3; ++i) processes.push_back(start());
  for (int kills = 0; kills < 10; ++kills) {
    ASSERT_TRUE(comes_to(turns, turns.word().load() + 10));
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 2000));
    Process& victim = processes[random() % processes.size()];
    victim.kill();
    victim.join();
    victim = start();
  }
  ASSERT_TRUE(comes_to(turns, turns.word().load() + 10));
  for (Process& process : processes) process.kill();
  for (Process& process : processes) process.join();
  EXPECT_TRUE(waiting_are(condition, 0));
}

}  // namespace
}  // namespace brood::test
