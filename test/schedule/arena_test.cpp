// The arena: several processes allocate, free, pass on, return memory, die and are swept.
#include "shm/arena.hpp"

#include <array>
#include <cstring>
#include <string>

#include "schedule/report.hpp"
#include "sys/clock.hpp"

namespace brood::schedule {
namespace {

using shm::Arena;
using shm::BlockRef;
using shm::OwnerId;

constexpr std::size_t kPages = 6;
constexpr std::size_t kPage = shm::arena::kPageBytes;
constexpr std::size_t kHalf = kPage / 2;  // the largest slot: two in a slab
constexpr int kFile = 1000;
constexpr OwnerId kTest{1, 1};

constexpr const char* kRoughly = "a rough count: who meets the limit counts anew";

OwnerId owner(int number) { return {static_cast<std::uint16_t>(number + 2), 1}; }

// A region of kPages, and what its holders write there.
class Region {
 public:
  explicit Region(Scene& scene, std::size_t limit_pages = kPages) {
    alignas(4096) static std::array<std::byte, (kPages + 1) * kPage> bytes;
    const std::size_t metadata = Arena::metadata_bytes(kPages * kPage);
    std::memset(bytes.data(), 0, metadata);
    scene.map(kFile, bytes.data());
    region_ = {bytes.data(), kFile, 0, metadata, kPages * kPage, limit_pages * kPage};
    test_.attach(region_, kTest);
  }

  void attach(Arena& arena, OwnerId who) const { arena.attach(region_, who); }
  Arena& test() { return test_; }

  // A block's holder writes all of it and finds it again.
  void use(Scene& scene, const Arena& arena, BlockRef ref, int who) {
    const std::span<std::byte> bytes = arena.resolve(ref);
    scene.require(!bytes.empty(), "a block of ours is gone");
    for_each_half(ref, bytes, [&](Data<int>& half) { half.write(who); });
    for_each_half(ref, bytes,
                  [&](Data<int>& half) { scene.require(half.read() == who, "two holders"); });
  }
  void expect(Scene& scene, const Arena& arena, BlockRef ref, int who) {
    const std::span<std::byte> bytes = arena.resolve(ref);
    scene.require(!bytes.empty(), "a block passed on is gone");
    for_each_half(ref, bytes, [&](Data<int>& half) {
      scene.require(half.read() == who, "not what was passed on");
    });
  }

  // At the end, when all but `kept` blocks are freed and everybody in `dead` is swept.
  void check(Scene& scene, std::initializer_list<OwnerId> dead, std::size_t kept = 0) {
    for (const OwnerId id : dead) {
      test_.sweep(id);
      scene.require(test_.sweep(id) == 0, "swept, and again something to sweep");
    }
    scene.require(test_.is_valid(nullptr), "an invariant is broken");
    Arena::Stats stats = test_.stats();
    scene.require(stats.live_blocks == kept, "blocks are left");
    scene.require(stats.claims_in_progress == 0, "claims are left");
    if (kept > 0) return;
    test_.give_back(sys::now_ns(), 0);
    stats = test_.stats();
    scene.require(stats == Arena::Stats{}, "memory is not given back");
  }

 private:
  template <class F>
  void for_each_half(BlockRef ref, std::span<std::byte> bytes, F&& f) {
    const std::size_t first = static_cast<std::uint32_t>(ref.bits) * shm::arena::kUnitBytes / kHalf;
    for (std::size_t i = 0; i < bytes.size() / kHalf; ++i) f(halves_[first + i]);
  }

  shm::ArenaRegion region_;
  Arena test_;
  std::array<Data<int>, 2 * kPages> halves_;
};

// Allocates, uses and frees a block, `times` times.
void churn(Scene& scene, Region& region, int who, std::size_t bytes, int times) {
  Arena arena;
  region.attach(arena, owner(who));
  for (int i = 0; i < times; ++i) {
    const Arena::Allocation block = arena.allocate(bytes);
    if (block.error != 0) continue;
    region.use(scene, arena, block.ref, who);
    scene.require(arena.free(block.ref), "not free to free");
    scene.require(!arena.free(block.ref), "freed twice");
  }
}

Body churning(std::size_t bytes_a, std::size_t bytes_b, int times) {
  return [=](Scene& scene) {
    Region region(scene);
    scene.actor("a", [&] { churn(scene, region, 0, bytes_a, times); });
    scene.actor("b", [&] { churn(scene, region, 1, bytes_b, times); });
    scene.play();
    region.check(scene, {owner(0), owner(1)});
  };
}

// A run that was kept is taken apart for a block of another size, while another allocates one page.
void taking_apart(Scene& scene) {
  Region region(scene);
  scene.actor("user of two sizes", [&] {
    Arena arena;
    region.attach(arena, owner(0));
    for (const std::size_t bytes : {2 * kPage, kPage}) {
      const Arena::Allocation block = arena.allocate(bytes);
      if (block.error != 0) continue;
      region.use(scene, arena, block.ref, 0);
      scene.require(arena.free(block.ref), "not free to free");
      scene.require(!arena.free(block.ref), "freed twice");
    }
  });
  scene.actor("other", [&] { churn(scene, region, 1, kPage, 1); });
  scene.play();
  region.check(scene, {owner(0), owner(1)});
}

// Two want the one run that was kept; a third looks for idle memory.
Body wanting_what_is_kept(bool beside_a_giver_back) {
  return [=](Scene& scene) {
    Region region(scene);
    scene.require(region.test().free(region.test().allocate(2 * kPage).ref), "not free to free");
    for (int who = 0; who < 2; ++who) {
      scene.actor("user", [&, who] { churn(scene, region, who, 2 * kPage, 1); });
    }
    if (beside_a_giver_back) {
      scene.actor("giver back", [&] {
        Arena arena;
        region.attach(arena, owner(2));
        arena.give_back(sys::now_ns(), 0);
      });
    }
    scene.play();
    region.check(scene, {owner(0), owner(1), owner(2)});
  };
}

// Who takes or keeps a run may die.
void keeping_may_end(Scene& scene) {
  Region region(scene);
  scene.require(region.test().free(region.test().allocate(2 * kPage).ref), "not free to free");
  const int mortal = scene.mortal("mortal", [&] { churn(scene, region, 0, 2 * kPage, 2); });
  scene.actor("other", [&] { churn(scene, region, 1, 2 * kPage, 1); });
  scene.actor("janitor", [&] {
    if (!scene.await_end(mortal)) return;
    Arena arena;
    region.attach(arena, owner(2));
    arena.sweep(owner(0));
    scene.require(arena.sweep(owner(0)) == 0, "swept, and again something to sweep");
  });
  scene.play();
  region.check(scene, {owner(1)});
}

// A block goes from one to the other, who frees it while the first allocates the next.
void passing_on(Scene& scene) {
  Region region(scene);
  sys::Atomic<std::uint64_t> mailbox{0};
  scene.actor("giver", [&] {
    Arena arena;
    region.attach(arena, owner(0));
    const Arena::Allocation block = arena.allocate(kHalf);
    region.use(scene, arena, block.ref, 7);
    scene.require(arena.transfer(block.ref, owner(0), owner(1)), "not ours to give");
    mailbox.store(block.ref.bits, std::memory_order_release);
    const Arena::Allocation next = arena.allocate(kHalf);
    region.use(scene, arena, next.ref, 8);
    scene.require(arena.free(next.ref), "not free to free");
  });
  scene.actor("taker", [&] {
    Arena arena;
    region.attach(arena, owner(1));
    BlockRef ref;
    while (!(ref = BlockRef{mailbox.load(std::memory_order_acquire)})) sys::yield();
    region.expect(scene, arena, ref, 7);
    scene.require(arena.free(ref), "not free to free");
  });
  scene.play();
  region.check(scene, {owner(0), owner(1)});
}

// Idle memory is returned while `users` allocate from `pages` pages.
Body giving_back(std::size_t bytes, int users, std::size_t pages) {
  return [=](Scene& scene) {
    Region region(scene, pages);
    for (int who = 0; who < users; ++who) {
      scene.actor("user", [&, who] { churn(scene, region, who, bytes, 3 - users); });
    }
    scene.actor("giver back", [&] {
      Arena arena;
      region.attach(arena, owner(2));
      for (int i = 0; i < 2; ++i) arena.give_back(sys::now_ns(), 0);
    });
    scene.play();
    region.check(scene, {owner(0), owner(1), owner(2)});
  };
}

// One of two users may die; a janitor sweeps it while the other goes on.
Body sweeping(std::size_t bytes, std::size_t other_bytes) {
  return [=](Scene& scene) {
    Region region(scene);
    const int mortal = scene.mortal("mortal", [&] { churn(scene, region, 0, bytes, 1); });
    scene.actor("other", [&] { churn(scene, region, 1, other_bytes, 1); });
    scene.actor("janitor", [&] {
      if (!scene.await_end(mortal)) return;
      Arena arena;
      region.attach(arena, owner(2));
      arena.sweep(owner(0));
      scene.require(arena.sweep(owner(0)) == 0, "swept, and again something to sweep");
    });
    scene.play();
    region.check(scene, {owner(1)});
  };
}

// The janitor itself may die; another sweeps it and whom it swept.
void janitors_die(Scene& scene) {
  Region region(scene);
  const OwnerId dead = owner(3);
  for (const std::size_t bytes : {kHalf, kPage + 1}) {
    const Arena::Allocation block = region.test().allocate(bytes);
    region.test().transfer(block.ref, kTest, dead);
  }
  region.test().sweep(kTest);
  const int first = scene.mortal("janitor", [&] {
    Arena arena;
    region.attach(arena, owner(0));
    arena.sweep(dead);
  });
  scene.actor("next janitor", [&] {
    Arena arena;
    region.attach(arena, owner(1));
    if (scene.await_end(first)) arena.sweep(owner(0));
    arena.sweep(dead);
  });
  scene.actor("user", [&] { churn(scene, region, 2, kHalf, 1); });
  scene.play();
  region.check(scene, {owner(0), owner(1), owner(2)});
}

// Somebody allocates from its slab while another makes a slab of another size of the same page, and
// dies in the belief that it is still the old one.
void believing(Scene& scene) {
  Region region(scene, 1);
  Arena arena;
  region.attach(arena, owner(0));
  scene.require(arena.free(arena.allocate(kHalf).ref), "not free to free");
  const int believer = scene.mortal("believer", [&] {
    const Arena::Allocation block = arena.allocate(kHalf);
    if (block.error == 0) {
      region.use(scene, arena, block.ref, 0);
      scene.require(arena.free(block.ref), "not free to free");
    }
  });
  scene.actor("other", [&] {
    Arena other;
    region.attach(other, owner(1));
    other.give_back(sys::now_ns(), 0);
    const Arena::Allocation block = other.allocate(kHalf / 2);
    if (block.error == 0) scene.require(other.free(block.ref), "not free to free");
  });
  scene.actor("janitor", [&] {
    if (!scene.await_end(believer)) return;
    Arena janitor;
    region.attach(janitor, owner(2));
    janitor.sweep(owner(0));
  });
  scene.play();
  region.check(scene, {owner(1), owner(2)});
}

TEST(ArenaScheduleTest, SmallBlocksHaveOneHolder) {
  expect_right_by_seed("two users of small blocks", churning(kHalf, kHalf, 2), 1);
  expect_right_by_seed("users of small and large blocks", churning(kHalf, 2 * kPage, 2), 1);
}
TEST(ArenaScheduleTest, LargeBlocksHaveOneHolder) {
  expect_right_by_seed("two users of large blocks", churning(2 * kPage, 3 * kPage, 2), 1);
}
TEST(ArenaScheduleTest, AKeptRunHasOneTaker) {
  expect_right_by_seed("a kept run is taken apart", taking_apart, 1);
  expect_right_by_seed("two users want what is kept", wanting_what_is_kept(false), 1);
  expect_right_by_seed("two users and a giver back", wanting_what_is_kept(true), 1);
  expect_right_by_seed("who takes and keeps may die", keeping_may_end, 1);
}
TEST(ArenaScheduleTest, ABlockIsPassedOn) {
  expect_right_by_seed("a block is passed on", passing_on, 1);
}
TEST(ArenaScheduleTest, IdleMemoryIsGivenBack) {
  expect_right_by_seed("a user of small blocks, a giver back", giving_back(kHalf, 1, kPages), 1);
  expect_right_by_seed("a user of large blocks, a giver back", giving_back(2 * kPage, 1, kPages),
                       2);
  expect_right_by_seed("two users of one page, a giver back", giving_back(kPage, 2, 1), 1);
}
TEST(ArenaScheduleTest, TheDeadAreSwept) {
  expect_right_by_seed("small blocks, a user may die", sweeping(kHalf, kHalf), 1);
  expect_right_by_seed("a user of large blocks may die", sweeping(2 * kPage, kHalf), 1);
  expect_right_by_seed("a user of small blocks may die", sweeping(kHalf, 2 * kPage), 1);
}
TEST(ArenaScheduleTest, WhoBelievesInAFormerSlabMayDie) {
  expect_right_by_seed("a page becomes another slab meanwhile", believing, 1);
}
TEST(ArenaScheduleTest, JanitorsMayDie) {
  expect_right_by_seed("a janitor may die", janitors_die, 1);
}

TEST(ArenaScheduleTest, EachBreakIsNoticed) {
  expect_breaks_noticed(
      "arena", {"arena.cpp", "arena_kept.cpp", "arena_pages.cpp", "arena_sweep.cpp"},
      {churning(kHalf, kHalf, 2), churning(kHalf, 2 * kPage, 2), churning(2 * kPage, 3 * kPage, 1),
       taking_apart, wanting_what_is_kept(true), keeping_may_end, passing_on,
       giving_back(kHalf, 1, kPages), giving_back(2 * kPage, 1, kPages), giving_back(kPage, 2, 1),
       sweeping(kHalf, kHalf), sweeping(2 * kPage, kHalf), believing, janitors_die},
      {{"arena_pages.cpp", "header().top.load(std::memory_order_acquire)", Damage::relax,
        "for a sweeper, the proof of death orders it; for others it is a hint"},
       {"arena_pages.cpp", "top.compare_exchange_weak", Damage::relax, "the same"},
       {"arena_pages.cpp", "record(page).word.load(", Damage::relax,
        "the swap that follows acquires as well"},
       {"arena_pages.cpp", "record(page).word.compare_exchange_strong", Damage::relax,
        "the load before it acquires, and what follows releases"},
       {"arena_pages.cpp", "taken.fetch_add(1", Damage::tear, kRoughly},
       {"arena_pages.cpp", "taken.fetch_add(1", Damage::drop, kRoughly},
       {"arena_pages.cpp", "taken.fetch_sub(1", Damage::tear, kRoughly},
       {"arena_pages.cpp", "taken.fetch_sub(1", Damage::drop, kRoughly},
       {"arena_pages.cpp", "taken.compare_exchange_strong", Damage::tear, kRoughly},
       {"arena_pages.cpp", "taken.compare_exchange_strong", Damage::drop, kRoughly},
       {"arena_pages.cpp", "rec.detail.store(0", Damage::drop, "who sweeps looks in vain"},
       {"arena_pages.cpp", "rec.since.store(", Damage::drop, "only the age of free memory"},
       {"arena_pages.cpp", "record(page).detail.store(0", Damage::drop, "who sweeps looks in vain"},
       {"arena.cpp", "words[i].store(", Damage::relax, "a slot's word is swapped, not believed"},
       {"arena.cpp", "record(page).word.store(slab.word", Damage::relax, "the same"},
       {"arena.cpp", "shared.load(std::memory_order_acquire)", Damage::relax,
        "the swap that follows acquires as well"},
       {"arena.cpp", "record(head + i).word.store", Damage::relax,
        "who has the reference has it from the owner"},
       {"arena.cpp", "record(head).word.store", Damage::relax, "the same"},
       {"arena.cpp", "freed_run.store", Damage::drop, "a hint"},
       {"arena_kept.cpp", "freed_run.store", Damage::drop, "a hint"},
       {"arena_kept.cpp", "hint.compare_exchange_strong(", Damage::tear, "a hint"},
       {"arena_kept.cpp", "hint.compare_exchange_strong(", Damage::drop, "a hint"},
       {"arena_kept.cpp", "since.store(", Damage::drop, "only the age of free memory"},
       {"arena_kept.cpp", "kept_sizes.fetch_or", Damage::tear, "a hint"},
       {"arena_kept.cpp", "kept_sizes.fetch_or", Damage::drop, "a hint"},
       {"arena_kept.cpp", "kept_sizes.exchange", Damage::tear, "a hint"},
       {"arena_kept.cpp", "kept_sizes.exchange", Damage::drop, "a hint"}},
      30'000);
}

}  // namespace
}  // namespace brood::schedule
