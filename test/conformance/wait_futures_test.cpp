// Waiting for several futures: wait(), as_completed(), CompletionQueue, descriptors.
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

#include "brood/brood.hpp"
#include "support/pools.hpp"
#include "support/processes.hpp"

namespace brood::test {
namespace {

class WaitFuturesTest : public PoolConformance {};
BROOD_FOR_EACH_START_METHOD(WaitFuturesTest);
class AsCompletedTest : public PoolConformance {};
BROOD_FOR_EACH_START_METHOD(AsCompletedTest);
class CompletionQueueTest : public PoolConformance {};
BROOD_FOR_EACH_START_METHOD(CompletionQueueTest);
class FutureFilenoTest : public PoolConformance {};
BROOD_FOR_EACH_START_METHOD(FutureFilenoTest);

int after(const Event& gate, int value) {
  gate.wait();
  return value;
}
int twice(int n) { return 2 * n; }
int fail(int n) { throw std::runtime_error("no " + std::to_string(n)); }
int fail_after(const Event& gate, int n) {
  gate.wait();
  return fail(n);
}
int die_after(const Event& gate) {
  gate.wait();
  return kill(getpid(), SIGKILL);
}

bool is_readable(int fd, std::chrono::milliseconds limit = 0ms) {
  pollfd entry{fd, POLLIN, 0};
  return ::poll(&entry, 1, static_cast<int>(limit.count())) == 1;
}
constexpr std::chrono::milliseconds kGuardMs =
    std::chrono::duration_cast<std::chrono::milliseconds>(kHangGuard);

bool kill_supervisor(const Pool& pool) {
  int supervisor = 0;
  wait_until([&] {
    const auto worker = look_at(pool.stats().workers.at(0).pid);
    supervisor = worker ? worker->parent : 0;
    return supervisor > 1;
  });
  return supervisor > 1 && kill(supervisor, SIGKILL) == 0;
}

// Who ended a task that was taken already may knock late.
bool becomes_unreadable(CompletionQueue& queue) {
  return wait_until([&] { return !queue.try_next() && !is_readable(queue.fileno()); });
}

// Of a child that runs `body`, forked by hand.
template <class Body>
int exit_code_of_fork(Body&& body) {
  const pid_t child = fork();
  if (child == 0) _exit(body());
  int status = 0;
  return waitpid(child, &status, 0) == child && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

using Places = std::vector<std::size_t>;

// ---- wait()

TEST_P(WaitFuturesTest, FirstCompletedEndsWithTheFirst) {
  Pool pool(with(2));
  Event gate;
  auto slow = pool.submit(after, gate, 1);
  auto quick = pool.submit(twice, 21);
  const WaitedFor seen = wait({slow, quick}, first_completed);
  EXPECT_EQ(seen.done, Places{1});
  EXPECT_EQ(seen.not_done, Places{0});
  EXPECT_EQ(quick.get(), 42);
  gate.set();
  EXPECT_EQ(slow.get(), 1);
}

TEST_P(WaitFuturesTest, FirstCompletedWithSomeThatHaveEnded) {
  Pool pool(with(2));
  Event gate;
  auto ended = pool.submit(twice, 1);
  ended.wait();
  auto slow = pool.submit(after, gate, 1);
  const WaitedFor seen = wait({ended, slow}, first_completed);
  EXPECT_EQ(seen.done, Places{0});
  EXPECT_EQ(seen.not_done, Places{1});
  gate.set();
}

TEST_P(WaitFuturesTest, FirstExceptionPassesOverValues) {
  Pool pool(with(2));
  Event gate;
  Event never;
  auto right = pool.submit(twice, 21);
  auto wrong = pool.submit(fail_after, gate, 7);
  right.wait();
  auto slow = pool.submit(after, never, 1);
  std::thread opener([&] { gate.set(); });
  const WaitedFor seen = wait({right, wrong, slow}, first_exception);
  opener.join();
  EXPECT_EQ(seen.done, (Places{0, 1}));
  EXPECT_EQ(seen.not_done, Places{2});
  never.set();
  EXPECT_THROW(wrong.get(), std::runtime_error);
}

TEST_P(WaitFuturesTest, FirstExceptionWithOneThatHasFailedAlready) {
  Pool pool(with(2));
  Event gate;
  auto wrong = pool.submit(fail, 1);
  wrong.wait();
  auto slow = pool.submit(after, gate, 1);
  EXPECT_EQ(wait({slow, wrong}, first_exception).done, Places{1});
  gate.set();
  EXPECT_EQ(wait({slow}, first_exception).done, Places{0}) << "none fails: all";
}

TEST_P(WaitFuturesTest, AllCompletedWaitsForAll) {
  Pool pool(with(2));
  std::vector<Future<int>> futures;
  for (int i = 0; i < 100; ++i) futures.push_back(pool.submit(twice, i));
  futures.push_back(pool.submit(fail, 1));
  const WaitedFor seen = wait(futures);
  EXPECT_EQ(seen.done.size(), 101U);
  EXPECT_TRUE(seen.not_done.empty());
  for (std::size_t i = 0; i < 100; ++i) EXPECT_EQ(futures[i].get(), 2 * static_cast<int>(i));
}

TEST_P(WaitFuturesTest, ATimeoutTellsWhatHasEnded) {
  Pool pool(with(2));
  Event gate;
  auto slow = pool.submit(after, gate, 1);
  auto quick = pool.submit(twice, 2);
  quick.wait();
  WaitedFor seen = wait({slow, quick}, all_completed, 5ms);
  EXPECT_EQ(seen.done, Places{1});
  EXPECT_EQ(seen.not_done, Places{0});
  seen = wait({slow}, first_completed, -1s);
  EXPECT_EQ(seen.not_done, Places{0});
  gate.set();
  EXPECT_EQ(wait({slow, quick}, all_completed, kHangGuard).done.size(), 2U);
}

TEST_P(WaitFuturesTest, TheSameOneSeveralTimesAndNone) {
  Pool pool(with(1));
  auto future = pool.submit(twice, 1);
  const std::vector<AnyFuture> same = {future, future, future};
  EXPECT_EQ(wait(std::span(same), all_completed).done, (Places{0, 1, 2}));
  EXPECT_TRUE(wait(std::span<const AnyFuture>(), all_completed).done.empty());
  EXPECT_EQ(future.get(), 2);
  EXPECT_THROW(wait({future}, all_completed), Error);
}

TEST_P(WaitFuturesTest, OfSeveralPoolsAndTypes) {
  Pool one(with(1));
  Pool two(with(1));
  Event gate;
  auto number = one.submit(after, gate, 1);
  auto text = two.submit([](const Event& e) { return e.wait(), std::string("text"); }, gate);
  EXPECT_TRUE(wait({number, text}, all_completed, 1ms).done.empty());
  std::thread opener([&] { gate.set(); });
  EXPECT_EQ(wait({number, text}, all_completed).done.size(), 2U);
  opener.join();
  EXPECT_EQ(text.get(), "text");
}

TEST_P(WaitFuturesTest, AWorkerThatDiesEndsTheWait) {
  Pool pool(with(2));
  Event gate;
  auto dies = pool.submit(die_after, gate);
  auto quick = pool.submit(twice, 1);
  quick.wait();
  std::thread opener([&] { gate.set(); });
  EXPECT_EQ(wait({dies, quick}, first_exception).done, (Places{0, 1}));
  opener.join();
  EXPECT_THROW(dies.get(), WorkerDied);
}

TEST_P(WaitFuturesTest, APoolThatEndsEndsTheWait) {
  Pool pool(with(1));
  auto never = pool.submit([] { pause(); });
  auto behind = pool.submit(twice, 1);
  std::thread ender([&] { pool.terminate(); });
  EXPECT_EQ(wait({never, behind}, all_completed).done.size(), 2U);
  ender.join();
  EXPECT_THROW(never.get(), PoolClosed);
  EXPECT_THROW(behind.get(), PoolClosed);
}

TEST_P(WaitFuturesTest, ASignalHandlerRunsMeanwhile) {
  const PoolOptions options = with(1);
  const HostRun run = run_host([options] {
    Pool pool(options);
    Event gate;
    auto slow = pool.submit(after, gate, 1);
    signals::on(SIGUSR1, [&](int) { gate.set(); });
    std::thread sender([] { kill(getpid(), SIGUSR1); });
    HOST_CHECK(wait({slow}, all_completed, kHangGuard).done.size() == 1);
    sender.join();
    CompletionQueue queue;
    auto never = pool.submit([] { pause(); });
    queue.add(never, 1);
    signals::interrupt_on(SIGUSR2);
    kill(getpid(), SIGUSR2);
    try {
      queue.next();
      HOST_CHECK(false);
    } catch (const Interrupted&) {
    }
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0") << run.out;
}

// ---- as_completed()

TEST_P(AsCompletedTest, InTheOrderOfTheirEnds) {
  Pool pool(with(3));
  std::array<Event, 3> gates;
  std::vector<Future<int>> futures;
  for (int i = 0; i < 3; ++i) {
    futures.push_back(pool.submit(after, gates[static_cast<std::size_t>(i)], i));
  }
  std::vector<int> order;
  gates[1].set();
  auto range = as_completed(futures);
  for (auto i = range.begin(); i != range.end(); ++i) {
    EXPECT_EQ(static_cast<int>(i.index()), order.empty() ? 1 : (order.size() == 1 ? 2 : 0));
    order.push_back((*i).get());
    if (order.size() == 1) gates[2].set();
    if (order.size() == 2) gates[0].set();
  }
  EXPECT_EQ(order, (std::vector{1, 2, 0}));
}

TEST_P(AsCompletedTest, NoResultsAsATimeoutOfZero) {
  Pool pool(with(2));
  Event gate;
  std::vector<Future<int>> futures;
  futures.push_back(pool.submit(twice, 1));
  futures.push_back(pool.submit(after, gate, 1));
  futures[0].wait();
  std::vector<int> seen;
  EXPECT_THROW(
      {
        for (auto& future : as_completed(futures, 0s)) seen.push_back(future.get());
      },
      TimeoutError);
  EXPECT_EQ(seen, std::vector{2});
  gate.set();
}

TEST_P(AsCompletedTest, ARangeThatIsGivenAwayIsKept) {
  Pool pool(with(2));
  std::vector<Future<int>> futures;
  for (int i = 0; i < 10; ++i) futures.push_back(pool.submit(twice, i));
  int sum = 0;
  for (auto& future : as_completed(std::move(futures))) sum += future.get();
  EXPECT_EQ(sum, 90);
  for (auto& future : as_completed(std::vector<Future<int>>())) future.wait();
}

TEST_P(AsCompletedTest, WorkersThatDieAmidThem) {
  Pool pool(with(2));
  std::vector<Future<int>> futures;
  for (int i = 0; i < 60; ++i) {
    futures.push_back(
        pool.submit([](int n) { return n % 10 == 3 ? kill(getpid(), SIGKILL) : n; }, i));
  }
  int died = 0;
  int values = 0;
  for (auto& future : as_completed(futures)) {
    try {
      static_cast<void>(future.get());
      ++values;
    } catch (const WorkerDied&) {
      ++died;
    }
  }
  EXPECT_EQ(died, 6);
  EXPECT_EQ(values, 54);
}

// ---- CompletionQueue

TEST_P(CompletionQueueTest, TagsThatAreNotGivenArePlaces) {
  Pool pool(with(2));
  CompletionQueue queue;
  std::vector<Future<int>> futures;
  for (int i = 0; i < 10; ++i) {
    futures.push_back(pool.submit(twice, i));
    EXPECT_EQ(queue.add(futures.back()), static_cast<std::uint64_t>(i));
  }
  EXPECT_THROW(queue.add(Future<int>()), Error);
  EXPECT_EQ(queue.add(futures[0]), 10U) << "what was refused has no place";
  std::vector<bool> seen(11);
  while (const auto tag = queue.next()) {
    EXPECT_FALSE(seen.at(*tag));
    seen.at(*tag) = true;
    if (*tag == 10) continue;
    EXPECT_EQ(futures[*tag].get(), 2 * static_cast<int>(*tag));
  }
  EXPECT_EQ(std::count(seen.begin(), seen.end(), true), 11);
}

TEST_P(CompletionQueueTest, GivesEachTagOnce) {
  Pool pool(with(2));
  CompletionQueue queue;
  EXPECT_TRUE(queue.empty());
  EXPECT_EQ(queue.next(), std::nullopt);
  std::vector<Future<int>> futures;
  for (std::uint64_t i = 0; i < 1000; ++i) {
    futures.push_back(pool.submit(twice, static_cast<int>(i)));
    queue.add(futures.back(), i);
  }
  std::set<std::uint64_t> seen;
  while (const auto tag = queue.next()) {
    EXPECT_EQ(futures[*tag].get(), 2 * static_cast<int>(*tag));
    EXPECT_TRUE(seen.insert(*tag).second);
  }
  EXPECT_EQ(seen.size(), 1000U);
  EXPECT_TRUE(queue.empty());
}

TEST_P(CompletionQueueTest, WaitsAndTriesWithALimit) {
  Pool pool(with(1));
  CompletionQueue queue;
  Event gate;
  auto future = pool.submit(after, gate, 1);
  queue.add(future, 7);
  EXPECT_EQ(queue.try_next(), std::nullopt);
  EXPECT_EQ(queue.next_for(2ms), std::nullopt);
  EXPECT_FALSE(queue.empty());
  gate.set();
  EXPECT_EQ(queue.next_for(kHangGuard), 7U);
  EXPECT_EQ(queue.next_for(kHangGuard), std::nullopt) << "nothing to wait for";
  queue.add(future, 8);
  EXPECT_EQ(queue.try_next(), 8U) << "it has ended";
  future.get();
  EXPECT_THROW(queue.add(future, 9), Error);
}

TEST_P(CompletionQueueTest, OneThatIsDroppedOrTakenComesAtOnce) {
  Pool pool(with(1));
  CompletionQueue queue;
  Event gate;
  {
    auto dropped = pool.submit(after, gate, 1);
    queue.add(dropped, 1);
  }
  EXPECT_EQ(queue.try_next(), 1U);
  auto taken = pool.submit(twice, 4);
  queue.add(taken, 2);
  gate.set();
  taken.get();
  EXPECT_EQ(queue.try_next(), 2U);
}

TEST_P(CompletionQueueTest, SeveralQueuesForTheSameFutures) {
  Pool pool(with(2));
  CompletionQueue one;
  CompletionQueue two;
  std::vector<Future<int>> futures;
  for (std::uint64_t i = 0; i < 100; ++i) {
    futures.push_back(pool.submit(twice, 1));
    one.add(futures.back(), i);
    two.add(futures.back(), i);
  }
  std::size_t count = 0;
  while (one.next()) ++count;
  while (two.next()) ++count;
  EXPECT_EQ(count, 200U);
  {
    CompletionQueue gone;
    Event gate;
    auto late = pool.submit(after, gate, 1);
    gone.add(late, 1);
    gate.set();
  }
}

TEST_P(CompletionQueueTest, SeveralThreadsTakeFromOne) {
  Pool pool(with(2));
  CompletionQueue queue;
  std::vector<Future<int>> futures;
  std::atomic<int> taken{0};
  Event gate;
  auto last = pool.submit(after, gate, 1);
  queue.add(last, 0);
  std::vector<std::thread> takers;
  for (int i = 0; i < 3; ++i) {
    takers.emplace_back([&] {
      while (queue.next()) taken.fetch_add(1);
    });
  }
  for (std::uint64_t i = 0; i < 500; ++i) {
    futures.push_back(pool.submit(twice, 1));
    queue.add(futures.back(), i);
  }
  EXPECT_TRUE(wait_until([&] { return taken.load() == 500; }));
  gate.set();
  for (std::thread& taker : takers) taker.join();
  EXPECT_EQ(taken.load(), 501);
}

TEST_P(CompletionQueueTest, WorkersAreKilledWhileSomebodyWaits) {
  Pool pool(with(2));
  CompletionQueue queue;
  std::vector<Future<int>> futures;
  constexpr std::uint64_t kTasks = 3000;
  for (std::uint64_t i = 0; i < kTasks; ++i) {
    futures.push_back(pool.submit(twice, static_cast<int>(i)));
    queue.add(futures.back(), i);
  }
  std::atomic<bool> over{false};
  std::thread killer([&] {
    while (!over.load()) {
      for (const auto& worker : pool.stats().workers) {
        if (worker.pid > 0) kill(worker.pid, SIGKILL);
      }
      std::this_thread::sleep_for(2ms);
    }
  });
  std::uint64_t seen = 0;
  const Deadline guard(kHangGuard);
  while (seen < kTasks && !guard.passed()) {
    if (queue.next_for(guard.left())) ++seen;
  }
  over.store(true);
  killer.join();
  EXPECT_EQ(seen, kTasks);
  for (auto& future : futures) EXPECT_TRUE(future.ready());
}

TEST_P(CompletionQueueTest, APoolWhoseSupervisorIsKilledEndsItsTasks) {
  CompletionQueue queue;
  Pool whole(with(1));
  Event gate;
  auto lives = whole.submit(after, gate, 1);
  queue.add(lives, 1);
  {
    Pool pool(with(1));
    auto never = pool.submit([] { pause(); });
    queue.add(never, 2);
    const int fd = queue.fileno();
    EXPECT_FALSE(is_readable(fd));
    ASSERT_TRUE(kill_supervisor(pool));
    EXPECT_TRUE(is_readable(fd, kGuardMs));
    EXPECT_EQ(queue.next_for(kHangGuard), 2U);
    EXPECT_THROW(never.get(), Error);
    EXPECT_TRUE(becomes_unreadable(queue)) << "what has ended says so once";
  }
  gate.set();
  EXPECT_EQ(queue.next_for(kHangGuard), 1U);
}

TEST_P(CompletionQueueTest, ItsDescriptorIsReadableWhileThereIsSomething) {
  Pool pool(with(2));
  CompletionQueue queue;
  Event gate;
  auto early = pool.submit(twice, 1);
  early.wait();
  queue.add(early, 0);
  const int fd = queue.fileno();
  EXPECT_TRUE(is_readable(fd)) << "it had ended before";
  EXPECT_EQ(queue.try_next(), 0U);
  EXPECT_TRUE(becomes_unreadable(queue));
  for (int round = 0; round < 20; ++round) {
    auto one = pool.submit(after, gate, 1);
    auto two = pool.submit(after, gate, 2);
    queue.add(one, 1);
    queue.add(two, 2);
    EXPECT_FALSE(is_readable(fd));
    gate.set();
    std::uint64_t sum = 0;
    while (sum != 3) {
      ASSERT_TRUE(is_readable(fd, kGuardMs));
      if (const auto tag = queue.try_next()) sum += *tag;
    }
    EXPECT_TRUE(becomes_unreadable(queue));
    gate.clear();
  }
  auto dies = pool.submit([] { kill(getpid(), SIGKILL); });
  queue.add(dies, 3);
  while (!queue.empty()) {
    ASSERT_TRUE(is_readable(fd, kGuardMs));
    queue.try_next();
  }
  pool.terminate();
  pool.join();
  EXPECT_TRUE(becomes_unreadable(queue));
}

TEST_P(CompletionQueueTest, InAForkedChildItIsInert) {
  Pool pool(with(1));
  CompletionQueue queue;
  Event gate;
  auto future = pool.submit(after, gate, 1);
  queue.add(future, 1);
  static_cast<void>(queue.fileno());
  static_cast<void>(future.fileno());
  EXPECT_EQ(exit_code_of_fork([&] {
              try {
                static_cast<void>(queue.try_next());
                return 1;
              } catch (const Error&) {
              }
              const CompletionQueue dropped = std::move(queue);
              return 0;
            }),
            0);
  gate.set();
  EXPECT_EQ(queue.next_for(kHangGuard), 1U);
}

TEST_P(CompletionQueueTest, MoreEndsThanTheRingHolds) {
  Pool pool(with(2));
  CompletionQueue queue;
  std::vector<Future<int>> futures;
  constexpr std::uint64_t kTasks = 150'000;
  for (std::uint64_t i = 0; i < kTasks; ++i) {
    futures.push_back(pool.submit(twice, static_cast<int>(i)));
    queue.add(futures.back(), i);
  }
  for (auto& future : futures) future.wait();
  std::vector<bool> seen(kTasks);
  while (const auto tag = queue.next()) {
    EXPECT_FALSE(seen[*tag]);
    seen[*tag] = true;
  }
  EXPECT_EQ(std::ranges::count(seen, true), static_cast<std::ptrdiff_t>(kTasks));
}

// ---- a future's descriptor

TEST_P(FutureFilenoTest, IsReadableOnceTheTaskHasEnded) {
  Pool pool(with(2));
  Event gate;
  Event other;
  auto future = pool.submit(after, gate, 5);
  auto neighbour = pool.submit(after, other, 6);
  const int fd = future.fileno();
  EXPECT_EQ(future.fileno(), fd);
  EXPECT_FALSE(is_readable(fd));
  other.set();
  neighbour.wait();
  EXPECT_FALSE(is_readable(fd)) << "another's end";
  gate.set();
  EXPECT_TRUE(is_readable(fd, kGuardMs));
  EXPECT_TRUE(future.ready());
  EXPECT_TRUE(is_readable(fd)) << "until it is taken";
  EXPECT_EQ(future.get(), 5);
  auto ended = pool.submit(twice, 1);
  ended.wait();
  EXPECT_TRUE(is_readable(ended.fileno()));
  EXPECT_THROW(static_cast<void>(future.fileno()), Error);
}

TEST_P(FutureFilenoTest, FuturesTakePartInTheWaitForWhatever) {
  Pool pool(with(2));
  Event gate;
  auto future = pool.submit(after, gate, 5);
  Queue<int> queue;
  std::array<int, 2> pipe{};
  ASSERT_EQ(::pipe(pipe.data()), 0);
  EXPECT_TRUE(wait({future, queue, pipe[0]}, 1ms).empty());
  gate.set();
  EXPECT_EQ(wait({pipe[0], future, queue}), Places{1});
  queue.put(1);
  EXPECT_EQ(wait({queue, future}).size(), 2U);
  close(pipe[0]);
  close(pipe[1]);
}

TEST_P(FutureFilenoTest, IsReadableWhenTheWorkerDies) {
  Pool pool(with(1));
  for (int i = 0; i < 3; ++i) {
    Event gate;
    auto future = pool.submit(die_after, gate);
    const int fd = future.fileno();
    gate.set();
    EXPECT_TRUE(is_readable(fd, kGuardMs));
    EXPECT_THROW(future.get(), WorkerDied);
  }
}

TEST_P(FutureFilenoTest, IsReadableWhenThePoolEnds) {
  Pool pool(with(1));
  auto never = pool.submit([] { pause(); });
  const int fd = never.fileno();
  EXPECT_FALSE(is_readable(fd));
  pool.terminate();
  EXPECT_TRUE(is_readable(fd, kGuardMs));
  EXPECT_THROW(never.get(), PoolClosed);
}

TEST_P(FutureFilenoTest, AndWhenItsSupervisorIsKilled) {
  Pool pool(with(1));
  auto never = pool.submit([] { pause(); });
  const int fd = never.fileno();
  ASSERT_TRUE(kill_supervisor(pool));
  EXPECT_TRUE(is_readable(fd, kGuardMs));
  EXPECT_THROW(never.get(), Error);
}

TEST_P(FutureFilenoTest, WorkersKilledAtAnyMomentLeaveNoneUnread) {
  Pool pool(with(2));
  std::atomic<bool> over{false};
  std::thread killer([&] {
    while (!over.load()) {
      for (const auto& worker : pool.stats().workers) {
        if (worker.pid > 0) kill(worker.pid, SIGKILL);
      }
      std::this_thread::sleep_for(1ms);
    }
  });
  for (int i = 0; i < 300; ++i) {
    auto future = pool.submit(twice, i);
    ASSERT_TRUE(is_readable(future.fileno(), kGuardMs)) << i;
    EXPECT_TRUE(future.ready());
  }
  over.store(true);
  killer.join();
}

}  // namespace
}  // namespace brood::test
