// One direction of a pipe, without processes: order, room, laps, burial, nonsense.
#include "channel/stream.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "support/pipe_bed.hpp"

namespace brood::test {
namespace {

using channel::Glimpse;
using channel::Room;
using channel::StreamCellState;
using channel::StreamWord;

constexpr shm::OwnerId kWarden{1, 1};
constexpr shm::OwnerId kOne{10, 3};
constexpr shm::OwnerId kOther{11, 0xffff};

class StreamTest : public testing::Test {
 protected:
  explicit StreamTest(std::uint32_t log = 2) { bed_.make(kOne, log); }
  PipeBed bed_;
};

// Puts the direction into a late lap, as if so many messages had been sent.
void advance_to(PipeUser& user, std::uint64_t position) {
  channel::StreamHints& hints =
      *reinterpret_cast<channel::StreamHints*>(user.pipe.body.data() + channel::hints_offset(0));
  auto* cells = reinterpret_cast<channel::StreamCell*>(user.pipe.body.data() +
                                                       channel::cells_offset(0, true, 2));
  hints.head.store(position);
  hints.tail.store(position);
  for (std::uint64_t i = 0; i < 4; ++i) {
    const auto lap = static_cast<std::uint32_t>((position + 3 - i) / 4) & StreamWord::kLapMask;
    cells[i].word.store(StreamWord{StreamCellState::empty, {}, 0, lap}.pack());
  }
}

TEST_F(StreamTest, MessagesComeInTheirOrderUntilThereIsNoRoom) {
  auto user = bed_.enter(kOne);
  EXPECT_EQ(user->receive(), std::nullopt);
  for (std::uint64_t lap = 0; lap < 10; ++lap) {
    for (std::uint64_t i = 0; i < 4; ++i) EXPECT_TRUE(user->send(lap * 4 + i, i == 2 ? 100 : 8));
    EXPECT_FALSE(user->stream().has_room());
    EXPECT_FALSE(user->send(99));
    EXPECT_FALSE(user->send(99, 1000));
    for (std::uint64_t i = 0; i < 4; ++i) EXPECT_EQ(user->receive(), lap * 4 + i);
    EXPECT_EQ(user->receive(), std::nullopt);
  }
  EXPECT_EQ(user->objects.arena().stats().live_blocks, 1U);
}

TEST_F(StreamTest, LapsWrap) {
  auto user = bed_.enter(kOne);
  advance_to(*user, (std::uint64_t{StreamWord::kLapMask} << 2U) - 2);
  for (std::uint64_t i = 0; i < 30; ++i) {
    ASSERT_TRUE(user->send(i)) << i;
    ASSERT_TRUE(user->send(i + 100)) << i;
    ASSERT_EQ(user->receive(), i);
    ASSERT_EQ(user->receive(), i + 100);
  }
}

TEST_F(StreamTest, HintsThatLagCostNothingButTime) {
  auto user = bed_.enter(kOne);
  channel::StreamHints& hints =
      *reinterpret_cast<channel::StreamHints*>(user->pipe.body.data() + channel::hints_offset(0));
  for (std::uint64_t i = 0; i < 1000; ++i) {
    if (i % 7 == 0) hints.tail.store(i / 2);
    if (i % 11 == 0) hints.head.store(i / 3);
    ASSERT_TRUE(user->send(i)) << i;
    ASSERT_EQ(user->receive(), i);
  }
}

TEST_F(StreamTest, WhatIsBeingWrittenOrReadIsPassed) {
  auto user = bed_.enter(kOne);
  const Room slow = user->stream().claim(kOther);
  ASSERT_EQ(slow.kind, Room::Kind::claimed);
  EXPECT_TRUE(user->send(1));
  EXPECT_TRUE(user->send(2));
  EXPECT_EQ(user->receive(), 1U);
  EXPECT_EQ(user->receive(), 2U);
  EXPECT_EQ(user->receive(), std::nullopt);
  EXPECT_TRUE(user->send(3));
  EXPECT_FALSE(user->send(4)) << "the ring has come round to the slow one's cell";
  const std::uint64_t number = 5;
  channel::Stream::publish(slow, PipeUser::kType, std::as_bytes(std::span(&number, 1)));
  EXPECT_EQ(user->receive(), 5U);
  EXPECT_EQ(user->receive(), 3U);
}

TEST_F(StreamTest, OfTheDeadNothingRemainsButWhatTheyHadSent) {
  auto dead = bed_.enter(kOne);
  auto user = bed_.enter(kOther);
  ASSERT_TRUE(dead->send(1));
  ASSERT_TRUE(dead->send(2, 100));
  ASSERT_EQ(dead->stream().claim(kOne).kind, Room::Kind::claimed);
  ASSERT_TRUE(user->send(3));
  // Taken, and not finished: as a kill would leave it.
  const Glimpse glimpse = dead->stream().look();
  glimpse.cell->word.store(
      StreamWord{StreamCellState::taken_inline, kOne, 0, glimpse.word.lap}.pack());
  auto warden = bed_.enter(kWarden, false);
  for (int i = 0; i < 2; ++i) {
    warden->objects.bury(kOne, channel::bury_in);
    channel::bury_in_pipe(warden->pipe, kOne, warden->objects);
  }
  EXPECT_EQ(user->receive(), 2U);
  EXPECT_EQ(user->receive(), 3U);
  EXPECT_EQ(user->receive(), std::nullopt);
  for (std::uint64_t i = 0; i < 4; ++i) EXPECT_TRUE(user->send(i));
  EXPECT_FALSE(user->send(4));
}

TEST_F(StreamTest, AFrameThatWasTakenByTheDeadGoesWithThem) {
  auto dead = bed_.enter(kOne);
  auto user = bed_.enter(kOther);
  ASSERT_TRUE(user->send(1, 100));
  const Glimpse glimpse = dead->stream().look();
  glimpse.cell->word.store(
      StreamWord{StreamCellState::taken_frame, kOne, 0, glimpse.word.lap}.pack());
  auto warden = bed_.enter(kWarden, false);
  warden->objects.bury(kOne, channel::bury_in);
  EXPECT_EQ(user->receive(), std::nullopt);
  EXPECT_EQ(user->objects.arena().stats().live_blocks, 1U);
}

TEST_F(StreamTest, LargeMessagesAreCounted) {
  auto user = bed_.enter(kOne);
  EXPECT_EQ(user->stream().bytes_waiting(1), 0U);
  ASSERT_TRUE(user->send(1, 1000));
  ASSERT_TRUE(user->send(2, 100));
  ASSERT_TRUE(user->send(3));
  EXPECT_EQ(user->stream().bytes_waiting(1), 1100U);
  EXPECT_EQ(user->stream().bytes_waiting(500), 1000U);
}

// Whatever lies there: an answer after a bounded time, and no harm outside.
TEST_F(StreamTest, NonsenseIsSurvived) {
  auto user = bed_.enter(kOne);
  auto warden = bed_.enter(kWarden, false);
  const auto frame = user->objects.make_frame(user->pipe.ref, {}, 1000);
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    std::mt19937_64 random(seed);
    auto* words = reinterpret_cast<std::uint64_t*>(user->pipe.body.data() + 64);
    const std::size_t count = channel::pipe_body_bytes(true, 2) / 8 - 8;
    for (std::size_t i = 0; i < count; ++i) {
      // Small numbers and real names make some sense.
      switch (random() % 4) {
        case 0:
          words[i] = random();
          break;
        case 1:
          words[i] = random() % 16;
          break;
        case 2:
          words[i] = frame.ref.bits;
          break;
        default:
          words[i] = StreamWord{static_cast<StreamCellState>(random() % 8), kOne,
                                static_cast<std::uint8_t>(random()),
                                static_cast<std::uint32_t>(random() % 3)}
                         .pack();
      }
    }
    for (std::uint64_t i = 0; i < 10; ++i) {
      static_cast<void>(user->send(i));
      const Glimpse glimpse = user->stream().look();
      channel::TakenMessage message;
      if (glimpse.kind == Glimpse::Kind::message) {
        static_cast<void>(user->stream().take(glimpse, user->pipe.ref, user->objects, message));
      }
      static_cast<void>(user->stream().bytes_waiting(0));
    }
    channel::bury_in_pipe(warden->pipe, kOne, warden->objects);
  }
}

TEST_F(StreamTest, AnotherGeometryThanFitsIsNoPipe) {
  auto user = bed_.enter(kOne);
  auto* header = reinterpret_cast<channel::PipeHeader*>(user->pipe.body.data());
  for (const std::uint32_t log : {13U, 20U, 21U, 31U, 0xffffffffU}) {
    header->cells_log = log;
    EXPECT_FALSE(channel::view_pipe(user->pipe.body).has_value()) << log;
  }
  EXPECT_FALSE(channel::view_pipe({}).has_value());
}

TEST_F(StreamTest, SendersAndReceiversInTheirThreadsLoseAndDoubleNothing) {
  constexpr std::uint64_t kEach = 5000;
  std::array<std::unique_ptr<PipeUser>, 4> users;
  for (std::uint16_t i = 0; i < 4; ++i)
    users[i] = bed_.enter({static_cast<std::uint16_t>(20 + i), 1});
  std::atomic<int> senders{2};
  std::array<std::vector<std::uint64_t>, 2> got;
  std::vector<std::thread> threads;
  for (std::uint64_t s = 0; s < 2; ++s) {
    threads.emplace_back([&, s] {
      for (std::uint64_t i = 0; i < kEach; ++i) {
        while (!users[s]->send(s << 32U | i, i % 5 == 0 ? 200 : 8)) std::this_thread::yield();
      }
      --senders;
    });
    threads.emplace_back([&, s] {
      for (;;) {
        const bool over = senders.load() == 0;
        const auto number = users[2 + s]->receive();
        if (number) {
          got[s].push_back(*number);
        } else if (over) {
          return;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::set<std::uint64_t> all;
  for (const auto& list : got) {
    std::array<std::uint64_t, 2> next{};
    for (const std::uint64_t number : list) {
      EXPECT_GE(number & 0xffffffffU, next[number >> 32U]) << "out of order";
      next[number >> 32U] = (number & 0xffffffffU) + 1;
      EXPECT_TRUE(all.insert(number).second) << "doubled";
    }
  }
  EXPECT_EQ(all.size(), 2 * kEach);
  EXPECT_EQ(users[0]->objects.arena().stats().live_blocks, 1U);
}

}  // namespace
}  // namespace brood::test
