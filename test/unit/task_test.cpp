// The word of a task record: every step of its diagram, and every step that is none.
#include "pool/protocol/task.hpp"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "support/time.hpp"
#include "sys/clock.hpp"

namespace brood::pool {
namespace {

using shm::OwnerId;
using shm::ReplyKind;
using shm::TaskPhase;
using shm::TaskState;
using shm::TaskWord;

constexpr OwnerId kWorker{5, 3};
constexpr OwnerId kSameSlotLater{5, 4};
constexpr OwnerId kOtherSlot{6, 3};
constexpr std::uint32_t kGeneration = 77;

bool same(const TaskWord& a, const TaskWord& b) { return a.pack() == b.pack(); }

struct Record {
  TaskState state{};
  explicit Record(const TaskWord& word) { state.word.store(word.pack()); }
  [[nodiscard]] TaskWord word() const { return TaskWord::unpack(state.word.load()); }
};

TaskWord in_phase(TaskPhase phase, bool waited = false) {
  if (phase == TaskPhase::free) return {};
  return {phase, waited, phase == TaskPhase::claimed ? kWorker : OwnerId{}, kGeneration};
}
constexpr std::array kPhases = {TaskPhase::free, TaskPhase::pending, TaskPhase::claimed,
                                TaskPhase::done};

TEST(TaskWordTest, PackingAndUnpackingLosesNothing) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 100'000; ++i) {
    TaskWord word{static_cast<TaskPhase>(random() % 4), random() % 2 == 1,
                  OwnerId{static_cast<std::uint16_t>(random() % shm::kMaxSlots),
                          static_cast<std::uint16_t>(random())},
                  static_cast<std::uint32_t>(random()), random() % 2 == 1};
    if (word.phase != TaskPhase::free) {
      word.settled = random() % 2 == 1;
      word.expired = random() % 2 == 1;
      const bool may = word.phase == TaskPhase::claimed && (word.settled || word.expired);
      word.doomed = may && random() % 2 == 1;
    }
    const TaskWord again = TaskWord::unpack(word.pack());
    ASSERT_EQ(again.phase, word.phase);
    ASSERT_EQ(again.waited, word.waited);
    ASSERT_EQ(again.owner.slot, word.owner.slot);
    ASSERT_EQ(again.owner.epoch, word.owner.epoch);
    ASSERT_EQ(again.generation, word.generation);
    ASSERT_EQ(again.watched, word.watched);
    ASSERT_EQ(again.settled, word.settled);
    ASSERT_EQ(again.expired, word.expired);
    ASSERT_EQ(again.doomed, word.doomed);
  }
}

TEST(TaskWordTest, UnpackingAndPackingKeepsEveryBit) {
  std::mt19937_64 random(2);
  for (int i = 0; i < 100'000; ++i) {
    const std::uint64_t bits = random();
    ASSERT_EQ(TaskWord::unpack(bits).pack(), bits);
  }
}

TEST(TaskWordTest, AWordIsPlausibleOnlyInItsGenerationAndWithMarksOfItsPhase) {
  EXPECT_FALSE(is_plausible(TaskWord{}, 0));
  EXPECT_FALSE(is_plausible({TaskPhase::free, false, {}, kGeneration}, kGeneration));
  for (const TaskPhase phase : {TaskPhase::pending, TaskPhase::claimed, TaskPhase::done}) {
    EXPECT_TRUE(is_plausible(in_phase(phase), kGeneration));
    EXPECT_TRUE(is_plausible(in_phase(phase, true), kGeneration));
    EXPECT_FALSE(is_plausible(in_phase(phase), kGeneration + 1));
  }
  for (const TaskPhase phase : {TaskPhase::pending, TaskPhase::done}) {
    TaskWord owned = in_phase(phase);
    owned.owner = kWorker;
    EXPECT_FALSE(is_plausible(owned, kGeneration));
  }
  for (unsigned marks = 0; marks < 8; ++marks) {
    const bool settled = (marks & 1U) != 0;
    const bool expired = (marks & 2U) != 0;
    const bool doomed = (marks & 4U) != 0;
    const auto marked = [&](TaskPhase phase) {
      TaskWord word = in_phase(phase);
      word.settled = settled;
      word.expired = expired;
      word.doomed = doomed;
      return word;
    };
    EXPECT_TRUE(is_plausible(marked(TaskPhase::claimed), kGeneration));
    EXPECT_EQ(is_plausible(marked(TaskPhase::pending), kGeneration), marks == 0);
    EXPECT_EQ(is_plausible(marked(TaskPhase::done), kGeneration), !doomed && (settled || !expired));
  }
}

// ---- steps

TEST(TaskTest, ATaskIsPublishedClaimedFinishedAndReleased) {
  Record r(in_phase(TaskPhase::free));
  publish_task(r.state, kGeneration);
  EXPECT_TRUE(same(r.word(), in_phase(TaskPhase::pending)));
  EXPECT_TRUE(claim_task(r.state, kGeneration, kWorker));
  EXPECT_TRUE(same(r.word(), in_phase(TaskPhase::claimed)));
  EXPECT_TRUE(finish_task(r.state, kWorker));
  EXPECT_TRUE(same(r.word(), in_phase(TaskPhase::done)));
  release_task(r.state);
  EXPECT_TRUE(same(r.word(), TaskWord{}));
}

TEST(TaskTest, WhoEndsItIsToldThatItIsWatchedWhateverCameBetween) {
  Record r(in_phase(TaskPhase::free));
  EXPECT_FALSE(announce_watcher(r.state, kGeneration)) << "not a task";
  publish_task(r.state, kGeneration);
  EXPECT_FALSE(announce_watcher(r.state, kGeneration + 1));
  EXPECT_TRUE(announce_watcher(r.state, kGeneration));
  EXPECT_TRUE(claim_task(r.state, kGeneration, kWorker));
  EXPECT_TRUE(return_task(r.state, kWorker));
  EXPECT_TRUE(claim_task(r.state, kGeneration, kWorker));
  EXPECT_TRUE(announce_waiter(r.state, kGeneration).has_value());
  EXPECT_TRUE(announce_watcher(r.state, kGeneration));
  const Step finished = finish_task(r.state, kWorker);
  EXPECT_TRUE(finished.done && finished.watched);
  EXPECT_EQ(finished.generation, kGeneration);
  EXPECT_FALSE(announce_watcher(r.state, kGeneration)) << "it has ended";
  EXPECT_TRUE(same(r.word(), in_phase(TaskPhase::done)));
}

// `step` succeeds from phase `from` alone, and then leads to `to`.
template <class Step>
void only_from(TaskPhase from, const TaskWord& to, Step&& step) {
  for (const TaskPhase phase : kPhases) {
    Record r(in_phase(phase));
    EXPECT_EQ(step(r.state), phase == from) << "from phase " << static_cast<int>(phase);
    EXPECT_TRUE(same(r.word(), phase == from ? to : in_phase(phase)))
        << "from phase " << static_cast<int>(phase);
  }
}

TEST(TaskTest, OnlyAPendingTaskIsClaimed) {
  only_from(TaskPhase::pending, in_phase(TaskPhase::claimed),
            [](TaskState& s) { return claim_task(s, kGeneration, kWorker); });
}

TEST(TaskTest, OnlyAClaimedTaskIsFinished) {
  only_from(TaskPhase::claimed, in_phase(TaskPhase::done),
            [](TaskState& s) { return finish_task(s, kWorker).done; });
}

TEST(TaskTest, OnlyAClaimedTaskIsReturned) {
  only_from(TaskPhase::claimed, in_phase(TaskPhase::pending),
            [](TaskState& s) { return return_task(s, kWorker); });
}

// ---- stopping

// Claimed by kWorker, with these marks.
enum class Marks { none, settled, settled_late, expired, doomed_settled, doomed_expired };
constexpr std::array kMarks = {Marks::none,    Marks::settled,        Marks::settled_late,
                               Marks::expired, Marks::doomed_settled, Marks::doomed_expired};

TaskWord claimed_with(Marks marks) {
  TaskWord word = in_phase(TaskPhase::claimed);
  word.settled =
      marks == Marks::settled || marks == Marks::settled_late || marks == Marks::doomed_settled;
  word.expired =
      marks == Marks::settled_late || marks == Marks::expired || marks == Marks::doomed_expired;
  word.doomed = marks == Marks::doomed_settled || marks == Marks::doomed_expired;
  return word;
}

TaskWord done_with(bool settled, bool expired) {
  return {TaskPhase::done, false, {}, kGeneration, false, settled, expired};
}

CancelStep cancelled(Record& r, std::uint32_t generation) {
  Step step;
  return cancel_task(r.state, generation, step);
}

TEST(StopTaskTest, AWorkerEndsItsTaskUnlessItIsToRunAgainOrIsDoomed) {
  for (const Marks marks : kMarks) {
    Record r(claimed_with(marks));
    const bool may =
        marks == Marks::none || marks == Marks::settled || marks == Marks::settled_late;
    EXPECT_EQ(finish_task(r.state, kWorker).done, may);
    const TaskWord before = claimed_with(marks);
    EXPECT_TRUE(same(r.word(), may ? done_with(before.settled, before.expired) : before));
  }
}

TEST(StopTaskTest, ADeadWorkersTaskEndsAsItWasSettledOrAsTheSupervisorSays) {
  for (const Marks marks : kMarks) {
    for (const bool late : {false, true}) {
      Record r(claimed_with(marks));
      EXPECT_TRUE(end_task(r.state, kWorker, late));
      const TaskWord before = claimed_with(marks);
      EXPECT_TRUE(
          same(r.word(), before.settled ? done_with(true, before.expired) : done_with(late, late)));
    }
  }
}

TEST(StopTaskTest, OnlyATaskThatIsNotSettledIsReturned) {
  for (const Marks marks : kMarks) {
    Record r(claimed_with(marks));
    const bool may = !claimed_with(marks).settled;
    EXPECT_EQ(return_task(r.state, kWorker), may);
    EXPECT_TRUE(same(r.word(), may ? in_phase(TaskPhase::pending) : claimed_with(marks)));
  }
}

TEST(StopTaskTest, CancellingSettlesWhatHasNoOutcomeYet) {
  for (const Marks marks : kMarks) {
    Record r(claimed_with(marks));
    TaskWord expected = claimed_with(marks);
    CancelStep step = CancelStep::stopping;
    if (expected.settled) step = expected.expired ? CancelStep::too_late : CancelStep::already;
    EXPECT_EQ(cancelled(r, kGeneration), step);
    if (step == CancelStep::stopping) {
      expected.settled = true;
      expected.expired = false;
    }
    EXPECT_TRUE(same(r.word(), expected));
  }
  Record waits(in_phase(TaskPhase::pending));
  EXPECT_EQ(cancelled(waits, kGeneration), CancelStep::ended);
  EXPECT_TRUE(same(waits.word(), done_with(true, false)));
  EXPECT_EQ(cancelled(waits, kGeneration), CancelStep::already);
  Record done(in_phase(TaskPhase::done));
  EXPECT_EQ(cancelled(done, kGeneration), CancelStep::too_late);
  Record late(done_with(true, true));
  EXPECT_EQ(cancelled(late, kGeneration), CancelStep::too_late);
  Record other(in_phase(TaskPhase::pending));
  EXPECT_EQ(cancelled(other, kGeneration + 1), CancelStep::too_late);
  EXPECT_TRUE(same(other.word(), in_phase(TaskPhase::pending)));
}

TEST(StopTaskTest, ATaskMayBeCancelledFromTheBeginning) {
  Record r(in_phase(TaskPhase::free));
  publish_ended_task(r.state, kGeneration, false);
  EXPECT_TRUE(same(r.word(), done_with(true, false)));
  EXPECT_FALSE(claim_task(r.state, kGeneration, kWorker));
  EXPECT_EQ(cancelled(r, kGeneration), CancelStep::already);
}

TEST(StopTaskTest, ATaskMayBeLateFromTheBeginning) {
  Record r(in_phase(TaskPhase::free));
  publish_ended_task(r.state, kGeneration, true);
  EXPECT_TRUE(same(r.word(), done_with(true, true)));
  EXPECT_FALSE(claim_task(r.state, kGeneration, kWorker));
  EXPECT_EQ(cancelled(r, kGeneration), CancelStep::too_late);
}

TEST(StopTaskTest, ADeadlineEndsOnlyATaskThatWaits) {
  only_from(TaskPhase::pending, done_with(true, true),
            [](TaskState& s) { return expire_pending(s, kGeneration).done; });
  Record r(in_phase(TaskPhase::pending));
  EXPECT_FALSE(expire_pending(r.state, kGeneration + 1));
}

TEST(StopTaskTest, ATimeLimitMarksARunningTaskOnce) {
  for (const Marks marks : kMarks) {
    for (const bool last : {false, true}) {
      Record r(claimed_with(marks));
      EXPECT_EQ(expire_task(r.state, kWorker, last).done, marks == Marks::none);
      if (marks != Marks::none) continue;
      EXPECT_TRUE(same(r.word(), claimed_with(last ? Marks::settled_late : Marks::expired)));
    }
  }
  Record other(in_phase(TaskPhase::claimed));
  EXPECT_FALSE(expire_task(other.state, kSameSlotLater, true));
}

TEST(StopTaskTest, AWorkerGoesOnOnlyWithATaskThatIsStillItsOwn) {
  for (const Marks marks : kMarks) {
    Record r(claimed_with(marks));
    const bool may = marks == Marks::none || marks == Marks::expired;
    EXPECT_EQ(unexpire_task(r.state, kWorker), may);
    EXPECT_TRUE(same(r.word(), claimed_with(may ? Marks::none : marks)));
  }
}

TEST(StopTaskTest, AWorkerIsDoomedOnlyForATaskThatIsToStopAndHasNotEnded) {
  for (const Marks marks : kMarks) {
    Record r(claimed_with(marks));
    EXPECT_EQ(doom_task(r.state, kWorker, kGeneration), marks != Marks::none);
    TaskWord expected = claimed_with(marks);
    expected.doomed = marks != Marks::none;
    EXPECT_TRUE(same(r.word(), expected));
  }
  for (const TaskPhase phase : {TaskPhase::free, TaskPhase::pending, TaskPhase::done}) {
    Record r(in_phase(phase));
    EXPECT_FALSE(doom_task(r.state, kWorker, kGeneration));
  }
  Record other(claimed_with(Marks::expired));
  EXPECT_FALSE(doom_task(other.state, kSameSlotLater, kGeneration));
  EXPECT_FALSE(doom_task(other.state, kWorker, kGeneration + 1));
}

// Each way to give a task its outcome, from a word that somebody waits for and watches.
TEST(StopTaskTest, AnOutcomeIsToldOnce) {
  const auto watched = [](TaskPhase phase) {
    TaskWord word = in_phase(phase, true);
    word.watched = true;
    return word;
  };
  const auto is_told_once = [](Record& r, const Step& step) {
    EXPECT_TRUE(step.done);
    EXPECT_TRUE(step.watched);
    EXPECT_EQ(step.generation, kGeneration);
    EXPECT_FALSE(r.word().waited || r.word().watched);
  };
  Record finished(watched(TaskPhase::claimed));
  is_told_once(finished, finish_task(finished.state, kWorker));
  Record ended(watched(TaskPhase::claimed));
  is_told_once(ended, end_task(ended.state, kWorker, true));
  Record late(watched(TaskPhase::pending));
  is_told_once(late, expire_pending(late.state, kGeneration));
  Record stopped(watched(TaskPhase::claimed));
  is_told_once(stopped, expire_task(stopped.state, kWorker, true));
  EXPECT_FALSE(finish_task(stopped.state, kWorker).watched) << "told already";
  for (const TaskPhase phase : {TaskPhase::pending, TaskPhase::claimed}) {
    Record given_up(watched(phase));
    Step step;
    EXPECT_NE(cancel_task(given_up.state, kGeneration, step), CancelStep::too_late);
    is_told_once(given_up, step);
  }
  // What is no outcome keeps them.
  Record again(watched(TaskPhase::claimed));
  EXPECT_FALSE(expire_task(again.state, kWorker, false).watched);
  EXPECT_TRUE(return_task(again.state, kWorker));
  EXPECT_TRUE(same(again.word(), watched(TaskPhase::pending)));
  EXPECT_TRUE(claim_task(again.state, kGeneration, kWorker));
  EXPECT_TRUE(same(again.word(), watched(TaskPhase::claimed)));
}

TEST(TaskTest, AnOldNameClaimsNothing) {
  for (const std::uint32_t generation : {kGeneration - 1, kGeneration + 1, 0U}) {
    Record r(in_phase(TaskPhase::pending));
    EXPECT_FALSE(claim_task(r.state, generation, kWorker));
    EXPECT_TRUE(same(r.word(), in_phase(TaskPhase::pending)));
  }
}

TEST(TaskTest, OnlyItsOwnerFinishesOrReturnsATask) {
  for (const OwnerId other : {kSameSlotLater, kOtherSlot, OwnerId{0, 0}}) {
    Record r(in_phase(TaskPhase::claimed));
    EXPECT_FALSE(finish_task(r.state, other));
    EXPECT_FALSE(return_task(r.state, other));
    EXPECT_FALSE(claim_task(r.state, kGeneration, other));
    EXPECT_TRUE(same(r.word(), in_phase(TaskPhase::claimed)));
  }
}

TEST(TaskTest, ACondemnedTaskIsDoneAndCorruptWhateverItWas) {
  std::mt19937_64 random(3);
  for (int i = 0; i < 1000; ++i) {
    Record r(TaskWord{});
    const std::uint64_t nonsense = random();
    r.state.word.store(nonsense);
    r.state.length = static_cast<std::uint32_t>(random());
    ASSERT_FALSE(condemn_task(r.state, nonsense + 1, kGeneration));
    ASSERT_TRUE(condemn_task(r.state, nonsense, kGeneration));
    ASSERT_TRUE(same(r.word(), in_phase(TaskPhase::done)));
    ASSERT_EQ(r.state.kind, ReplyKind::corrupt);
    ASSERT_EQ(r.state.length, 0U);
  }
}

// ---- waiting

TEST(TaskTest, AWaiterIsAnnouncedWhileThereIsSomethingToWaitFor) {
  for (const TaskPhase phase : kPhases) {
    Record r(in_phase(phase));
    const std::optional<std::uint32_t> half = announce_waiter(r.state, kGeneration);
    const bool waits = phase == TaskPhase::pending || phase == TaskPhase::claimed;
    ASSERT_EQ(half.has_value(), waits) << static_cast<int>(phase);
    EXPECT_TRUE(same(r.word(), in_phase(phase, waits)));
    if (waits) {
      EXPECT_EQ(*half, static_cast<std::uint32_t>(r.state.word.load()));
      EXPECT_EQ(announce_waiter(r.state, kGeneration), half) << "twice is as good as once";
    }
  }
  Record other(in_phase(TaskPhase::pending));
  EXPECT_FALSE(announce_waiter(other.state, kGeneration + 1).has_value());
  EXPECT_TRUE(same(other.word(), in_phase(TaskPhase::pending)));
}

TEST(TaskTest, TheWaiterIsKeptThroughClaimAndReturn) {
  Record r(in_phase(TaskPhase::pending));
  ASSERT_TRUE(announce_waiter(r.state, kGeneration).has_value());
  EXPECT_TRUE(claim_task(r.state, kGeneration, kWorker));
  EXPECT_TRUE(same(r.word(), in_phase(TaskPhase::claimed, true)));
  EXPECT_TRUE(return_task(r.state, kWorker));
  EXPECT_TRUE(same(r.word(), in_phase(TaskPhase::pending, true)));
  EXPECT_TRUE(claim_task(r.state, kGeneration, kSameSlotLater));
  EXPECT_TRUE(finish_task(r.state, kSameSlotLater));
  EXPECT_FALSE(r.word().waited) << "it was woken";
}

// Sleeps on the record until it is done; what a Future does.
void sleep_until_done(TaskState& state) {
  while (const auto half = announce_waiter(state, kGeneration)) {
    sys::futex_wait(sleeping_half(state), *half, sys::kForever);
  }
}

TEST(TaskTest, AllSleepersAreWokenByTheEnd) {
  for (const bool condemned : {false, true}) {
    const auto r = std::make_unique<Record>(in_phase(TaskPhase::pending));
    std::vector<std::thread> sleepers;
    for (int i = 0; i < 3; ++i) sleepers.emplace_back([&] { sleep_until_done(r->state); });
    EXPECT_TRUE(test::wait_until([&] { return r->word().waited; }));
    EXPECT_TRUE(claim_task(r->state, kGeneration, kWorker));
    if (condemned) {
      EXPECT_TRUE(condemn_task(r->state, r->state.word.load(), kGeneration));
    } else {
      EXPECT_TRUE(finish_task(r->state, kWorker));
    }
    for (std::thread& sleeper : sleepers) sleeper.join();
    EXPECT_EQ(r->word().phase, TaskPhase::done);
  }
}

// ---- races

TEST(TaskTest, OfManyClaimsOneSucceeds) {
  constexpr unsigned kThreads = 4;
  constexpr std::uint32_t kRounds = 5000;
  const auto r = std::make_unique<Record>(TaskWord{});
  std::array<std::atomic<std::uint32_t>, kThreads> claims{};
  std::atomic<std::uint32_t> generation{0};
  std::atomic<std::uint32_t> finished{0};
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      const OwnerId me{static_cast<std::uint16_t>(2 + i), 1};
      while (finished.load() < kRounds) {
        const std::uint32_t current = generation.load();
        if (current == 0 || !claim_task(r->state, current, me)) {
          sys::yield();
          continue;
        }
        claims[i].fetch_add(1);
        // Nobody else may end what is ours.
        EXPECT_FALSE(finish_task(r->state, {static_cast<std::uint16_t>(9 + i), 1}));
        EXPECT_TRUE(finish_task(r->state, me));
        finished.fetch_add(1);
      }
    });
  }
  for (std::uint32_t round = 1; round <= kRounds; ++round) {
    release_task(r->state);
    publish_task(r->state, round);
    generation.store(round);
    while (finished.load() < round) sys::yield();
  }
  for (std::thread& thread : threads) thread.join();
  std::uint32_t total = 0;
  for (const auto& count : claims) total += count.load();
  EXPECT_EQ(total, kRounds);
}

}  // namespace
}  // namespace brood::pool
