// A queue's cells hand plain memory from producers to consumers: small values in the cells, large
// ones in frames, through rings that grow, until it is closed.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <stdexcept>

#include "channel/queue_ring.hpp"
#include "shm/objects.hpp"
#include "sys/fd.hpp"
#include "sys/memory.hpp"
#include "threads/participants.hpp"

namespace brood::channel {
namespace {

constexpr std::size_t kPages = 512;
constexpr std::uint64_t kItems = test::kSanitized ? 3'000 : 50'000;  // of each producer

class QueueThreadsTest : public testing::Test {
 protected:
  // Two put, two get; each value arrives once, whole, and after those put before it.
  void pass_through(const QueueShape& shape) {
    make(shape);
    std::atomic<int> putting{2};
    std::atomic<std::uint64_t> sum{0};
    test::run_together(4, [&](unsigned i) {
      Member member(region_, queue_.ref, i);
      if (i < 2) {
        for (std::uint64_t n = 0; n < kItems; ++n) ASSERT_TRUE(member.put(2 * n + i));
        if (putting.fetch_sub(1, std::memory_order_relaxed) == 1) member.ring.close();
        return;
      }
      std::array<std::int64_t, 2> last = {-1, -1};
      std::uint64_t value = 0;
      while (member.get(value)) {
        ASSERT_GT(static_cast<std::int64_t>(value), last[value % 2]);
        last[value % 2] = static_cast<std::int64_t>(value);
        sum.fetch_add(value, std::memory_order_relaxed);
      }
    });
    EXPECT_EQ(sum.load(), 2 * kItems * (2 * kItems - 1) / 2);
  }

 private:
  struct Member {
    Member(const shm::ArenaRegion& region, shm::BlockRef queue, unsigned i) : name(queue) {
      objects.attach(region, {static_cast<std::uint16_t>(10 + i), 1});
      if (!ring.attach(objects.find(queue), objects)) throw std::runtime_error("no queue");
    }
    bool put(std::uint64_t value) {
      shm::FramePlace frame;
      if (ring.shape().framed != 0) {
        frame = objects.make_frame(name, {}, 512);
        if (!frame) return false;
        test::Pattern(value).write(frame.payload);
        std::memcpy(frame.payload.data() + 8, &value, 8);
      }
      Position at;
      for (;;) {
        const Attempt attempt = ring.claim(at, objects.me());
        if (attempt == Attempt::done) break;
        if (attempt != Attempt::full) return false;
        if (ring.shape().bounded == 0 && ring.grow() != 0) return false;
        sys::yield();
      }
      if (frame) {
        ring.publish_frame(at, objects.me(), frame.ref);
      } else {
        std::memcpy(ring.room(at), &value, 8);
        ring.publish(at, objects.me());
      }
      return true;
    }
    // False: closed and empty.
    bool get(std::uint64_t& value) {
      Position at;
      for (;;) {
        const Attempt attempt = ring.take(at, objects.me());
        if (attempt == Attempt::done) break;
        if (attempt == Attempt::closed || attempt == Attempt::damaged) return false;
        sys::yield();
      }
      if (ring.shape().framed == 0) {
        std::memcpy(&value, ring.room(at), 8);
        ring.clear(at, objects.me());
        return true;
      }
      const shm::FramePlace frame = ring.accept_frame(at);
      ring.clear(at, objects.me());
      EXPECT_TRUE(frame);
      std::memcpy(&value, frame.payload.data() + 8, 8);
      EXPECT_TRUE(test::Pattern(value).is_in(frame.payload));
      objects.free_block(frame.ref);
      return true;
    }

    shm::BlockRef name;
    shm::Objects objects;
    QueueRing ring;
  };

  void make(const QueueShape& shape) {
    const std::size_t payload = kPages * shm::arena::kPageBytes;
    const std::size_t metadata = shm::Arena::metadata_bytes(payload);
    file_.reset(sys::create_memory_file("queue-threads", metadata + payload));
    ASSERT_EQ(mapping_.map(file_.get(), metadata + payload), 0);
    region_ = {mapping_.data(), file_.get(), 0, metadata, payload, payload};
    objects_.attach(region_, {1, 1});
    ASSERT_EQ(objects_.format(), 0);
    queue_ = objects_.make(shm::ObjectKind::queue, 1, QueueRing::body_bytes(shape));
    QueueRing::format(queue_.body, shape);
    objects_.publish(queue_);
  }

  shm::ArenaRegion region_;
  sys::Fd file_;
  sys::Mapping mapping_;
  shm::Objects objects_;
  shm::ObjectPlace queue_;
};

TEST_F(QueueThreadsTest, SmallValuesThroughFewCells) {
  pass_through({.cells = 3, .cell_bytes = 16, .bounded = 1});
}
TEST_F(QueueThreadsTest, SmallValuesThroughRingsThatGrow) {
  pass_through({.cells = 2, .cell_bytes = 16});
}
TEST_F(QueueThreadsTest, LargeValuesInFrames) {
  pass_through({.cells = 5, .cell_bytes = 16, .framed = 1, .bounded = 1});
}

}  // namespace
}  // namespace brood::channel
