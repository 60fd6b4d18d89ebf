// One record and all who change its word: each step hands on what lies in the record as plain
// memory.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <optional>

#include "pool/protocol/task.hpp"
#include "threads/participants.hpp"

namespace brood::pool {
namespace {

using shm::OwnerId;
using shm::ReplyKind;
using shm::TaskPhase;
using shm::TaskRequest;
using shm::TaskState;
using shm::TaskWord;

constexpr unsigned kWorkers = 3;
constexpr std::uint32_t kTasks = 30'000;

// A caller that sleeps on its task, workers that compete for it, and now and then drop it: the next
// one goes on with what the last one has left in the record.
class TaskThreadsTest : public testing::Test {
 protected:
  void call() {
    for (std::uint32_t generation = 1; generation <= kTasks; ++generation) {
      state_.attempts = 0;
      state_.kind = ReplyKind::none;
      test::Pattern(generation).write(request_.inline_arguments);
      publish_task(state_, generation);
      current_.store(generation, std::memory_order_relaxed);
      if (!sleep_until_done(generation)) return stop();
      EXPECT_TRUE(is_done());
      EXPECT_EQ(state_.kind, ReplyKind::value_inline);
      EXPECT_EQ(state_.attempts, generation % 3);
      EXPECT_EQ(state_.length, state_.reply.size());
      EXPECT_TRUE(test::Pattern(generation + 1).is_in(state_.reply));
      release_task(state_);
    }
    stop();
  }

  bool sleep_until_done(std::uint32_t generation) {
    const std::int64_t end = test::hang_guard_ns();
    while (const std::optional<std::uint32_t> half = announce_waiter(state_, generation)) {
      if (sys::futex_wait(sleeping_half(state_), *half, end) == -ETIMEDOUT) {
        ADD_FAILURE() << "the wake-up was lost";
        return false;
      }
    }
    return true;
  }

  // As every caller looks before it reads the reply: the announcement orders nothing.
  [[nodiscard]] bool is_done() const {
    return TaskWord::unpack(state_.word.load(std::memory_order_acquire)).phase == TaskPhase::done;
  }

  void stop() { current_.store(UINT32_MAX, std::memory_order_relaxed); }

  void work(unsigned number) {
    const OwnerId me{static_cast<std::uint16_t>(shm::kFirstWorkerSlot + number), 1};
    for (;;) {
      const std::uint32_t generation = current_.load(std::memory_order_relaxed);
      if (generation == UINT32_MAX) return;
      if (!claim_task(state_, generation, me)) {
        sys::yield();
        continue;
      }
      EXPECT_TRUE(test::Pattern(generation).is_in(request_.inline_arguments));
      if (state_.attempts < generation % 3) {
        ++state_.attempts;
        EXPECT_TRUE(return_task(state_, me));
        continue;
      }
      test::Pattern(generation + 1).write(state_.reply);
      state_.length = static_cast<std::uint32_t>(state_.reply.size());
      state_.kind = ReplyKind::value_inline;
      EXPECT_TRUE(finish_task(state_, me));
    }
  }

  TaskRequest request_{};
  TaskState state_{};
  std::atomic<std::uint32_t> current_{0};
};

TEST_F(TaskThreadsTest, EachStepHandsTheRecordOnAndTheSleeperIsWoken) {
  test::run_together(1 + kWorkers, [&](unsigned i) { i == 0 ? call() : work(i); });
}

// Somebody overwrites the word of a task that is being worked on, and somebody else condemns it for
// that: the caller's sleep ends, and the worker can't end the task any more.
TEST_F(TaskThreadsTest, ACondemnedTaskEndsForItsCallerAndNotByItsWorker) {
  constexpr std::uint32_t kRounds = 30'000;
  constexpr std::uint64_t kNonsense = 0xdead;
  constexpr OwnerId kWorker{shm::kFirstWorkerSlot, 1};
  std::atomic<std::uint32_t> claimed{0};
  std::atomic<std::uint32_t> condemned{0};
  const auto until = [](const std::atomic<std::uint32_t>& count, std::uint32_t least) {
    while (count.load(std::memory_order_relaxed) < least) sys::yield();
  };
  test::run_together(3, [&](unsigned i) {
    for (std::uint32_t round = 1; round <= kRounds; ++round) {
      if (i == 0) {
        publish_task(state_, round);
        until(claimed, round);
        // To a caller, too, the word is nonsense for a moment.
        while (!is_done()) {
          if (!sleep_until_done(round)) break;
        }
        EXPECT_EQ(state_.kind, ReplyKind::corrupt);
        until(condemned, round);
        release_task(state_);
      } else if (i == 1) {
        while (!claim_task(state_, round, kWorker)) sys::yield();
        claimed.store(round, std::memory_order_relaxed);
        until(condemned, round);
        EXPECT_FALSE(finish_task(state_, kWorker));
      } else {
        until(claimed, round);
        state_.word.store(kNonsense, std::memory_order_relaxed);
        EXPECT_TRUE(condemn_task(state_, kNonsense, round));
        condemned.store(round, std::memory_order_relaxed);
      }
    }
  });
}

}  // namespace
}  // namespace brood::pool
