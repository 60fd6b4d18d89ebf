// The arena's blocks: allocating, freeing, resolving.
#include "shm/arena.hpp"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>

#include "sys/clock.hpp"
#include "sys/memory.hpp"

namespace brood::shm {

using namespace arena;

namespace {

// How often someone else may be quicker before we give up; each time, someone made progress.
constexpr int kAttempts = 64;
// What the search for a slab to adopt may look at before a new one is made; about 2 us.
constexpr std::uint32_t kAdoptRecords = 1024;
constexpr std::uint32_t kAdoptSlots = 2048;

unsigned class_of(std::size_t bytes) noexcept {
  if (bytes <= kUnitBytes) return 0;
  return static_cast<unsigned>(std::bit_width((bytes - 1) / kUnitBytes));
}

}  // namespace

// Acquire and release: the block's next holder sees what its last one did.
bool Arena::replace_slot(SharedSlotWord& shared, SlotWord expected, SlotWord desired) noexcept {
  std::uint64_t bits = expected.bits();
  return shared.compare_exchange_strong(bits, desired.bits(), std::memory_order_acq_rel,
                                        std::memory_order_relaxed);
}

SlotWord Arena::load_slot(const SharedSlotWord& shared) noexcept {
  return SlotWord{shared.load(std::memory_order_acquire)};
}

std::size_t Arena::metadata_bytes(std::size_t payload_bytes) noexcept {
  const std::size_t pages = std::min<std::size_t>(payload_bytes / kPageBytes, kMaxPages);
  return slot_words_offset(pages) + pages * kSlotWordsPerPageBytes;
}

void Arena::attach(const ArenaRegion& region, OwnerId me) noexcept {
  const std::size_t pages = std::min<std::size_t>(region.payload_bytes / kPageBytes, kMaxPages);
  region_ = region;
  me_ = me;
  pages_ = static_cast<std::uint32_t>(pages);
  limit_pages_ = static_cast<std::int64_t>(region.limit_bytes / kPageBytes);
  ready_records_.store(0, std::memory_order_relaxed);
  neighbourhood_ = 0;
  for (Slab& slab : slabs_) {
    slab.page.store(kNoPage, std::memory_order_relaxed);
    slab.freed.store(0, std::memory_order_relaxed);
    slab.word = {};
    slab.cursor = 0;
    slab.adopt_cursor = 0;
  }
}

int Arena::format() noexcept {
  const std::size_t metadata = metadata_bytes(region_.payload_bytes);
  int result = sys::release_extent(region_.fd, region_.metadata_offset, metadata);
  if (result < 0) return result;
  if (pages_ > 0) {
    result = sys::release_extent(region_.fd, region_.payload_offset, pages_ * kPageBytes);
    if (result < 0) return result;
  }
  // All zero is an empty arena.
  return sys::reserve_extent(region_.fd, region_.metadata_offset, kRecordsOffset);
}

Arena::Allocation Arena::allocate(std::size_t bytes) noexcept {
  if (bytes == 0 || bytes > pages_ * kPageBytes) return {{}, {}, ENOSPC};
  return bytes <= kLargestSlot ? allocate_small(class_of(bytes)) : allocate_large(bytes, false);
}

Arena::Allocation Arena::allocate_zeroed(std::size_t bytes) noexcept {
  if (bytes > kLargestSlot && bytes <= pages_ * kPageBytes) return allocate_large(bytes, true);
  const Allocation block = allocate(bytes);
  if (block.ref) std::memset(block.bytes.data(), 0, block.bytes.size());
  return block;
}

BlockRef Arena::make_ref(PageIndex page, std::uint32_t unit, std::uint32_t gen) const noexcept {
  return {(std::uint64_t{gen} << 32) | (page * kUnitsPerPage + unit)};
}

Arena::Allocation Arena::allocate_small(unsigned size_class) noexcept {
  for (int i = 0; i < kAttempts; ++i) {
    const Allocation block = take_slot(size_class);
    if (block.ref) return block;
    leave_slab(size_class);
    if (adopt_slab(size_class)) continue;
    int error = make_slab(size_class);
    if (error != 0) {
      // The last resort: what is free may be scattered, or slabs of other classes.
      give_back(sys::now_ns(), 0);
      error = make_slab(size_class);
    }
    if (error != 0) return {{}, {}, error};
  }
  return {{}, {}, ENOSPC};
}

// A slot of our slab, if there is one.
Arena::Allocation Arena::take_slot(unsigned size_class) noexcept {
  Slab& slab = slabs_[size_class];
  const PageIndex page = slab.page.load(std::memory_order_relaxed);
  if (page == kNoPage || word(page) != slab.word) return {};
  const std::uint32_t mask = slots_in(size_class) - 1;
  const std::uint32_t freed = slab.freed.load(std::memory_order_relaxed) & mask;
  if (Allocation block = try_slot(size_class, page, freed); block.ref) return block;
  for (std::uint32_t i = 0; i <= mask; ++i) {
    const std::uint32_t slot = slab.cursor++ & mask;
    if (Allocation block = try_slot(size_class, page, slot); block.ref) return block;
  }
  return {};
}

Arena::Allocation Arena::try_slot(unsigned size_class, PageIndex page,
                                  std::uint32_t slot) noexcept {
  SharedSlotWord& shared = slot_words(page)[slot];
  const SlotWord seen = load_slot(shared);
  if (!seen.is_free()) return {};
  const SlotWord mine = SlotWord::owned(me_, seen.generation());
  if (!replace_slot(shared, seen, mine)) return {};
  // The slot is ours, hence its page can't be retired from now on. If it was before, the words were
  // written for another life of the page, and the acquire above makes us see its change.
  if (word(page) != slabs_[size_class].word) {
    replace_slot(shared, mine, mine.freed());
    return {};
  }
  std::byte* bytes = payload(page) + slot * slot_bytes(size_class);
  return {
      make_ref(page, slot << size_class, mine.generation()), {bytes, slot_bytes(size_class)}, 0};
}

void Arena::leave_slab(unsigned size_class) noexcept {
  Slab& slab = slabs_[size_class];
  const PageIndex page = slab.page.load(std::memory_order_relaxed);
  if (page == kNoPage) return;
  slab.page.store(kNoPage, std::memory_order_relaxed);
  replace(page, slab.word, slab.word.with_owner(kNobody));
}

// Takes over a slab that nobody allocates from, if one with room is easily found.
bool Arena::adopt_slab(unsigned size_class) noexcept {
  const std::uint32_t known = known_pages();
  std::uint32_t budget = kAdoptSlots;
  const PageIndex hint = header().adoptable[size_class].load(std::memory_order_relaxed);
  if (hint < known && try_adopt(size_class, hint, budget)) return true;
  Slab& slab = slabs_[size_class];
  for (std::uint32_t i = 0; i < std::min(known, kAdoptRecords) && budget > 0; ++i) {
    if (slab.adopt_cursor >= known) slab.adopt_cursor = 0;
    if (try_adopt(size_class, slab.adopt_cursor++, budget)) return true;
  }
  return false;
}

bool Arena::try_adopt(unsigned size_class, PageIndex page, std::uint32_t& budget) noexcept {
  const PageWord seen = word(page);
  if (seen != PageWord::slab(size_class, kNobody, seen.generation())) return false;
  const SharedSlotWord* words = slot_words(page);
  std::uint32_t slot = 0;
  while (slot < slots_in(size_class) && !load_slot(words[slot]).is_free()) ++slot;
  budget -= std::min(budget, slot + 1);
  const PageWord mine = seen.with_owner(me_);
  if (slot == slots_in(size_class) || !replace(page, seen, mine)) return false;
  Slab& slab = slabs_[size_class];
  slab.word = mine;
  slab.cursor = slot;
  slab.freed.store(slot, std::memory_order_relaxed);
  slab.page.store(page, std::memory_order_relaxed);
  return true;
}

// 0 or errno.
int Arena::make_slab(unsigned size_class) noexcept {
  const PageIndex page = claim_single();
  if (page == kNoPage) return ENOSPC;
  const std::size_t words_offset =
      region_.metadata_offset + slot_words_offset(pages_) + page * kSlotWordsPerPageBytes;
  const std::size_t words_bytes = slots_in(size_class) * sizeof(SharedSlotWord);
  int error = take_memory(page, 1);
  if (error == 0) {
    error = sys::reserve_extent(region_.fd, words_offset, (words_bytes + 4095) / 4096 * 4096);
  }
  if (error != 0) {
    abandon(page, 1);
    return -error;
  }
  // Before the slot words, which release it: who takes a slot in the belief that this is an older
  // life of the page sees by the page's word that it is not; and should it die there, whoever
  // sweeps it sees kPreparingSlab.
  record(page).detail.store(kPreparingSlab + size_class, std::memory_order_relaxed);
  const PageWord claim = word(page);
  const SlotWord fresh = SlotWord::free(claim.first_block_generation());
  SharedSlotWord* words = slot_words(page);
  for (std::uint32_t i = 0; i < slots_in(size_class); ++i) {
    words[i].store(fresh.bits(), std::memory_order_release);
  }
  Slab& slab = slabs_[size_class];
  slab.word = PageWord::slab(size_class, me_, claim.generation());
  slab.cursor = 0;
  slab.freed.store(0, std::memory_order_relaxed);
  slab.page.store(page, std::memory_order_relaxed);
  // Release: who sees the slab sees its slot words.
  record(page).word.store(slab.word.bits(), std::memory_order_release);
  return 0;
}

Arena::Allocation Arena::allocate_large(std::size_t bytes, bool zeroed) noexcept {
  const auto count = static_cast<std::uint32_t>((bytes + kPageBytes - 1) / kPageBytes);
  const Allocation block = allocate_run(count, zeroed);
  if (block.error == 0) return block;
  give_back(sys::now_ns(), 0);
  return allocate_run(count, zeroed);
}

Arena::Allocation Arena::allocate_run(std::uint32_t count, bool zeroed) noexcept {
  if (const Allocation kept = take_kept_run(count, zeroed); kept.ref) return kept;
  const PageIndex head = claim_run(count);
  if (head == kNoPage) return {{}, {}, ENOSPC};
  const int error = take_memory(head, count);
  if (error == 0) return build_run(head, count, zeroed);
  abandon(head, count);
  return {{}, {}, -error};
}

// Makes a large block of our claims. Upwards, the head last: if we die, a sweeper finds a claim
// followed by a rest without gaps, followed by claims.
Arena::Allocation Arena::build_run(PageIndex head, std::uint32_t pages, bool zeroed) noexcept {
  for (std::uint32_t i = 0; i < pages; ++i) {
    const PageWord claim = word(head + i);
    // What was cold reads as zero.
    if (zeroed && claim.kind() == PageKind::warm_claim) {
      std::memset(payload(head + i), 0, kPageBytes);
    }
    if (i == 0) continue;
    record(head + i).word.store(PageWord::rest(i, claim.generation()).bits(),
                                std::memory_order_release);
  }
  record(head).detail.store(pages, std::memory_order_relaxed);
  const PageWord done{PageKind::run_head, me_, word(head).generation()};
  // Release: who sees the head sees the rest.
  record(head).word.store(done.bits(), std::memory_order_release);
  return {make_ref(head, 0, done.first_block_generation()), {payload(head), pages * kPageBytes}, 0};
}

// Where a reference points to, if it can be one of the page's present life.
std::optional<Arena::Place> Arena::place_of(BlockRef ref) const noexcept {
  const auto unit = static_cast<std::uint32_t>(ref.bits);
  const auto generation = static_cast<std::uint32_t>(ref.bits >> 32);
  const PageIndex page = unit / kUnitsPerPage;
  const std::uint32_t within = unit % kUnitsPerPage;
  if (page >= ready_records_.load(std::memory_order_relaxed) && page >= known_pages()) return {};
  const PageWord seen = word(page);
  if (seen.kind() == PageKind::slab) {
    const std::uint32_t slot = within >> seen.size_class();
    if (slot << seen.size_class() != within) return {};
    return Place{page, seen, slot, generation};
  }
  const bool is_head = seen.kind() == PageKind::run_head && !seen.is_kept() && within == 0 &&
                       seen.first_block_generation() == generation;
  if (!is_head) return {};
  return Place{page, seen, 0, generation};
}

int Arena::reach(BlockRef ref) const noexcept {
  const PageIndex page = static_cast<std::uint32_t>(ref.bits) / kUnitsPerPage;
  const std::uint32_t top = std::min(header().top.load(std::memory_order_acquire), pages_);
  return page < top ? ensure_records(top) : 0;
}

std::span<std::byte> Arena::resolve(BlockRef ref) const noexcept {
  const std::optional<Place> place = place_of(ref);
  if (!place) return {};
  std::byte* begin = payload(place->page);
  if (place->word.kind() == PageKind::slab) {
    const SlotWord slot = load_slot(slot_words(place->page)[place->slot]);
    if (!slot.is_owned() || slot.generation() != place->generation) return {};
    const std::size_t size = slot_bytes(place->word.size_class());
    return {begin + place->slot * size, size};
  }
  return {begin, run_pages(place->page) * kPageBytes};
}

bool Arena::free_slot(const Place& place) noexcept {
  SharedSlotWord& shared = slot_words(place.page)[place.slot];
  // Only a transfer at the same time makes us try again.
  for (int i = 0; i < kAttempts; ++i) {
    const SlotWord seen = load_slot(shared);
    if (!seen.is_owned() || seen.generation() != place.generation) return false;
    if (!replace_slot(shared, seen, seen.freed())) continue;
    const unsigned size_class = place.word.size_class();
    Slab& slab = slabs_[size_class];
    if (slab.page.load(std::memory_order_relaxed) == place.page) {
      slab.freed.store(place.slot, std::memory_order_relaxed);
    } else if (place.word.owner() == kNobody) {
      sys::Atomic<PageIndex>& hint = header().adoptable[size_class];
      if (hint.load(std::memory_order_relaxed) != place.page) {
        hint.store(place.page, std::memory_order_relaxed);
      }
    }
    return true;
  }
  return false;
}

bool Arena::free(BlockRef ref) noexcept {
  for (int i = 0; i < kAttempts; ++i) {
    const std::optional<Place> place = place_of(ref);
    if (!place) return false;
    if (place->word.kind() == PageKind::slab) return free_slot(*place);
    const std::uint32_t now = stamp(sys::now_ns());
    if (keep_run(place->page, place->word, now)) return true;
    const PageWord mine{PageKind::warm_claim, me_, place->word.generation()};
    if (!replace(place->page, place->word, mine)) continue;
    finish_claim(place->page, now);
    header().freed_run.store(place->page, std::memory_order_relaxed);
    return true;
  }
  return false;
}

bool Arena::transfer(BlockRef ref, OwnerId from, OwnerId to) noexcept {
  const std::optional<Place> place = place_of(ref);
  if (!place) return false;
  if (place->word.kind() == PageKind::slab) {
    SharedSlotWord& shared = slot_words(place->page)[place->slot];
    return replace_slot(shared, SlotWord::owned(from, place->generation),
                        SlotWord::owned(to, place->generation));
  }
  return place->word.owner() == from &&
         replace(place->page, place->word, place->word.with_owner(to));
}

std::optional<OwnerId> Arena::owner(BlockRef ref) const noexcept {
  const std::optional<Place> place = place_of(ref);
  if (!place) return {};
  if (place->word.kind() != PageKind::slab) return place->word.owner();
  const SlotWord slot = load_slot(slot_words(place->page)[place->slot]);
  if (!slot.is_owned() || slot.generation() != place->generation) return {};
  return slot.owner();
}

}  // namespace brood::shm
