// What CPython's tests check of its queues, and what users see of ours besides.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "brood/brood.hpp"
#include "support/host.hpp"
#include "support/pools.hpp"
#include "support/shared_word.hpp"
#include "warden/object_space.hpp"

namespace brood::test {
namespace {

class QueueTest : public StartMethodTest {
 protected:
  static ProcessOptions started_so() { return {.start = GetParam()}; }
  template <class F, class... Args>
  static Process start(F f, const Args&... args) {
    Process process(started_so(), f, args...);
    process.start();
    return process;
  }
};
BROOD_FOR_EACH_START_METHOD(QueueTest);

void expect_good_end(Process& process) {
  process.join();
  EXPECT_EQ(process.exit_code(), 0);
}

std::size_t blocks() { return warden::ObjectSpace::join().objects().arena().stats().live_blocks; }

// ---- _TestQueue

TEST_P(QueueTest, PutBlocksAtExactlyItsLimitUntilSomebodyGets) {
  const SharedWord go(0);
  Queue<int> queue(6);
  Process child = start(
      [](Queue<int> mine, const SharedWord& may) {
        while (may.word().load() == 0) std::this_thread::sleep_for(1ms);
        for (int i = 1; i <= 6; ++i) {
          if (mine.get() != i) std::abort();
        }
        may.word().store(2);
      },
      queue, go);
  EXPECT_TRUE(queue.empty());
  EXPECT_FALSE(queue.full());
  queue.put(1);
  EXPECT_TRUE(queue.put_for(2, 1h));
  EXPECT_TRUE(queue.put_for(3, 0s));
  EXPECT_TRUE(queue.put_for(4, -1s));
  EXPECT_TRUE(queue.try_put(5));
  EXPECT_FALSE(queue.full());
  queue.put(6);
  EXPECT_FALSE(queue.empty());
  EXPECT_TRUE(queue.full());
  EXPECT_EQ(queue.size(), 6U);
  EXPECT_FALSE(queue.try_put(7));
  const auto before = std::chrono::steady_clock::now();
  EXPECT_FALSE(queue.put_for(7, 30ms));
  EXPECT_FALSE(queue.put_until(7, std::chrono::steady_clock::now() + 20ms));
  EXPECT_GE(std::chrono::steady_clock::now() - before, 50ms);
  EXPECT_FALSE(queue.put_for(7, -1s));
  go.word().store(1);
  expect_good_end(child);
  EXPECT_EQ(go.word().load(), 2U);
  EXPECT_TRUE(queue.empty());
  EXPECT_FALSE(queue.full());
}

TEST_P(QueueTest, GetBlocksUntilSomebodyPuts) {
  const SharedWord go(0);
  Queue<int> queue;
  Process child = start(
      [](Queue<int> mine, const SharedWord& may) {
        while (may.word().load() == 0) std::this_thread::sleep_for(1ms);
        for (int i = 2; i <= 5; ++i) mine.put(i);
      },
      queue, go);
  EXPECT_TRUE(queue.empty());
  EXPECT_EQ(queue.try_get(), std::nullopt);
  go.word().store(1);
  EXPECT_EQ(queue.get(), 2);
  EXPECT_EQ(queue.get_for(1h), 3);
  expect_good_end(child);
  EXPECT_FALSE(queue.empty());
  EXPECT_EQ(queue.try_get(), 4);
  EXPECT_EQ(queue.get_until(std::chrono::steady_clock::now()), 5);
  EXPECT_TRUE(queue.empty());
  EXPECT_EQ(queue.try_get(), std::nullopt);
  const auto before = std::chrono::steady_clock::now();
  EXPECT_EQ(queue.get_for(30ms), std::nullopt);
  EXPECT_GE(std::chrono::steady_clock::now() - before, 30ms);
  EXPECT_EQ(queue.get_for(-1s), std::nullopt);
}

TEST_P(QueueTest, WhatIsPutBeforeAndAfterAStartArrivesInItsOrder) {
  Queue<int> queue;
  for (int i = 0; i < 10; ++i) queue.put(i);
  Process child = start(
      [](Queue<int> mine) {
        for (int i = 10; i < 20; ++i) mine.put(i);
      },
      queue);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(queue.get(), i);
  expect_good_end(child);
  EXPECT_EQ(queue.try_get(), std::nullopt);
}

TEST_P(QueueTest, SizesAreExactForWhatOneDidOneself) {
  for (const std::size_t limit : {0U, 1000U}) {
    Queue<int> queue(limit);
    EXPECT_EQ(queue.size(), 0U);
    for (std::size_t i = 1; i <= 500; ++i) {
      queue.put(static_cast<int>(i));
      ASSERT_EQ(queue.size(), i);
    }
    Process child = start(
        [](Queue<int> mine) {
          const std::size_t before = mine.size();
          for (int i = 0; i < 100; ++i) mine.get();
          if (before != 500 || mine.size() != 400) std::abort();
        },
        queue);
    expect_good_end(child);
    for (std::size_t i = 400; i-- > 0;) {
      queue.get();
      ASSERT_EQ(queue.size(), i);
    }
  }
}

void work_off(JoinableQueue<int> tasks) {
  while (tasks.get() >= 0) {
    std::this_thread::sleep_for(1ms);
    tasks.task_done();
  }
  tasks.task_done();
}

TEST_P(QueueTest, JoinReturnsWhenAllTasksAreDone) {
  JoinableQueue<int> tasks;
  tasks.join();
  std::vector<Process> workers;
  for (int i = 0; i < 4; ++i) workers.push_back(start(work_off, tasks));
  for (int i = 0; i < 40; ++i) tasks.put(i);
  tasks.join();
  EXPECT_EQ(tasks.size(), 0U);
  for (int i = 0; i < 4; ++i) tasks.put(-1);
  EXPECT_TRUE(tasks.join_for(kHangGuard));
  for (Process& worker : workers) expect_good_end(worker);
  EXPECT_THROW(tasks.task_done(), Error) << "it got none";
  tasks.put(1);
  EXPECT_FALSE(tasks.join_for(10ms));
  tasks.get();
  EXPECT_FALSE(tasks.join_for(10ms)) << "got is not done";
  tasks.task_done();
  EXPECT_TRUE(tasks.join_for(0s));
  EXPECT_THROW(tasks.task_done(), Error) << "once too often";
}

// A task may put further tasks before it is done: there is no moment without a task in between.
TEST_P(QueueTest, JoinWaitsForTheTasksThatTasksMake) {
  JoinableQueue<int> tasks;
  const SharedWord done(0);
  const auto work = [](JoinableQueue<int> mine, const SharedWord& count) {
    for (int task : mine) {
      for (int i = 0; i < task; ++i) mine.put(task - 1);
      count.word().fetch_add(1);
      mine.task_done();
    }
  };
  Process a = start(work, tasks, done);
  Process b = start(work, tasks, done);
  tasks.put(5);
  tasks.join();
  EXPECT_EQ(done.word().load(), 326U) << "1 + 5 + 20 + 60 + 120 + 120";
  tasks.close();
  expect_good_end(a);
  expect_good_end(b);
}

TEST_P(QueueTest, AConsumerThatEndsWithoutTaskDoneAbandonsItsTasks) {
  for (const bool killed : {false, true}) {
    JoinableQueue<int> tasks;
    for (int i = 0; i < 3; ++i) tasks.put(i);
    Process child = start(
        [](JoinableQueue<int> mine, bool dies) {
          mine.get();
          mine.get();
          mine.task_done();
          if (dies) raise(SIGKILL);
        },
        tasks, killed);
    EXPECT_THROW(tasks.join(), TaskAbandoned);
    child.join();
    tasks.get();
    tasks.task_done();
    tasks.join();
  }
}

struct Unwilling {
  int refused = 0;
  template <class Archive>
  void save(Archive& archive) const {
    if (refused != 0) throw std::runtime_error("it does not want to go");
    archive(refused);
  }
  template <class Archive>
  void load(Archive& archive) {
    archive(refused);
  }
};

TEST_P(QueueTest, AnItemThatCantBeEncodedIsAnErrorOfPutAndTakesNoRoom) {
  Queue<Unwilling> queue(1);
  EXPECT_THROW(queue.put({1}), std::runtime_error);
  EXPECT_EQ(queue.size(), 0U);
  EXPECT_TRUE(queue.try_put({0}));
  EXPECT_THROW(queue.try_put({1}), std::runtime_error) << "even if it is full";
  EXPECT_EQ(queue.size(), 1U);
  EXPECT_EQ(queue.get().refused, 0);
}

TEST_P(QueueTest, ClosedIsSaidToAllWhoPutAndToWhoeverGetsOnceItIsEmpty) {
  Queue<int> queue(2);
  queue.put(1);
  queue.put(2);
  EXPECT_FALSE(queue.closed());
  Process putter = start(
      [](Queue<int> mine) {
        try {
          mine.put(3);
        } catch (const Closed&) {
          return;
        }
        std::abort();
      },
      queue);
  std::this_thread::sleep_for(20ms);
  queue.close();
  queue.close();
  EXPECT_TRUE(queue.closed());
  expect_good_end(putter);
  EXPECT_THROW(queue.put(4), Closed);
  EXPECT_THROW(queue.try_put(4), Closed);
  EXPECT_THROW(queue.put_for(4, 1s), Closed);
  EXPECT_EQ(queue.get(), 1);
  EXPECT_EQ(queue.try_get(), 2);
  EXPECT_THROW(queue.get(), Closed);
  EXPECT_THROW(queue.try_get(), Closed);
  EXPECT_THROW(queue.get_for(1s), Closed);
  EXPECT_TRUE(queue.empty());
  EXPECT_EQ(queue.size(), 0U);
}

TEST_P(QueueTest, SleepingGettersLearnThatItIsClosed) {
  Queue<int> queue;
  std::vector<Process> getters;
  for (int i = 0; i < 3; ++i) {
    getters.push_back(start(
        [](Queue<int> mine) {
          int count = 0;
          for ([[maybe_unused]] int item : mine) ++count;
          return ExitCode{count};
        },
        queue));
  }
  for (int i = 0; i < 9; ++i) queue.put(i);
  std::this_thread::sleep_for(50ms);
  queue.close();
  int sum = 0;
  for (Process& getter : getters) {
    getter.join();
    sum += getter.exit_code().value_or(-1);
  }
  EXPECT_EQ(sum, 9);
}

// ---- TestSimpleQueue

TEST_P(QueueTest, ASimpleQueueIsEmptyUntilSomebodyPuts) {
  SimpleQueue<std::string> queue;
  const SharedWord go(0);
  Process child = start(
      [](SimpleQueue<std::string> mine, const SharedWord& may) {
        while (may.word().load() == 0) std::this_thread::sleep_for(1ms);
        mine.put(mine.empty() ? "it was empty" : "it was not");
        mine.put("second");
      },
      queue, go);
  EXPECT_TRUE(queue.empty());
  go.word().store(1);
  EXPECT_EQ(queue.get(), "it was empty");
  EXPECT_EQ(queue.get(), "second");
  expect_good_end(child);
  EXPECT_TRUE(queue.empty());
  queue.close();
  queue.close();
  EXPECT_THROW(queue.get(), Closed);
  EXPECT_THROW(queue.put("late"), Closed);
}

// ---- TestStdinBadfiledescriptor, TestStartMethod.test_nested_startmethod

void put_in_a_child(Queue<int> queue, StartMethod method) {
  Process child({.start = method}, [](Queue<int> mine) { mine.put(2); }, queue);
  child.start();
  child.join();
  queue.put(1);
}

TEST_P(QueueTest, AChildHandsItsQueueToItsChild) {
  for (const StartMethod inner : {StartMethod::fork, GetParam()}) {
    Queue<int> queue;
    Process child = start(put_in_a_child, queue, inner);
    EXPECT_EQ(queue.get(), 2);
    EXPECT_EQ(queue.get(), 1);
    expect_good_end(child);
  }
}

TEST_P(QueueTest, AChildMakesAQueueOfItsOwn) {
  Process child = start([] {
    Queue<int> queue;
    Process inner({.start = StartMethod::fork}, [](Queue<int> mine) { mine.put(5); }, queue);
    inner.start();
    if (queue.get() != 5) std::abort();
    inner.join();
  });
  expect_good_end(child);
}

// ---- programs of the course notes

TEST_P(QueueTest, TheNotesTwoProcessesTalkInPairs) {
  Queue<std::pair<int, int>> queue;
  Queue<int> printed;
  Process teller = start(
      [](Queue<std::pair<int, int>> mine) {
        for (int i = 0; i < 10; ++i) mine.put({2, i});
      },
      queue);
  Process reckoner = start(
      [](Queue<std::pair<int, int>> mine, Queue<int> print) {
        for (int i = 0; i < 10; ++i) {
          const auto [a, b] = mine.get();
          int power = 1;
          for (int k = 0; k < b; ++k) power *= a;
          print.put(power);
        }
      },
      queue, printed);
  expect_good_end(teller);
  expect_good_end(reckoner);
  for (int i = 0; i < 10; ++i) EXPECT_EQ(printed.get(), 1 << i);
}

// ---- values of all kinds

struct Job {
  int number = 0;
  std::string name;
  std::vector<double> data;
  friend bool operator==(const Job&, const Job&) = default;
};
struct Wide {
  std::array<std::int64_t, 15> numbers{};
  friend bool operator==(const Wide&, const Wide&) = default;
};

template <class T>
void echo(Queue<T> in, Queue<T> out) {
  for (T item : in) out.put(std::move(item));
  out.close();
}

template <class T>
void expect_echoed(StartMethod method, const std::vector<T>& items) {
  Queue<T> there(2);
  Queue<T> back;
  Process child({.start = method}, echo<T>, there, back);
  child.start();
  for (const T& item : items) there.put(item);
  there.close();
  std::vector<T> got;
  for (T item : back) got.push_back(std::move(item));
  EXPECT_EQ(got, items);
  expect_good_end(child);
}

TEST_P(QueueTest, ItemsOfAllSizesAndKindsArriveAsTheyWere) {
  expect_echoed<char>(GetParam(), {'a', 'b'});
  expect_echoed<std::array<int, 5>>(GetParam(), {{1, 2, 3, 4, 5}, {6, 7, 8, 9, 10}});
  expect_echoed<std::array<std::int64_t, 7>>(GetParam(), {{1, 2}, {3, 4}});
  expect_echoed<Wide>(GetParam(), {{{1, 2, 3}}, {}});
  expect_echoed<std::array<std::int64_t, 16>>(GetParam(), {{1, 2}, {3, 4}});
  expect_echoed<std::string>(GetParam(), {"", "short", std::string(1'000'000, 'x')});
  expect_echoed<Job>(GetParam(), {{1, "one", {1.5}}, {2, "two", std::vector<double>(10'000, 0.5)}});
  expect_echoed<std::variant<int, std::string>>(GetParam(), {1, "two"});
  expect_echoed<std::vector<std::uint8_t>>(GetParam(), {std::vector<std::uint8_t>(3 << 20, 7)});
}

TEST_P(QueueTest, QueuesTravelThroughQueues) {
  const SharedWord keeps_the_family(0);
  const std::size_t before = blocks();
  {
    Queue<Queue<int>> queues;
    Process child = start(
        [](Queue<Queue<int>> mine) {
          Queue<int> made;
          made.put(42);
          mine.put(std::move(made));
        },
        queues);
    expect_good_end(child);  // nobody has the inner queue now but the message
    std::this_thread::sleep_for(50ms);
    EXPECT_EQ(queues.get().get(), 42);
    for (int i = 0; i < 10; ++i) queues.put(Queue<int>(1));
  }
  EXPECT_TRUE(wait_until([&] { return blocks() == before; }, 5s * kSlowness))
      << "queues in a queue end with it";
}

struct Request {
  int number = 0;
  Queue<int> reply;
};

TEST_P(QueueTest, ARequestBringsTheQueueForItsAnswer) {
  Queue<Request> requests;
  Process server = start(
      [](Queue<Request> mine) {
        for (Request request : mine) request.reply.put(2 * request.number);
      },
      requests);
  Queue<int> replies;
  for (int i = 0; i < 100; ++i) requests.put({i, replies});
  for (int i = 0; i < 100; ++i) EXPECT_EQ(replies.get(), 2 * i);
  requests.close();
  expect_good_end(server);
}

TEST_P(QueueTest, TasksOfPoolsUseThem) {
  Queue<int> progress;
  Pool pool({.workers = 2, .start = GetParam()});
  const auto work = [](int n, Queue<int> tell) {
    tell.put(n);
    return n * n;
  };
  std::vector<Future<int>> futures;
  for (int i = 0; i < 20; ++i) futures.push_back(pool.submit(work, i, progress));
  int sum = 0;
  for (int i = 0; i < 20; ++i) sum += progress.get();
  EXPECT_EQ(sum, 190);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(futures[static_cast<std::size_t>(i)].get(), i * i);
  // What the workers held they hold for as long as they live.
  pool.shutdown(5s);
}

// ---- limits

TEST_P(QueueTest, DropOldestNeverBlocksAndKeepsTheNewest) {
  Queue<int> queue({.max_items = 3, .on_full = OnFull::drop_oldest});
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(queue.try_put(i));
  for (int i = 7; i < 10; ++i) EXPECT_EQ(queue.get(), i);
  Queue<std::string> texts({.max_bytes = 3000, .on_full = OnFull::drop_oldest});
  for (int i = 0; i < 10; ++i) texts.put(std::string(1000, static_cast<char>('a' + i)));
  EXPECT_EQ(texts.size(), 2U);
  EXPECT_EQ(texts.get()[0], 'i');
  EXPECT_THROW(Queue<int>({.on_full = OnFull::drop_oldest}), Error);
}

TEST_P(QueueTest, MaxBytesLimitsWhatLiesInIt) {
  Queue<std::string> queue({.max_bytes = 3 * (1000 + 8)});
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(queue.try_put(std::string(1000, 'x')));
  EXPECT_TRUE(queue.full());
  EXPECT_FALSE(queue.try_put("a"));
  Process child = start(
      [](Queue<std::string> mine) {
        for (int i = 0; i < 4; ++i) mine.get();
      },
      queue);
  queue.put(std::string(2000, 'y'));
  expect_good_end(child);
  EXPECT_TRUE(queue.empty());
  EXPECT_THROW(queue.put(std::string(3100, 'z')), Error) << "it never fits";
  Queue<std::int64_t> numbers({.max_bytes = 80});
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(numbers.try_put(i));
  EXPECT_FALSE(numbers.try_put(10));
}

TEST_P(QueueTest, AFailedTryLeavesAMovedArgumentUntouched) {
  Queue<std::unique_ptr<std::string>> queue(1);
  auto first = std::make_unique<std::string>("first");
  auto second = std::make_unique<std::string>("second");
  EXPECT_TRUE(queue.try_put(std::move(first)));
  EXPECT_FALSE(queue.try_put(std::move(second)));
  ASSERT_NE(second, nullptr);
  EXPECT_EQ(*second, "second");
  EXPECT_EQ(*queue.get(), "first");
}

TEST_P(QueueTest, EachWayOfWaitingWorks) {
  for (const QueueWait how : {QueueWait::adaptive, QueueWait::spin, QueueWait::sleep}) {
    Queue<int> there({.max_items = 4, .wait = how});
    Queue<int> back({.max_items = 4, .wait = how});
    Process child = start(echo<int>, there, back);
    for (int i = 0; i < 200; ++i) {
      there.put(i);
      ASSERT_EQ(back.get(), i);
    }
    EXPECT_EQ(back.get_for(5ms), std::nullopt);
    there.close();
    expect_good_end(child);
  }
}

// ---- many

// Sums and counts of what several producers put; each producer's items come in their order.
TEST_P(QueueTest, ManyProducersAndConsumersLoseNothing) {
  constexpr int kEach = 20'000;
  for (const std::size_t limit : {0U, 1U, 7U, 1000U}) {
    Queue<std::array<int, 2>> queue(limit);
    Queue<std::int64_t> sums;
    std::vector<Process> all;
    const auto produce = [](Queue<std::array<int, 2>> mine, int who, int count) {
      for (int i = 0; i < count; ++i) mine.put({who, i});
    };
    const auto consume = [](Queue<std::array<int, 2>> mine, Queue<std::int64_t> tell) {
      std::map<int, int> last;
      std::int64_t sum = 0;
      for (const auto [who, i] : mine) {
        const auto before = last.find(who);
        if (before != last.end() && before->second >= i) std::abort();
        last[who] = i;
        sum += i;
      }
      tell.put(sum);
    };
    const int count = limit == 1 ? kEach / 10 : kEach;
    for (int who = 0; who < 3; ++who) all.push_back(start(produce, queue, who, count));
    for (int i = 0; i < 2; ++i) all.push_back(start(consume, queue, sums));
    for (int who = 0; who < 3; ++who) expect_good_end(all[static_cast<std::size_t>(who)]);
    queue.close();
    EXPECT_EQ(sums.get() + sums.get(), std::int64_t{3} * count * (count - 1) / 2) << limit;
    for (Process& process : all) expect_good_end(process);
  }
}

TEST_P(QueueTest, ItGrowsWhileOthersPutAndGet) {
  Queue<int> queue;
  constexpr int kCount = 100'000;
  Process child = start(
      [](Queue<int> mine) {
        for (int i = 0; i < kCount; ++i) {
          if (mine.get() != i) std::abort();
          if (i % 1000 == 0) std::this_thread::sleep_for(100us);
        }
      },
      queue);
  for (int i = 0; i < kCount; ++i) queue.put(i);
  expect_good_end(child);
  EXPECT_TRUE(queue.empty());
}

TEST_P(QueueTest, ManyQueuesLiveAtOnce) {
  std::vector<Queue<int>> queues;
  for (int i = 0; i < 1000; ++i) queues.emplace_back();
  for (int i = 0; i < 1000; ++i) queues[static_cast<std::size_t>(i)].put(i);
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(queues[static_cast<std::size_t>(i)].get(), i);
}

// ---- wait()

bool is_readable(int fd) {
  pollfd entry{fd, POLLIN, 0};
  return poll(&entry, 1, 0) == 1;
}

TEST_P(QueueTest, ItsDescriptorIsReadableWhileItHoldsSomething) {
  Queue<int> queue;
  const int fd = queue.fileno();
  EXPECT_EQ(queue.fileno(), fd);
  EXPECT_FALSE(is_readable(fd));
  queue.put(1);
  EXPECT_TRUE(is_readable(fd));
  queue.put(2);
  queue.get();
  EXPECT_TRUE(is_readable(fd));
  queue.get();
  EXPECT_FALSE(is_readable(fd));
  Process child = start(
      [](Queue<int> mine) {
        std::this_thread::sleep_for(20ms);
        mine.put(3);
        mine.put(4);
      },
      queue);
  EXPECT_EQ(wait({queue, child}, kHangGuard).at(0), 0U);
  EXPECT_EQ(queue.get(), 3);
  EXPECT_EQ(queue.get(), 4);
  // Whoever put the last item may ring for it when we have got it already.
  while (wait({queue, child}, kHangGuard).back() != 1) EXPECT_EQ(queue.try_get(), std::nullopt);
  expect_good_end(child);
  EXPECT_EQ(queue.try_get(), std::nullopt);
  EXPECT_FALSE(is_readable(fd));
  queue.close();
  EXPECT_TRUE(is_readable(fd));
}

TEST_P(QueueTest, EachWaiterForADescriptorIsTold) {
  Queue<int> queue;
  Queue<int> told;
  std::vector<Process> waiters;
  for (int i = 0; i < 3; ++i) {
    waiters.push_back(start(
        [](Queue<int> mine, Queue<int> tell) {
          for (;;) {
            wait({mine});
            try {
              if (const auto item = mine.try_get()) tell.put(*item);
            } catch (const Closed&) {
              return;
            }
          }
        },
        queue, told));
  }
  int sum = 0;
  for (int i = 0; i < 200; ++i) {
    queue.put(i);
    if (i % 3 == 0) sum += told.get();
  }
  for (int i = 67; i < 200; ++i) sum += told.get();
  EXPECT_EQ(sum, 19'900);
  queue.close();
  for (Process& waiter : waiters) expect_good_end(waiter);
}

// ---- messages in place

struct Frame {
  std::int64_t sequence = 0;
  int width = 0;
  int height = 0;
};
using Frames = Queue<Message<Frame>>;

TEST_P(QueueTest, MessagesAreWrittenAndReadInPlace) {
  const SharedWord keeps_the_family(0);
  const std::size_t before = blocks();
  {
    Frames frames(2);
    Process camera = start(
        [](Frames mine) {
          for (int i = 0; i < 20; ++i) {
            Frames::Loan loan = mine.loan(1'000'000);
            loan.header() = {i, 1000, 1000};
            std::ranges::fill(loan.bytes(), static_cast<std::byte>(i));
            if (reinterpret_cast<std::uintptr_t>(loan.bytes().data()) % 64 != 0) std::abort();
            loan.publish();
          }
          mine.close();
        },
        frames);
    for (int i = 0; i < 20; ++i) {
      const auto view = frames.get_view_for(kHangGuard);
      ASSERT_TRUE(view);
      EXPECT_EQ(view->header().sequence, i);
      ASSERT_EQ(view->bytes().size(), 1'000'000U);
      EXPECT_TRUE(std::ranges::all_of(
          view->bytes(), [&](std::byte byte) { return byte == static_cast<std::byte>(i); }));
    }
    EXPECT_THROW(static_cast<void>(frames.get_view()), Closed);
    expect_good_end(camera);
  }
  EXPECT_TRUE(wait_until([&] { return blocks() == before; }, 5s * kSlowness));
}

TEST_P(QueueTest, ALoanThatIsDroppedIsReturned) {
  Frames frames(1);
  const std::size_t before = blocks();
  {
    const auto loan = frames.try_loan(100);
  }
  EXPECT_EQ(blocks(), before);
  EXPECT_TRUE(frames.empty());
  frames.put({1, 2, 3}, std::as_bytes(std::span("text")));
  EXPECT_FALSE(frames.try_loan(100)) << "full";
  EXPECT_FALSE(frames.loan_for(100, 5ms));
  {
    const auto view = frames.get_view();
    auto loan = frames.try_loan(100);
    ASSERT_TRUE(loan) << "what is being viewed is not in the queue";
    loan->publish();
    EXPECT_THROW(loan->publish(), Error) << "twice";
    EXPECT_EQ(blocks(), before + 2);
  }
  frames.close();
  EXPECT_EQ(blocks(), before + 1);
}

TEST_P(QueueTest, AKilledHolderOfLoansAndViewsLeavesNothing) {
  Frames frames(4);
  const std::size_t before = blocks();
  for (int i = 0; i < 2; ++i) frames.put({i, 0, 0}, {});
  Process child = start(
      [](Frames mine) {
        auto view = mine.get_view();
        auto loan = mine.loan(1000);
        mine.put({7, 0, 0}, {});
        raise(SIGKILL);
      },
      frames);
  child.join();
  EXPECT_EQ(frames.get_view().header().sequence, 1);
  EXPECT_EQ(frames.get_view().header().sequence, 7);
  EXPECT_FALSE(frames.try_get_view());
  EXPECT_TRUE(wait_until([&] { return blocks() == before; }, 5s * kSlowness));
}

// ---- ends

TEST_P(QueueTest, AProcessEndsThoughNobodyHasEmptiedItsQueue) {
  Queue<std::string> queue;
  Process child = start(
      [](Queue<std::string> mine) {
        for (int i = 0; i < 1000; ++i) mine.put(std::string(1000, 'x'));
      },
      queue);
  expect_good_end(child);
  EXPECT_EQ(queue.size(), 1000U);
}

TEST_P(QueueTest, WhatWasPutSurvivesTheDeathOfItsProducer) {
  Queue<int> small;
  Queue<std::string> large;
  Process child = start(
      [](Queue<int> a, Queue<std::string> b) {
        for (int i = 0; i < 100; ++i) {
          a.put(i);
          b.put(std::to_string(i));
        }
        raise(SIGKILL);
      },
      small, large);
  child.join();
  for (int i = 0; i < 100; ++i) {
    ASSERT_EQ(small.try_get(), i);
    ASSERT_EQ(large.try_get(), std::to_string(i));
  }
  EXPECT_TRUE(small.empty());
  EXPECT_TRUE(large.empty());
}

TEST_P(QueueTest, TheLastHandleEndsItWithAllThatIsInIt) {
  const SharedWord keeps_the_family(0);
  const std::size_t before = blocks();
  {
    Queue<std::string> queue;
    for (int i = 0; i < 1000; ++i) queue.put(std::string(100, 'x'));
  }
  EXPECT_TRUE(wait_until([&] { return blocks() == before; }, 5s * kSlowness));
}

TEST_P(QueueTest, AKilledHostLeavesNothing) {
  Host host([] {
    Queue<int> queue;
    Process child({.daemon = true}, [](Queue<int> mine) { mine.get(); }, queue);
    child.start();
    say("ready");
    queue.get();
    return 0;
  });
  ASSERT_EQ(host.read_line(), "ready");
  host.send(SIGKILL);
  EXPECT_EQ(host.end(), "signal 9");
  EXPECT_TRUE(host.is_gone_within(kPromisedSecond));
}

TEST_P(QueueTest, AForkedCopyOfTheUsersOwnIsInert) {
  Host host([] {
    Queue<int> queue;
    Frames frames;
    queue.put(1);
    auto loan = frames.loan(10);
    const pid_t pid = fork();
    if (pid == 0) {
      bool refused = false;
      try {
        queue.get();
      } catch (const StaleHandle&) {
        refused = true;
      }
      _exit(refused ? 0 : 1);
    }
    int status = -1;
    HOST_CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    HOST_CHECK(queue.get() == 1);
    loan.publish();
    return 0;
  });
  EXPECT_EQ(host.end(), "exit 0");
}

}  // namespace
}  // namespace brood::test
