// The owner table orders what the tenants of a slot write, one after the other.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <optional>
#include <random>

#include "shm/owner_table.hpp"
#include "threads/participants.hpp"

namespace brood::shm {
namespace {

constexpr std::size_t kSlots = 8;

struct SharedTable {
  std::array<OwnerCell, kSlots> cells{};
  std::array<LifeCell, kSlots> lives{};
  // What a tenant writes while the slot is its own: plain.
  std::array<std::uint16_t, kSlots> notes{};
  [[nodiscard]] OwnerTable view() { return {cells, lives}; }
};

// The epoch counts the tenants, and each of them has made one note.
void make_a_note(SharedTable& shared, OwnerId id) {
  EXPECT_EQ(static_cast<std::uint16_t>(shared.notes[id.slot] + 1), id.epoch);
  shared.notes[id.slot] = id.epoch;
}

TEST(OwnerThreadsTest, TheNextTenantOfASlotSeesWhatTheLastOneWrote) {
  SharedTable shared;
  test::run_together(3, [&](unsigned i) {
    OwnerTable table = shared.view();
    std::minstd_rand random(i + 1);
    const auto pid = static_cast<std::int32_t>(100 + i);
    for (int n = 0; n < 200'000; ++n) {
      const std::optional<OwnerId> id = table.claim(pid);
      if (!id) continue;
      EXPECT_EQ(table.life(id->slot).word.load(std::memory_order_relaxed), 0U);
      make_a_note(shared, *id);
      if (random() % 4 != 0) {
        EXPECT_TRUE(table.settle(*id, pid));
        table.life(id->slot).word.store(sys::kFutexOwnerDied, std::memory_order_release);
        EXPECT_TRUE(table.mark_dead(*id));
      }
      EXPECT_TRUE(table.release(*id));
    }
  });
  EXPECT_EQ(shared.view().count(OwnerState::free), kSlots);
}

// A registrar dies after its claim; whoever has proof of that frees what it had claimed, while
// others claim and free.
TEST(OwnerThreadsTest, ClaimsOfADeadRegistrarAreFreedForOthersToUse) {
  SharedTable shared;
  constexpr std::int32_t kGenerations = 200'000;
  std::atomic<std::int32_t> died{0};
  test::run_together(3, [&](unsigned i) {
    OwnerTable table = shared.view();
    if (i == 0) {
      for (std::int32_t pid = 1; pid <= kGenerations; ++pid) {
        if (const std::optional<OwnerId> id = table.claim(pid)) make_a_note(shared, *id);
        died.store(pid, std::memory_order_release);
      }
    } else if (i == 1) {
      for (std::int32_t freed = 0; freed < kGenerations;) {
        const std::int32_t last = died.load(std::memory_order_acquire);
        while (freed < last) table.release_claims_of(++freed);
        sys::yield();
      }
    } else {
      while (died.load(std::memory_order_relaxed) < kGenerations) {
        const std::optional<OwnerId> id = table.claim(kGenerations + 1);
        if (!id) continue;
        make_a_note(shared, *id);
        EXPECT_TRUE(table.release(*id));
      }
    }
  });
  EXPECT_EQ(shared.view().count(OwnerState::free), kSlots);
}

}  // namespace
}  // namespace brood::shm
