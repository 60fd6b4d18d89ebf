// An operation on the arena is stopped after each of its instructions; what its death would leave
// there is cleaned up by a survivor.
//
// For an operation that changes nothing but shared memory, what a death after the n-th instruction
// leaves is that memory as it is then. So one pass suffices for all n: after each step a copy is
// made of the memory, if it has changed, and the survivor recovers on the copy. Real kills at some
// of the n confirm that such a copy is what a kill leaves.
#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <ostream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "shm/arena.hpp"
#include "support/every_instruction.hpp"
#include "support/stepped_child.hpp"
#include "support/stepper.hpp"
#include "sys/clock.hpp"
#include "sys/fd.hpp"
#include "sys/memory.hpp"

namespace brood::test {
namespace {

using namespace std::chrono_literals;
using shm::Arena;
using shm::ArenaRegion;
using shm::BlockRef;
using shm::OwnerId;

constexpr std::size_t kPage = shm::arena::kPageBytes;
constexpr std::size_t kBlock = sys::kPageBytes;  // the system's unit
constexpr OwnerId kSurvivor{100, 1};
constexpr OwnerId kBystander{101, 0xffff};
constexpr OwnerId kVictim{200, 2};
constexpr OwnerId kOtherVictim{201, 2};
constexpr OwnerId kDead{300, 3};

// An arena in a memory file of its own.
struct Region {
  Region(std::size_t pages, std::size_t limit_pages) {
    const std::size_t payload = pages * kPage;
    metadata_bytes = Arena::metadata_bytes(payload);
    const std::size_t bytes = metadata_bytes + payload;
    file.reset(sys::create_memory_file("arena-step", bytes));
    if (mapping.map(file.get(), bytes) != 0) throw std::runtime_error("no memory for an arena");
    at = {mapping.data(), file.get(), 0, metadata_bytes, payload, limit_pages * kPage};
  }
  [[nodiscard]] std::size_t blocks() const { return mapping.size() / kBlock; }
  [[nodiscard]] shm::arena::PageRecord* records() const {
    return reinterpret_cast<shm::arena::PageRecord*>(mapping.data() + shm::arena::kRecordsOffset);
  }
  [[nodiscard]] shm::arena::SharedSlotWord* slots(std::size_t page) const {
    const std::size_t pages = at.payload_bytes / kPage;
    return reinterpret_cast<shm::arena::SharedSlotWord*>(mapping.data() +
                                                         shm::arena::slot_words_offset(pages) +
                                                         page * shm::arena::kSlotWordsPerPageBytes);
  }

  sys::Fd file;
  sys::Mapping mapping;
  std::size_t metadata_bytes = 0;
  ArenaRegion at;
};

// What there is when the operation begins.
struct Scene {
  Region& region;
  Arena& arena;                        // the survivor's
  std::vector<BlockRef> refs{};        // for the operation; the victim's
  std::vector<BlockRef> bystanders{};  // blocks that must outlive all this

  BlockRef give(std::size_t bytes, OwnerId owner) const {
    const BlockRef ref = arena.allocate(bytes).ref;
    arena.transfer(ref, kSurvivor, owner);
    return ref;
  }
  void keep(std::size_t bytes, int count) {
    for (int i = 0; i < count; ++i) refs.push_back(give(bytes, kVictim));
  }
  void stand_by(std::size_t bytes) { bystanders.push_back(give(bytes, kBystander)); }
};

struct Operation {
  const char* name;
  std::function<void(Scene&)> prepare;
  // By the victim, one instruction at a time.
  std::function<void(Arena&, const std::vector<BlockRef>&)> run;
  std::size_t pages = 7;
  std::size_t limit_pages = 5;
  bool wrapped = false;  // all generations are the last before they begin anew
};

// Every page has been used so often that its generation is about to wrap.
void wrap_pages(const Region& region) {
  constexpr std::uint32_t kLast = 0x3fffffff;
  const std::size_t pages = region.at.payload_bytes / kPage;
  for (std::size_t page = 0; page < pages; ++page) {
    region.records()[page].word =
        shm::arena::PageWord::unowned(shm::arena::PageKind::absent, kLast).bits();
  }
}
// The same for the free slots of a slab.
void wrap_slots(const Region& region, std::size_t page, unsigned size_class) {
  for (std::size_t i = 0; i < shm::arena::slots_in(size_class); ++i) {
    const shm::arena::SlotWord word{region.slots(page)[i].load()};
    if (word.is_free()) {
      region.slots(page)[i] = shm::arena::SlotWord::free(0xffffffff).bits();
    }
  }
}

void prepare(const Operation& operation, Region& region, Scene& scene) {
  scene.arena.attach(region.at, kSurvivor);
  ASSERT_EQ(scene.arena.format(), 0);
  if (operation.wrapped) {
    sys::reserve_extent(region.file.get(), shm::arena::kRecordsOffset, kBlock);
    wrap_pages(region);
  }
  operation.prepare(scene);
}

// A process that carries out the operation.
class Victim : public SteppedChild {
 public:
  Victim(const Operation& operation, const Region& region, const std::vector<BlockRef>& refs,
         OwnerId me)
      : SteppedChild([&] {
          Arena arena;
          arena.attach(region.at, me);
          mark();
          operation.run(arena, refs);
        }) {}
};

// ---- what a death leaves behind

// Which blocks of the file have memory. Followed from call to call, as the system does not tell of
// memory that was never written to.
class MemoryMap {
 public:
  explicit MemoryMap(std::size_t blocks) : has_(blocks) {}

  // By taking the memory away block by block.
  static MemoryMap destroying(const Region& region) {
    MemoryMap map(region.blocks());
    const int fd = region.file.get();
    for (std::size_t i = 0; i < map.has_.size(); ++i) {
      const long before = sys::memory_in_use(fd);
      sys::release_extent(fd, i * kBlock, kBlock);
      map.has_[i] = sys::memory_in_use(fd) != before;
    }
    return map;
  }

  // True if it changed something.
  bool follow(const KernelCall& call, int fd) {
    if (call.number != SYS_fallocate || call.arguments[0] != fd || call.result != 0) return false;
    const bool taken = (call.arguments[1] & 2) == 0;  // else: FALLOC_FL_PUNCH_HOLE
    const auto first = static_cast<std::size_t>(call.arguments[2]) / kBlock;
    const auto count = static_cast<std::size_t>(call.arguments[3]) / kBlock;
    for (std::size_t i = first; i < first + count && i < has_.size(); ++i) has_[i] = taken;
    return true;
  }

  void take_as_here(const Region& copy) const {
    for (std::size_t i = 0; i < has_.size(); ++i) {
      const std::size_t first = i;
      while (i < has_.size() && has_[i]) ++i;
      if (i == first) continue;
      ASSERT_EQ(sys::reserve_extent(copy.file.get(), first * kBlock, (i - first) * kBlock), 0);
    }
  }
  [[nodiscard]] bool has(std::size_t block) const { return has_[block]; }
  [[nodiscard]] long bytes() const {
    return std::count(has_.begin(), has_.end(), true) * static_cast<long>(kBlock);
  }

 private:
  std::vector<bool> has_;
};

// The metadata as it was, to tell whether it has changed.
class Snapshot {
 public:
  explicit Snapshot(const Region& region) : bytes_(region.metadata_bytes) {}

  bool differs(const Region& region, const MemoryMap& memory) const {
    for (std::size_t at = 0; at < bytes_.size(); at += kBlock) {
      if (!memory.has(at / kBlock)) continue;  // looking at it would take memory
      if (std::memcmp(bytes_.data() + at, region.mapping.data() + at, kBlock) != 0) return true;
    }
    return false;
  }
  void take(const Region& region, const MemoryMap& memory) {
    for (std::size_t at = 0; at < bytes_.size(); at += kBlock) {
      if (!memory.has(at / kBlock)) {
        std::memset(bytes_.data() + at, 0, kBlock);
      } else {
        std::memcpy(bytes_.data() + at, region.mapping.data() + at, kBlock);
      }
    }
  }
  void put(const Region& copy, const MemoryMap& memory) const {
    for (std::size_t at = 0; at < bytes_.size(); at += kBlock) {
      if (memory.has(at / kBlock))
        std::memcpy(copy.mapping.data() + at, bytes_.data() + at, kBlock);
    }
  }

 private:
  std::vector<std::byte> bytes_;
};

// What the file holds and how much memory it takes, without touching it.
struct Remains {
  explicit Remains(const Region& region) : metadata(region.metadata_bytes) {
    EXPECT_EQ(pread(region.file.get(), metadata.data(), metadata.size(), 0),
              static_cast<ssize_t>(metadata.size()));
    memory = sys::memory_in_use(region.file.get());
  }
  std::vector<char> metadata;
  long memory = 0;
  friend bool operator==(const Remains&, const Remains&) = default;
};

// ---- what must be true then

void expect_valid(const Arena& arena) {
  std::string why;
  ASSERT_TRUE(arena.is_valid(&why)) << why;
}

// No block and no claim is left, and all the memory goes back; but for slot words that a process
// still looked at when their slab was retired by another: touching them took memory once more,
// which goes back with the page's next life.
void expect_empty(const Region& region, Arena& arena, std::size_t late_lookers) {
  expect_valid(arena);
  Arena::Stats stats = arena.stats();
  ASSERT_EQ(stats.live_blocks, 0U);
  ASSERT_EQ(stats.live_bytes, 0U);
  ASSERT_EQ(stats.claims_in_progress, 0U);
  ASSERT_EQ(arena.give_back(sys::now_ns(), 0), 0U);
  stats = arena.stats();
  ASSERT_EQ(stats, Arena::Stats{});
  const std::size_t pages = region.at.payload_bytes / kPage;
  const std::size_t records = (pages * 16 + kBlock - 1) / kBlock * kBlock;
  ASSERT_LE(static_cast<std::size_t>(sys::memory_in_use(region.file.get())),
            kBlock + records + late_lookers * kBlock);
}

// The bystanders' blocks are theirs as before.
void expect_untouched(const Arena& arena, const std::vector<BlockRef>& bystanders) {
  for (const BlockRef ref : bystanders) {
    ASSERT_EQ(arena.owner(ref), kBystander);
    ASSERT_FALSE(arena.resolve(ref).empty());
  }
}

// Everything as if neither the victims nor their operations had ever been, and still usable.
void expect_recovered(const Operation& operation, const Region& region,
                      const std::vector<BlockRef>& bystanders, std::size_t late_lookers = 0) {
  Arena survivor;
  survivor.attach(region.at, kSurvivor);
  for (const OwnerId victim : {kVictim, kOtherVictim}) {
    survivor.sweep(victim);
    ASSERT_EQ(survivor.sweep(victim), 0U);
  }
  expect_valid(survivor);
  ASSERT_EQ(survivor.stats().claims_in_progress, 0U);
  expect_untouched(survivor, bystanders);
  survivor.sweep(kBystander);
  survivor.sweep(kDead);      // whom the victim may have swept in part
  survivor.sweep(kSurvivor);  // what it was given, and its own slabs
  expect_empty(region, survivor, late_lookers);
  if (testing::Test::HasFatalFailure()) return;
  const Arena::Allocation all = survivor.allocate(operation.limit_pages * kPage);
  ASSERT_TRUE(all.ref);
  ASSERT_TRUE(survivor.free(all.ref));
  ASSERT_TRUE(survivor.free(survivor.allocate(64).ref));
  expect_empty(region, survivor, late_lookers);
}

// ---- the operations

constexpr auto nothing = [](Scene&) {};

auto keep(std::size_t bytes, int count) {
  return [=](Scene& scene) { scene.keep(bytes, count); };
}
auto warm(std::size_t bytes) {
  return [=](Scene& scene) { scene.arena.free(scene.arena.allocate(bytes).ref); };
}
auto allocate(std::size_t bytes) {
  return [=](Arena& arena, const std::vector<BlockRef>&) { (void)arena.allocate(bytes); };
}
auto allocate_zeroed(std::size_t bytes) {
  return [=](Arena& arena, const std::vector<BlockRef>&) { (void)arena.allocate_zeroed(bytes); };
}
void free_first(Arena& arena, const std::vector<BlockRef>& refs) { arena.free(refs.front()); }
void give_back(Arena& arena, const std::vector<BlockRef>&) { arena.give_back(sys::now_ns(), 0); }
void transfer_first(Arena& arena, const std::vector<BlockRef>& refs) {
  arena.transfer(refs.front(), kVictim, kSurvivor);
  arena.transfer(refs.front(), kOtherVictim, kSurvivor);
}

// Slabs of one class and a run, all free, in the way of what wants the whole arena.
void two_classes(Scene& scene) {
  scene.keep(32768, 2);
  scene.keep(3 * kPage, 1);
  for (const BlockRef ref : scene.refs) scene.arena.free(ref);
  scene.refs.clear();
}

void dead_owner(Scene& scene) {
  for (const std::size_t bytes : {std::size_t{32768}, std::size_t{8192}, 3 * kPage}) {
    scene.give(bytes, kDead);
  }
}
void sweep_dead(Arena& arena, const std::vector<BlockRef>&) { arena.sweep(kDead); }

// A full slab of nobody's, of which one slot was freed.
void adoptable(Scene& scene) {
  scene.stand_by(32768);
  scene.keep(32768, 2);
  scene.arena.free(scene.refs.front());
  scene.refs.erase(scene.refs.begin());
  scene.arena.sweep(kSurvivor);  // lets go of the slab it allocates from
}

const Operation kOperations[] = {
    {"allocate: a small block from a new slab", nothing, allocate(8192)},
    {"allocate: the smallest block from a new slab", nothing, allocate(1)},
    {"allocate: from its own slab", nothing,
     [](Arena& arena, const std::vector<BlockRef>&) {
       (void)arena.allocate(8192);
       (void)arena.allocate(8192);
     }},
    {"allocate: the last slot of its own slab, and one more", nothing,
     [](Arena& arena, const std::vector<BlockRef>&) {
       for (int i = 0; i < 3; ++i) (void)arena.allocate(32768);
     }},
    {"allocate: adopt a slab", adoptable, allocate(32768)},
    {"allocate: a run of cold pages", nothing, allocate(3 * kPage)},
    {"allocate: a kept run", warm(3 * kPage), allocate(3 * kPage)},
    {"allocate: a part of a kept run", warm(4 * kPage), allocate(2 * kPage)},
    {"allocate: a slab of a kept run's page, with the limit in the way", warm(5 * kPage),
     allocate(64)},
    {"allocate: a run of warm and cold pages", warm(2 * kPage), allocate(4 * kPage)},
    {"allocate: a run beside a bystander's", [](Scene& scene) { scene.stand_by(kPage); },
     allocate(3 * kPage)},
    {"allocate: a run on pages that have no records yet",
     [](Scene& scene) { scene.stand_by(255 * kPage); }, allocate(3 * kPage), 270, 262},
    {"allocate: with the limit in the way", two_classes, allocate(5 * kPage)},
    {"allocate: a slab, with the limit in the way",
     [](Scene& scene) {
       scene.stand_by(4 * kPage);
       scene.arena.free(scene.give(32768, kSurvivor));
     },
     allocate(64)},
    {"allocate: a run in vain", [](Scene& scene) { scene.stand_by(kPage); }, allocate(5 * kPage)},
    {"allocate: a slab in vain", [](Scene& scene) { scene.stand_by(5 * kPage); }, allocate(64)},
    {"allocate_zeroed: a small block", nothing, allocate_zeroed(4096)},
    {"allocate_zeroed: a kept run", warm(2 * kPage), allocate_zeroed(2 * kPage)},
    {"allocate_zeroed: a run of warm and cold pages", warm(kPage), allocate_zeroed(2 * kPage)},
    {"allocate: a run, page generations wrap", warm(2 * kPage), allocate(4 * kPage), 7, 5, true},
    {"allocate: a slab, page generations wrap", nothing, allocate(16384), 7, 5, true},
    {"allocate: a slot, its generation wraps",
     [](Scene& scene) {
       adoptable(scene);
       for (std::size_t page = 0; page < 2; ++page) wrap_slots(scene.region, page, 9);
     },
     allocate(32768)},
    {"free: a small block", keep(4096, 2), free_first},
    {"free: a small block of nobody's slab", adoptable, free_first},
    {"free: a run", keep(4 * kPage, 1), free_first},
    {"free: a run, with no place to note that it is kept",
     [](Scene& scene) {
       scene.keep(2 * kPage, 5);
       for (int i = 0; i < 4; ++i) {
         scene.arena.free(scene.refs.back());
         scene.refs.pop_back();
       }
     },
     free_first, 12, 10},
    {"free: a run, page generations wrap", keep(4 * kPage, 1), free_first, 7, 5, true},
    {"transfer: a small block", keep(4096, 2), transfer_first},
    {"transfer: a run", keep(2 * kPage, 1), transfer_first},
    {"give back", two_classes, give_back},
    {"give back: beside a bystander",
     [](Scene& scene) {
       scene.stand_by(4096);
       two_classes(scene);
     },
     give_back},
    {"give back: page generations wrap", two_classes, give_back, 7, 5, true},
    {"sweep", dead_owner, sweep_dead},
    {"sweep: beside a bystander",
     [](Scene& scene) {
       scene.stand_by(8192);
       dead_owner(scene);
     },
     sweep_dead},
    {"sweep: page generations wrap", dead_owner, sweep_dead, 7, 5, true},
};

void PrintTo(const Operation& operation, std::ostream* out) { *out << operation.name; }

class ArenaStepTest : public testing::TestWithParam<Operation> {
 protected:
  void SetUp() override {
    // What is first called is looked up first: it is not to be part of the operation.
    Region region(GetParam().pages, GetParam().limit_pages);
    Arena arena;
    Scene scene{region, arena};
    prepare(GetParam(), region, scene);
    GetParam().run(arena, scene.refs);
  }

 private:
  OnOneProcessor here_;
};

// All n in one pass, on copies.
void watch_every_instruction(const Operation& operation, EveryInstruction& every, Path& path) {
  Region region(operation.pages, operation.limit_pages);
  Region copy(operation.pages, operation.limit_pages);
  Arena arena;
  Scene scene{copy, arena};
  prepare(operation, copy, scene);
  MemoryMap memory = MemoryMap::destroying(copy);
  Scene real{region, arena};
  prepare(operation, region, real);
  ASSERT_EQ(memory.bytes(), sys::memory_in_use(region.file.get()));
  Snapshot last(region);
  last.take(region, memory);

  long states = 0;
  const auto judge = [&](long n) {
    SCOPED_TRACE(every.how_to_repeat(n));
    memory.take_as_here(copy);
    last.put(copy, memory);
    expect_recovered(operation, copy, real.bystanders);
    sys::release_extent(copy.file.get(), 0, copy.mapping.size());
    ++states;
  };
  judge(0);
  every.count_kill();

  Victim victim(operation, region, real.refs, kVictim);
  bool memory_changed = false;
  victim.stepper().on_kernel_call([&](const KernelCall& call) {
    memory_changed = memory.follow(call, region.file.get()) || memory_changed;
  });
  const long taken = victim.step_through(path, [&](long n) {
    if (testing::Test::HasFatalFailure()) return;
    every.count_kill();
    if (!std::exchange(memory_changed, false) && !last.differs(region, memory)) return;
    ASSERT_EQ(memory.bytes(), sys::memory_in_use(region.file.get()))
        << every.how_to_repeat(n) << ": the operation has taken memory unasked";
    last.take(region, memory);
    judge(n);
  });
  every.set_length(taken);
  every.note(" (" + std::to_string(states) + " states)");
}

// For real, to confirm that a death leaves what was there.
void kill_at(const Operation& operation, EveryInstruction& every, Path& path, long n) {
  SCOPED_TRACE(every.how_to_repeat(n));
  Region region(operation.pages, operation.limit_pages);
  Arena arena;
  Scene scene{region, arena};
  prepare(operation, region, scene);
  Victim victim(operation, region, scene.refs, kVictim);
  victim.go(path, n);
  const Remains before(region);
  victim.kill();
  ASSERT_EQ(before, Remains(region)) << "a death leaves something else than there was";
  expect_recovered(operation, region, scene.bystanders);
}

// Two victims: the other is stopped amid its operation while the first dies in the same one and is
// cleaned up after; then the other goes on.
void kill_beside(const Operation& operation, EveryInstruction& every, Path& path, long n, long m) {
  SCOPED_TRACE(every.how_to_repeat(n) + " BROOD_STEP_BESIDE=" + std::to_string(m));
  Region region(operation.pages, operation.limit_pages);
  Arena arena;
  Scene scene{region, arena};
  prepare(operation, region, scene);
  Victim first(operation, region, scene.refs, kVictim);
  Victim other(operation, region, scene.refs, kOtherVictim);
  const bool other_begins = (n + m) % 2 == 0;
  if (other_begins) other.go(path, m);
  first.go(path, n);
  if (!other_begins) other.go(path, m);
  first.kill();
  Arena survivor;
  survivor.attach(region.at, kSurvivor);
  survivor.sweep(kVictim);
  expect_untouched(survivor, scene.bystanders);
  ASSERT_TRUE(other.go_on()) << "the other hangs";
  expect_valid(survivor);
  ASSERT_EQ(survivor.stats().claims_in_progress, 0U);
  other.kill();
  expect_recovered(operation, region, scene.bystanders, 1);
}

TEST_P(ArenaStepTest, KilledAfterEveryInstruction) {
  constexpr int kRealKills = 100;
  constexpr int kPairs = 300;
  const Operation& operation = GetParam();
  EveryInstruction every(operation.name, 300ms);
  Path path;
  if (EveryInstruction::only() >= 0) {
    kill_at(operation, every, path, EveryInstruction::only());
    kill_beside(operation, every, path, EveryInstruction::only(), EveryInstruction::beside());
    return;
  }
  watch_every_instruction(operation, every, path);
  int kills = 0;
  int pairs = 0;
  constexpr int kAtLeast = 2;
  while (!HasFailure() && (!every.time_is_up() || pairs < kAtLeast) && pairs < kPairs) {
    if (kills < kRealKills) {
      kill_at(operation, every, path, every.random_instruction());
      ++kills;
    }
    if (HasFailure()) break;
    const long n = every.random_instruction();
    kill_beside(operation, every, path, n, every.random_instruction());
    ++pairs;
  }
  every.note(", for real at " + std::to_string(kills) + ", beside another at " +
             std::to_string(pairs));
}

INSTANTIATE_TEST_SUITE_P(, ArenaStepTest, testing::ValuesIn(kOperations), name_of_case<Operation>);

}  // namespace
}  // namespace brood::test
