// Cleaning up after the dead, returning idle memory, and looking at the arena as a whole.
#include <algorithm>

#include "shm/arena.hpp"
#include "sys/clock.hpp"

namespace brood::shm {

using namespace arena;

namespace {

constexpr std::uint32_t kPagesPerRelease = 256;  // bounds what a death in between leaves claimed

std::uint32_t age(std::uint32_t now, std::uint32_t since) noexcept {
  const auto units = static_cast<std::int32_t>(now - since);
  return units < 0 ? 0 : static_cast<std::uint32_t>(units);
}

}  // namespace

std::size_t Arena::sweep_slots(PageIndex page, std::uint32_t count, OwnerId dead) noexcept {
  std::size_t freed = 0;
  SharedSlotWord* words = slot_words(page);
  for (std::uint32_t i = 0; i < count; ++i) {
    const SlotWord seen = load_slot(words[i]);
    // If it changed under our hands, another sweeper or a late holder freed it.
    if (seen.is_owned_by(dead) && replace_slot(words[i], seen, seen.freed())) ++freed;
  }
  return freed;
}

std::size_t Arena::sweep(OwnerId dead) noexcept {
  const std::uint32_t now = stamp(sys::now_ns());
  const std::uint32_t end = known_pages();
  std::size_t freed = 0;
  for (PageIndex page = 0; page < end; ++page) {
    const PageWord seen = word(page);
    if (seen.kind() == PageKind::slab) {
      const std::size_t slots = sweep_slots(page, slots_in(seen.size_class()), dead);
      freed += slots;
      const bool orphan = seen.owner() == dead && replace(page, seen, seen.with_owner(kNobody));
      if (orphan || (slots > 0 && seen.owner() == kNobody)) retire_slab(page, now);
    } else if (seen.is_claim() && seen.owner() != dead) {
      // Someone alive writes the slot words; the dead may have taken one (see kPreparingSlab).
      const std::uint32_t detail = record(page).detail.load(std::memory_order_relaxed);
      const std::uint32_t size_class = detail - kPreparingSlab;
      if (size_class < kClasses) freed += sweep_slots(page, slots_in(size_class), dead);
    } else if (seen.is_claim() || (seen.kind() == PageKind::run_head && seen.owner() == dead)) {
      const PageKind kind = seen.is_claim() ? seen.kind() : PageKind::warm_claim;
      if (!replace(page, seen, {kind, me_, seen.generation()})) continue;
      finish_claim(page, now);
      ++freed;
    }
  }
  return freed;
}

// `sum` tells one emptiness from another with blocks in between, since each freed block adds 1.
bool Arena::is_empty_slab(PageIndex page, PageWord slab, std::uint32_t* sum) const noexcept {
  const SharedSlotWord* words = slot_words(page);
  *sum = 0;
  for (std::uint32_t i = 0; i < slots_in(slab.size_class()); ++i) {
    const SlotWord slot = load_slot(words[i]);
    if (!slot.is_free()) return false;
    *sum += slot.generation();
  }
  *sum &= ~kPreparingSlab;
  return true;
}

// Lets go of the first `count` slots, which we have taken.
void Arena::undo_take(PageIndex page, std::uint32_t count) noexcept {
  SharedSlotWord* words = slot_words(page);
  for (std::uint32_t i = 0; i < count; ++i) {
    const SlotWord seen = load_slot(words[i]);
    if (seen.is_owned_by(me_)) replace_slot(words[i], seen, seen.freed());
  }
}

// Turns a slab without blocks into a free page, whoever owns the slab. Having taken all slots, we
// know that nobody holds a block there or can get one; and from the first one on, the page can't
// begin another life.
bool Arena::retire_slab(PageIndex page, std::uint32_t since) noexcept {
  const PageWord seen = word(page);
  std::uint32_t sum = 0;
  if (seen.kind() != PageKind::slab || !is_empty_slab(page, seen, &sum)) return false;
  SharedSlotWord* words = slot_words(page);
  const std::uint32_t count = slots_in(seen.size_class());
  for (std::uint32_t i = 0; i < count; ++i) {
    const SlotWord slot = load_slot(words[i]);
    if (!slot.is_free() || !replace_slot(words[i], slot, SlotWord::owned(me_, slot.generation()))) {
      undo_take(page, i);
      return false;
    }
  }
  if (!replace(page, seen, {PageKind::warm_claim, me_, seen.generation()})) {
    undo_take(page, count);
    return false;
  }
  become_free(page, since);
  return true;
}

// Allocating takes no time stamps, so a slab is idle if it was empty at two visits with no block
// allocated in between.
bool Arena::retire_if_idle(PageIndex page, std::uint32_t now, std::uint32_t idle) noexcept {
  std::uint32_t sum = 0;
  const PageWord seen = word(page);
  // It may have become something else since the caller looked.
  if (seen.kind() != PageKind::slab || !is_empty_slab(page, seen, &sum)) return true;
  PageRecord& rec = record(page);
  if (idle > 0 && rec.detail.exchange(sum, std::memory_order_relaxed) != sum) {
    rec.since.store(now, std::memory_order_relaxed);
    return false;
  }
  const std::uint32_t since = rec.since.load(std::memory_order_relaxed);
  if (idle > 0 && age(now, since) < idle) return false;
  return retire_slab(page, idle > 0 ? since : now);
}

// How many pages of it stay.
std::uint32_t Arena::dissolve_if_idle(PageIndex head, std::uint32_t now,
                                      std::uint32_t idle) noexcept {
  const PageWord seen = word(head);
  if (!seen.is_kept()) return 0;
  if (age(now, record(head).since.load(std::memory_order_relaxed)) < idle) return run_pages(head);
  dissolve_run(head, seen);
  return 0;
}

std::size_t Arena::give_back(std::int64_t now_ns, std::int64_t idle_ns) noexcept {
  const std::uint32_t now = stamp(now_ns);
  const auto idle = static_cast<std::uint32_t>(
      std::clamp<std::int64_t>((idle_ns + (1 << 20) - 1) >> 20, 0, 0x7fffffff));
  const std::uint32_t end = known_pages();
  std::size_t remaining = 0;
  PageIndex claimed = 0;  // so many pages before this one are our claims
  for (PageIndex page = 0; page < end; ++page) {
    if (word(page).kind() == PageKind::slab && !retire_if_idle(page, now, idle)) ++remaining;
    if (word(page).is_kept()) remaining += dissolve_if_idle(page, now, idle);
    const PageWord seen = word(page);
    const bool is_free = seen.kind() == PageKind::free;
    const bool is_old =
        is_free && age(now, record(page).since.load(std::memory_order_relaxed)) >= idle;
    const bool is_ours =
        is_old && replace(page, seen, {PageKind::cold_claim, me_, seen.generation()});
    remaining += is_free && !is_ours;
    if (claimed > 0 && (!is_ours || claimed == kPagesPerRelease)) {
      become_absent(page - claimed, claimed);
      claimed = 0;
    }
    claimed += is_ours;
  }
  if (claimed > 0) become_absent(end - claimed, claimed);
  return remaining;
}

// How many blocks the page may have.
std::uint32_t Arena::blocks_in(PageIndex page) const noexcept {
  const PageWord seen = word(page);
  if (seen.kind() == PageKind::slab) return slots_in(seen.size_class());
  return seen.kind() == PageKind::run_head && !seen.is_kept() ? 1 : 0;
}

BlockRef Arena::block_at(PageIndex page, std::uint32_t index) const noexcept {
  const PageWord seen = word(page);
  if (seen.is_kept()) return {};
  if (seen.kind() == PageKind::run_head) return make_ref(page, 0, seen.first_block_generation());
  if (seen.kind() != PageKind::slab || index >= slots_in(seen.size_class())) return {};
  const SlotWord slot = load_slot(slot_words(page)[index]);
  if (!slot.is_owned()) return {};
  return make_ref(page, index << seen.size_class(), slot.generation());
}

Arena::Stats Arena::stats() const noexcept {
  Stats result;
  const std::uint32_t end = known_pages();
  bool is_kept = false;  // the run whose rest we see
  for (PageIndex page = 0; page < end; ++page) {
    const PageWord seen = word(page);
    if (seen.kind() != PageKind::run_rest) is_kept = seen.is_kept();
    result.pages_with_memory += seen.kind() != PageKind::absent;
    result.pages_free += is_kept || seen.kind() == PageKind::free;
    result.claims_in_progress += seen.is_claim();
    if (!is_kept && (seen.kind() == PageKind::run_head || seen.kind() == PageKind::run_rest)) {
      result.live_blocks += seen.kind() == PageKind::run_head;
      result.live_bytes += kPageBytes;
    }
    if (seen.kind() != PageKind::slab) continue;
    const SharedSlotWord* words = slot_words(page);
    for (std::uint32_t i = 0; i < slots_in(seen.size_class()); ++i) {
      if (!load_slot(words[i]).is_owned()) continue;
      result.live_blocks += 1;
      result.live_bytes += slot_bytes(seen.size_class());
    }
  }
  return result;
}

bool Arena::is_valid(std::string* why) const {
  const std::uint32_t end = known_pages();
  const auto broken = [&](PageIndex page, const char* what) {
    if (why != nullptr) *why = "page " + std::to_string(page) + ": " + what;
    return false;
  };
  for (PageIndex page = 0; page < end; ++page) {
    const PageWord seen = word(page);
    const std::uint32_t detail = record(page).detail.load(std::memory_order_relaxed);
    if (seen.kind() != PageKind::absent && page >= header().top.load(std::memory_order_relaxed)) {
      return broken(page, "in use, above the top");
    }
    if (seen.kind() == PageKind::run_rest) {
      const std::uint32_t distance = seen.distance();
      if (distance == 0 || distance > page) return broken(page, "rest without a head");
      const PageWord before = word(page - 1);
      const bool follows = distance == 1
                               ? before.kind() == PageKind::run_head || before.is_claim()
                               : before == PageWord::rest(distance - 1, before.generation());
      if (!follows) return broken(page, "rest with a gap before it");
    }
    if (seen.kind() == PageKind::run_head) {
      if (detail == 0 || detail > end - page) return broken(page, "run of impossible length");
      const PageWord tail = word(page + detail - 1);
      if (detail > 1 && tail != PageWord::rest(detail - 1, tail.generation())) {
        return broken(page, "run shorter than its length");
      }
      const PageIndex next = page + detail;
      if (next < end && word(next) == PageWord::rest(detail, word(next).generation())) {
        return broken(page, "run longer than its length");
      }
    }
    if (seen.kind() != PageKind::slab) continue;
    for (std::uint32_t i = 0; i < slots_in(seen.size_class()); ++i) {
      const SlotWord slot = load_slot(slot_words(page)[i]);
      if (!slot.is_free() && !slot.is_owned()) return broken(page, "slot in no state");
      if (slot.generation() == 0) return broken(page, "slot of generation 0");
    }
  }
  return true;
}

}  // namespace brood::shm
