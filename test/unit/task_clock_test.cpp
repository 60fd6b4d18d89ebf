// What the supervisor makes of time limits, without a supervisor.
#include "pool/protocol/task_clock.hpp"

#include <gtest/gtest.h>

#include <cstdint>

#include "pool/protocol/task.hpp"
#include "pool/supervisor/births.hpp"
#include "sys/clock.hpp"
#include "threads/shared_pool.hpp"

namespace brood::pool {
namespace {

using shm::OwnerId;
using shm::RingEntry;
using shm::TaskPhase;
using shm::TaskWord;

constexpr std::uint16_t kSlot = shm::kFirstWorkerSlot;
constexpr std::uint32_t kGeneration = 7;
constexpr std::int64_t kMinuteNs = 60'000'000'000;

// Between the claim and its worker's word when it will have run for too long, what counts is the
// task's own limit: not the one at which the last worker of that slot was killed.
TEST(TaskClockTest, AWorkersFirstTaskIsNotLateByTheLimitThatItsPredecessorDiedOf) {
  const test::SharedPool shared(1);
  const PoolView view = shared.view();
  shared.segment.reserve(shared.geometry.requests.offset, sizeof(shm::TaskRequest));
  shared.segment.reserve(shared.geometry.states.offset, sizeof(shm::TaskState));
  view.caller().records.store(1);
  const std::int64_t now = sys::now_ns();
  announce_limit(view, {kSlot, 1}, now - 1);

  clear_desk(view.desk(kSlot));
  constexpr OwnerId kNext{kSlot, 2};
  view.request(0).generation.store(kGeneration);
  view.request(0).flags = static_cast<std::uint16_t>(shm::TaskFlag::limited);
  view.request(0).timeout_ns = kMinuteNs;
  view.request(0).deadline_ns = shm::kNoLimitNs;
  view.desk(kSlot).intent.store(RingEntry{0, kGeneration, 0}.pack());
  view.state(0).word.store(TaskWord{TaskPhase::claimed, false, kNext, kGeneration}.pack());

  StopWatch watch;
  EXPECT_FALSE(TaskClock(view, 0).must_die(watch, kNext, now));
  const TaskWord word = TaskWord::unpack(view.state(0).word.load());
  EXPECT_FALSE(word.expired);
  EXPECT_FALSE(word.settled);
}

}  // namespace
}  // namespace brood::pool
