// Who may own things in shared memory: slots, epochs, and what becomes of them.
#include "shm/owner_table.hpp"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <random>
#include <set>
#include <thread>
#include <utility>
#include <vector>

namespace brood::shm {
namespace {

constexpr std::int32_t kRegistrar = 100;
constexpr std::int32_t kMember = 200;

template <std::size_t Slots>
struct Table {
  std::array<OwnerCell, Slots> cells{};
  std::array<LifeCell, Slots> lives{};
  OwnerTable table{cells, lives};

  // In each state of the diagram.
  OwnerId claimed() { return table.claim(kRegistrar).value(); }
  OwnerId live() {
    const OwnerId id = claimed();
    EXPECT_TRUE(table.settle(id, kMember));
    return id;
  }
  OwnerId dead() {
    const OwnerId id = live();
    EXPECT_TRUE(table.mark_dead(id));
    return id;
  }
};

OwnerState state_of(const OwnerTable& table, OwnerId id) { return table.look(id.slot).state; }

TEST(OwnerWordTest, PackingAndUnpackingLosesNothing) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 100'000; ++i) {
    const OwnerWord word{static_cast<OwnerState>(random() % 4),
                         static_cast<std::uint16_t>(random()), static_cast<std::int32_t>(random())};
    const OwnerWord again = OwnerWord::unpack(word.pack());
    ASSERT_EQ(again.state, word.state);
    ASSERT_EQ(again.epoch, word.epoch);
    ASSERT_EQ(again.pid, word.pid);
  }
}

TEST(OwnerTableTest, ASlotGoesThroughItsLifeInOrder) {
  Table<4> t;
  EXPECT_EQ(t.table.size(), 4U);
  EXPECT_EQ(t.table.count(OwnerState::free), 4U);
  const OwnerId id = t.claimed();
  EXPECT_EQ(id.epoch, 1);
  EXPECT_EQ(state_of(t.table, id), OwnerState::claimed);
  EXPECT_EQ(t.table.look(id.slot).pid, kRegistrar) << "until it runs, its registrar answers for it";

  EXPECT_TRUE(t.table.settle(id, kMember));
  EXPECT_EQ(state_of(t.table, id), OwnerState::live);
  EXPECT_EQ(t.table.look(id.slot).pid, kMember);
  EXPECT_EQ(t.table.look(id.slot).epoch, id.epoch);

  EXPECT_TRUE(t.table.mark_dead(id));
  EXPECT_EQ(state_of(t.table, id), OwnerState::dead);
  EXPECT_EQ(t.table.look(id.slot).pid, kMember);
  EXPECT_TRUE(t.table.release(id));
  EXPECT_EQ(state_of(t.table, id), OwnerState::free);
  EXPECT_EQ(t.table.count(OwnerState::free), 4U);
}

TEST(OwnerTableTest, WhatWasNeverStartedIsReleasedAtOnce) {
  Table<1> t;
  const OwnerId id = t.claimed();
  EXPECT_TRUE(t.table.release(id));
  EXPECT_EQ(state_of(t.table, id), OwnerState::free);
}

TEST(OwnerTableTest, StepsOutOfOrderAreRefusedAndChangeNothing) {
  using Make = OwnerId (Table<2>::*)();
  struct Case {
    const char* state;
    Make make;
    bool settle, mark_dead, release;
  };
  constexpr std::array<Case, 3> kCases = {{{"claimed", &Table<2>::claimed, true, false, true},
                                           {"live", &Table<2>::live, false, true, false},
                                           {"dead", &Table<2>::dead, false, false, true}}};
  for (const Case& one : kCases) {
    const auto try_step = [&](auto&& step, bool allowed) {
      Table<2> t;
      const OwnerId id = (t.*one.make)();
      const std::uint64_t before = t.cells[id.slot].load();
      EXPECT_EQ(step(t.table, id), allowed) << one.state;
      EXPECT_EQ(t.cells[id.slot].load() == before, !allowed) << one.state;
    };
    try_step([](OwnerTable& t, OwnerId id) { return t.settle(id, 7); }, one.settle);
    try_step([](OwnerTable& t, OwnerId id) { return t.mark_dead(id); }, one.mark_dead);
    try_step([](OwnerTable& t, OwnerId id) { return t.release(id); }, one.release);
    try_step(
        [](OwnerTable& t, OwnerId id) { return t.claim_slot(id.slot, kRegistrar).has_value(); },
        false);
  }
  Table<2> t;
  const OwnerId never{0, 0};
  EXPECT_FALSE(t.table.settle(never, kMember));
  EXPECT_FALSE(t.table.mark_dead(never));
  EXPECT_FALSE(t.table.release(never));
}

TEST(OwnerTableTest, AProcessSettlesItselfBeforeOrAfterWhoStartedItButNotInABuriedPlace) {
  Table<1> t;
  const OwnerId id = t.claimed();
  EXPECT_TRUE(t.table.settle_self(id, kMember));
  EXPECT_FALSE(t.table.settle(id, kMember)) << "its starter comes later";
  EXPECT_TRUE(t.table.settle_self(id, kMember)) << "as if the starter had come first";
  EXPECT_FALSE(t.table.settle_self(id, kMember + 1));
  ASSERT_TRUE(t.table.mark_dead(id));
  ASSERT_TRUE(t.table.release(id));
  EXPECT_FALSE(t.table.settle_self(id, kMember));
}

TEST(OwnerTableTest, AFormerTenantsNameDoesNotFitTheNext) {
  Table<1> t;
  const OwnerId old = t.dead();
  ASSERT_TRUE(t.table.release(old));
  const OwnerId next = t.claimed();
  EXPECT_EQ(next.slot, old.slot);
  EXPECT_EQ(next.epoch, old.epoch + 1);
  EXPECT_FALSE(t.table.settle(old, kMember));
  EXPECT_FALSE(t.table.release(old));
  ASSERT_TRUE(t.table.settle(next, kMember));
  EXPECT_FALSE(t.table.mark_dead(old));
  EXPECT_EQ(state_of(t.table, next), OwnerState::live);
}

TEST(OwnerTableTest, SlotsBeyondTheTableAreRefused) {
  Table<2> t;
  for (const std::uint16_t slot : {std::uint16_t{2}, std::uint16_t{0xffff}}) {
    EXPECT_FALSE(t.table.settle({slot, 1}, kMember));
    EXPECT_FALSE(t.table.mark_dead({slot, 1}));
    EXPECT_FALSE(t.table.release({slot, 1}));
  }
}

TEST(OwnerTableTest, EpochsWrapAround) {
  Table<1> t;
  for (int i = 1; i <= 0x10000 + 2; ++i) {
    const OwnerId id = t.claimed();
    ASSERT_EQ(id.epoch, static_cast<std::uint16_t>(i));
    ASSERT_TRUE(t.table.release(id));
  }
}

TEST(OwnerTableTest, AFullTableRefusesAndGoesOnWhenThereIsRoom) {
  Table<3> t;
  std::vector<OwnerId> all;
  for (int i = 0; i < 3; ++i) all.push_back(t.claimed());
  EXPECT_FALSE(t.table.claim(kRegistrar).has_value());
  ASSERT_TRUE(t.table.release(all[1]));
  const std::optional<OwnerId> next = t.table.claim(kRegistrar);
  ASSERT_TRUE(next.has_value());
  EXPECT_EQ(next->slot, all[1].slot);
}

TEST(OwnerTableTest, ANewTenantStartsWithACleanLifeWord) {
  Table<1> t;
  const OwnerId old = t.dead();
  t.table.life(old.slot).word.store(sys::kFutexOwnerDied | 1234);
  ASSERT_TRUE(t.table.release(old));
  const OwnerId next = t.claimed();
  EXPECT_EQ(t.table.life(next.slot).word.load(), 0U);
}

TEST(OwnerTableTest, ADeadRegistrarsClaimsAreReleasedAndNothingElse) {
  Table<8> t;
  const OwnerId live_of_it = t.table.claim(kRegistrar).value();
  ASSERT_TRUE(t.table.settle(live_of_it, kRegistrar));
  const OwnerId dead_of_it = t.table.claim(kRegistrar).value();
  ASSERT_TRUE(t.table.settle(dead_of_it, kRegistrar) && t.table.mark_dead(dead_of_it));
  const OwnerId of_another = t.table.claim(kRegistrar + 1).value();
  const OwnerId first = t.table.claim(kRegistrar).value();
  const OwnerId second = t.table.claim(kRegistrar).value();

  EXPECT_EQ(t.table.release_claims_of(kRegistrar), 2U);
  EXPECT_EQ(state_of(t.table, first), OwnerState::free);
  EXPECT_EQ(state_of(t.table, second), OwnerState::free);
  EXPECT_EQ(state_of(t.table, live_of_it), OwnerState::live) << "it was started";
  EXPECT_EQ(state_of(t.table, dead_of_it), OwnerState::dead);
  EXPECT_EQ(state_of(t.table, of_another), OwnerState::claimed);
  EXPECT_EQ(t.table.release_claims_of(kRegistrar), 0U);
}

TEST(OwnerTableTest, CellsOfRandomBitsAreNeverOutOfBounds) {
  Table<16> t;
  std::mt19937_64 random(2);
  for (int round = 0; round < 1000; ++round) {
    for (OwnerCell& cell : t.cells) cell.store(random());
    for (int i = 0; i < 20; ++i) {
      const OwnerId id{static_cast<std::uint16_t>(random() % 32),
                       static_cast<std::uint16_t>(random())};
      t.table.settle(id, 1);
      t.table.mark_dead(id);
      t.table.release(id);
      const std::optional<OwnerId> claimed = t.table.claim(1);
      if (claimed) {
        EXPECT_LT(claimed->slot, 16);
      }
    }
    t.table.release_claims_of(1);
  }
}

TEST(OwnerTableTest, ConcurrentClaimsGetDistinctSlots) {
  constexpr unsigned kThreads = 4;
  constexpr int kRounds = 300;
  const auto t = std::make_unique<Table<64>>();
  std::atomic<unsigned> ready{0};
  std::vector<std::vector<OwnerId>> taken(kThreads);
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      ready.fetch_add(1);
      while (ready.load() < kThreads) std::this_thread::yield();
      for (int round = 0; round < kRounds; ++round) {
        std::vector<OwnerId> mine;
        for (int n = 0; n < 16; ++n) {
          if (const auto id = t->table.claim(static_cast<std::int32_t>(i))) mine.push_back(*id);
        }
        for (const OwnerId id : mine) {
          // Held by one alone: nobody else has changed it since.
          EXPECT_EQ(t->table.look(id.slot).pid, static_cast<std::int32_t>(i));
          EXPECT_TRUE(t->table.settle(id, 1000 + static_cast<std::int32_t>(i)));
          EXPECT_TRUE(t->table.mark_dead(id));
          EXPECT_TRUE(t->table.release(id));
        }
        taken[i].insert(taken[i].end(), mine.begin(), mine.end());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::set<std::pair<std::uint16_t, std::uint16_t>> names;
  std::size_t total = 0;
  for (const std::vector<OwnerId>& mine : taken) {
    for (const OwnerId id : mine) names.emplace(id.slot, id.epoch);
    total += mine.size();
  }
  EXPECT_EQ(names.size(), total) << "slot and epoch name a tenant once";
  EXPECT_GT(total, 0U);
  EXPECT_EQ(t->table.count(OwnerState::free), 64U);
}

}  // namespace
}  // namespace brood::shm
