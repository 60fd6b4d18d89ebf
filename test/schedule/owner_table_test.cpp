// The owner table: slots are claimed, given to members, and released, also those of the dead.
#include <array>

#include "schedule/report.hpp"
#include "shm/owner_table.hpp"

namespace brood::schedule {
namespace {

using shm::OwnerState;

struct Table {
  std::array<shm::OwnerCell, 2> cells;
  std::array<shm::LifeCell, 2> lives;
  std::array<Data<int>, 2> belongings;  // what only the tenant of a slot may touch
  shm::OwnerTable all{cells, lives};
  shm::OwnerTable first{std::span(cells).first(1), std::span(lives).first(1)};
};

// One tenancy, from claim to release; false: no slot was free.
bool live_and_die(Scene& scene, Table& table, shm::OwnerTable& owners, int pid) {
  const auto id = owners.claim(pid);
  if (!id) return false;
  table.belongings[id->slot].write(pid);
  scene.require(owners.life(id->slot).word.load(std::memory_order_relaxed) == 0,
                "the former tenant's mark");
  scene.require(owners.life(id->slot).note.load(std::memory_order_relaxed) == 0,
                "the former tenant's note");
  owners.life(id->slot).word.store(sys::kFutexOwnerDied, std::memory_order_relaxed);
  owners.life(id->slot).note.store(1, std::memory_order_relaxed);
  scene.require(owners.settle(*id, pid + 100), "settle");
  scene.require(!owners.settle(*id, pid + 100), "settled twice");
  scene.require(owners.mark_dead(*id), "mark_dead");
  scene.require(table.belongings[id->slot].read() == pid, "two tenants");
  scene.require(owners.release(*id), "release");
  scene.require(!owners.release(*id), "released twice");
  return true;
}

void two_tenants(Scene& scene) {
  Table table;
  std::array<bool, 2> lived{};
  for (int i = 0; i < 2; ++i) {
    scene.actor("registrar", [&, i] {
      lived[static_cast<std::size_t>(i)] = live_and_die(scene, table, table.first, i + 1);
    });
  }
  scene.play();
  scene.require(lived[0] || lived[1], "nobody got the slot");
  const shm::OwnerWord left = table.first.look(0);
  scene.require(left.state == OwnerState::free, "not free in the end");
  scene.require(left.epoch == int{lived[0]} + int{lived[1]}, "epochs");
}

void claims_of_the_dead(Scene& scene) {
  Table table;
  const int registrar = scene.mortal("registrar", [&] {
    const auto id = table.all.claim(1);
    if (id) table.all.settle(*id, 101);
  });
  scene.actor("other", [&] { live_and_die(scene, table, table.all, 2); });
  scene.actor("warden", [&] {
    scene.await_end(registrar);
    table.all.release_claims_of(1);
  });
  scene.play();
  scene.require(table.all.count(OwnerState::claimed) == 0, "a claim of the dead");
  // What it had settled is a member's that runs.
  scene.require(table.all.count(OwnerState::live) <= 1, "live slots");
}

// Who sees a live slot sees no mark of its former tenant.
void marks(Scene& scene) {
  Table table;
  table.cells[0].store(shm::OwnerWord{OwnerState::free, 7, 0}.pack());
  table.lives[0].life.word.store(sys::kFutexOwnerDied);
  scene.actor("registrar", [&] {
    const auto id = table.first.claim(1);
    scene.require(id.has_value(), "no slot");
    table.first.settle(*id, 101);
  });
  scene.actor("watcher", [&] {
    const shm::OwnerWord seen = table.first.look(0);
    if (seen.state != OwnerState::live) return;
    scene.require(seen.epoch == 8, "epoch");
    scene.require(table.first.life(0).word.load(std::memory_order_acquire) == 0, "an old mark");
  });
  scene.play();
}

// Two that believe they have to release a slot, and one that wants it next.
void two_releases(Scene& scene) {
  Table table;
  const auto id = table.first.claim(1);
  table.first.settle(*id, 101);
  table.first.mark_dead(*id);
  std::array<bool, 2> released{};
  for (int i = 0; i < 2; ++i) {
    scene.actor("releaser",
                [&, i] { released[static_cast<std::size_t>(i)] = table.first.release(*id); });
  }
  bool claimed = false;
  scene.actor("next", [&] { claimed = table.first.claim(2).has_value(); });
  scene.play();
  scene.require(released[0] != released[1], "released twice, or never");
  scene.require(table.first.look(0).state == (claimed ? OwnerState::claimed : OwnerState::free),
                "a claim undone");
}

TEST(OwnerTableScheduleTest, ASlotHasOneTenant) {
  expect_right_in_all("two tenants, one slot", two_tenants);
  expect_right_in_all("two releases of one tenancy", two_releases);
}
TEST(OwnerTableScheduleTest, ClaimsOfADeadRegistrarAreReleased) {
  expect_right_in_all("a registrar may die, another goes on", claims_of_the_dead, {.old_reads = 1});
}
TEST(OwnerTableScheduleTest, TheFormerTenantsMarkIsNotTheNewOnes) {
  expect_right_in_all("a watcher and a new tenant", marks);
}

TEST(OwnerTableScheduleTest, EachBreakIsNoticed) {
  expect_breaks_noticed("owner table", {"owner_table.cpp"},
                        {two_tenants, two_releases, claims_of_the_dead, marks}, {}, 20'000);
}

}  // namespace
}  // namespace brood::schedule
