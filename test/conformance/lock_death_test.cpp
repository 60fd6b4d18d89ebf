// Locks whose owners die.
#include <mutex>
#include <random>

#include "support/sync.hpp"
#include "warden/family.hpp"

namespace brood::test {
namespace {

class LockDeathTest : public SyncTest {
 protected:
  template <class L>
  static void leave_to_the_dead(const L& lock) {
    Process process = run(
        [](const L& mine) {
          mine.lock();
          die_now();
        },
        lock);
    process.join();
  }
};
BROOD_FOR_EACH_START_METHOD(LockDeathTest);

// The warden needs proof first.
template <class L>
bool becomes_orphaned(const L& lock) {
  return wait_until([&] { return printed(lock).find("dead") != std::string::npos; });
}

TEST_P(LockDeathTest, EverybodyIsToldUntilSomebodyRecovers) {
  const Lock lock;
  leave_to_the_dead(lock);
  EXPECT_THROW(lock.lock(), OwnerDied);
  EXPECT_THROW(static_cast<void>(lock.try_lock()), OwnerDied);
  EXPECT_THROW(static_cast<void>(lock.try_lock_for(1h)), OwnerDied);
  EXPECT_TRUE(lock.locked());
  EXPECT_EQ(printed(lock), "<Lock(owner=dead)>");
  Process process = run(
      [](const Lock& mine) {
        try {
          mine.lock();
        } catch (const OwnerDied&) {
          return ExitCode{7};
        }
        return ExitCode{1};
      },
      lock);
  process.join();
  EXPECT_EQ(process.exit_code(), 7);
  EXPECT_TRUE(lock.recover());
  EXPECT_FALSE(lock.recover());
  EXPECT_FALSE(lock.locked());
  lock.lock();
  lock.unlock();
}

TEST_P(LockDeathTest, WhoWaitsAlreadyIsTold) {
  const Lock lock;
  const Event has;
  const Event go;
  Process owner = run(
      [](const Lock& mine, const Event& say, const Event& wait) {
        mine.lock();
        say.set();
        wait.wait();
        die_now();
      },
      lock, has, go);
  has.wait();
  std::vector<std::thread> threads;
  std::atomic<int> told{0};
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&] {
      try {
        lock.lock();
      } catch (const OwnerDied&) {
        ++told;
      }
    });
  }
  std::this_thread::sleep_for(5ms);
  go.set();
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(told, 3);
  owner.join();
}

TEST_P(LockDeathTest, HowOftenAnRLockWasLockedDiesWithItsOwner) {
  const RLock lock;
  Process process = run(
      [](const RLock& mine) {
        for (int i = 0; i < 5; ++i) mine.lock();
        mine.unlock();
        die_now();
      },
      lock);
  process.join();
  EXPECT_THROW(lock.lock(), OwnerDied);
  EXPECT_TRUE(lock.recover());
  lock.lock();
  EXPECT_EQ(printed(lock), "<RLock(MainProcess, 1)>");
  lock.unlock();
  EXPECT_FALSE(lock.locked());
}

TEST_P(LockDeathTest, WhoIgnoresDeathsSimplyGetsIt) {
  const Lock lock({.ignore_owner_death = true});
  leave_to_the_dead(lock);
  EXPECT_TRUE(lock.try_lock_for(kHangGuard));
  EXPECT_FALSE(lock.recover()) << "there is nothing to recover";
  lock.unlock();
}

TEST_P(LockDeathTest, OneRepairsWhileOthersAreTold) {
  const Lock lock;
  EXPECT_FALSE(lock.recover([] { FAIL() << "there is nothing to repair"; }));
  leave_to_the_dead(lock);
  EXPECT_THROW(lock.lock(), OwnerDied);
  EXPECT_THROW(lock.recover([] { throw std::runtime_error("it can't be repaired"); }),
               std::runtime_error);
  EXPECT_THROW(lock.lock(), OwnerDied);
  bool repaired = false;
  EXPECT_TRUE(lock.recover([&] {
    std::thread([&] {
      EXPECT_THROW(static_cast<void>(lock.try_lock()), OwnerDied);
      EXPECT_FALSE(lock.recover([] {})) << "somebody is at it";
    }).join();
    repaired = true;
  }));
  EXPECT_TRUE(repaired);
  EXPECT_TRUE(lock.try_lock());
  lock.unlock();
}

TEST_P(LockDeathTest, WhoDiesWhileRepairingLeavesItAsItWas) {
  const Lock lock;
  leave_to_the_dead(lock);
  EXPECT_THROW(lock.lock(), OwnerDied);
  Process process = run([](const Lock& mine) { mine.recover([] { die_now(); }); }, lock);
  process.join();
  ASSERT_TRUE(becomes_orphaned(lock));
  EXPECT_THROW(lock.lock(), OwnerDied);
  EXPECT_TRUE(lock.recover());
}

TEST_P(LockDeathTest, AThreadThatEndsLeavesItAsTheDeadDo) {
  const Lock lock;
  const RLock rlock;
  std::thread([&] {
    lock.lock();
    rlock.lock();
    rlock.lock();
  }).join();
  EXPECT_THROW(lock.lock(), OwnerDied);
  EXPECT_THROW(static_cast<void>(rlock.try_lock()), OwnerDied);
  EXPECT_TRUE(lock.recover());
  EXPECT_TRUE(rlock.recover());
  // One that has unlocked leaves nothing.
  std::thread([&] { const std::scoped_lock both(lock, rlock); }).join();
  EXPECT_TRUE(lock.try_lock());
  lock.unlock();
}

TEST_P(LockDeathTest, WhoeverIsStoppedIsNotDead) {
  const Lock lock;
  const Event has;
  Process owner = run(
      [](const Lock& mine, const Event& say) {
        mine.lock();
        say.set();
        ::raise(SIGSTOP);
        mine.unlock();
      },
      lock, has);
  has.wait();
  ASSERT_TRUE(wait_until([&] { return look_at(owner.pid())->state == 'T'; }));
  EXPECT_FALSE(lock.try_lock_for(450ms)) << "it looks after the owner meanwhile";
  owner.send_signal(SIGCONT);
  EXPECT_TRUE(lock.try_lock_for(kHangGuard));
  lock.unlock();
  owner.join();
}

// Two words that only the lock keeps equal.
void change_both(const Lock& lock, const SharedWord& first, const SharedWord& second,
                 const SharedWord& rounds) {
  for (;;) {
    try {
      const std::lock_guard guard(lock);
      if (first.word().load() != second.word().load()) std::abort();
      first.word().fetch_add(1);
      second.word().fetch_add(1);
    } catch (const OwnerDied&) {
      lock.recover([&] { second.word().store(first.word().load()); });
    }
    rounds.word().fetch_add(1);
  }
}

TEST_P(LockDeathTest, KilledAtRandomMomentsTheyNeverLeaveItLocked) {
  const Lock lock;
  const SharedWord first(0);
  const SharedWord second(0);
  const SharedWord rounds(0);
  std::mt19937_64 random(seed_of_the_day());
  std::vector<Process> processes;
  const auto start = [&] { return run(change_both, lock, first, second, rounds); };
  for (int i = 0; i < 3; ++i) processes.push_back(start());
  for (int kills = 0; kills < 12; ++kills) {
    ASSERT_TRUE(comes_to(rounds, rounds.word().load() + 20));
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 2000));
    Process& victim = processes[random() % processes.size()];
    victim.kill();
    victim.join();
    victim = start();
  }
  ASSERT_TRUE(comes_to(rounds, rounds.word().load() + 20));
  for (Process& process : processes) process.kill();
  for (Process& process : processes) {
    process.join();
    EXPECT_EQ(process.exit_code(), -SIGKILL);
  }
}

TEST_P(LockDeathTest, WithoutAWardenWaitsEndAndGuardsDoNotThrow) {
  const StartMethod method = GetParam();
  const HostRun host = run_host([method] {
    const Lock lock;
    const Condition condition;
    const Event has;
    Process owner(
        ProcessOptions{.daemon = true, .start = method},
        [](const Lock& mine, const Condition& other, const Event& say) {
          mine.lock();
          const std::lock_guard guard(other);
          say.set();
          for (;;) ::pause();
        },
        lock, condition, has);
    {
      std::unique_lock guard(condition);
      owner.start();
      std::thread killer([] {
        std::this_thread::sleep_for(20ms);
        ::kill(warden::Family::current()->warden_pid(), SIGKILL);
      });
      HOST_CHECK(outcome_of([&] { condition.wait(); }) == "FamilyBroken");
      killer.join();
    }
    HOST_CHECK(outcome_of([&] { lock.lock(); }) == "FamilyBroken");
    ::kill(owner.pid(), SIGKILL);
    owner.join();
    return 0;
  });
  EXPECT_EQ(host.end, "exit 0");
}

}  // namespace
}  // namespace brood::test
