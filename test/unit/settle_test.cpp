// What the settler makes of records that a wild worker has overwritten.
#include "pool/protocol/settle.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>

#include "pool/protocol/task.hpp"
#include "threads/shared_pool.hpp"

namespace brood::pool {
namespace {

using shm::OwnerId;
using shm::RingEntry;
using shm::TaskPhase;
using shm::TaskWord;

constexpr OwnerId kWorker{shm::kFirstWorkerSlot, 1};
constexpr std::uint32_t kGeneration = 7;

// More tasks claimed in its name than the ring of retries has room for: whatever is started again
// must be found there.
TEST(SettleTest, ADeadWorkersNameOnAllRecordsLosesNoTask) {
  constexpr std::uint32_t kRecords = 3U << shm::kRetryRingLog;
  const test::SharedPool shared(1);
  const PoolView view = shared.view();
  const PoolGeometry& geometry = shared.geometry;
  shared.segment.reserve(geometry.requests.offset, kRecords * sizeof(shm::TaskRequest));
  shared.segment.reserve(geometry.states.offset, kRecords * sizeof(shm::TaskState));
  view.caller().records.store(kRecords);
  for (std::uint32_t index = 0; index < kRecords; ++index) {
    view.request(index).generation.store(kGeneration);
    view.request(index).retries = 1;
    view.state(index).word.store(TaskWord{TaskPhase::claimed, false, kWorker, kGeneration}.pack());
  }
  view.desk(kWorker.slot).intent.store(RingEntry{kRecords, kGeneration, 0}.pack());

  const auto outbox = std::make_unique<shm::Arena>();
  outbox->attach(view.outbox(shared.segment.fd(), test::SharedPool::kLimitBytes), {1, 1});
  ASSERT_EQ(outbox->format(), 0);
  RingWriter retry_ring(view.supervisor().retry_ring, view.retry_cells());
  retry_ring.start(shm::kRetryRingLog);
  Settler(view, *outbox, retry_ring).settle_task_of(kWorker, {1, 9, 0});

  RingReader reader(view.supervisor().retry_ring, view.retry_cells(), shm::kRetryRingLog,
                    view.shared().retry_head_hint, view.supervisor().hint_epoch);
  while (reader.take([&](RingEntry entry) {
    return claim_task(view.state(entry.index), entry.generation, {kWorker.slot, 2})
               ? RingReader::Offer::taken
               : RingReader::Offer::gone;
  })) {
  }
  std::uint32_t lost = 0;
  std::uint32_t unsettled = 0;
  for (std::uint32_t index = 0; index < kRecords; ++index) {
    const TaskWord word = TaskWord::unpack(view.state(index).word.load());
    lost += word.phase == TaskPhase::pending ? 1U : 0U;
    unsettled += word.phase == TaskPhase::claimed && word.owner == kWorker ? 1U : 0U;
  }
  EXPECT_EQ(lost, 0U) << "to be done again, and in no ring";
  EXPECT_EQ(unsettled, 0U);
}

// A chunk that its worker has stopped at is found by others, and the worker has it no more.
TEST(SettleTest, AChunkIsHandedOnAndNothingElse) {
  const test::SharedPool shared(1);
  const PoolView view = shared.view();
  shared.segment.reserve(shared.geometry.requests.offset, 4 * sizeof(shm::TaskRequest));
  shared.segment.reserve(shared.geometry.states.offset, 4 * sizeof(shm::TaskState));
  view.caller().records.store(4);
  for (std::uint32_t index = 0; index < 4; ++index) {
    view.request(index).generation.store(kGeneration);
    view.request(index).count = 10;
    view.state(index).word.store(TaskWord{TaskPhase::claimed, false, kWorker, kGeneration}.pack());
  }
  view.state(2).progress.store(5);
  const auto outbox = std::make_unique<shm::Arena>();
  outbox->attach(view.outbox(shared.segment.fd(), test::SharedPool::kLimitBytes), {1, 1});
  ASSERT_EQ(outbox->format(), 0);
  RingWriter retry_ring(view.supervisor().retry_ring, view.retry_cells());
  retry_ring.start(shm::kRetryRingLog);
  Settler settler(view, *outbox, retry_ring);

  view.desk(kWorker.slot).intent.store(RingEntry{2, kGeneration, 0}.pack());
  EXPECT_TRUE(settler.has_task(kWorker));
  EXPECT_FALSE(settler.has_task({kWorker.slot, 2}));
  settler.hand_on(kWorker);
  EXPECT_FALSE(settler.has_task(kWorker));
  settler.hand_on(kWorker);
  view.desk(kWorker.slot).intent.store(RingEntry{1000, kGeneration, 0}.pack());
  settler.hand_on(kWorker);

  RingReader reader(view.supervisor().retry_ring, view.retry_cells(), shm::kRetryRingLog,
                    view.shared().retry_head_hint, view.supervisor().hint_epoch);
  int found = 0;
  while (reader.take([&](RingEntry entry) {
    EXPECT_EQ(entry.index, 2U);
    if (!claim_task(view.state(entry.index), entry.generation, {kWorker.slot, 2})) {
      return RingReader::Offer::gone;
    }
    ++found;
    return RingReader::Offer::taken;
  })) {
  }
  EXPECT_EQ(found, 1);
  EXPECT_EQ(view.state(2).progress.load(), 5U);
  EXPECT_EQ(view.supervisor().retried.load(), 0U);
}

}  // namespace
}  // namespace brood::pool
