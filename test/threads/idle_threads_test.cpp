// Sleeping and waking: no wake-up is lost, and who is woken sees what was written before.
#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <cstdint>

#include "pool/protocol/call.hpp"
#include "pool/protocol/idle.hpp"
#include "pool/protocol/ring.hpp"
#include "threads/participants.hpp"
#include "threads/shared_pool.hpp"

namespace brood::pool {
namespace {

// ---- bells

constexpr unsigned kMostSleepers = 3;
constexpr std::uint32_t kRounds = 30'000;

// One entry at a time; the next comes when somebody has taken it. So each needs a wake-up of its
// own, and a lost one stops everything if nobody else is woken in its place.
class BellsTest : public testing::Test {
 protected:
  BellsTest() {
    shared_.segment.reserve(shared_.geometry.rings[shm::kNormalPriority].offset, 4096);
    RingWriter(shared_.view().caller().rings[shm::kNormalPriority],
               shared_.view().ring_cells(shm::kNormalPriority))
        .start(kLog);
  }

  void publish() {
    const PoolView view = shared_.view();
    IdleWorkers idle(view);
    RingWriter ring(view.caller().rings[shm::kNormalPriority],
                    view.ring_cells(shm::kNormalPriority));
    ring.start(kLog);
    const test::Deadline hang(test::kHangGuard);
    for (std::uint32_t round = 1; round <= kRounds && !lost_.load(); ++round) {
      work_ = round;
      // Every other time nobody is awake to find it by himself; else at any moment on the way
      // there.
      while (round % 2 == 0 && idle.count_sleeping() < sleepers_ && !hang.passed()) sys::yield();
      for (std::uint32_t pause = round % 128; pause > 0; --pause) sys::cpu_relax();
      ring.push({0, round});
      if (!idle.anyone_looking()) idle.wake_one();
      for (std::uint32_t looks = 0; done_.load(std::memory_order_acquire) < round; ++looks) {
        if (looks < 200) {
          sys::cpu_relax();
        } else if (!hang.passed()) {
          sys::yield();
        } else {
          lost_.store(true);
          break;
        }
      }
    }
    over_.store(true);
    for (unsigned i = 0; i < sleepers_; ++i) idle.ring(slot_of(i));
  }

  // The order of steps is the one of a worker.
  void work(unsigned number, bool looks_first) {
    const PoolView view = shared_.view();
    IdleWorkers idle(view);
    RingReader ring(view.caller().rings[shm::kNormalPriority],
                    view.ring_cells(shm::kNormalPriority), kLog,
                    view.shared().head_hints[shm::kNormalPriority], view.supervisor().hint_epoch);
    const std::uint16_t slot = slot_of(number);
    while (!over_.load()) {
      if (take(ring)) {
        if (ring.maybe_pending()) idle.wake_one();
        continue;
      }
      if (looks_first && idle.start_looking(slot, 1)) {
        bool found = false;
        for (int i = 0; i < 20 && !found; ++i) found = ring.maybe_pending();
        idle.stop_looking(slot);
        if (found || ring.maybe_pending()) continue;
      }
      sleep(idle, ring, view.desk(slot).bell, slot);
    }
  }

  void sleep(IdleWorkers& idle, RingReader& ring, const sys::FutexWord& bell, std::uint16_t slot) {
    const std::uint32_t rung = bell.load(std::memory_order_acquire);
    idle.start_sleeping(slot);
    if (!ring.maybe_pending() && !over_.load() &&
        sys::futex_wait(&bell, rung, test::hang_guard_ns()) == -ETIMEDOUT) {
      lost_.store(true);
    }
    idle.stop_sleeping(slot);
  }

  bool take(RingReader& ring) {
    return ring.take([&](shm::RingEntry entry) {
      std::uint32_t before = entry.generation - 1;
      if (!claimed_.compare_exchange_strong(before, entry.generation, std::memory_order_relaxed)) {
        return RingReader::Offer::gone;
      }
      // Ordered by the ring's tail alone.
      EXPECT_EQ(work_, entry.generation);
      done_.store(entry.generation, std::memory_order_release);
      return RingReader::Offer::taken;
    });
  }

  static std::uint16_t slot_of(unsigned number) {
    return static_cast<std::uint16_t>(shm::kFirstWorkerSlot + number);
  }

  void run(unsigned sleepers, bool looks_first) {
    sleepers_ = sleepers;
    test::run_together(1 + sleepers,
                       [&](unsigned i) { i == 0 ? publish() : work(i - 1, looks_first); });
    EXPECT_FALSE(lost_.load()) << "a wake-up was lost";
    EXPECT_EQ(done_.load(), kRounds);
    EXPECT_EQ(IdleWorkers(shared_.view()).count_sleeping(), 0U);
    EXPECT_FALSE(IdleWorkers(shared_.view()).anyone_looking());
  }

  static constexpr std::uint32_t kLog = 4;
  test::SharedPool shared_{kMostSleepers};
  unsigned sleepers_ = 0;
  std::uint32_t work_ = 0;
  std::atomic<std::uint32_t> claimed_{0};
  std::atomic<std::uint32_t> done_{0};
  std::atomic<bool> over_{false};
  std::atomic<bool> lost_{false};
};

TEST_F(BellsTest, TheOnlySleeperWakesForEachEntry) { run(1, false); }
TEST_F(BellsTest, OneOfSeveralSleepersWakesForEachEntry) { run(kMostSleepers, false); }
TEST_F(BellsTest, SoItDoesIfItHasLookedBeforeItSlept) { run(kMostSleepers, true); }

// ---- the supervisor's control word

// All callers call, then the supervisor answers them all: so it has to count each call.
TEST(ControlWordTest, TheSupervisorMissesNoCallAndSeesWhatTheCallerWroteBefore) {
  constexpr unsigned kCallers = 3;
  constexpr std::uint32_t kCalls = 10'000;
  const test::SharedPool shared(kCallers);
  std::array<std::uint32_t, kCallers> said{};
  sys::FutexWord answered{0};
  std::atomic<bool> lost{false};
  const auto wait_for = [&](const sys::FutexWord& word, std::uint32_t least) {
    std::uint32_t now = word.load(std::memory_order_acquire);
    while (now < least && !lost.load()) {
      if (sys::futex_wait(&word, now, test::hang_guard_ns()) == -ETIMEDOUT) lost.store(true);
      now = word.load(std::memory_order_acquire);
    }
  };
  test::run_together(1 + kCallers, [&](unsigned i) {
    const PoolView view = shared.view();
    for (std::uint32_t round = 1; round <= kCalls && !lost.load(); ++round) {
      if (i > 0) {
        said[i - 1] = round;
        call_supervisor(view);
        wait_for(answered, round);
        continue;
      }
      wait_for(view.shared().control, round * kCallers);
      for (const std::uint32_t word : said) EXPECT_EQ(word, round);
      answered.store(round, std::memory_order_release);
      sys::futex_wake(&answered, sys::kWakeAll);
    }
  });
  EXPECT_FALSE(lost.load()) << "a call was lost";
}

}  // namespace
}  // namespace brood::pool
