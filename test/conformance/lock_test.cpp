// Lock and RLock among living processes (CPython: _TestLock, the lock of TestStartMethod).
#include <atomic>
#include <memory>
#include <mutex>
#include <utility>

#include "support/sync.hpp"

namespace brood::test {
namespace {

class LockTest : public SyncTest {};
BROOD_FOR_EACH_START_METHOD(LockTest);

template <class L>
void hold_until(const L& lock, const Event& has, const Event& go) {
  const std::lock_guard guard(lock);
  has.set();
  go.wait();
}

// ---- as in Python

TEST_P(LockTest, ItIsLockedOnceAndUnlockedOnce) {
  const Lock lock;
  EXPECT_FALSE(lock.locked());
  lock.lock();
  EXPECT_TRUE(lock.locked());
  EXPECT_FALSE(lock.try_lock());
  EXPECT_FALSE(lock.try_lock_for(1ms));
  lock.unlock();
  EXPECT_THROW(lock.unlock(), Error);
  EXPECT_TRUE(lock.try_lock());
  lock.unlock();
}

TEST_P(LockTest, AnRLockIsUnlockedAsOftenAsItWasLocked) {
  const RLock lock;
  for (int i = 0; i < 3; ++i) lock.lock();
  EXPECT_TRUE(lock.try_lock());
  for (int i = 0; i < 4; ++i) {
    EXPECT_TRUE(lock.locked());
    lock.unlock();
  }
  EXPECT_FALSE(lock.locked());
  EXPECT_THROW(lock.unlock(), Error);
  for (int i = 0; i < 2047; ++i) lock.lock();
  EXPECT_THROW(lock.lock(), Error);
  for (int i = 0; i < 2047; ++i) lock.unlock();
  EXPECT_FALSE(lock.locked());
}

TEST_P(LockTest, TheGuardsOfTheStandardLibraryTakeThem) {
  Lock lock;
  RLock rlock;
  const Lock same = lock;
  {
    const std::scoped_lock both(lock, rlock);
    EXPECT_TRUE(same.locked());
    const std::lock_guard again(rlock);
    std::unique_lock<Lock> late(lock, std::defer_lock);
    EXPECT_FALSE(late.try_lock_for(1ms));
    EXPECT_FALSE(late.try_lock_until(std::chrono::system_clock::now() + 1ms));
  }
  EXPECT_FALSE(lock.locked());
  EXPECT_FALSE(rlock.locked());
}

TEST_P(LockTest, PrintedTheyTellTheirOwner) {
  const Lock lock;
  const RLock rlock;
  EXPECT_EQ(printed(lock), "<Lock(owner=None)>");
  EXPECT_EQ(printed(rlock), "<RLock(None, 0)>");
  {
    const std::lock_guard guard(lock);
    const std::lock_guard one(rlock);
    const std::lock_guard two(rlock);
    EXPECT_EQ(printed(lock), "<Lock(owner=MainProcess)>");
    EXPECT_EQ(printed(rlock), "<RLock(MainProcess, 2)>");
    std::string others;
    std::thread([&] { others = printed(lock) + printed(rlock); }).join();
    EXPECT_EQ(others, "<Lock(owner=SomeOtherThread)><RLock(SomeOtherThread, 2)>");
  }
  std::thread([&] {
    const std::lock_guard guard(lock);
    EXPECT_EQ(printed(lock).rfind("<Lock(owner=MainProcess|Thread-", 0), 0U) << lock;
  }).join();
  const Event has;
  const Event go;
  Process process = run(hold_until<Lock>, lock, has, go);
  has.wait();
  EXPECT_EQ(printed(lock), "<Lock(owner=SomeOtherProcess)>");
  go.set();
  process.join();
  EXPECT_EQ(printed(lock), "<Lock(owner=None)>");
}

template <class L>
void is_seen_by_another(Process (*start)(const L&, const Event&, const Event&)) {
  const L lock;
  const Event has;
  const Event go;
  Process process = start(lock, has, go);
  ASSERT_TRUE(has.wait_for(kHangGuard));
  EXPECT_TRUE(lock.locked());
  EXPECT_FALSE(lock.try_lock());
  EXPECT_FALSE(lock.try_lock_for(10ms));
  EXPECT_THROW(lock.unlock(), Error) << "it is another's";
  go.set();
  EXPECT_TRUE(lock.try_lock_for(kHangGuard));
  lock.unlock();
  process.join();
  EXPECT_EQ(process.exit_code(), 0);
}

TEST_P(LockTest, WhatOneProcessLocksIsLockedForOthers) {
  is_seen_by_another<Lock>([](const Lock& lock, const Event& a, const Event& b) {
    return run(hold_until<Lock>, lock, a, b);
  });
  is_seen_by_another<RLock>([](const RLock& lock, const Event& a, const Event& b) {
    return run(hold_until<RLock>, lock, a, b);
  });
}

// ---- one at a time

template <class L>
void add_slowly(const L& lock, const SharedWord& sum, int times) {
  for (int i = 0; i < times; ++i) {
    const std::lock_guard guard(lock);
    const std::uint64_t was = sum.word().load(std::memory_order_relaxed);
    if (i % 16 == 0) std::this_thread::yield();
    sum.word().store(was + 1, std::memory_order_relaxed);
  }
}

TEST_P(LockTest, OneAtATimeIsIn) {
  constexpr int kTimes = 2000;
  const Lock lock;
  const RLock rlock;
  const SharedWord sum(0);
  const SharedWord other_sum(0);
  std::vector<Process> processes;
  for (int i = 0; i < 3; ++i) processes.push_back(run(add_slowly<Lock>, lock, sum, kTimes));
  for (int i = 0; i < 2; ++i) processes.push_back(run(add_slowly<RLock>, rlock, other_sum, kTimes));
  std::thread thread([&] { add_slowly(lock, sum, kTimes); });
  add_slowly(lock, sum, kTimes);
  thread.join();
  join_all(processes);
  EXPECT_EQ(sum.word().load(), 5U * kTimes);
  EXPECT_EQ(other_sum.word().load(), 2U * kTimes);
}

// Who comes again and again lets others in.
TEST_P(LockTest, NobodyIsStarvedByWhoTakesItAgainAtOnce) {
  const Lock lock;
  const Event stop;
  const Event begun;
  Process process = run(
      [](const Lock& mine, const Event& begin, const Event& end) {
        while (!end.is_set()) {
          const std::lock_guard guard(mine);
          begin.set();
          const auto until = std::chrono::steady_clock::now() + 300us;
          while (std::chrono::steady_clock::now() < until) {
          }
        }
      },
      lock, begun, stop);
  begun.wait();
  for (int i = 0; i < 10; ++i) {
    ASSERT_TRUE(lock.try_lock_for(kHangGuard));
    lock.unlock();
  }
  stop.set();
  process.join();
}

// ---- misuse

TEST_P(LockTest, OnlyTheOwnerUnlocks) {
  const Lock lock;
  lock.lock();
  std::thread([&] { EXPECT_THROW(lock.unlock(), Error); }).join();
  Process process = run(
      [](const Lock& mine) {
        try {
          mine.unlock();
        } catch (const Error&) {
          return ExitCode{7};
        }
        return ExitCode{1};
      },
      lock);
  process.join();
  EXPECT_EQ(process.exit_code(), 7);
  EXPECT_TRUE(lock.locked());
  EXPECT_THROW(lock.lock(), Error) << "that would never end";
  lock.unlock();
}

TEST_P(LockTest, AMovedFromHandleIsAnErrorAndACopyIsTheSameLock) {
  Lock lock;
  const Lock copy = lock;
  Lock moved = std::move(lock);
  EXPECT_FALSE(lock);  // NOLINT(bugprone-use-after-move)
  EXPECT_THROW(lock.lock(), Error);
  EXPECT_THROW(static_cast<void>(lock.locked()), Error);
  EXPECT_EQ(printed(lock), "<Lock empty>");
  moved.lock();
  EXPECT_TRUE(copy.locked());
  copy.unlock();
}

// ---- wherever it goes

TEST_P(LockTest, ProcessesOfAllStartMethodsShareIt) {
  const Lock lock;
  const SharedWord sum(0);
  std::vector<Process> processes;
  processes.push_back(run(add_slowly<Lock>, lock, sum, 50));
  for (const StartMethod method :
       {StartMethod::fork, StartMethod::forkserver, StartMethod::spawn}) {
    // Without init() only fork is there.
    if (method != StartMethod::fork && GetParam() == StartMethod::fork) continue;
    processes.emplace_back(ProcessOptions{.start = method}, add_slowly<Lock>, lock, sum, 50);
    processes.back().start();
  }
  processes.emplace_back(forked, [&] { add_slowly(lock, sum, 50); });
  processes.back().start();
  join_all(processes);
  EXPECT_EQ(sum.word().load(), 50 * processes.size());
}

TEST_P(LockTest, TasksLockItToo) {
  PoolOptions options;
  options.workers = 2;
  options.start = GetParam();
  Pool pool(options);
  const Lock lock;
  const SharedWord sum(0);
  std::vector<Future<void>> futures;
  for (int i = 0; i < 20; ++i) futures.push_back(pool.submit(add_slowly<Lock>, lock, sum, 20));
  for (Future<void>& future : futures) future.get();
  EXPECT_EQ(sum.word().load(), 400U);
  const Lock made_there = pool.submit([] { return Lock(); }).get();
  EXPECT_TRUE(made_there.try_lock());
  made_there.unlock();
}

// ---- signals

TEST_P(LockTest, ASignalInterruptsTheWaitAndNothingIsLocked) {
  const StartMethod method = GetParam();
  const HostRun host = run_host([method] {
    const Lock lock;
    const Event has;
    const Event go;
    Process process(ProcessOptions{.start = method}, hold_until<Lock>, lock, has, go);
    process.start();
    has.wait();
    signals::interrupt_on(SIGALRM);
    signals::alarm(20ms);
    bool interrupted = false;
    try {
      lock.lock();
    } catch (const Interrupted& e) {
      interrupted = e.signal() == SIGALRM;
    }
    HOST_CHECK(interrupted);
    HOST_CHECK(printed(lock) == "<Lock(owner=SomeOtherProcess)>");
    go.set();
    lock.lock();
    lock.unlock();
    process.join();
    return 0;
  });
  EXPECT_EQ(host.end, "exit 0");
}

}  // namespace
}  // namespace brood::test
