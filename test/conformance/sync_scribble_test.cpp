// Locks and the like whose memory somebody has overwritten: typed errors and ends, never a crash.
#include <cstring>
#include <mutex>
#include <random>
#include <span>

#include "shared/object_hold.hpp"
#include "shm/sync_layout.hpp"
#include "support/sync.hpp"

namespace brood::test {
namespace {

constexpr std::uint64_t kSeeds = kSanitized ? 30 : 100;

void scribble(const detail::ObjectHandle& handle, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  const std::span<std::byte> body = handle.hold()->use().body;
  for (std::size_t at = 0; at + 8 <= body.size(); at += 8) {
    const std::uint64_t word = random();
    std::memcpy(body.data() + at, &word, 8);
  }
  for (shm::Bell& bell : handle.hold()->use().header->bells) {
    bell.word.store(static_cast<std::uint32_t>(random()));
  }
}

// A typed error, or none.
template <class Action>
void ends(Action&& action) {
  try {
    action();
  } catch (const Error&) {
  }
}

TEST(ScribbledHandleTest, LocksEndWithTypedErrors) {
  for (std::uint64_t seed = 0; seed < kSeeds; ++seed) {
    const RLock lock;
    scribble(lock.object_handle(), seed);
    ends([&] {
      if (lock.try_lock_for(100us)) lock.unlock();
    });
    ends([&] { lock.unlock(); });
    ends([&] { lock.recover(); });
    EXPECT_FALSE(printed(lock).empty());
  }
}

TEST(ScribbledHandleTest, AnOwnerWhoIsNowhereIsDead) {
  for (std::uint64_t seed = 0; seed < 3; ++seed) {
    const Lock lock;
    scribble(lock.object_handle(), seed);
    ends([&] {
      lock.lock();  // it looks for the owner now and then
      lock.unlock();
    });
  }
}

TEST(ScribbledHandleTest, SemaphoresAndEventsEndWithTypedErrors) {
  for (std::uint64_t seed = 0; seed < kSeeds; ++seed) {
    const BoundedSemaphore semaphore(5);
    scribble(semaphore.object_handle(), seed);
    ends([&] { static_cast<void>(semaphore.try_acquire_for(100us)); });
    ends([&] { semaphore.release(); });
    static_cast<void>(semaphore.get_value());
    const Event event;
    scribble(event.object_handle(), seed);
    static_cast<void>(event.wait_for(100us));
    event.set();
    event.wait();
  }
}

TEST(ScribbledHandleTest, ConditionsEndWithTypedErrors) {
  for (std::uint64_t seed = 0; seed < kSeeds; ++seed) {
    const Condition condition;
    const std::lock_guard guard(condition);
    scribble(condition.object_handle(), seed);
    ends([&] { condition.wait_for(100us); });
    condition.notify(3);
    condition.notify_all();
    ends([&] { condition.wait_for(100us); });
    EXPECT_FALSE(printed(condition).empty());
  }
}

TEST(ScribbledHandleTest, BarriersEndWithTypedErrors) {
  for (std::uint64_t seed = 0; seed < kSeeds; ++seed) {
    const Barrier barrier(3);
    scribble(barrier.object_handle(), seed);
    // No action: whose number lies there is run, as a task's is.
    auto* const body =
        reinterpret_cast<shm::BarrierBody*>(barrier.object_handle().hold()->use().body.data());
    body->action.store(seed % 2 == 0 ? 0 : UINT32_MAX - static_cast<std::uint32_t>(seed));
    ends([&] { barrier.wait_for(100us); });
    barrier.abort();
    barrier.reset();
    ends([&] { barrier.wait_for(100us); });
    EXPECT_GE(barrier.parties(), 1U);
    EXPECT_LE(barrier.n_waiting(), barrier.parties());
    EXPECT_FALSE(printed(barrier).empty());
  }
}

}  // namespace
}  // namespace brood::test
