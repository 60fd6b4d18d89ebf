// The arena's pages: finding, claiming, backing with memory and letting go of them.
#include <algorithm>

#include "shm/arena.hpp"
#include "sys/clock.hpp"
#include "sys/memory.hpp"

namespace brood::shm {

using namespace arena;

namespace {

// Records that a hopeful search looks at before it settles for less; about 20 us.
constexpr std::uint32_t kSearchBudget = 16 * 1024;
constexpr std::uint32_t kUnlimited = 0xffffffff;
constexpr std::uint32_t kNeighbourhood = 32;  // pages; see claim_single
// One call to take memory can be interrupted by signals only as a whole, so it must be short.
constexpr std::uint32_t kPagesPerCall = 64;
// How often someone else may be quicker before we give up; each time, someone made progress.
constexpr int kAttempts = 64;

}  // namespace

RegionHeader& Arena::header() const noexcept {
  return *reinterpret_cast<RegionHeader*>(region_.base + region_.metadata_offset);
}

PageRecord& Arena::record(PageIndex page) const noexcept {
  std::byte* records = region_.base + region_.metadata_offset + kRecordsOffset;
  return reinterpret_cast<PageRecord*>(records)[page];
}

// Acquire: whoever sees a page in some state also sees what was written before it got there.
PageWord Arena::word(PageIndex page) const noexcept {
  return PageWord{record(page).word.load(std::memory_order_acquire)};
}

SharedSlotWord* Arena::slot_words(PageIndex page) const noexcept {
  const std::size_t offset = slot_words_offset(pages_) + page * kSlotWordsPerPageBytes;
  return reinterpret_cast<SharedSlotWord*>(region_.base + region_.metadata_offset + offset);
}

std::byte* Arena::payload(PageIndex page) const noexcept {
  return region_.base + region_.payload_offset + std::size_t{page} * kPageBytes;
}

// Each process does this for itself before it looks at a record: were it to believe another's word,
// a scribbled one would lead it to memory that can't be had.
int Arena::ensure_records(std::uint32_t pages) const noexcept {
  constexpr std::uint32_t kPerCall = 4096 / sizeof(PageRecord);
  std::uint32_t ready = ready_records_.load(std::memory_order_relaxed);
  if (pages <= ready) return 0;
  const std::uint32_t goal = (pages + kPerCall - 1) / kPerCall * kPerCall;
  const std::size_t from = region_.metadata_offset + kRecordsOffset + ready * sizeof(PageRecord);
  const int error = sys::reserve_extent(region_.fd, from, (goal - ready) * sizeof(PageRecord));
  if (error < 0) return -error;
  // Relaxed: the number only says what was reserved. It never falls: another thread may believe
  // since that it has seen more.
  const std::uint32_t now_ready = std::min(goal, pages_);
  while (ready < now_ready &&
         !ready_records_.compare_exchange_weak(ready, now_ready, std::memory_order_relaxed)) {
  }
  return 0;
}

// Pages [0, this) may be in use and can be looked at.
std::uint32_t Arena::known_pages() const noexcept {
  ensure_records(std::min(header().top.load(std::memory_order_acquire), pages_));
  return ready_records_.load(std::memory_order_relaxed);
}

// Release: a sweeper that is told of our death later finds every page that we claim after this.
void Arena::raise_top(std::uint32_t pages) noexcept {
  std::uint32_t top = header().top.load(std::memory_order_relaxed);
  for (int i = 0; i < kAttempts && top < pages; ++i) {
    if (header().top.compare_exchange_weak(top, pages, std::memory_order_release)) return;
  }
}

// Acquire and release: the new owner sees what the last one did, the next one what we have done.
bool Arena::replace(PageIndex page, PageWord expected, PageWord desired) noexcept {
  std::uint64_t bits = expected.bits();
  return record(page).word.compare_exchange_strong(bits, desired.bits(), std::memory_order_acq_rel,
                                                   std::memory_order_relaxed);
}

// The first `count` neighbours in [0, end) that seem to be wanted, looking from `from` on and
// around the end at `budget` records at most.
Arena::PageIndex Arena::find(std::uint32_t count, Want want, PageIndex from, std::uint32_t end,
                             std::uint32_t budget) const noexcept {
  if (count > end) return kNoPage;
  if (from >= end) from = 0;
  const std::uint64_t steps = std::min<std::uint64_t>(budget, std::uint64_t{end} + count);
  std::uint32_t found = 0;
  PageIndex page = from;
  for (std::uint64_t i = 0; i < steps; ++i) {
    const PageKind kind = word(page).kind();
    const bool wanted = (kind == PageKind::free && want != Want::cold) ||
                        (kind == PageKind::absent && want != Want::warm);
    found = wanted ? found + 1 : 0;
    ++page;
    if (found == count) return page - count;
    if (page == end) {
      page = 0;
      found = 0;
    }
  }
  return kNoPage;
}

// A free page with few free neighbours after it, which is of little use for a run.
Arena::PageIndex Arena::find_small_hole(std::uint32_t end, std::uint32_t budget) const noexcept {
  PageIndex page = 0;
  const std::uint32_t stop = std::min(end, budget);
  while (page < stop) {
    const PageIndex first = page;
    while (page < stop && word(page).kind() == PageKind::free) ++page;
    const std::uint32_t size = page - first;
    if (size > 0 && size < kNeighbourhood) return first;
    ++page;
  }
  return kNoPage;
}

std::uint32_t Arena::count_pages_with_memory() const noexcept {
  std::uint32_t count = 0;
  const std::uint32_t end = known_pages();
  for (PageIndex page = 0; page < end; ++page) count += word(page).kind() != PageKind::absent;
  return count;
}

// Counts a page before it gets memory, so that who dies in between leaves the count too high, never
// too low; the next one to meet the limit counts anew. Relaxed: the count orders nothing.
bool Arena::take_quota() noexcept {
  sys::Atomic<std::int64_t>& taken = header().pages_taken;
  const std::int64_t before = taken.fetch_add(1, std::memory_order_relaxed);
  if (before >= 0 && before < limit_pages_) return true;
  taken.fetch_sub(1, std::memory_order_relaxed);

  std::int64_t seen = taken.load(std::memory_order_relaxed);
  const std::int64_t counted = count_pages_with_memory();
  const bool granted = counted < limit_pages_;
  // Who has counted a page but not claimed it yet is overlooked: one page per process too many at
  // worst, until the next one who meets the limit counts it.
  const bool replaced =
      taken.compare_exchange_strong(seen, counted + granted, std::memory_order_relaxed);
  if (granted && !replaced) taken.fetch_add(1, std::memory_order_relaxed);
  return granted;
}

Arena::Claimed Arena::claim_page(PageIndex page, Want want) noexcept {
  const PageWord seen = word(page);
  if (seen.kind() == PageKind::free && want != Want::cold) {
    const PageWord mine{PageKind::warm_claim, me_, seen.generation()};
    return replace(page, seen, mine) ? Claimed::yes : Claimed::obstacle;
  }
  if (seen.kind() == PageKind::absent && want != Want::warm) {
    if (!take_quota()) return Claimed::limit;
    const PageWord mine{PageKind::cold_claim, me_, seen.generation()};
    if (replace(page, seen, mine)) return Claimed::yes;
    header().pages_taken.fetch_sub(1, std::memory_order_relaxed);
  }
  return Claimed::obstacle;
}

// Claims all of [first, first + count), or nothing. `obstacle` is the page that someone else was
// quicker to take, or kNoPage if the limit was in the way.
bool Arena::claim(PageIndex first, std::uint32_t count, Want want, PageIndex& obstacle) noexcept {
  raise_top(first + count);
  for (std::uint32_t i = 0; i < count; ++i) {
    const Claimed result = claim_page(first + i, want);
    if (result == Claimed::yes) continue;
    obstacle = result == Claimed::limit ? kNoPage : first + i;
    abandon(first, i);
    return false;
  }
  return true;
}

Arena::PageIndex Arena::find_and_claim(std::uint32_t count, Want want, PageIndex from,
                                       std::uint32_t end, std::uint32_t budget) noexcept {
  for (int i = 0; i < kAttempts; ++i) {
    const PageIndex first = find(count, want, from, end, budget);
    if (first == kNoPage) return kNoPage;
    PageIndex obstacle = kNoPage;
    if (claim(first, count, want, obstacle)) return first;
    if (obstacle == kNoPage) return kNoPage;
    from = obstacle + 1;
  }
  return kNoPage;
}

// A page next to our other slabs, if they are still there.
Arena::PageIndex Arena::claim_in_neighbourhood() noexcept {
  const std::uint32_t known = known_pages();
  const PageIndex first = neighbourhood_ / kNeighbourhood * kNeighbourhood;
  if (first >= known) return kNoPage;
  const PageIndex last = std::min(known, first + kNeighbourhood);
  bool has_slabs = false;
  for (PageIndex page = first; page < last; ++page) {
    has_slabs |= word(page).kind() == PageKind::slab;
  }
  if (!has_slabs) return kNoPage;
  raise_top(last);
  for (const Want want : {Want::warm, Want::cold}) {
    for (PageIndex page = first; page < last; ++page) {
      const Claimed result = claim_page(page, want);
      if (result == Claimed::limit) return kNoPage;
      if (result == Claimed::yes) return page;
    }
  }
  return kNoPage;
}

// A page for a slab. Each process keeps its slabs together, and rather takes cold memory than a
// bite out of a large stretch of warm pages: the next large block would find it too small.
Arena::PageIndex Arena::claim_single() noexcept {
  PageIndex page = claim_in_neighbourhood();
  if (page != kNoPage) return page;
  std::uint32_t known = known_pages();
  PageIndex obstacle = kNoPage;
  page = find_small_hole(known, kSearchBudget);
  if (page != kNoPage && claim(page, 1, Want::warm, obstacle)) return page;

  page = find_and_claim(1, Want::cold, neighbourhood_, known, kSearchBudget);
  if (page == kNoPage && known < pages_ && ensure_records(known + 1) == 0) {
    page = find_and_claim(1, Want::cold, known, known_pages(), kSearchBudget);
  }
  if (page == kNoPage) {
    dissolve_kept_runs();
    page = find_and_claim(1, Want::any, 0, known_pages(), kUnlimited);
  }
  if (page != kNoPage) neighbourhood_ = page;
  return page;
}

// Pages for a large block: warm ones if they are easily found, also in kept runs of other sizes;
// else where the last run was freed, warm and cold mixed; else untouched ones; else whatever there
// is.
Arena::PageIndex Arena::claim_run(std::uint32_t count) noexcept {
  std::uint32_t known = known_pages();
  const std::uint32_t top = std::min(header().top.load(std::memory_order_relaxed), pages_);
  const PageIndex hint = header().freed_run.load(std::memory_order_relaxed);
  const std::uint32_t budget = kSearchBudget + count;
  PageIndex head = find_and_claim(count, Want::warm, hint, known, budget);
  if (head == kNoPage && dissolve_kept_runs()) {
    head = find_and_claim(count, Want::warm, 0, known, budget);
  }
  if (head == kNoPage) head = find_and_claim(count, Want::any, hint, known, budget);
  if (head != kNoPage) return head;

  const std::uint32_t goal = top + std::min(count, pages_ - top);
  if (ensure_records(goal) == 0) {
    known = known_pages();
    const PageIndex from = top > count ? top - count : 0;
    head = find_and_claim(count, Want::any, from, known, 3 * count);
  }
  if (head == kNoPage) head = find_and_claim(count, Want::any, 0, known, kUnlimited);
  return head;
}

// Puts memory behind those of our claims that may have none. 0 or -errno.
int Arena::take_memory(PageIndex first, std::uint32_t count) noexcept {
  const PageIndex end = first + count;
  PageIndex page = first;
  while (page < end) {
    const PageIndex begin = page;
    while (page < end && page - begin < kPagesPerCall &&
           word(page).kind() != PageKind::warm_claim) {
      ++page;
    }
    if (page == begin) {
      ++page;
      continue;
    }
    const std::size_t offset = region_.payload_offset + std::size_t{begin} * kPageBytes;
    const std::size_t bytes = std::size_t{page - begin} * kPageBytes;
    if (const int error = sys::reserve_extent(region_.fd, offset, bytes); error < 0) return error;
  }
  return 0;
}

// Release: who takes the page next sees all that was done to it before. The same in become_absent.
void Arena::become_free(PageIndex page, std::uint32_t since) noexcept {
  PageRecord& rec = record(page);
  rec.detail.store(0, std::memory_order_relaxed);
  rec.since.store(since, std::memory_order_relaxed);
  const PageWord next = PageWord::unowned(PageKind::free, word(page).next_generation());
  rec.word.store(next.bits(), std::memory_order_release);
}

// Of cold claims. If the system does not take the memory back, it is merely not accounted for: to
// touch a page without memory by mistake would be worse.
void Arena::become_absent(PageIndex first, std::uint32_t count) noexcept {
  const std::size_t payload = region_.payload_offset + std::size_t{first} * kPageBytes;
  const std::size_t slots = region_.metadata_offset + slot_words_offset(pages_) +
                            std::size_t{first} * kSlotWordsPerPageBytes;
  sys::release_extent(region_.fd, payload, std::size_t{count} * kPageBytes);
  sys::release_extent(region_.fd, slots, std::size_t{count} * kSlotWordsPerPageBytes);
  for (PageIndex page = first; page < first + count; ++page) {
    record(page).detail.store(0, std::memory_order_relaxed);
    const PageWord next = PageWord::unowned(PageKind::absent, word(page).next_generation());
    record(page).word.store(next.bits(), std::memory_order_release);
    header().pages_taken.fetch_sub(1, std::memory_order_relaxed);
  }
}

// Lets go of claims that nothing was made of yet. Warm ones count as freed when they last were.
void Arena::abandon(PageIndex first, std::uint32_t count) noexcept {
  const PageIndex end = first + count;
  PageIndex page = first;
  while (page < end) {
    const PageIndex begin = page;
    while (page < end && word(page).kind() != PageKind::warm_claim) ++page;
    if (page > begin) become_absent(begin, page - begin);
    if (page < end) {
      become_free(page, record(page).since.load(std::memory_order_relaxed));
      ++page;
    }
  }
}

// Ends a claim of ours, together with the rest of the run that it is the head of, if any. From the
// tail down: if we die, what is left is still a claim followed by a rest without gaps.
void Arena::finish_claim(PageIndex page, std::uint32_t since) noexcept {
  const std::uint32_t end = known_pages();
  PageIndex tail = page + 1;
  while (tail < end && word(tail) == PageWord::rest(tail - page, word(tail).generation())) ++tail;
  while (--tail > page) become_free(tail, since);
  if (word(page).kind() == PageKind::warm_claim) {
    become_free(page, since);
  } else {
    become_absent(page, 1);
  }
}

}  // namespace brood::shm
