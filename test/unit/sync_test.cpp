// The words of locks and the like, without waiting: what each step leaves, and what random bytes
// do.
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "shm/barrier.hpp"
#include "shm/condition.hpp"
#include "shm/event.hpp"
#include "shm/lock.hpp"
#include "shm/semaphore.hpp"

namespace brood::test {
namespace {

using shm::BarrierView;
using shm::Drop;
using shm::LockState;
using shm::OwnerId;
using shm::Permits;
using shm::Take;
using shm::ThreadName;

constexpr OwnerId kMe{3, 9};
constexpr OwnerId kOther{4, 2};
constexpr OwnerId kSameSlotLater{3, 10};
constexpr ThreadName kMyThread{kMe, 77};
constexpr ThreadName kMyOtherThread{kMe, 78};
constexpr ThreadName kOthersThread{kOther, 77};

TEST(SyncLayoutTest, WordsOfAnyBitsAreUnpackedAndPackedAlike) {
  std::mt19937_64 random(7);
  for (int i = 0; i < 10'000; ++i) {
    const std::uint64_t bits = random();
    if ((bits & 3U) != 3) {
      EXPECT_EQ(shm::LockWord::unpack(bits).pack(), bits);
      EXPECT_EQ(shm::WaitWord::unpack(bits).pack(), bits);
      EXPECT_EQ(shm::BarrierWord::unpack(bits).pack(), bits);
    }
    EXPECT_EQ(shm::PermitWord::unpack(bits).pack(), bits);
    const std::uint64_t place = bits & ((std::uint64_t{1} << 60U) - 1);
    EXPECT_EQ(shm::PlaceWord::unpack(place).pack(), place);
  }
}

TEST(LockProtocolTest, ItHasOneOwnerWhoIsAThread) {
  shm::LockBody lock{};
  EXPECT_EQ(shm::take(lock, kMyThread, {}), Take::taken);
  EXPECT_EQ(shm::take(lock, kMyThread, {}), Take::mine);
  for (const ThreadName other : {kMyOtherThread, kOthersThread, {kSameSlotLater, 77}}) {
    EXPECT_EQ(shm::take(lock, other, {}), Take::busy);
    EXPECT_EQ(shm::drop(lock, other), Drop::not_mine);
  }
  EXPECT_EQ(shm::drop(lock, kMyThread), Drop::dropped);
  EXPECT_EQ(lock.word.load(), 0U);
}

TEST(LockProtocolTest, TheDeadAreToldByProcessOrThread) {
  shm::LockBody lock{};
  shm::take(lock, kMyThread, {.recursive = true});
  shm::take(lock, kMyThread, {.recursive = true});
  EXPECT_FALSE(shm::orphan(lock, kOther));
  EXPECT_FALSE(shm::orphan(lock, kSameSlotLater));
  EXPECT_FALSE(shm::orphan(lock, kMyOtherThread));
  EXPECT_TRUE(shm::orphan(lock, kMyThread));
  EXPECT_FALSE(shm::orphan(lock, kMe)) << "again";
  EXPECT_EQ(shm::take(lock, kOthersThread, {}), Take::owner_died);
  EXPECT_EQ(shm::drop(lock, kMyThread), Drop::not_mine);
  EXPECT_TRUE(shm::recover(lock, kOthersThread));
  EXPECT_EQ(shm::take(lock, kOthersThread, {}), Take::taken);
  lock.ignore_owner_death.store(1);
  EXPECT_TRUE(shm::orphan(lock, kOther));
  EXPECT_EQ(shm::look(lock).state, LockState::free);
}

TEST(LockProtocolTest, WhatWasDamagedStaysSoUntilRecovered) {
  shm::LockBody lock{};
  shm::take(lock, kMyThread, {});
  shm::orphan(lock, kMe);
  EXPECT_EQ(shm::retake(lock, kOthersThread, 3), Take::taken);
  EXPECT_EQ(shm::take(lock, kMyThread, {}), Take::owner_died);
  EXPECT_EQ(shm::retake(lock, kMyThread, 1), Take::busy);
  EXPECT_EQ(shm::drop_all(lock, kOthersThread), 3U);
  EXPECT_EQ(shm::look(lock).state, LockState::orphaned);
  EXPECT_TRUE(shm::take_orphaned(lock, kMyThread));
  EXPECT_FALSE(shm::take_orphaned(lock, kOthersThread));
  EXPECT_TRUE(shm::recover(lock, kMyThread));
  EXPECT_EQ(shm::drop(lock, kMyThread), Drop::dropped);
  EXPECT_EQ(shm::look(lock).state, LockState::free);
}

TEST(LockProtocolTest, ThePoliteLeaveItToTheHungry) {
  shm::LockBody lock{};
  shm::mark_hungry(lock);
  EXPECT_EQ(lock.word.load(), 0U) << "nobody has to hunger for what is free";
  shm::take(lock, kMyThread, {});
  shm::mark_hungry(lock);
  shm::drop(lock, kMyThread);
  EXPECT_EQ(shm::take(lock, kMyThread, {.polite = true}), Take::busy);
  EXPECT_EQ(shm::take(lock, kOthersThread, {}), Take::taken);
  EXPECT_FALSE(shm::look(lock).hungry);
}

template <std::uint32_t N>
struct Body {
  Body() { Permits::begin(bytes, N); }
  alignas(64) std::array<std::byte, Permits::bytes_for(N)> bytes{};
};

TEST(PermitsTest, EachHasAHolderUntilItIsReleased) {
  Body<3> body;
  Permits permits(body.bytes);
  EXPECT_TRUE(permits.acquire(kMe));
  EXPECT_TRUE(permits.acquire(kMe));
  EXPECT_TRUE(permits.acquire(kOther));
  EXPECT_FALSE(permits.acquire(kOther));
  EXPECT_EQ(permits.held_by(kMe), 2U);
  EXPECT_EQ(permits.release(kMe, true), Permits::Released::yes);
  EXPECT_EQ(permits.held_by(kMe), 1U) << "one's own goes first";
  permits.bury(kMe);
  permits.bury(kMe);
  EXPECT_EQ(permits.value(), 2U);
  EXPECT_EQ(permits.release(kMe, true), Permits::Released::yes) << "another's";
  EXPECT_EQ(permits.release(kMe, true), Permits::Released::too_many);
  EXPECT_EQ(permits.release(kMe, false), Permits::Released::yes);
  EXPECT_EQ(permits.value(), 4U);
}

TEST(WaitCellsTest, WhoCameFirstIsNotifiedFirstAlsoWhenTicketsWrap) {
  const auto body = std::make_unique<shm::ConditionBody>();
  body->tickets.store((std::uint64_t{1} << shm::WaitWord::kTicketBits) - 1);
  const std::size_t first = shm::enter(*body, kMe);
  const std::size_t second = shm::enter(*body, kOther);
  EXPECT_EQ(shm::notify(*body, 1), 1U);
  EXPECT_TRUE(shm::is_notified(*body, first));
  EXPECT_FALSE(shm::is_notified(*body, second));
  shm::bury_waiter(*body, kMe);
  EXPECT_TRUE(shm::is_notified(*body, second)) << "it passes on";
  EXPECT_TRUE(shm::leave(*body, second));
  EXPECT_EQ(shm::notify(*body, 5), 0U);
  for (std::size_t i = 0; i < shm::kWaitCells; ++i) EXPECT_EQ(shm::enter(*body, kMe), i);
  EXPECT_EQ(shm::enter(*body, kMe), shm::kNoCell);
  EXPECT_EQ(shm::waiters(*body), shm::kWaitCells);
}

TEST(BarrierProtocolTest, WhatBecameOfAGenerationIsKnownForAWhile) {
  alignas(64) std::array<std::byte, BarrierView::bytes_for(2)> bytes{};
  BarrierView::begin(bytes, 2);
  BarrierView view(bytes);
  const auto pass = [&] {
    const auto one = view.arrive(kMe, false);
    const auto two = view.arrive(kOther, false);
    EXPECT_EQ(one.how, BarrierView::Arrived::waits);
    EXPECT_EQ(two.how, BarrierView::Arrived::passed);
    view.leave(one);
    view.leave(two);
    return one.generation;
  };
  const std::uint32_t passed = pass();
  const std::uint32_t broken = view.look().generation;
  view.abort();
  EXPECT_EQ(view.arrive(kMe, false).how, BarrierView::Arrived::broken);
  view.reset();
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(view.outcome(passed), BarrierView::Outcome::passed);
    EXPECT_EQ(view.outcome(broken), BarrierView::Outcome::broken);
    pass();
  }
  EXPECT_EQ(view.outcome(view.look().generation), BarrierView::Outcome::open);
  // A surplus party has to wait for the action of others.
  const auto one = view.arrive(kMe, true);
  const auto two = view.arrive(kOther, true);
  EXPECT_EQ(two.how, BarrierView::Arrived::acts);
  EXPECT_EQ(view.arrive(kMe, true).how, BarrierView::Arrived::full);
  view.bury(kMe);
  EXPECT_FALSE(view.acted(two.generation)) << "one of those who wait has died";
  EXPECT_EQ(view.outcome(one.generation), BarrierView::Outcome::broken);
}

// ---- random bytes

template <class Act>
void for_random_bodies(std::size_t bytes, Act&& act) {
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    std::mt19937_64 random(seed);
    std::vector<std::uint64_t> words(bytes / 8);
    for (std::uint64_t& word : words) word = random();
    act(std::as_writable_bytes(std::span(words)));
  }
}

TEST(ScribbledSyncTest, EveryOperationEndsWhateverLiesThere) {
  for_random_bodies(sizeof(shm::LockBody), [](std::span<std::byte> bytes) {
    auto& lock = *reinterpret_cast<shm::LockBody*>(bytes.data());
    shm::take(lock, kMyThread, {});
    shm::mark_hungry(lock);
    shm::drop(lock, kMyThread);
    shm::recover(lock, kMyThread);
    shm::orphan(lock, shm::look(lock).owner.owner);
    EXPECT_NE(shm::look(lock).state, LockState::held);
  });
  for_random_bodies(512, [](std::span<std::byte> bytes) {
    Permits permits(bytes);
    EXPECT_LE(permits.size(), 62U);
    permits.acquire(kMe);
    permits.release(kMe, true);
    permits.bury_those([](OwnerId) { return true; });
    EXPECT_GE(permits.value(), permits.size());
  });
  for_random_bodies(sizeof(shm::ConditionBody), [](std::span<std::byte> bytes) {
    auto& condition = *reinterpret_cast<shm::ConditionBody*>(bytes.data());
    const std::size_t cell = shm::enter(condition, kMe);
    shm::notify(condition, SIZE_MAX);
    EXPECT_EQ(shm::waiters(condition), 0U);
    if (cell != shm::kNoCell) shm::leave(condition, cell);
    shm::bury_waiter(condition, kMe);
  });
  for_random_bodies(1024, [](std::span<std::byte> bytes) {
    BarrierView view(bytes);
    EXPECT_LE(view.parties(), 57U);
    const auto arrival = view.arrive(kMe, true);
    static_cast<void>(view.outcome(arrival.generation));
    view.bury_those([](OwnerId) { return true; });
    view.abort();
    view.reset();
    EXPECT_EQ(view.arrive(kMe, false).how == BarrierView::Arrived::broken, false);
  });
  for_random_bodies(sizeof(shm::EventBody), [](std::span<std::byte> bytes) {
    auto& event = *reinterpret_cast<shm::EventBody*>(bytes.data());
    shm::set(event);
    EXPECT_TRUE(shm::is_set(event));
    shm::clear(event);
    EXPECT_FALSE(shm::is_set(event));
  });
}

}  // namespace
}  // namespace brood::test
