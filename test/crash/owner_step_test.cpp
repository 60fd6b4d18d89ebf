// Operations on the owner table, with a death after each of their instructions. As for the arena,
// what a death leaves is the table as it is then: a survivor cleans up a copy after every step.
#include <gtest/gtest.h>

#include <array>
#include <functional>
#include <ostream>
#include <string>

#include "shm/owner_table.hpp"
#include "support/every_instruction.hpp"
#include "support/stepped_pair.hpp"

namespace brood::test {
namespace {

using namespace std::chrono_literals;
using shm::OwnerId;
using shm::OwnerState;
using shm::OwnerTable;
using shm::OwnerWord;

constexpr std::size_t kSlots = 6;
constexpr std::int32_t kVictim = 1001;  // as a registrar; which process it is makes no difference
constexpr std::int32_t kOtherVictim = 1002;
constexpr std::int32_t kBystander = 1003;
constexpr std::int32_t kMember = 2001;  // started by a victim
constexpr std::int32_t kDead = 3001;

struct Table {
  std::array<shm::OwnerCell, kSlots> cells;
  std::array<shm::LifeCell, kSlots> lives;
  [[nodiscard]] OwnerTable view() { return {cells, lives}; }
  void put(std::size_t slot, OwnerWord word) { cells[slot].store(word.pack()); }
};

struct Operation {
  const char* name;
  std::function<void(Table&)> prepare;
  std::function<void(OwnerTable, std::int32_t me)> run;
};

void PrintTo(const Operation& operation, std::ostream* out) { *out << operation.name; }

// Slot 0 is the bystander's, its word must stay as it is.
constexpr OwnerWord kBystanders{OwnerState::live, 5, kBystander};
constexpr OwnerWord kBystandersClaim{OwnerState::claimed, 6, kBystander};

auto one(OwnerState state, std::uint16_t epoch, std::int32_t pid) {
  return [=](Table& table) { table.put(2, {state, epoch, pid}); };
}
void full(Table& table) {
  for (std::size_t slot = 2; slot < kSlots; ++slot) table.put(slot, kBystanders);
}
void last_epochs(Table& table) {
  for (std::size_t slot = 2; slot < kSlots; ++slot) table.put(slot, {OwnerState::free, 0xffff, 0});
}
void several_claims(Table& table) {
  for (const std::size_t slot : {std::size_t{2}, std::size_t{4}}) {
    table.put(slot, {OwnerState::claimed, 9, kDead});
  }
  table.put(3, {OwnerState::live, 9, kDead});
}

const Operation kOperations[] = {
    {"owners: claim", [](Table&) {}, [](OwnerTable table, std::int32_t me) { table.claim(me); }},
    {"owners: claim the last slot",
     [](Table& table) {
       full(table);
       table.put(5, {});
     },
     [](OwnerTable table, std::int32_t me) { table.claim(me); }},
    {"owners: claim in vain", full, [](OwnerTable table, std::int32_t me) { table.claim(me); }},
    {"owners: claim, epochs wrap", last_epochs,
     [](OwnerTable table, std::int32_t me) { table.claim(me); }},
    {"owners: claim and settle", [](Table&) {},
     [](OwnerTable table, std::int32_t me) {
       if (const auto id = table.claim(me)) table.settle(*id, kMember);
     }},
    {"owners: claim and release", [](Table&) {},
     [](OwnerTable table, std::int32_t me) {
       if (const auto id = table.claim(me)) table.release(*id);
     }},
    {"owners: mark dead and release", one(OwnerState::live, 9, kDead),
     [](OwnerTable table, std::int32_t) {
       table.mark_dead({2, 9});
       table.release({2, 9});
     }},
    {"owners: release claims of a dead registrar", several_claims,
     [](OwnerTable table, std::int32_t) { table.release_claims_of(kDead); }},
};

void prepare(const Operation& operation, Table& table) {
  new (&table) Table{};
  table.put(0, kBystanders);
  table.put(1, kBystandersClaim);
  for (shm::LifeCell& cell : table.lives) cell.life.word.store(0x40000001);  // of former tenants
  operation.prepare(table);
}

// What the warden does about the death of the victims and of those they started or cleaned up.
void expect_recovered(Table& table) {
  OwnerTable owners = table.view();
  for (const std::int32_t pid : {kVictim, kOtherVictim, kDead}) {
    owners.release_claims_of(pid);
    ASSERT_EQ(owners.release_claims_of(pid), 0U);
  }
  ASSERT_EQ(table.cells[0].load(), kBystanders.pack());
  ASSERT_EQ(table.cells[1].load(), kBystandersClaim.pack());
  std::size_t bystanders = 0;
  for (std::uint16_t slot = 0; slot < kSlots; ++slot) {
    const OwnerWord word = owners.look(slot);
    bystanders += word.pid == kBystander ? 1U : 0U;
    if (word.pid == kBystander) continue;
    const OwnerId id{slot, word.epoch};
    ASSERT_EQ(owners.mark_dead(id), word.state == OwnerState::live);
    ASSERT_EQ(owners.release(id), word.state != OwnerState::free);
    ASSERT_EQ(owners.look(slot).epoch, word.epoch);
  }
  ASSERT_EQ(owners.count(OwnerState::free), kSlots - bystanders);
  for (std::uint16_t slot = 0; slot < kSlots; ++slot) {
    const OwnerWord before = owners.look(slot);
    const auto id = owners.claim_slot(slot, kBystander);
    ASSERT_EQ(id.has_value(), before.state == OwnerState::free);
    if (!id) continue;
    ASSERT_EQ(id->epoch, static_cast<std::uint16_t>(before.epoch + 1));
    ASSERT_EQ(owners.life(slot).word.load(), 0U);
    ASSERT_TRUE(owners.settle(*id, kMember));
  }
}

class OwnerStepTest : public testing::TestWithParam<Operation>, protected SteppedPair {
 protected:
  void prepare() override { test::prepare(GetParam(), tables_.real()); }
  void operate(Victim who) override {
    const OwnerTable table = tables_.real().view();
    mark();
    GetParam().run(table, who == Victim::first ? kVictim : kOtherVictim);
  }
  void judge_copy(bool /*fresh*/) override { expect_recovered(tables_.copy_of_real()); }
  void bury_first() override { tables_.real().view().release_claims_of(kVictim); }
  void judge() override { expect_recovered(tables_.real()); }

 private:
  RealAndCopy<Table> tables_;
};

TEST_P(OwnerStepTest, KilledAfterEveryInstruction) {
  EveryInstruction every(GetParam().name, 200ms);
  sweep(every);
}

INSTANTIATE_TEST_SUITE_P(, OwnerStepTest, testing::ValuesIn(kOperations), name_of_case<Operation>);

}  // namespace
}  // namespace brood::test
