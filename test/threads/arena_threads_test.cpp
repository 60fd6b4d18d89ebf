// The arena's words order what its users write: blocks wander between participants, and each of
// them reads as plain memory what the last holder wrote.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "shm/arena.hpp"
#include "sys/clock.hpp"
#include "sys/fd.hpp"
#include "sys/memory.hpp"
#include "sys/syscall.hpp"
#include "threads/participants.hpp"

namespace brood::shm {
namespace {

constexpr std::size_t kPage = arena::kPageBytes;
constexpr unsigned kParticipants = 3;
constexpr std::size_t kBoxes = 8;
constexpr OwnerId kPost{50, 1};  // holds what is in the boxes

// Mostly slots of all classes; else so many pages that a run is given out in parts later.
std::size_t random_size(std::minstd_rand& random) {
  if (random() % 8 == 0) return (1 + random() % 6) * kPage;
  return 8 + random() % (64U << (random() % 10));
}

// A reference on its way. Relaxed: the transfer of the block orders what is in it.
struct Box {
  std::atomic<std::uint64_t> ref{0};
  std::atomic<std::uint64_t> seed{0};
};

class ArenaThreadsTest : public testing::Test {
 protected:
  void SetUp() override {
    constexpr std::size_t kPayload = 512 * kPage;
    const std::size_t metadata = Arena::metadata_bytes(kPayload);
    file_.reset(sys::create_memory_file("arena-threads", metadata + kPayload));
    ASSERT_GE(file_.get(), 0);
    ASSERT_EQ(mapping_.map(file_.get(), metadata + kPayload), 0);
    // So little memory that pages change from slabs to runs and back all the time.
    region_ = {mapping_.data(), file_.get(), 0, metadata, kPayload, 64 * kPage};
    keeper_.attach(region_, {40, 1});
    ASSERT_EQ(keeper_.format(), 0);
  }

  void TearDown() override {
    std::string why;
    EXPECT_TRUE(keeper_.is_valid(&why)) << why;
    const Arena::Stats stats = keeper_.stats();
    EXPECT_EQ(stats.live_blocks, 0U);
    EXPECT_EQ(stats.claims_in_progress, 0U);
    EXPECT_EQ(keeper_.give_back(sys::now_ns(), 0), 0U);
    EXPECT_EQ(keeper_.stats(), Arena::Stats{});
  }

  sys::Fd file_;
  sys::Mapping mapping_;
  ArenaRegion region_;
  Arena keeper_;
  std::array<Box, kBoxes> boxes_;
};

// One user of the arena: allocates, fills, looks, passes on, takes over and frees.
class User {
 public:
  User(const ArenaRegion& region, OwnerId me, std::array<Box, kBoxes>& boxes, unsigned seed)
      : me_(me), boxes_(boxes), random_(seed) {
    arena_.attach(region, me);
  }

  void act() {
    Block& block = held_[random_() % held_.size()];
    switch (random_() % 8) {
      case 0:
        if (random_() % 16 == 0) arena_.give_back(sys::now_ns(), 0);
        break;
      case 1:
      case 2:
        post(block);
        break;
      case 3:
      case 4:
        drop(block);
        block = take_over(boxes_[random_() % kBoxes]);
        break;
      default:
        drop(block);
        make(block);
    }
  }

  void drop_all() {
    for (Block& block : held_) drop(block);
  }

 private:
  struct Block {
    BlockRef ref;
    std::uint64_t seed = 0;
  };

  void make(Block& block) {
    const Arena::Allocation fresh = arena_.allocate(random_size(random_));
    if (fresh.error != 0) return;
    block = {fresh.ref, random_()};
    test::Pattern(block.seed).write(fresh.bytes);
  }

  void drop(Block& block) {
    const Block old = std::exchange(block, {});
    if (!old.ref) return;
    EXPECT_TRUE(test::Pattern(old.seed).is_in(arena_.resolve(old.ref)));
    EXPECT_EQ(arena_.owner(old.ref), me_);
    EXPECT_TRUE(arena_.free(old.ref));
    EXPECT_FALSE(arena_.free(old.ref)) << "it may be another's by now";
  }

  void post(Block& block) {
    const Block sent = std::exchange(block, {});
    if (!sent.ref) return;
    Box& box = boxes_[random_() % kBoxes];
    Block before = take_over(box);
    drop(before);
    // Whoever sets the seed of an empty box has the box until it has put a reference into it.
    std::uint64_t empty = 0;
    if (!box.seed.compare_exchange_strong(empty, sent.seed, std::memory_order_relaxed)) {
      block = sent;  // somebody else was quicker
      return;
    }
    EXPECT_TRUE(arena_.transfer(sent.ref, me_, kPost));
    box.ref.store(sent.ref.bits, std::memory_order_relaxed);
  }

  Block take_over(Box& box) {
    const BlockRef ref{box.ref.exchange(0, std::memory_order_relaxed)};
    if (!ref) return {};
    EXPECT_TRUE(arena_.transfer(ref, kPost, me_));
    const std::uint64_t seed = box.seed.exchange(0, std::memory_order_relaxed);
    EXPECT_TRUE(test::Pattern(seed).is_in(arena_.resolve(ref)));
    const Block block{ref, seed + 1};
    test::Pattern(block.seed).write(arena_.resolve(ref));
    return block;
  }

  OwnerId me_;
  std::array<Box, kBoxes>& boxes_;
  std::minstd_rand random_;  // never 0, as seeds must not be
  std::array<Block, 16> held_;
  Arena arena_;
};

TEST_F(ArenaThreadsTest, WhoTakesABlockOverSeesWhatItsLastHolderWrote) {
  test::run_together(kParticipants, [&](unsigned i) {
    const OwnerId me{static_cast<std::uint16_t>(10 + i), 1};
    const auto user = std::make_unique<User>(region_, me, boxes_, i + 1);
    for (int n = 0; n < 12'000; ++n) user->act();
    user->drop_all();
  });
  EXPECT_LE(keeper_.stats().live_blocks, kBoxes);
  keeper_.sweep(kPost);
}

// Users that stop without freeing anything, and two that clean up after them at once. Of a death
// the sweepers get proof, which orders what the dead did before; the memory they free goes to
// users that know of no death.
TEST_F(ArenaThreadsTest, WhatTheDeadHeldGoesToOthersWhileTwoSweepAtOnce) {
  constexpr unsigned kSweepers = 2;
  constexpr std::uint16_t kLives = 45;
  std::array<std::atomic<std::uint16_t>, kParticipants> died{};  // lives that have ended
  const auto live = [&](unsigned i) {
    for (std::uint16_t life = 1; life <= kLives; ++life) {
      const OwnerId me{static_cast<std::uint16_t>(10 + i), life};
      const auto user = std::make_unique<User>(region_, me, boxes_, i * 1000U + life);
      for (int n = 0; n < 150; ++n) user->act();
      died[i].store(life, std::memory_order_release);
    }
  };
  const auto clean_up = [&](unsigned number) {
    const auto arena = std::make_unique<Arena>();
    arena->attach(region_, {static_cast<std::uint16_t>(30 + number), 1});
    std::array<std::uint16_t, kParticipants> swept{};
    for (unsigned done = 0; done < kParticipants;) {
      done = 0;
      for (unsigned i = 0; i < kParticipants; ++i) {
        const std::uint16_t last = died[i].load(std::memory_order_acquire);
        while (swept[i] < last) arena->sweep({static_cast<std::uint16_t>(10 + i), ++swept[i]});
        done += last == kLives ? 1U : 0U;
      }
      sys::yield();
    }
  };
  test::run_together(kParticipants + kSweepers, [&](unsigned i) {
    i < kParticipants ? live(i) : clean_up(i - kParticipants);
  });
  EXPECT_LE(keeper_.stats().live_blocks, kBoxes);
  keeper_.sweep(kPost);
}

// As in a process with threads: they share one Arena, and only allocate() under a lock.
TEST_F(ArenaThreadsTest, ThreadsOfOneProcessShareAnArenaAndLockOnlyToAllocate) {
  const OwnerId me{10, 1};
  const auto arena = std::make_unique<Arena>();
  arena->attach(region_, me);
  std::mutex mutex;
  test::run_together(kParticipants, [&](unsigned i) {
    std::minstd_rand random(i + 1);
    std::array<std::pair<BlockRef, std::uint64_t>, 16> held{};
    const auto drop = [&](std::pair<BlockRef, std::uint64_t>& block) {
      if (!block.first) return;
      EXPECT_TRUE(test::Pattern(block.second).is_in(arena->resolve(block.first)));
      EXPECT_TRUE(arena->free(std::exchange(block.first, {})));
    };
    for (int n = 0; n < 6'000; ++n) {
      auto& block = held[random() % held.size()];
      drop(block);
      if (n % 64 == 0) arena->give_back(sys::now_ns(), 0);
      if (n % 256 == 0) static_cast<void>(arena->stats());
      Arena::Allocation fresh;
      {
        const std::lock_guard lock(mutex);
        fresh = arena->allocate(random_size(random));
      }
      if (fresh.error != 0) continue;
      block = {fresh.ref, random()};
      test::Pattern(block.second).write(fresh.bytes);
      EXPECT_TRUE(arena->transfer(block.first, me, kPost));
      EXPECT_EQ(arena->owner(block.first), kPost);
    }
    for (auto& block : held) drop(block);
  });
}

// One thread of a process is held up while it takes memory for records; meanwhile another one has
// taken memory for more of them.
Arena* the_arena = nullptr;
Arena* the_other = nullptr;
BlockRef high_up;
int records_taken = 0;
bool is_armed = false;

long overtake(long nr, long a, long b, long c, long d, long e, long f) noexcept {
  const bool takes_records = nr == SYS_fallocate && c < 4096 * 10;
  records_taken += takes_records ? 1 : 0;
  if (takes_records && std::exchange(is_armed, false)) {
    high_up = the_other->allocate(300 * kPage).ref;
    EXPECT_FALSE(the_arena->resolve(high_up).empty());
  }
  return sys::kernel(nr, a, b, c, d, e, f);
}

TEST_F(ArenaThreadsTest, AThreadThatIsLateMakesNobodyForgetWhichRecordsHaveMemory) {
  region_.limit_bytes = region_.payload_bytes;
  const auto arena = std::make_unique<Arena>();
  const auto other = std::make_unique<Arena>();
  arena->attach(region_, {10, 1});
  other->attach(region_, {11, 1});
  const BlockRef low = other->allocate(100).ref;
  the_arena = arena.get();
  the_other = other.get();
  is_armed = true;
  const sys::KernelFn before = sys::replace_kernel(overtake);
  EXPECT_FALSE(arena->resolve(low).empty());
  records_taken = 0;
  EXPECT_FALSE(arena->resolve(high_up).empty());
  EXPECT_EQ(records_taken, 0) << "they were there";
  sys::replace_kernel(before);
  EXPECT_TRUE(arena->free(low));
  EXPECT_TRUE(arena->free(high_up));
}

}  // namespace
}  // namespace brood::shm
