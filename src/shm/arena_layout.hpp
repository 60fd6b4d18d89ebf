// Every byte of the arena that lies in shared memory.
//
// GLOSSARY
//   region      the arena's part of a memory file: a metadata part, and apart from it the payload
//   payload     what users write to; nothing of the arena's own lies there
//   page        64 KiB of payload; the unit in which memory is taken from and given to the system
//   record      what the metadata says about one page
//   slab        a page cut into slots of one size class (64 B ... 32 KiB)
//   slot        one small block of a slab
//   run         neighbouring pages that form one large block: a head and the rest
//   block       what a user holds: a slot or a run
//   owner       the process to clean up after: a place in the family's table, and its epoch
//   kept        of a run: freed and left whole, for the next large block of its size
//   nobody      the owner of a slab that no process allocates from; anyone may adopt it
//   claim       a page that its owner is changing; no one else touches it while the owner lives
//   generation  tells lives of the same place apart, so that a stale reference is recognised
//
// METADATA PART                                            (P = number of pages)
//   0                  RegionHeader, 4 KiB                 hints only; nothing in it is trusted
//   4096               PageRecord[P], 16 bytes each        has memory up to RegionHeader::top
//   round up to 4 KiB  SlotWord[P][1024], 8 KiB per page   has memory while the page is a slab
//
// PAGE WORD     bits 63..34 generation | 33..18 epoch | 17..4 owner's slot | 3..0 kind
//               bits 63..34 generation | 33..4 distance to head             | 3..0 kind = run_rest
//
//     absent ---allocate---> cold_claim(me) --memory taken--+--> slab(me)    small blocks
//       ^                        |    ^                     |
//       |<-----memory returned---+    | give back           +--> run_rest(1..n-1), run_head(me)
//       |                             |                     |
//       |                           free ---allocate---> warm_claim(me)
//       |                             ^                     |
//       |                             +------undo, free-----+<-- run_head(anyone)   free a run
//       |                                                   +<-- slab(anyone)       all slots taken
//       |                                                   +<-- run_head(kept)     taken apart
//
//     run_head(anyone) --free--> run_head(kept) --allocate--> run_head(me)       the rest stays
//
//     slab(me) --full--> slab(nobody) --adopt--> slab(other)     slab(dead) --sweep--> slab(nobody)
//
//   warm_claim is known to have memory and ends as free; of a cold_claim nothing is known, so its
//   memory is returned and it ends as absent. A sweeper first makes the claim its own.
//   The generation grows whenever a claim ends, and when a run is kept. A kept run is no block: no
//   reference leads to it.
//
// SLOT WORD     bits 63..32 generation | 31..16 epoch | 15..2 owner's slot | 1..0 state
//
//     none --page becomes a slab--> free <==allocate / free (generation + 1)==> owned(anyone)
//                                                       owned(a) --transfer--> owned(b)
//
//   Only the owner of the slab allocates from it, anyone frees into it. To retire a slab, one takes
//   all its slots first: then nobody can hold or get a block there.
//
// INVARIANTS (of a region that nobody scribbled on, at any instant)
//   kind(p) in {free, warm_claim, run_head, run_rest, slab}   =>  there is memory behind page p
//   kind(p) = slab                                            =>  ... and behind its slot words
//   kind(p) = run_rest  =>  kind(p - distance(p)) in {run_head, claim}, and
//                           kind(p - i) = run_rest with distance(p) - i, for 0 < i < distance(p)
//   kind(p) = run_head  =>  kind(p + i) = run_rest with distance i, for 0 < i < detail(p)
//   kind(p) != absent   =>  p < top
//   pages_taken         >=  number of pages with kind != absent, but for races with a recount
#pragma once

#include <cstddef>
#include <cstdint>

#include "sys/atomic.hpp"

namespace brood::shm {

// A process as the arena's words name it.
struct OwnerId {
  std::uint16_t slot = 0;  // < kMaxOwners
  std::uint16_t epoch = 0;
  friend bool operator==(OwnerId, OwnerId) = default;
};

// A block as users name it; may be stored anywhere and handed to any process of the family.
// Offset into the payload in units of 64 bytes, and above it the generation; 0 is no block.
struct BlockRef {
  std::uint64_t bits = 0;
  explicit operator bool() const noexcept { return bits != 0; }
  friend bool operator==(BlockRef, BlockRef) = default;
};

namespace arena {

inline constexpr std::size_t kUnitBytes = 64;  // smallest block, and every block's alignment
inline constexpr std::size_t kPageBytes = 64 * 1024;
inline constexpr std::uint32_t kUnitsPerPage = kPageBytes / kUnitBytes;
inline constexpr std::uint32_t kMaxPages = std::uint32_t{1} << 22;  // offsets have 32 bits
inline constexpr unsigned kClasses = 10;                            // 64 B << 0 ... 64 B << 9
inline constexpr std::size_t kLargestSlot = kUnitBytes << (kClasses - 1);
inline constexpr std::uint16_t kMaxOwners = (1 << 14) - 1;  // the last place stands for nobody
inline constexpr OwnerId kNobody{kMaxOwners, 0xffff};
inline constexpr OwnerId kKept{kMaxOwners, 0xfffe};  // of runs that are kept

constexpr std::size_t slot_bytes(unsigned size_class) noexcept { return kUnitBytes << size_class; }
constexpr std::uint32_t slots_in(unsigned size_class) noexcept {
  return kUnitsPerPage >> size_class;
}

enum class PageKind : std::uint8_t {
  absent,      // no memory behind the page. Zero, so that a new file is an empty arena
  free,        // memory, but no block
  warm_claim,  // being changed by its owner; has memory
  cold_claim,  // being changed by its owner; may have memory
  run_head,    // first page of a large block, which the owner holds
  run_rest,    // further page of a large block
  slab         // + size class: slots; the owner is who allocates from it
};

class PageWord {
 public:
  constexpr PageWord() noexcept = default;
  explicit constexpr PageWord(std::uint64_t bits) noexcept : bits_(bits) {}
  constexpr PageWord(PageKind kind, OwnerId owner, std::uint32_t generation) noexcept
      : PageWord(static_cast<std::uint64_t>(kind), owner_bits(owner), generation) {}
  static constexpr PageWord slab(unsigned size_class, OwnerId owner, std::uint32_t gen) noexcept {
    return {kSlab + size_class, owner_bits(owner), gen};
  }
  static constexpr PageWord rest(std::uint32_t distance, std::uint32_t gen) noexcept {
    return {static_cast<std::uint64_t>(PageKind::run_rest), distance & kMiddleMask, gen};
  }
  static constexpr PageWord unowned(PageKind kind, std::uint32_t gen) noexcept {
    return {static_cast<std::uint64_t>(kind), 0, gen};
  }

  [[nodiscard]] constexpr std::uint64_t bits() const noexcept { return bits_; }
  [[nodiscard]] constexpr PageKind kind() const noexcept {
    const std::uint64_t kind = bits_ & kKindMask;
    return kind >= kSlab ? PageKind::slab : static_cast<PageKind>(kind);
  }
  [[nodiscard]] constexpr bool is_claim() const noexcept {
    return kind() == PageKind::warm_claim || kind() == PageKind::cold_claim;
  }
  [[nodiscard]] constexpr bool is_kept() const noexcept {
    return kind() == PageKind::run_head && owner() == kKept;
  }
  // Of slabs.
  [[nodiscard]] constexpr unsigned size_class() const noexcept {
    return static_cast<unsigned>((bits_ & kKindMask) - kSlab);
  }
  [[nodiscard]] constexpr OwnerId owner() const noexcept {
    return {static_cast<std::uint16_t>((bits_ >> 4) & 0x3fff),
            static_cast<std::uint16_t>((bits_ >> 18) & 0xffff)};
  }
  [[nodiscard]] constexpr PageWord with_owner(OwnerId owner) const noexcept {
    return {bits_ & kKindMask, owner_bits(owner), generation()};
  }
  // Of the rest of runs: how many pages before this one the head lies.
  [[nodiscard]] constexpr std::uint32_t distance() const noexcept {
    return static_cast<std::uint32_t>((bits_ >> 4) & kMiddleMask);
  }
  [[nodiscard]] constexpr std::uint32_t generation() const noexcept {
    return static_cast<std::uint32_t>(bits_ >> 34);
  }
  [[nodiscard]] constexpr std::uint32_t next_generation() const noexcept {
    return (generation() + 1) & kMiddleMask;
  }
  // The generation that references to a block of this life of the page start from. Neighbouring
  // lives start far apart, as references count up from there with each life of a slot. Never 0.
  [[nodiscard]] constexpr std::uint32_t first_block_generation() const noexcept {
    return (generation() + 1) * 0x9e3779b1u;
  }
  friend constexpr bool operator==(PageWord, PageWord) = default;

 private:
  constexpr PageWord(std::uint64_t kind, std::uint64_t middle, std::uint32_t generation) noexcept
      : bits_(kind | (middle << 4) | (std::uint64_t{generation} << 34)) {}
  static constexpr std::uint64_t owner_bits(OwnerId owner) noexcept {
    return std::uint64_t{owner.slot & 0x3fffu} | (std::uint64_t{owner.epoch} << 14);
  }
  static constexpr std::uint64_t kKindMask = 0xf;
  static constexpr std::uint64_t kSlab = static_cast<std::uint64_t>(PageKind::slab);
  static constexpr std::uint32_t kMiddleMask = 0x3fffffff;

  std::uint64_t bits_ = 0;
};

class SlotWord {
 public:
  constexpr SlotWord() noexcept = default;
  explicit constexpr SlotWord(std::uint64_t bits) noexcept : bits_(bits) {}
  static constexpr SlotWord free(std::uint32_t generation) noexcept {
    return SlotWord{(std::uint64_t{generation} << 32) | kFree};
  }
  static constexpr SlotWord owned(OwnerId owner, std::uint32_t generation) noexcept {
    return SlotWord{(std::uint64_t{generation} << 32) | (std::uint64_t{owner.epoch} << 16) |
                    (std::uint64_t{owner.slot & 0x3fffu} << 2) | kOwned};
  }

  [[nodiscard]] constexpr std::uint64_t bits() const noexcept { return bits_; }
  [[nodiscard]] constexpr bool is_free() const noexcept { return (bits_ & 3) == kFree; }
  [[nodiscard]] constexpr bool is_owned() const noexcept { return (bits_ & 3) == kOwned; }
  [[nodiscard]] constexpr OwnerId owner() const noexcept {
    return {static_cast<std::uint16_t>((bits_ >> 2) & 0x3fff),
            static_cast<std::uint16_t>((bits_ >> 16) & 0xffff)};
  }
  [[nodiscard]] constexpr bool is_owned_by(OwnerId who) const noexcept {
    return is_owned() && owner() == who;
  }
  [[nodiscard]] constexpr std::uint32_t generation() const noexcept {
    return static_cast<std::uint32_t>(bits_ >> 32);
  }
  // What the word becomes when its block is freed. References never have generation 0.
  [[nodiscard]] constexpr SlotWord freed() const noexcept {
    const std::uint32_t next = generation() + 1;
    return free(next == 0 ? 1 : next);
  }
  friend constexpr bool operator==(SlotWord, SlotWord) = default;

 private:
  static constexpr std::uint64_t kFree = 1;
  static constexpr std::uint64_t kOwned = 2;

  std::uint64_t bits_ = 0;
};

struct PageRecord {
  sys::Atomic<std::uint64_t> word;    // PageWord
  sys::Atomic<std::uint32_t> detail;  // run_head: pages of the run. claim: 0, or kPreparingSlab +
                                      // size class. slab: sum of its slots' generations when last
                                      // seen empty (without the top bit)
  sys::Atomic<std::uint32_t>
      since;  // free, kept: since when. slab: when last seen empty. See stamp()
};

// In `detail` of a claim: the page's slot words are being written. Someone who still believes in
// an older life of the page might take one of them and die, so a sweeper must look at them.
inline constexpr std::uint32_t kPreparingSlab = 0x80000000;

// Moments as `since` holds them: units of 2^20 ns (1 ms), which wrap around after 52 days.
constexpr std::uint32_t stamp(std::int64_t now_ns) noexcept {
  return static_cast<std::uint32_t>(static_cast<std::uint64_t>(now_ns) >> 20);
}

using SharedSlotWord = sys::Atomic<std::uint64_t>;  // SlotWord

// Sizes of runs by powers of two; and how many runs of each are found again when they were kept.
inline constexpr unsigned kKeptSizes = 22;
inline constexpr unsigned kKeptOfASize = 4;

// Hints. Each is bounded before use, and wrong values cost time at worst (or, scribbled on, the
// limit), with one exception: pages at and above `top` are not swept, so it is raised before the
// first claim there.
struct RegionHeader {
  alignas(64) sys::Atomic<std::uint32_t> top;         // no page from here on was ever claimed
  sys::Atomic<std::uint32_t> freed_run;               // where a run was freed not long ago
  alignas(64) sys::Atomic<std::int64_t> pages_taken;  // pages with memory, roughly
  alignas(64) sys::Atomic<std::uint32_t> adoptable[kClasses];  // a slab of nobody's that has room
  // Heads of kept runs, counted from 1.
  alignas(64) sys::Atomic<std::uint32_t> kept[kKeptSizes][kKeptOfASize];
  sys::Atomic<std::uint32_t> kept_sizes;  // bit n: there may be some in kept[n]; set after it
};

// Where things lie, counted from the beginning of the metadata part.
inline constexpr std::size_t kRecordsOffset = 4096;
inline constexpr std::size_t kSlotWordsPerPageBytes = kUnitsPerPage * sizeof(SharedSlotWord);
constexpr std::size_t slot_words_offset(std::size_t pages) noexcept {
  return (kRecordsOffset + pages * sizeof(PageRecord) + 4095) / 4096 * 4096;
}

static_assert(sizeof(PageRecord) == 16 && sizeof(SharedSlotWord) == 8);
static_assert(sizeof(RegionHeader) <= kRecordsOffset);
static_assert(sys::Atomic<std::uint64_t>::is_always_lock_free);
static_assert(sys::Atomic<std::int64_t>::is_always_lock_free);
static_assert(sys::Atomic<std::uint32_t>::is_always_lock_free);
static_assert(kSlotWordsPerPageBytes % 4096 == 0);
static_assert(static_cast<unsigned>(PageKind::slab) + kClasses == 16, "the kind has 4 bits");
static_assert(PageWord{}.kind() == PageKind::absent && !SlotWord{}.is_free());
static_assert(PageWord::slab(9, {0x3ffe, 0xfffe}, 0x3fffffff).owner() == OwnerId{0x3ffe, 0xfffe});
static_assert(PageWord::slab(9, {1, 2}, 7).size_class() == 9);
static_assert(PageWord::rest(kMaxPages, 0x3fffffff).distance() == kMaxPages);
static_assert(std::uint64_t{kMaxPages} * kUnitsPerPage == std::uint64_t{1} << 32);

}  // namespace arena
}  // namespace brood::shm
