// Runs that were freed and stay whole, for the next large block of their size: one swap each way,
// however many pages they have.
#include <algorithm>
#include <bit>
#include <cstring>

#include "shm/arena.hpp"
#include "sys/clock.hpp"

namespace brood::shm {

using namespace arena;

namespace {

unsigned size_of_run(std::uint32_t pages) noexcept {
  return std::min(static_cast<unsigned>(std::bit_width(pages)) - 1, kKeptSizes - 1);
}

}  // namespace

// How many pages the run at `head` has, as far as its length is borne out by its other end; else 0.
std::uint32_t Arena::run_pages(PageIndex head) const noexcept {
  const std::uint32_t pages = record(head).detail.load(std::memory_order_relaxed);
  const std::uint32_t known = known_pages();
  if (pages == 0 || head >= known || pages > known - head) return 0;
  const PageWord tail = word(head + pages - 1);
  if (pages > 1 && tail != PageWord::rest(pages - 1, tail.generation())) return 0;
  return pages;
}

// Instead of taking the run apart. False: it is as before.
bool Arena::keep_run(PageIndex head, PageWord seen, std::uint32_t now) noexcept {
  const std::uint32_t pages = run_pages(head);
  if (pages < 2) return false;
  record(head).since.store(now, std::memory_order_relaxed);
  const PageWord kept{PageKind::run_head, kKept, seen.next_generation()};
  if (!replace(head, seen, kept)) return false;
  // From here on it is as good as free; hints only let others find it.
  const unsigned size = size_of_run(pages);
  for (sys::Atomic<std::uint32_t>& hint : header().kept[size]) {
    std::uint32_t none = 0;
    if (!hint.compare_exchange_strong(none, head + 1, std::memory_order_relaxed)) continue;
    header().kept_sizes.fetch_or(1U << size, std::memory_order_relaxed);
    return true;
  }
  dissolve_run(head, kept);
  return true;
}

// A kept run of exactly that size becomes ours.
Arena::Allocation Arena::take_kept_run(std::uint32_t pages, bool zeroed) noexcept {
  for (sys::Atomic<std::uint32_t>& hint : header().kept[size_of_run(pages)]) {
    std::uint32_t bits = hint.load(std::memory_order_relaxed);
    if (bits == 0) continue;
    const PageIndex head = bits - 1;
    const PageWord seen = head < known_pages() ? word(head) : PageWord{};
    if (seen.is_kept() && run_pages(head) != pages) continue;
    const PageWord mine = seen.with_owner(me_);
    const bool is_ours = seen.is_kept() && replace(head, seen, mine);
    hint.compare_exchange_strong(bits, 0, std::memory_order_relaxed);
    if (!is_ours) continue;
    const std::size_t bytes = pages * kPageBytes;
    if (zeroed) std::memset(payload(head), 0, bytes);
    return {make_ref(head, 0, mine.first_block_generation()), {payload(head), bytes}, 0};
  }
  return {};
}

// Makes free pages of a kept run. False: somebody else was quicker.
bool Arena::dissolve_run(PageIndex head, PageWord kept) noexcept {
  const PageWord mine{PageKind::warm_claim, me_, kept.generation()};
  if (!replace(head, kept, mine)) return false;
  finish_claim(head, record(head).since.load(std::memory_order_relaxed));
  header().freed_run.store(head, std::memory_order_relaxed);
  return true;
}

// Of all that hints tell of. False: there was none.
bool Arena::dissolve_kept_runs() noexcept {
  bool any = false;
  if (header().kept_sizes.load(std::memory_order_relaxed) == 0) return false;
  const std::uint32_t sizes = header().kept_sizes.exchange(0, std::memory_order_relaxed);
  for (unsigned size = 0; size < kKeptSizes; ++size) {
    if ((sizes >> size & 1U) == 0) continue;
    for (sys::Atomic<std::uint32_t>& hint : header().kept[size]) {
      std::uint32_t bits = hint.load(std::memory_order_relaxed);
      if (bits == 0) continue;
      const PageIndex head = bits - 1;
      const PageWord seen = head < known_pages() ? word(head) : PageWord{};
      any |= seen.is_kept() && dissolve_run(head, seen);
      hint.compare_exchange_strong(bits, 0, std::memory_order_relaxed);
    }
  }
  return any;
}

}  // namespace brood::shm
