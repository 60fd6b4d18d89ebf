// A ring and the records it names: what the writer puts into a record, whoever claims it reads as
// plain memory, and the other way round.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <vector>

#include "pool/protocol/ring.hpp"
#include "pool/protocol/task.hpp"
#include "threads/participants.hpp"
#include "threads/shared_pool.hpp"

namespace brood::pool {
namespace {

using shm::OwnerId;
using shm::RingEntry;
using shm::TaskPhase;
using shm::TaskWord;

constexpr unsigned kReaders = 3;
constexpr std::uint32_t kFirstLog = 3;
constexpr std::uint32_t kRecords = 512;
constexpr std::uint32_t kTasks = 400'000;
constexpr std::uint64_t kNonsense = UINT64_MAX;

class RingThreadsTest : public testing::Test {
 protected:
  RingThreadsTest() {
    shared_.segment.reserve(shared_.geometry.requests.offset, kRecords * sizeof(shm::TaskRequest));
    shared_.segment.reserve(shared_.geometry.states.offset, kRecords * sizeof(shm::TaskState));
    shared_.segment.reserve(shared_.geometry.rings[shm::kNormalPriority].offset,
                            2 * kRecords * sizeof(std::uint64_t));
  }

  [[nodiscard]] bool all_taken() const {
    return taken_.load(std::memory_order_relaxed) >= kTasks || hang_.passed();
  }

  // The caller: uses ever more records, and the ring grows with them.
  void write() {
    const PoolView view = shared_.view();
    RingWriter ring(view.caller().rings[shm::kNormalPriority],
                    view.ring_cells(shm::kNormalPriority));
    ring.start(kFirstLog);
    std::uint32_t records = 1U << kFirstLog;
    std::uint32_t next = 1;
    std::vector<std::uint32_t> generations(kRecords);
    while (!all_taken()) {
      bool found = false;
      for (std::uint32_t index = 0; index < records; ++index) {
        if (generations[index] != 0 && !collect(view, index, generations[index])) continue;
        found = true;
        generations[index] = next <= kTasks ? submit(view, ring, index, next++) : 0;
      }
      if (!found && records < kRecords) {
        ring.grow();
        records *= 2;
      } else if (!found || next > kTasks) {
        sys::yield();
      }
    }
    for (std::uint32_t index = 0; index < records; ++index) {
      EXPECT_TRUE(generations[index] == 0 || collect(view, index, generations[index]));
    }
  }

  static std::uint32_t submit(const PoolView& view, RingWriter& ring, std::uint32_t index,
                              std::uint32_t generation) {
    test::Pattern(generation).write(view.request(index).inline_arguments);
    publish_task(view.state(index), generation);
    ring.push({index, generation});
    return generation;
  }

  // Whether it is done; then the record is free again.
  static bool collect(const PoolView& view, std::uint32_t index, std::uint32_t generation) {
    shm::TaskState& state = view.state(index);
    const TaskWord word = TaskWord::unpack(state.word.load(std::memory_order_acquire));
    if (word.phase != TaskPhase::done) return false;
    EXPECT_EQ(word.generation, generation);
    EXPECT_TRUE(test::Pattern(generation + 1).is_in(state.reply));
    release_task(state);
    return true;
  }

  void read(unsigned number) {
    const PoolView view = shared_.view();
    const OwnerId me{static_cast<std::uint16_t>(shm::kFirstWorkerSlot + number), 1};
    RingReader ring(view.caller().rings[shm::kNormalPriority],
                    view.ring_cells(shm::kNormalPriority), 9,
                    view.shared().head_hints[shm::kNormalPriority], view.supervisor().hint_epoch);
    while (!all_taken()) {
      RingEntry task;
      const bool took = ring.take([&](RingEntry entry) {
        if (!claim_task(view.state(entry.index), entry.generation, me)) {
          return RingReader::Offer::gone;
        }
        task = entry;
        return RingReader::Offer::taken;
      });
      if (!took) {
        sys::yield();
        continue;
      }
      EXPECT_TRUE(test::Pattern(task.generation).is_in(view.request(task.index).inline_arguments));
      shm::TaskState& state = view.state(task.index);
      test::Pattern(task.generation + 1).write(state.reply);
      EXPECT_TRUE(finish_task(state, me));
      taken_.fetch_add(1, std::memory_order_relaxed);
    }
  }

  // A worker that overwrites the hint, and a supervisor that tells all to forget it.
  void mislead() {
    const PoolView view = shared_.view();
    for (std::uint64_t lie = 0; !all_taken(); ++lie) {
      view.shared().head_hints[shm::kNormalPriority].store(lie % 2 == 0 ? lie : kNonsense,
                                                           std::memory_order_relaxed);
      view.supervisor().hint_epoch.fetch_add(1, std::memory_order_release);
      sys::yield();
    }
  }

  test::SharedPool shared_{kReaders};
  std::atomic<std::uint32_t> taken_{0};
  test::Deadline hang_{test::kHangGuard};
};

TEST_F(RingThreadsTest, WhoeverClaimsATaskSeesItAndItsWriterSeesTheReply) {
  test::run_together(1 + kReaders, [&](unsigned i) { i == 0 ? write() : read(i); });
  EXPECT_EQ(taken_.load(), kTasks);
}

TEST_F(RingThreadsTest, SoItIsWhileHintsLieAndEpochsChange) {
  test::run_together(2 + kReaders, [&](unsigned i) {
    if (i == 0) return write();
    i == 1 ? mislead() : read(i);
  });
  EXPECT_EQ(taken_.load(), kTasks);
}

}  // namespace
}  // namespace brood::pool
