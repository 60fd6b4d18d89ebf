#include "channel/queue_ring.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <string>

namespace brood::channel {
namespace {

constexpr shm::OwnerId kMe{5, 1};
constexpr shm::OwnerId kOther{6, 1};

// A bounded queue in memory of its own, and two members' views of it.
class QueueRingTest : public testing::Test {
 protected:
  void make(std::uint32_t cells, bool counts_tasks = false) {
    std::memset(bytes_.data(), 0, bytes_.size());
    QueueRing::format(
        bytes_,
        {.cells = cells, .cell_bytes = 16, .bounded = 1, .counts_tasks = counts_tasks ? 1U : 0U});
    ASSERT_TRUE(attach(mine_));
    ASSERT_TRUE(attach(other_));
  }
  bool attach(QueueRing& ring) {
    return ring.attach({{1}, header(), shm::ObjectKind::queue, bytes_, 0}, objects_);
  }
  QueueShape& shape() { return reinterpret_cast<QueueBody*>(bytes_.data())->shape; }
  static Attempt put(QueueRing& ring, std::uint64_t value, shm::OwnerId me) {
    Position at;
    const Attempt attempt = ring.claim(at, me);
    if (attempt != Attempt::done) return attempt;
    std::memcpy(ring.room(at), &value, sizeof value);
    ring.publish(at, me);
    return attempt;
  }
  static std::int64_t get(QueueRing& ring, shm::OwnerId me) {
    Position at;
    if (ring.take(at, me) != Attempt::done) return -1;
    std::int64_t value = 0;
    std::memcpy(&value, ring.room(at), sizeof value);
    ring.clear(at, me);
    return value;
  }
  shm::ObjectHeader* header() { return reinterpret_cast<shm::ObjectHeader*>(bytes_.data()); }

  alignas(64) std::array<std::byte, sizeof(QueueBody) + sizeof(HeldTasks) + 4096> bytes_{};
  shm::Objects objects_;
  QueueRing mine_;
  QueueRing other_;
};

TEST_F(QueueRingTest, ItIsFullAtExactlyItsCells) {
  for (const std::uint32_t cells : {1U, 2U, 3U, 7U, 64U}) {
    make(cells);
    for (int lap = 0; lap < 5; ++lap) {
      for (std::uint32_t i = 0; i < cells; ++i) {
        EXPECT_FALSE(mine_.is_full());
        EXPECT_EQ(put(i % 2 == 0 ? mine_ : other_, i, kMe), Attempt::done);
        EXPECT_EQ(other_.size(), i + 1);
      }
      EXPECT_TRUE(mine_.is_full());
      EXPECT_EQ(put(other_, 0, kOther), Attempt::full);
      for (std::uint32_t i = 0; i < cells; ++i) EXPECT_EQ(get(i % 3 == 0 ? other_ : mine_, kMe), i);
      EXPECT_EQ(get(other_, kOther), -1);
      EXPECT_EQ(mine_.look_at_head(), Attempt::empty);
    }
  }
}

// Who has not looked for many laps finds the others' place.
TEST_F(QueueRingTest, ALateOneCatchesUp) {
  for (const std::uint32_t cells : {1U, 3U, 100U}) {
    make(cells);
    for (std::uint64_t i = 0; i < 1000; ++i) {
      ASSERT_EQ(put(mine_, i, kMe), Attempt::done);
      ASSERT_EQ(get(mine_, kMe), static_cast<std::int64_t>(i));
    }
    ASSERT_EQ(put(other_, 7, kOther), Attempt::done);
    ASSERT_EQ(put(mine_, 8, kMe), cells == 1 ? Attempt::full : Attempt::done);
    EXPECT_EQ(get(other_, kOther), 7);
    EXPECT_EQ(get(other_, kOther), cells == 1 ? -1 : 8);
  }
}

TEST_F(QueueRingTest, WhoIsWritingIsWaitedForAndWhoIsDeadIsNot) {
  make(3);
  Position at;
  ASSERT_EQ(mine_.claim(at, kMe), Attempt::done);
  ASSERT_EQ(put(other_, 2, kOther), Attempt::done);
  EXPECT_EQ(other_.look_at_head(), Attempt::busy);
  EXPECT_EQ(get(other_, kOther), -1);
  EXPECT_EQ(other_.size(), 2U);
  EXPECT_EQ(other_.bury(kMe), 0U);
  EXPECT_EQ(other_.size(), 1U);
  EXPECT_EQ(get(other_, kOther), 2);
  ASSERT_EQ(put(other_, 3, kOther), Attempt::done);
  ASSERT_EQ(mine_.take(at, kMe), Attempt::done);
  EXPECT_TRUE(other_.is_taking());
  EXPECT_EQ(other_.bury(kMe), 1U);
  EXPECT_EQ(other_.bury(kMe), 0U);
  EXPECT_FALSE(other_.is_taking());
  EXPECT_EQ(other_.size(), 0U);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(put(other_, 1, kOther), Attempt::done);
}

TEST_F(QueueRingTest, CellsOfTheDeadAreRoomForOthers) {
  make(1);
  Position at;
  ASSERT_EQ(mine_.claim(at, kMe), Attempt::done);
  EXPECT_EQ(put(other_, 1, kOther), Attempt::full);
  other_.bury(kMe);
  EXPECT_FALSE(other_.is_full());
  EXPECT_EQ(put(other_, 1, kOther), Attempt::done);
  EXPECT_EQ(get(other_, kOther), 1);
}

// In whatever state the cell is that would be claimed next.
TEST_F(QueueRingTest, AClosedOneTakesNothingAndGivesWhatItHas) {
  for (const int values : {0, 1, 2}) {
    for (const bool being_taken : {false, true}) {
      if (being_taken && values == 0) continue;
      make(2);
      for (int i = 0; i < values; ++i) put(mine_, 10, kMe);
      Position at;
      if (being_taken) {
        ASSERT_EQ(other_.take(at, kOther), Attempt::done);
      }
      mine_.close();
      mine_.close();
      EXPECT_EQ(put(mine_, 1, kMe), Attempt::closed);
      EXPECT_EQ(put(other_, 1, kOther), Attempt::closed);
      if (being_taken) other_.clear(at, kOther);
      for (int i = being_taken ? 1 : 0; i < values; ++i) EXPECT_EQ(get(mine_, kMe), 10);
      EXPECT_EQ(other_.take(at, kOther), Attempt::closed);
      EXPECT_EQ(mine_.claim(at, kMe), Attempt::closed);
    }
  }
}

// Laps are numbers of 32 bits. Who was away for half of them, and who comes anew, finds its place.
TEST_F(QueueRingTest, LapsComeRoundAgain) {
  for (const std::uint32_t cells : {1U, 2U, 5U}) {
    for (const std::uint32_t lap : {0x7fffffffU, 0x80000001U, 0xfffffff0U, 0xffffffffU}) {
      make(cells);
      for (std::uint32_t i = 0; i < cells; ++i) {
        const std::uint64_t word = CellWord(CellState::empty, lap).bits();
        std::memcpy(mine_.room({0, 0, i}) - kCellHead, &word, sizeof word);
      }
      const std::uint64_t here = Position{0, lap, 0}.pack();
      reinterpret_cast<QueueBody*>(bytes_.data())->tail = here;
      reinterpret_cast<QueueBody*>(bytes_.data())->head = here;
      for (QueueRing* ring : {&mine_, &other_}) ASSERT_TRUE(attach(*ring));
      for (std::uint64_t i = 0; i < 100; ++i) {
        SCOPED_TRACE(std::to_string(cells) + " cells, lap " + std::to_string(lap) + ", item " +
                     std::to_string(i));
        ASSERT_EQ(put(i % 2 == 0 ? mine_ : other_, i, kMe), Attempt::done);
        ASSERT_EQ(mine_.size(), 1U);
        ASSERT_EQ(get(i % 3 == 0 ? mine_ : other_, kMe), static_cast<std::int64_t>(i));
        ASSERT_EQ(other_.size(), 0U);
      }
    }
  }
}

TEST_F(QueueRingTest, ADescriptionThatMakesNoSenseIsRefused) {
  make(4, true);
  const QueueShape right = shape();
  QueueRing ring;
  EXPECT_TRUE(attach(ring));
  shape().cells = 0;
  EXPECT_FALSE(attach(ring));
  shape().cells = 0xffffffff;
  EXPECT_FALSE(attach(ring));
  shape() = right;
  shape().cells = 1000;
  EXPECT_FALSE(attach(ring)) << "more than the block has room for";
  shape() = right;
  shape().cell_bytes = 24;
  EXPECT_FALSE(attach(ring));
}

}  // namespace
}  // namespace brood::channel
