// The allocator over shared memory, as one process sees it. Its deaths are in crash/.
#include "shm/arena.hpp"

#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "sys/clock.hpp"
#include "sys/fd.hpp"
#include "sys/memory.hpp"
#include "sys/syscall.hpp"

namespace brood::shm {
namespace {

constexpr std::size_t kPage = arena::kPageBytes;
constexpr OwnerId kAnna{1, 7};
constexpr OwnerId kBert{2, 9};
constexpr OwnerId kCarl{arena::kMaxOwners - 1, 0xffff};

// A memory file with a region somewhere in it.
class ArenaTest : public testing::Test {
 protected:
  static constexpr std::size_t kBefore = 3 * sys::kPageBytes;

  void make(std::size_t payload_bytes, std::size_t limit_bytes) {
    const std::size_t metadata = Arena::metadata_bytes(payload_bytes);
    const std::size_t bytes = kBefore + metadata + payload_bytes + sys::kPageBytes;
    file_.reset(sys::create_memory_file("arena-test", bytes));
    ASSERT_GE(file_.get(), 0);
    ASSERT_EQ(mapping_.map(file_.get(), bytes), 0);
    region_ = {mapping_.data(),    file_.get(),   kBefore,
               kBefore + metadata, payload_bytes, limit_bytes};
    anna_.attach(region_, kAnna);
    ASSERT_EQ(anna_.format(), 0);
    bert_.attach(region_, kBert);
  }

  std::size_t memory() const { return static_cast<std::size_t>(sys::memory_in_use(file_.get())); }

  void expect_valid() {
    std::string why;
    EXPECT_TRUE(anna_.is_valid(&why)) << why;
  }

  // Nothing is in use, and after a give_back nothing takes memory.
  void expect_empty() {
    expect_valid();
    const Arena::Stats stats = anna_.stats();
    EXPECT_EQ(stats.live_blocks, 0u);
    EXPECT_EQ(stats.live_bytes, 0u);
    EXPECT_EQ(stats.claims_in_progress, 0u);
    EXPECT_EQ(anna_.give_back(sys::now_ns(), 0), 0u);
    EXPECT_EQ(anna_.stats(), Arena::Stats{});
  }

  sys::Fd file_;
  sys::Mapping mapping_;
  ArenaRegion region_;
  Arena anna_;
  Arena bert_;
};

TEST_F(ArenaTest, BlocksOfEverySizeAreAlignedDistinctAndLargeEnough) {
  make(256 * kPage, 256 * kPage);
  std::vector<Arena::Allocation> blocks;
  for (std::size_t bytes = 1; bytes < 6 * kPage; bytes += bytes / 7 + 1) {
    blocks.push_back(anna_.allocate(bytes));
    const Arena::Allocation& block = blocks.back();
    ASSERT_EQ(block.error, 0) << bytes;
    ASSERT_TRUE(block.ref);
    EXPECT_GE(block.bytes.size(), bytes);
    EXPECT_LE(block.bytes.size(),
              bytes <= 32 * 1024 ? std::max<std::size_t>(64, 2 * bytes - 1) : bytes + kPage);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(block.bytes.data()) % 64, 0u);
    std::memset(block.bytes.data(), static_cast<int>(blocks.size()), block.bytes.size());
  }
  expect_valid();
  EXPECT_EQ(anna_.stats().live_blocks, blocks.size());
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    const std::span<std::byte> bytes = bert_.resolve(blocks[i].ref);
    ASSERT_EQ(bytes.data(), blocks[i].bytes.data());
    ASSERT_EQ(bytes.size(), blocks[i].bytes.size());
    for (const std::byte b : bytes) ASSERT_EQ(b, static_cast<std::byte>(i + 1));
    EXPECT_EQ(bert_.owner(blocks[i].ref), kAnna);
    EXPECT_TRUE(bert_.free(blocks[i].ref));
  }
  expect_empty();
}

TEST_F(ArenaTest, NothingBeforeOrAfterTheRegionIsTouched) {
  make(16 * kPage, 16 * kPage);
  while (anna_.allocate(100).error == 0) {
  }
  const std::span<std::byte> all{mapping_.data(), mapping_.size()};
  for (const std::byte b : all.first(kBefore)) ASSERT_EQ(b, std::byte{0});
  for (const std::byte b : all.last(sys::kPageBytes)) ASSERT_EQ(b, std::byte{0});
}

TEST_F(ArenaTest, ZeroAndExcessiveSizesAreRefused) {
  make(16 * kPage, 16 * kPage);
  EXPECT_EQ(anna_.allocate(0).error, ENOSPC);
  EXPECT_EQ(anna_.allocate(16 * kPage + 1).error, ENOSPC);
  EXPECT_EQ(anna_.allocate(SIZE_MAX).error, ENOSPC);
  EXPECT_EQ(anna_.allocate_zeroed(SIZE_MAX).error, ENOSPC);
  const Arena::Allocation all = anna_.allocate(16 * kPage);
  EXPECT_EQ(all.error, 0);
  EXPECT_EQ(bert_.allocate(1).error, ENOSPC);
  EXPECT_TRUE(anna_.free(all.ref));
  expect_empty();
}

TEST_F(ArenaTest, StaleAndNonsensicalReferencesAreRecognised) {
  make(16 * kPage, 16 * kPage);
  for (const std::size_t bytes : {std::size_t{64}, std::size_t{5000}, 3 * kPage}) {
    const BlockRef old = anna_.allocate(bytes).ref;
    EXPECT_TRUE(anna_.free(old));
    EXPECT_FALSE(anna_.free(old));
    const BlockRef next = anna_.allocate(bytes).ref;
    EXPECT_EQ(static_cast<std::uint32_t>(old.bits), static_cast<std::uint32_t>(next.bits));
    EXPECT_NE(old, next);
    EXPECT_TRUE(anna_.resolve(old).empty());
    EXPECT_FALSE(anna_.owner(old));
    EXPECT_FALSE(anna_.transfer(old, kAnna, kBert));
    EXPECT_FALSE(anna_.free(old));
    EXPECT_FALSE(anna_.resolve(next).empty());
    EXPECT_TRUE(anna_.resolve({next.bits + 1}).empty());
    EXPECT_TRUE(anna_.free(next));
  }
  EXPECT_FALSE(anna_.free({}));
  EXPECT_TRUE(anna_.resolve({}).empty());
  EXPECT_FALSE(anna_.free({UINT64_MAX}));
  expect_empty();
}

TEST_F(ArenaTest, ReferencesStayStaleWhenThePageChangesItsClass) {
  make(kPage, kPage);  // one page, so that all blocks lie on it
  std::vector<BlockRef> stale;
  for (int round = 0; round < 40; ++round) {
    for (const std::size_t bytes : {arena::slot_bytes(0), arena::slot_bytes(5), kPage, kPage / 2}) {
      const BlockRef ref = anna_.allocate(bytes).ref;
      ASSERT_TRUE(ref);
      for (const BlockRef old : stale) ASSERT_TRUE(anna_.resolve(old).empty());
      for (const BlockRef old : stale) ASSERT_FALSE(anna_.free(old));
      ASSERT_TRUE(anna_.free(ref));
      stale.push_back(ref);
      if (round % 2 == 0) anna_.give_back(sys::now_ns(), 0);
    }
  }
  expect_empty();
}

TEST_F(ArenaTest, TransferNeedsTheRightOwner) {
  make(16 * kPage, 16 * kPage);
  for (const std::size_t bytes : {std::size_t{300}, 2 * kPage}) {
    const BlockRef ref = anna_.allocate(bytes).ref;
    EXPECT_FALSE(anna_.transfer(ref, kBert, kCarl));
    EXPECT_FALSE(anna_.transfer(ref, {kAnna.slot, 8}, kCarl));
    EXPECT_TRUE(anna_.transfer(ref, kAnna, kCarl));
    EXPECT_EQ(anna_.owner(ref), kCarl);
    EXPECT_EQ(anna_.sweep(kAnna), 0u);
    EXPECT_EQ(anna_.resolve(ref).size(), bytes == 300 ? 512 : bytes);
    EXPECT_EQ(anna_.sweep({kCarl.slot, 1}), 0u);
    EXPECT_EQ(anna_.sweep(kCarl), 1u);
    EXPECT_TRUE(anna_.resolve(ref).empty());
  }
  expect_empty();
}

TEST_F(ArenaTest, SweepFreesWhatTheDeadHadAndNothingElse) {
  make(256 * kPage, 256 * kPage);
  std::vector<BlockRef> annas;
  for (int i = 0; i < 500; ++i) {
    annas.push_back(anna_.allocate(64u << (i % 11)).ref);
    ASSERT_TRUE(annas.back());
    ASSERT_TRUE(bert_.allocate(64u << (i % 11)).ref);
  }
  EXPECT_EQ(anna_.sweep(kBert), 500u);
  EXPECT_EQ(anna_.sweep(kBert), 0u);
  expect_valid();
  EXPECT_EQ(anna_.stats().live_blocks, 500u);
  for (const BlockRef ref : annas) EXPECT_TRUE(anna_.free(ref));
  expect_empty();
}

TEST_F(ArenaTest, SlabsOfTheDeadThatHoldBlocksAreAdopted) {
  make(256 * kPage, 256 * kPage);
  std::vector<BlockRef> kept;
  for (int i = 0; i < 4 * 64; ++i) {
    const BlockRef ref = bert_.allocate(1024).ref;
    if (i % 64 == 0) {
      EXPECT_TRUE(bert_.transfer(ref, kBert, kCarl));
      kept.push_back(ref);
    }
  }
  anna_.sweep(kBert);
  EXPECT_EQ(anna_.stats().pages_with_memory, 4u);
  for (int i = 0; i < 4 * 63; ++i) ASSERT_TRUE(anna_.allocate(1024).ref);
  EXPECT_EQ(anna_.stats().pages_with_memory, 4u);
  for (const BlockRef ref : kept) EXPECT_TRUE(anna_.free(ref));
  anna_.sweep(kAnna);
  expect_empty();
}

TEST_F(ArenaTest, TheLimitHoldsAndWhatIsFreeElsewhereIsUsed) {
  make(256 * kPage, 32 * kPage);
  std::vector<BlockRef> blocks;
  for (;;) {
    const Arena::Allocation block = anna_.allocate(1000);
    if (block.error != 0) {
      EXPECT_EQ(block.error, ENOSPC);
      break;
    }
    blocks.push_back(block.ref);
  }
  EXPECT_EQ(blocks.size(), 32u * 64);
  EXPECT_EQ(anna_.stats().pages_with_memory, 32u);
  EXPECT_EQ(bert_.allocate(kPage).error, ENOSPC);
  for (const BlockRef ref : blocks) EXPECT_TRUE(anna_.free(ref));
  // All of it is slabs of another class now; both of these need it all.
  const BlockRef run = bert_.allocate(32 * kPage).ref;
  EXPECT_TRUE(run);
  EXPECT_EQ(anna_.allocate(64).error, ENOSPC);
  EXPECT_TRUE(anna_.free(run));
  EXPECT_TRUE(anna_.allocate(64).ref);
  anna_.sweep(kAnna);
  expect_empty();
  EXPECT_LT(memory(), 4 * kPage);
}

TEST_F(ArenaTest, ALostCountOfPagesIsMadeGood) {
  make(64 * kPage, 32 * kPage);
  const BlockRef all = anna_.allocate(32 * kPage).ref;
  auto& header = *reinterpret_cast<arena::RegionHeader*>(mapping_.data() + kBefore);
  EXPECT_EQ(header.pages_taken.load(), 32);
  EXPECT_TRUE(anna_.free(all));
  anna_.give_back(sys::now_ns(), 0);
  EXPECT_EQ(header.pages_taken.load(), 0);
  for (const std::int64_t wrong : {std::int64_t{32}, INT64_MAX, std::int64_t{-1}, INT64_MIN}) {
    header.pages_taken = wrong;
    const BlockRef ref = anna_.allocate(30 * kPage).ref;
    EXPECT_TRUE(ref) << wrong;
    EXPECT_EQ(anna_.allocate(3 * kPage).error, ENOSPC);
    EXPECT_TRUE(anna_.free(ref));
    anna_.give_back(sys::now_ns(), 0);
  }
}

TEST_F(ArenaTest, ALargeBlockFreedAndAllocatedAgainHasTheSameWarmPages) {
  constexpr std::size_t kLarge = std::size_t{64} << 20;
  make(4 * kLarge, 4 * kLarge);
  const Arena::Allocation first = anna_.allocate(kLarge);
  ASSERT_TRUE(first.ref);
  EXPECT_TRUE(anna_.free(first.ref));
  const BlockRef small = anna_.allocate(64).ref;  // does not take a bite out of it
  const Arena::Allocation second = anna_.allocate(kLarge);
  EXPECT_EQ(first.bytes.data(), second.bytes.data());
  EXPECT_EQ(anna_.stats().pages_with_memory, kLarge / kPage + 1);
  EXPECT_TRUE(bert_.free(second.ref));
  EXPECT_EQ(bert_.allocate(kLarge).bytes.data(), first.bytes.data());
  anna_.sweep(kBert);
  EXPECT_TRUE(anna_.free(small));
  expect_empty();
}

TEST_F(ArenaTest, GiveBackReturnsWhatWasIdleLongEnough) {
  make(256 * kPage, 256 * kPage);
  const std::size_t before = memory();
  const BlockRef old = anna_.allocate(100 * kPage).ref;
  EXPECT_GE(memory(), before + 100 * kPage);
  EXPECT_TRUE(anna_.free(old));
  const std::int64_t now = sys::now_ns();
  constexpr std::int64_t kSecond = 1'000'000'000;
  EXPECT_EQ(anna_.give_back(now, kSecond), 100u);
  EXPECT_EQ(anna_.give_back(now + kSecond / 2, kSecond), 100u);
  EXPECT_GE(memory(), before + 100 * kPage);
  EXPECT_EQ(anna_.give_back(now + kSecond + kSecond / 100, kSecond), 0u);
  EXPECT_EQ(memory(), before + sys::kPageBytes);  // the records of pages stay
}

TEST_F(ArenaTest, GiveBackTakesEmptySlabsEvenOfLiveOwnersButNotBusyOnes) {
  make(256 * kPage, 256 * kPage);
  const std::int64_t now = sys::now_ns();
  constexpr std::int64_t kSecond = 1'000'000'000;
  const BlockRef idle = bert_.allocate(64).ref;
  const BlockRef busy = bert_.allocate(128).ref;
  EXPECT_EQ(anna_.give_back(now, kSecond), 0u);  // both hold a block
  EXPECT_TRUE(bert_.free(idle));
  EXPECT_TRUE(bert_.free(busy));
  EXPECT_EQ(anna_.give_back(now + 2 * kSecond, kSecond), 2u);  // first seen empty
  EXPECT_TRUE(bert_.free(bert_.allocate(128).ref));
  EXPECT_EQ(anna_.give_back(now + 4 * kSecond, kSecond), 1u);  // used in between
  EXPECT_EQ(anna_.stats().pages_with_memory, 1u);
  EXPECT_EQ(anna_.give_back(now + 6 * kSecond, kSecond), 0u);
  const BlockRef again = bert_.allocate(64).ref;
  EXPECT_FALSE(bert_.resolve(again).empty());
  EXPECT_TRUE(anna_.free(again));
  expect_empty();
}

TEST_F(ArenaTest, ZeroedMeansZeroedWhateverWasThereBefore) {
  make(64 * kPage, 64 * kPage);
  for (const std::size_t bytes : {std::size_t{100}, 10 * kPage, 20 * kPage}) {
    const Arena::Allocation dirty = anna_.allocate(bytes);
    std::memset(dirty.bytes.data(), 0xee, dirty.bytes.size());
    EXPECT_TRUE(anna_.free(dirty.ref));
    const Arena::Allocation clean = anna_.allocate_zeroed(bytes);
    for (const std::byte b : clean.bytes) ASSERT_EQ(b, std::byte{0});
    EXPECT_TRUE(anna_.free(clean.ref));
  }
  expect_empty();
}

TEST_F(ArenaTest, AttachAgainForgetsPrivateStateOnly) {
  make(64 * kPage, 64 * kPage);
  const BlockRef mine = anna_.allocate(64).ref;
  anna_.attach(region_, kCarl);
  const BlockRef carls = anna_.allocate(64).ref;
  EXPECT_EQ(anna_.owner(mine), kAnna);
  EXPECT_EQ(anna_.owner(carls), kCarl);
  EXPECT_EQ(anna_.stats().pages_with_memory, 2u);
  EXPECT_EQ(anna_.sweep(kAnna), 1u);
  EXPECT_TRUE(anna_.free(carls));
  expect_empty();
}

TEST_F(ArenaTest, MetadataTakesMemoryOnlyAsItIsUsed) {
  make(std::size_t{64} << 30, std::size_t{64} << 30);
  EXPECT_EQ(memory(), 4096u);
  const BlockRef ref = anna_.allocate(64).ref;
  EXPECT_LE(memory(), 4096u + 4096 + 8192 + kPage);
  EXPECT_TRUE(anna_.free(ref));
  expect_empty();
}

// Refuses to take memory from the n-th call on.
int calls_until_refusal = 0;
long refusing_kernel(long nr, long a, long b, long c, long d, long e, long f) noexcept {
  constexpr long kPunchHole = 2;
  if (nr == SYS_fallocate && (b & kPunchHole) == 0 && --calls_until_refusal < 0) return -ENOMEM;
  return sys::kernel(nr, a, b, c, d, e, f);
}

TEST_F(ArenaTest, AMachineWithoutMemoryIsAnErrorAndNothingIsLost) {
  for (int n = 0; n < 8; ++n) {
    for (const std::size_t bytes : {std::size_t{64}, 200 * kPage}) {
      make(4096 * kPage, 4096 * kPage);
      calls_until_refusal = n;
      sys::replace_kernel(refusing_kernel);
      const Arena::Allocation block = anna_.allocate(bytes);
      sys::replace_kernel(sys::kernel);
      if (block.error == 0) {
        EXPECT_TRUE(anna_.free(block.ref));
      } else {
        EXPECT_TRUE(block.error == ENOMEM || block.error == ENOSPC);
        EXPECT_EQ(anna_.stats(), Arena::Stats{});
      }
      expect_empty();
    }
  }
}

TEST_F(ArenaTest, RandomUseByManyOwnersAgreesWithAModel) {
  struct Block {
    std::size_t bytes;
    std::byte fill;
    OwnerId owner;
  };
  make(512 * kPage, 300 * kPage);
  std::vector<std::unique_ptr<Arena>> arenas;
  for (std::uint16_t i = 0; i < 4; ++i) {
    arenas.push_back(std::make_unique<Arena>());
    arenas.back()->attach(region_, {static_cast<std::uint16_t>(10 + i), i});
  }
  const auto id = [](std::size_t i) {
    return OwnerId{static_cast<std::uint16_t>(10 + i), static_cast<std::uint16_t>(i)};
  };
  std::map<std::uint64_t, Block> model;
  std::mt19937 random{42};
  const auto any = [&](std::size_t below) { return random() % below; };
  for (int step = 0; step < 60000; ++step) {
    const std::size_t who = any(4);
    Arena& arena = *arenas[who];
    const std::size_t action = any(100);
    auto it = model.empty() ? model.end() : model.lower_bound(random());
    if (it == model.end()) it = model.begin();
    if (action < 50) {
      const std::size_t bytes = 1 + any(std::size_t{1} << (4 + any(15)));
      const Arena::Allocation block = arena.allocate(bytes);
      if (block.error != 0) continue;
      const auto fill = static_cast<std::byte>(random());
      std::memset(block.bytes.data(), static_cast<int>(fill), block.bytes.size());
      ASSERT_TRUE(model.emplace(block.ref.bits, Block{block.bytes.size(), fill, id(who)}).second);
    } else if (action < 90 && it != model.end()) {
      const std::span<std::byte> bytes = arena.resolve({it->first});
      ASSERT_EQ(bytes.size(), it->second.bytes);
      ASSERT_EQ(bytes.front(), it->second.fill);
      ASSERT_EQ(bytes.back(), it->second.fill);
      ASSERT_TRUE(arena.free({it->first}));
      ASSERT_FALSE(arena.free({it->first}));
      model.erase(it);
    } else if (action < 98 && it != model.end()) {
      ASSERT_TRUE(arena.transfer({it->first}, it->second.owner, id(who)));
      it->second.owner = id(who);
    } else if (action == 98) {
      arena.give_back(sys::now_ns(), any(2) == 0 ? 0 : 2'000'000);
    } else if (any(20) == 0) {
      const std::size_t dead = any(4);
      const std::size_t had =
          std::erase_if(model, [&](const auto& entry) { return entry.second.owner == id(dead); });
      ASSERT_EQ(arena.sweep(id(dead)), had);
      arenas[dead]->attach(region_, id(dead));
    }
    if (step % 2000 == 0) {
      expect_valid();
      std::size_t bytes = 0;
      for (const auto& entry : model) bytes += entry.second.bytes;
      const Arena::Stats stats = anna_.stats();
      ASSERT_EQ(stats.live_blocks, model.size());
      ASSERT_EQ(stats.live_bytes, bytes);
      ASSERT_EQ(stats.claims_in_progress, 0u);
      ASSERT_LE(stats.pages_with_memory, 300u);
    }
  }
  for (const auto& entry : model) ASSERT_TRUE(anna_.free({entry.first}));
  expect_empty();
}

TEST_F(ArenaTest, ThreadsThatAllocateFreeAndGiveBackAtOnceLeaveNothing) {
  make(256 * kPage, 64 * kPage);
  std::atomic<std::uint64_t> exchange[16] = {};
  const auto work = [&](OwnerId me) {
    Arena arena;
    arena.attach(region_, me);
    std::mt19937 random{me.slot};
    for (int i = 0; i < 30000; ++i) {
      const Arena::Allocation block = arena.allocate(1 + random() % (64u << (random() % 12)));
      if (block.error == 0) std::memset(block.bytes.data(), 1, block.bytes.size());
      const BlockRef old{exchange[random() % 16].exchange(block.ref.bits)};
      if (old) {
        EXPECT_TRUE(arena.free(old));
      }
      if (i % 500 == 0) arena.give_back(sys::now_ns(), 0);
    }
  };
  std::vector<std::thread> threads;
  for (std::uint16_t i = 0; i < 4; ++i) threads.emplace_back(work, OwnerId{i, 1});
  for (std::thread& thread : threads) thread.join();
  for (const auto& ref : exchange) {
    if (ref != 0) {
      EXPECT_TRUE(anna_.free({ref}));
    }
  }
  expect_empty();
}

// All shared words are input: whatever they hold, every operation ends, and inside the region.
TEST_F(ArenaTest, GarbageInTheMetadataCostsNothingButTheArena) {
  for (std::uint32_t seed = 0; seed < 150; ++seed) {
    make(48 * kPage, 32 * kPage);
    std::vector<BlockRef> refs;
    for (int i = 0; i < 60; ++i) refs.push_back(anna_.allocate(64u << (i % 12)).ref);
    std::mt19937_64 random{seed};
    auto* words = reinterpret_cast<std::uint64_t*>(mapping_.data() + kBefore);
    const std::size_t count = Arena::metadata_bytes(48 * kPage) / 8;
    const auto scribble = [&] {
      if (seed % 3 == 0) {  // all of it
        for (std::size_t i = 0; i < count; ++i) words[i] = random();
      } else if (seed % 3 == 1) {  // the header and the records
        for (std::size_t i = 0; i < 512 + 48 * 2; ++i) words[i] = random();
      } else {  // bits here and there
        for (int i = 0; i < 300; ++i) words[512 + random() % 200] ^= 1ull << (random() % 64);
      }
    };
    scribble();
    Arena fresh;
    fresh.attach(region_, kCarl);
    for (Arena* arena : {&anna_, &bert_, &fresh}) {
      for (int i = 0; i < 40; ++i) {
        const Arena::Allocation block = arena->allocate(64u << random() % 14);
        if (block.error == 0) {
          ASSERT_GE(block.bytes.data(), mapping_.data() + region_.payload_offset);
          ASSERT_LE(block.bytes.data() + block.bytes.size(),
                    mapping_.data() + region_.payload_offset + region_.payload_bytes);
        }
        const BlockRef ref = i % 2 == 0 ? refs[random() % refs.size()] : BlockRef{random()};
        const std::span<std::byte> bytes = arena->resolve(ref);
        if (!bytes.empty()) {
          ASSERT_GE(bytes.data(), mapping_.data() + region_.payload_offset);
          ASSERT_LE(bytes.data() + bytes.size(),
                    mapping_.data() + region_.payload_offset + region_.payload_bytes);
        }
        (void)arena->owner(ref);
        arena->transfer(ref, kAnna, kBert);
        arena->free(ref);
        arena->sweep(i % 2 == 0 ? kAnna
                                : OwnerId{static_cast<std::uint16_t>(random() % 0x4000),
                                          static_cast<std::uint16_t>(random())});
        arena->give_back(sys::now_ns(), static_cast<std::int64_t>(random() % 2) * 1'000'000);
        (void)arena->stats();
        std::string why;
        arena->is_valid(&why);
        if (i % 10 == 0) scribble();
      }
    }
    for (std::size_t i = 0; i < kBefore; ++i) ASSERT_EQ(mapping_.data()[i], std::byte{0});
    if (HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace brood::shm
