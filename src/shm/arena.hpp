// An allocator over shared memory that several processes use at once, of which any may be killed
// at any instruction and any may overwrite any shared word with garbage.
//
// Read arena_layout.hpp first: it has the words, their states and the invariants. In short: every
// change of hands is one compare-and-swap on one word which names, before and after, the process to
// clean up after. Proof of death is the caller's business: sweep() believes what it is told.
//
// Threads:   free, resolve, transfer, owner, sweep, give_back, stats from any thread at any time.
//            allocate: one thread at a time (the caller's lock). attach, format: nobody else.
// Blocking:  never on another process. System calls only to take and return memory.
// Ownership: a block belongs to the process that allocated it until freed, transferred or swept.
// Errors:    as values; everything read from shared memory is bounded before use.
// Death:     at any instruction leaves only words that name the dead; sweep(dead) frees those.
// No function but is_valid uses the heap, so that all may run in a child forked from threads.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "shm/arena_layout.hpp"

namespace brood::shm {

// Two parts of one mapped memory file, aligned to 4 KiB.
struct ArenaRegion {
  std::byte* base = nullptr;  // where the file is mapped
  int fd = -1;
  std::size_t metadata_offset = 0;  // Arena::metadata_bytes(payload_bytes) from here
  std::size_t payload_offset = 0;
  std::size_t payload_bytes = 0;
  std::size_t limit_bytes = 0;  // how much memory the payload may take
};

class Arena {
 public:
  // Address space that the metadata of so much payload needs; memory is taken as used.
  static std::size_t metadata_bytes(std::size_t payload_bytes) noexcept;

  Arena() noexcept = default;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // Forgets all private state and starts with this region under this name: also after a fork.
  void attach(const ArenaRegion& region, OwnerId me) noexcept;

  // Makes the region an empty arena. Once, by its creator, after attach. 0 or -errno.
  int format() noexcept;

  struct Allocation {
    BlockRef ref;
    std::span<std::byte> bytes;  // at least as many as asked for, aligned to 64
    int error = 0;               // 0, ENOSPC (limit or region), or what the system said
  };
  [[nodiscard]] Allocation allocate(std::size_t bytes) noexcept;  // contents unspecified
  [[nodiscard]] Allocation allocate_zeroed(std::size_t bytes) noexcept;

  // Whoever owns it. false: stale or nonsense, and nothing changed.
  bool free(BlockRef ref) noexcept;

  // Whether resolve() can tell: 0, or the error with which the system refused to make sure that the
  // block's page record has memory (EBADF: this process has closed the descriptor).
  [[nodiscard]] int reach(BlockRef ref) const noexcept;

  // All of the block; empty: stale or nonsense, or out of reach.
  [[nodiscard]] std::span<std::byte> resolve(BlockRef ref) const noexcept;

  // false: stale, nonsense, or not `from`'s. A block given to a process that has already been swept
  // is nobody's to sweep again: the caller has to know that `to` lives, or sweep it once more.
  bool transfer(BlockRef ref, OwnerId from, OwnerId to) noexcept;
  [[nodiscard]] std::optional<OwnerId> owner(BlockRef ref) const noexcept;

  // Frees every block and finishes every claim of a process PROVEN dead; returns how many. May be
  // killed anywhere and run again by another process, which then has to sweep this one as well.
  std::size_t sweep(OwnerId dead) noexcept;

  // Returns pages to the system that have been free (or slabs without a block) for idle_ns, as
  // far as earlier calls have seen; returns how many remain.
  std::size_t give_back(std::int64_t now_ns, std::int64_t idle_ns) noexcept;

  // Calls visit(BlockRef, OwnerId, std::span<std::byte>) for each block that is there all the time;
  // others may or may not be among them.
  template <class Visit>
  void for_each_block(Visit&& visit) const {
    const std::uint32_t end = known_pages();
    for (PageIndex page = 0; page < end; ++page) {
      const std::uint32_t blocks = blocks_in(page);
      for (std::uint32_t i = 0; i < blocks; ++i) {
        const BlockRef ref = block_at(page, i);
        if (!ref) continue;
        const std::optional<OwnerId> holder = owner(ref);
        const std::span<std::byte> bytes = resolve(ref);
        if (holder && !bytes.empty()) visit(ref, *holder, bytes);
      }
    }
  }

  struct Stats {
    std::size_t live_blocks = 0;
    std::size_t live_bytes = 0;  // capacity, not what was asked for
    std::size_t pages_with_memory = 0;
    std::size_t pages_free = 0;
    std::size_t claims_in_progress = 0;
    friend bool operator==(const Stats&, const Stats&) = default;
  };
  [[nodiscard]] Stats stats() const noexcept;  // by walking

  // Whether the invariants of arena_layout.hpp hold, and if not which one. While nobody changes it.
  bool is_valid(std::string* why) const;

 private:
  using PageIndex = std::uint32_t;
  static constexpr PageIndex kNoPage = 0xffffffff;
  enum class Want { warm, cold, any };  // pages with memory, without, either

  // Of a block, as far as its page tells.
  struct Place {
    PageIndex page;
    arena::PageWord word;
    std::uint32_t slot;        // of slabs
    std::uint32_t generation;  // that the reference has
  };

  // The slab of one size class that this process allocates from.
  struct Slab {
    std::atomic<PageIndex> page{kNoPage};
    std::atomic<std::uint32_t> freed{0};  // a slot that was freed lately: likely in the cache
    arena::PageWord word;                 // what the page's word says while it is ours
    std::uint32_t cursor = 0;             // where to look next
    PageIndex adopt_cursor = 0;           // where to look for the next slab
  };

  // arena.cpp: blocks
  static bool replace_slot(arena::SharedSlotWord& shared, arena::SlotWord expected,
                           arena::SlotWord desired) noexcept;
  static arena::SlotWord load_slot(const arena::SharedSlotWord& shared) noexcept;
  std::optional<Place> place_of(BlockRef ref) const noexcept;
  BlockRef make_ref(PageIndex page, std::uint32_t unit, std::uint32_t generation) const noexcept;
  Allocation allocate_small(unsigned size_class) noexcept;
  Allocation take_slot(unsigned size_class) noexcept;
  Allocation try_slot(unsigned size_class, PageIndex page, std::uint32_t slot) noexcept;
  void leave_slab(unsigned size_class) noexcept;
  bool adopt_slab(unsigned size_class) noexcept;
  bool try_adopt(unsigned size_class, PageIndex page, std::uint32_t& budget) noexcept;
  int make_slab(unsigned size_class) noexcept;
  bool free_slot(const Place& place) noexcept;
  Allocation allocate_large(std::size_t bytes, bool zeroed) noexcept;
  Allocation allocate_run(std::uint32_t count, bool zeroed) noexcept;
  Allocation build_run(PageIndex head, std::uint32_t pages, bool zeroed) noexcept;

  // arena_sweep.cpp: walking
  std::uint32_t blocks_in(PageIndex page) const noexcept;
  BlockRef block_at(PageIndex page, std::uint32_t index) const noexcept;

  // arena_pages.cpp: pages
  arena::RegionHeader& header() const noexcept;
  arena::PageRecord& record(PageIndex page) const noexcept;
  arena::PageWord word(PageIndex page) const noexcept;
  arena::SharedSlotWord* slot_words(PageIndex page) const noexcept;
  std::byte* payload(PageIndex page) const noexcept;
  int ensure_records(std::uint32_t pages) const noexcept;
  std::uint32_t known_pages() const noexcept;
  void raise_top(std::uint32_t pages) noexcept;
  bool replace(PageIndex page, arena::PageWord expected, arena::PageWord desired) noexcept;
  PageIndex find(std::uint32_t count, Want want, PageIndex from, std::uint32_t end,
                 std::uint32_t budget) const noexcept;
  PageIndex find_small_hole(std::uint32_t end, std::uint32_t budget) const noexcept;
  bool claim(PageIndex first, std::uint32_t count, Want want, PageIndex& obstacle) noexcept;
  enum class Claimed { yes, obstacle, limit };
  Claimed claim_page(PageIndex page, Want want) noexcept;
  PageIndex find_and_claim(std::uint32_t count, Want want, PageIndex from, std::uint32_t end,
                           std::uint32_t budget) noexcept;
  PageIndex claim_single() noexcept;
  PageIndex claim_in_neighbourhood() noexcept;
  PageIndex claim_run(std::uint32_t count) noexcept;
  int take_memory(PageIndex first, std::uint32_t count) noexcept;
  bool take_quota() noexcept;
  std::uint32_t count_pages_with_memory() const noexcept;
  void abandon(PageIndex first, std::uint32_t count) noexcept;
  void become_free(PageIndex page, std::uint32_t since) noexcept;
  void become_absent(PageIndex first, std::uint32_t count) noexcept;
  void finish_claim(PageIndex page, std::uint32_t since) noexcept;

  // arena_kept.cpp: runs that stay whole
  std::uint32_t run_pages(PageIndex head) const noexcept;
  bool keep_run(PageIndex head, arena::PageWord seen, std::uint32_t now) noexcept;
  Allocation take_kept_run(std::uint32_t pages, bool zeroed) noexcept;
  bool dissolve_run(PageIndex head, arena::PageWord kept) noexcept;
  bool dissolve_kept_runs() noexcept;

  // arena_sweep.cpp: cleaning up
  std::size_t sweep_slots(PageIndex page, std::uint32_t count, OwnerId dead) noexcept;
  bool is_empty_slab(PageIndex page, arena::PageWord slab, std::uint32_t* sum) const noexcept;
  bool retire_slab(PageIndex page, std::uint32_t since) noexcept;
  void undo_take(PageIndex page, std::uint32_t count) noexcept;
  bool retire_if_idle(PageIndex page, std::uint32_t now, std::uint32_t idle) noexcept;
  std::uint32_t dissolve_if_idle(PageIndex head, std::uint32_t now, std::uint32_t idle) noexcept;

  ArenaRegion region_;
  OwnerId me_;
  std::uint32_t pages_ = 0;
  std::int64_t limit_pages_ = 0;
  // Records that are known to this process, not just from shared memory, to have memory.
  mutable std::atomic<std::uint32_t> ready_records_{0};
  PageIndex neighbourhood_ = 0;  // where this process makes its slabs
  Slab slabs_[arena::kClasses];
};

}  // namespace brood::shm
