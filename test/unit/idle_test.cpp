// When another worker is woken, and when the work is left to those who are coming.
#include "pool/protocol/idle.hpp"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>

#include "pool/protocol/admission.hpp"
#include "pool/protocol/dormancy.hpp"
#include "pool/protocol/lookout.hpp"
#include "pool/protocol/ring.hpp"
#include "pool/protocol/task.hpp"
#include "pool/worker/pace.hpp"
#include "threads/shared_pool.hpp"

namespace brood::pool {
namespace {

using Call = IdleWorkers::Call;

constexpr std::uint16_t slot_of(int worker) {
  return static_cast<std::uint16_t>(shm::kFirstWorkerSlot + worker);
}

// More than one word has bits for.
constexpr int kWorkers = 40;

class IdleTest : public testing::Test {
 protected:
  void all_sleep() {
    for (int worker = 0; worker < kWorkers; ++worker) idle_.start_sleeping(slot_of(worker));
  }

  test::SharedPool shared_{kWorkers};
  IdleWorkers idle_{shared_.view(), 3};
};

TEST_F(IdleTest, NobodyIsWokenWhoDoesNotSleep) {
  EXPECT_EQ(idle_.call_one(), Call::nobody);
  EXPECT_FALSE(idle_.wake_one());
  idle_.start_coming(slot_of(0));
  EXPECT_EQ(idle_.call_one(), Call::nobody);
}

TEST_F(IdleTest, AsManyComeAsThereAreProcessorsButOne) {
  all_sleep();
  EXPECT_EQ(idle_.call_one(), Call::woken);
  EXPECT_EQ(idle_.call_one(), Call::woken);
  EXPECT_EQ(idle_.call_one(), Call::left_to_them);
  EXPECT_EQ(idle_.count_sleeping(), kWorkers - 2U);
  // One more, if nobody else needs a processor.
  EXPECT_EQ(idle_.call_one_more(), Call::woken);
  EXPECT_EQ(idle_.call_one_more(), Call::left_to_them);
  idle_.stop_sleeping(slot_of(2));
  // Who is there comes no more.
  idle_.stop_sleeping(slot_of(0));
  EXPECT_EQ(idle_.call_one(), Call::woken);
  EXPECT_TRUE(idle_.is_coming(slot_of(3)));
  EXPECT_EQ(idle_.call_one(), Call::left_to_them);
  // Dead or alive.
  idle_.forget(slot_of(1));
  EXPECT_EQ(idle_.call_one(), Call::woken);
}

TEST_F(IdleTest, WhoIsSaidToComeCountsInAllWords) {
  all_sleep();
  for (const int worker : {0, kWorkers - 1}) {
    idle_.stop_sleeping(slot_of(worker));
    idle_.start_coming(slot_of(worker));
  }
  EXPECT_EQ(idle_.call_one(), Call::left_to_them);
  idle_.stop_coming(slot_of(kWorkers - 1));
  EXPECT_EQ(idle_.call_one(), Call::woken);
}

TEST_F(IdleTest, EachSleeperIsWokenOnce) {
  all_sleep();
  for (int worker = 0; worker < kWorkers; ++worker) EXPECT_TRUE(idle_.wake_one()) << worker;
  EXPECT_FALSE(idle_.wake_one());
  for (int worker = 0; worker < kWorkers; ++worker) {
    EXPECT_EQ(shared_.view().desk(slot_of(worker)).bell.load(), 1U) << worker;
  }
}

TEST_F(IdleTest, AfterADeathOnlySleepersAreBelieved) {
  all_sleep();
  EXPECT_TRUE(idle_.wake_one());
  idle_.start_looking(slot_of(1), kWorkers);
  idle_.keep_only([](std::uint16_t slot) { return slot != slot_of(2); });
  EXPECT_EQ(idle_.count_sleeping(), kWorkers - 2U);
  EXPECT_EQ(idle_.count_looking(), 0);
  EXPECT_FALSE(idle_.is_coming(slot_of(0)));
}

// ---- the lookout

class LookoutTest : public IdleTest {
 protected:
  static constexpr std::uint32_t kLog = 10;
  static constexpr std::uint32_t kTasks = 1U << kLog;
  static constexpr std::uint32_t kGeneration = 7;
  static constexpr std::int64_t kLookNs = 2'000'000;

  LookoutTest() {
    const PoolGeometry& zones = shared_.geometry;
    shared_.segment.reserve(zones.requests.offset, kTasks * sizeof(shm::TaskRequest));
    shared_.segment.reserve(zones.states.offset, kTasks * sizeof(shm::TaskState));
    shared_.segment.reserve(zones.rings[shm::kNormalPriority].offset,
                            2 * kTasks * sizeof(std::uint64_t));
    view_.caller().records.store(kTasks);
    ring_.start(kLog);
  }

  void submit(std::uint32_t count) {
    for (; count > 0; --count, ++submitted_) {
      publish_task(view_.state(submitted_), kGeneration);
      ring_.push({submitted_, kGeneration});
      static_cast<void>(call_one(view_, idle_));
    }
  }
  void take(int worker, std::uint32_t count) {
    for (; count > 0 && taken_ < submitted_; --count, ++taken_) {
      view_.desk(slot_of(worker)).intent.store(shm::RingEntry{taken_, kGeneration, 0}.pack());
      claim_task(view_.state(taken_), kGeneration, {slot_of(worker), 1});
    }
  }
  // As does a worker whose tasks have lately been short.
  void wake_up(int worker) {
    idle_.stop_sleeping(slot_of(worker));
    idle_.start_coming(slot_of(worker));
  }
  std::size_t look() {
    all_are_to_be_rung_ = lookout_.look(idle_, waiting_, now_ += kLookNs);
    return idle_.count_sleeping();
  }

  PoolView view_ = shared_.view();
  RingWriter ring_{view_.caller().rings[shm::kNormalPriority],
                   view_.ring_cells(shm::kNormalPriority)};
  WaitingTasks waiting_{view_, std::nullopt};
  Lookout lookout_{view_};
  std::int64_t now_ = 0;
  bool all_are_to_be_rung_ = false;
  std::uint32_t submitted_ = 0;
  std::uint32_t taken_ = 0;
};

// Were one called at each look, the last of many would begin late.
TEST_F(LookoutTest, ManyAreSoonWokenForLongTasksAfterShortOnes) {
  all_sleep();
  submit(kWorkers);
  int up = 0;
  int looks = 0;
  for (; looks < kWorkers && up < kWorkers; ++looks) {
    const int awake = kWorkers - static_cast<int>(idle_.count_sleeping());
    for (; up < awake; ++up) {
      wake_up(up);
      take(up, 1);
    }
    look();
  }
  EXPECT_LE(looks, 10);
}

TEST_F(LookoutTest, NoneIsWokenBesideThoseWhoGetOnWithShortTasks) {
  all_sleep();
  submit(kTasks);
  const std::size_t asleep = look();
  for (int i = 0; i < 5; ++i) {
    for (const int worker : {0, 1, 2}) {
      wake_up(worker);
      take(worker, 50);
    }
    EXPECT_GE(look() + 1, asleep) << "for the caller's processor";
  }
}

// Who is woken, or looks, may be stopped before it comes.
class LookoutLaterTest : public LookoutTest {
 protected:
  static constexpr std::int64_t kLaterNs = sys::kLookUpNs;

  void submit_one() {
    submit(1);
    look_out_later(view_);
  }
  std::size_t look_after(std::int64_t ns) {
    now_ += ns - kLookNs;
    return look();
  }
};

TEST_F(LookoutLaterTest, AnotherIsWokenForWhatHasNotBeenTakenByThen) {
  all_sleep();
  submit_one();
  EXPECT_EQ(look(), kWorkers - 1U);
  EXPECT_EQ(look_after(kLaterNs - 2 * kLookNs), kWorkers - 1U) << "not yet";
  EXPECT_EQ(look_after(2 * kLookNs), kWorkers - 2U);
  // From now on soon, and ever more.
  std::size_t asleep = kWorkers - 2U;
  for (int i = 0; i < 3; ++i) EXPECT_LT(look(), std::exchange(asleep, idle_.count_sleeping()));
}

TEST_F(LookoutLaterTest, WhoSaysThatItLooksIsNotBelievedForLonger) {
  all_sleep();
  idle_.stop_sleeping(slot_of(0));
  ASSERT_TRUE(idle_.start_looking(slot_of(0), 1));
  publish_task(view_.state(0), kGeneration);
  ring_.push({submitted_++, kGeneration});
  call_worker(view_, idle_, waiting_);
  look_out_later(view_);
  EXPECT_EQ(look(), kWorkers - 1U) << "nobody else was to be woken";
  EXPECT_EQ(look_after(kLaterNs), kWorkers - 2U);
  EXPECT_FALSE(idle_.anyone_looking()) << "or the next task would wait as long";
}

TEST_F(LookoutLaterTest, NobodyIsWokenForWhatHasComeInTheMeantime) {
  all_sleep();
  submit_one();
  look();
  for (int i = 0; i < 3; ++i) {
    idle_.stop_sleeping(slot_of(0));
    take(0, 1);
    idle_.start_sleeping(slot_of(0));
    submit_one();
    EXPECT_EQ(look_after(kLaterNs), kWorkers - 1U);
  }
  EXPECT_NE(lookout_.next_look_ns(), sys::kForever);
}

// Who has taken a sleeper's bit may be stopped before it rings.
TEST_F(LookoutLaterTest, AllAreRungIfNobodySleepsAndYetNothingIsTaken) {
  submit_one();
  look();
  EXPECT_FALSE(all_are_to_be_rung_);
  look_after(kLaterNs);
  EXPECT_TRUE(all_are_to_be_rung_);
  submit_one();
  look();
  take(0, 2);
  look_after(kLaterNs);
  EXPECT_FALSE(all_are_to_be_rung_);
}

// Or the task would wait beside an empty place.
TEST_F(LookoutLaterTest, WhoSaysThatItLooksIsNotBelievedEvenIfNobodySleeps) {
  ASSERT_TRUE(idle_.start_looking(slot_of(0), 1));
  submit_one();
  view_.supervisor().dormant.store(1);
  look();
  EXPECT_EQ(count_wanted(view_, idle_, waiting_), 0U);
  look_after(kLaterNs);
  EXPECT_EQ(count_wanted(view_, idle_, waiting_), 1U);
}

TEST_F(LookoutLaterTest, WhatHasComeMeanwhileIsLookedAfterEvenIfNobodySleeps) {
  submit_one();
  look();
  take(0, 1);
  submit_one();
  look_after(kLaterNs);
  EXPECT_FALSE(all_are_to_be_rung_);
  look_after(kLaterNs);
  EXPECT_TRUE(all_are_to_be_rung_);
}

// The supervisor would look all the time.
TEST_F(LookoutLaterTest, AWishThatSomebodyHasOverwrittenLeavesNoTimeToLook) {
  submit_one();
  look();
  view_.shared().lookout_wanted.store(shm::LookoutWish::none);
  look_after(kLaterNs);
  EXPECT_EQ(lookout_.next_look_ns(), sys::kForever);
  submit_one();
  look();
  EXPECT_NE(lookout_.next_look_ns(), sys::kForever);
}

TEST_F(LookoutLaterTest, ItEndsWhenAllHasBeenTakenAndBeginsWithTheNextTask) {
  all_sleep();
  submit_one();
  look();
  const std::uint32_t calls = view_.shared().control.load();
  submit_one();
  EXPECT_EQ(view_.shared().control.load(), calls) << "one call is enough";
  take(0, 2);
  look_after(kLaterNs);
  EXPECT_EQ(lookout_.next_look_ns(), sys::kForever);
  submit_one();
  EXPECT_NE(view_.shared().control.load(), calls);
  look();
  EXPECT_NE(lookout_.next_look_ns(), sys::kForever);
}

// ---- pace

void run_round(Pace& pace, std::int64_t ns_per_task) {
  for (int task = 0; task < 16; ++task) {
    const std::int64_t end = sys::now_ns() + ns_per_task;
    while (ns_per_task > 0 && sys::now_ns() < end) sys::cpu_relax();
    static_cast<void>(pace.count_task());
  }
}

// A round in which this process lost its processor says nothing.
void run_until_brisk(Pace& pace) {
  for (int round = 0; round < 10'000 && !pace.is_brisk(); ++round) run_round(pace, 0);
}

TEST(PaceTest, IsBriskAfterShortTasksUntilTheyAreLong) {
  Pace pace;
  EXPECT_FALSE(pace.is_brisk());
  run_until_brisk(pace);
  EXPECT_TRUE(pace.is_brisk());
  run_round(pace, 50'000);
  run_round(pace, 50'000);
  EXPECT_FALSE(pace.is_brisk());
}

TEST(PaceTest, OneLongRoundIsNotBelieved) {
  Pace pace(true);
  run_round(pace, 50'000);
  EXPECT_TRUE(pace.is_brisk());
}

TEST(PaceTest, TimeWithoutWorkDoesNotCount) {
  Pace pace;
  run_until_brisk(pace);
  ASSERT_TRUE(pace.is_brisk());
  for (int task = 0; task < 64; ++task) {
    const std::int64_t now = sys::now_ns();
    pace.pause(now);
    while (sys::now_ns() < now + 50'000) sys::cpu_relax();
    pace.resume(sys::now_ns());
    static_cast<void>(pace.count_task());
  }
  run_until_brisk(pace);
  EXPECT_TRUE(pace.is_brisk());
}

}  // namespace
}  // namespace brood::pool
