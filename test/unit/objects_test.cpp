#include "shm/objects.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <random>

#include "support/object_region.hpp"

namespace brood::test {
namespace {

using shm::BlockRef;
using shm::FramePlace;
using shm::ObjectKind;
using shm::ObjectPlace;
using shm::Objects;
using shm::OwnerId;
using shm::SentRef;

constexpr OwnerId kWarden{1, 1};
constexpr OwnerId kAlice{2, 1};
constexpr OwnerId kBob{70, 5};

class ObjectsTest : public testing::Test {
 protected:
  [[nodiscard]] std::size_t blocks() { return warden_.arena().stats().live_blocks; }

  ObjectRegion region_;
  Member warden_{region_, kWarden};
  Member alice_{region_, kAlice};
  Member bob_{region_, kBob};
};

TEST_F(ObjectsTest, AnObjectIsSeenOnceItIsPublishedAndEndsWithItsLastHold) {
  const ObjectPlace object = alice_.make(ObjectKind::value, 7, 100);
  ASSERT_TRUE(object);
  EXPECT_GE(object.body.size(), 100U);
  EXPECT_EQ(object.header->type, 7U);
  for (const std::byte byte : object.body) EXPECT_EQ(byte, std::byte{0});
  EXPECT_TRUE(alice_.publish(object));
  const ObjectPlace seen = bob_.find(object.ref);
  ASSERT_TRUE(seen);
  EXPECT_TRUE(bob_.hold(seen, 0, kBob.slot));
  EXPECT_FALSE(alice_.release(object, 0, kAlice.slot));
  EXPECT_TRUE(bob_.find(object.ref));
  EXPECT_FALSE(bob_.release(seen, 0, kBob.slot));
  EXPECT_FALSE(bob_.find(object.ref));
  EXPECT_EQ(blocks(), 0U);
}

TEST_F(ObjectsTest, MemoryThatIsUsedAgainIsZero) {
  for (int i = 0; i < 100; ++i) {
    const ObjectPlace object = alice_.made();
    for (const std::byte byte : object.body) ASSERT_EQ(byte, std::byte{0});
    std::memset(object.body.data(), 0xff, object.body.size());
    alice_.release(object, 0, kAlice.slot);
  }
}

TEST_F(ObjectsTest, ASideEndsByItself) {
  const ObjectPlace pipe = alice_.made(ObjectKind::pipe);
  EXPECT_FALSE(Objects::has_ended(pipe, 0));
  const std::uint32_t value = pipe.header->bells[0].listen();
  alice_.release(pipe, 0, kAlice.slot);
  EXPECT_TRUE(Objects::has_ended(pipe, 0));
  EXPECT_FALSE(Objects::has_ended(pipe, 1));
  EXPECT_NE(pipe.header->bells[0].word.load(), value) << "who sleeps there is woken";
  EXPECT_FALSE(bob_.hold(pipe, 0, kBob.slot)) << "what has ended does not begin again";
  EXPECT_TRUE(bob_.hold(pipe, 1, kBob.slot));
  alice_.release(pipe, 1, kAlice.slot);
  bob_.release(pipe, 1, kBob.slot);
  EXPECT_EQ(blocks(), 0U);
}

TEST_F(ObjectsTest, WhatAFrameNamesLivesUntilTheFrameIsGone) {
  const ObjectPlace queue = alice_.made(ObjectKind::queue);
  const ObjectPlace sent = alice_.made();
  const std::array refs = {SentRef{sent.ref, 0}};
  const FramePlace frame = alice_.make_frame(queue.ref, refs, 10);
  ASSERT_TRUE(frame);
  ASSERT_TRUE(alice_.give_frame(frame.ref));
  EXPECT_TRUE(alice_.release(sent, 0, kAlice.slot)) << "a frame may name it";
  EXPECT_FALSE(warden_.collect());
  ASSERT_TRUE(bob_.find(sent.ref));

  ASSERT_TRUE(bob_.take_frame(frame.ref));
  EXPECT_FALSE(alice_.take_frame(frame.ref) && alice_.take_frame(frame.ref));
  const FramePlace taken = bob_.find_frame(frame.ref);
  ASSERT_EQ(taken.refs.size(), 1U);
  EXPECT_EQ(taken.payload.size(), 10U);
  EXPECT_FALSE(warden_.collect());
  ASSERT_TRUE(bob_.find(sent.ref)) << "a frame that is being read names it still";
  bob_.free_block(frame.ref);
  warden_.collect();
  EXPECT_FALSE(bob_.find(sent.ref));
  alice_.release(queue, 0, kAlice.slot);
  EXPECT_EQ(blocks(), 0U);
}

TEST_F(ObjectsTest, FramesEndWithTheirContainerAlsoInACircle) {
  const ObjectPlace first = alice_.made(ObjectKind::queue);
  const ObjectPlace second = alice_.made(ObjectKind::queue);
  const std::array to_second = {SentRef{second.ref, 0}};
  const std::array to_first = {SentRef{first.ref, 0}};
  alice_.give_frame(alice_.make_frame(first.ref, to_second, 1).ref);
  alice_.give_frame(alice_.make_frame(second.ref, to_first, 1).ref);
  EXPECT_TRUE(alice_.release(second, 0, kAlice.slot));
  warden_.collect();
  EXPECT_TRUE(bob_.find(second.ref)) << "it can be got out of the first";
  EXPECT_TRUE(alice_.release(first, 0, kAlice.slot));
  warden_.collect();
  warden_.collect();
  EXPECT_EQ(blocks(), 0U);
}

TEST_F(ObjectsTest, TheDeadHoldNothing) {
  const ObjectPlace shared = alice_.made();
  ASSERT_TRUE(bob_.hold(bob_.find(shared.ref), 0, kBob.slot));
  const ObjectPlace his = bob_.made();
  const ObjectPlace unfinished = bob_.make(ObjectKind::value, 1, 64);
  const FramePlace frame = bob_.make_frame({}, {}, 100);
  EXPECT_FALSE(warden_.bury(kBob, bury_nothing));
  EXPECT_FALSE(alice_.find(his.ref));
  EXPECT_FALSE(alice_.find(unfinished.ref));
  EXPECT_FALSE(alice_.find_frame(frame.ref));
  EXPECT_TRUE(alice_.find(shared.ref));
  EXPECT_EQ(blocks(), 1U);
  warden_.bury(kAlice, bury_nothing);
  EXPECT_EQ(blocks(), 0U);
}

TEST_F(ObjectsTest, EachObjectThatADeadMemberHeldIsPutInOrder) {
  static int seen;
  seen = 0;
  const ObjectPlace held = alice_.made();
  bob_.hold(held, 0, kBob.slot);
  const ObjectPlace other = alice_.made();
  warden_.bury(kBob, [](const ObjectPlace& /*object*/, OwnerId dead, Objects& /*all*/) noexcept {
    seen += dead == kBob ? 1 : 100;
  });
  EXPECT_EQ(seen, 1);
  alice_.release(held, 0, kAlice.slot);
  alice_.release(other, 0, kAlice.slot);
}

TEST_F(ObjectsTest, ARefusalSaysWhy) {
  const ObjectPlace none = alice_.make(ObjectKind::array, 1, std::size_t{1} << 40);
  EXPECT_FALSE(none);
  EXPECT_EQ(none.error, ENOSPC);
  EXPECT_FALSE(alice_.make(ObjectKind::array, 1, SIZE_MAX));
  EXPECT_FALSE(alice_.make_frame({}, {}, SIZE_MAX));
  EXPECT_EQ(blocks(), 0U);
}

TEST_F(ObjectsTest, NoiseInTheMemoryCrashesNobody) {
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    ObjectRegion region(4);
    Member alice(region, kAlice);
    Member warden(region, kWarden);
    const ObjectPlace queue = alice.made(ObjectKind::queue);
    const ObjectPlace sent = alice.made(ObjectKind::pipe);
    const std::array refs = {SentRef{sent.ref, 1}};
    const FramePlace frame = alice.make_frame(queue.ref, refs, 300);
    alice.give_frame(frame.ref);
    std::mt19937_64 random(seed);
    const std::array words = {
        std::pair{reinterpret_cast<std::uint64_t*>(queue.header), std::size_t{40}},
        std::pair{reinterpret_cast<std::uint64_t*>(sent.header), std::size_t{80}},
        std::pair{reinterpret_cast<std::uint64_t*>(frame.header), std::size_t{12}}};
    for (const auto& [begin, count] : words) {
      // The first word is what they are told by: without it they are nothing.
      for (std::size_t i = seed % 2; i < count; ++i) begin[i] = random();
    }
    static_cast<void>(alice.find_frame(frame.ref));
    if (const ObjectPlace found = alice.find(sent.ref)) {
      alice.hold(found, 0, kAlice.slot);
      alice.release(found, 0, kAlice.slot);
    }
    warden.collect();
    warden.bury(kAlice, bury_nothing);
    warden.collect();
  }
}

}  // namespace
}  // namespace brood::test
