#include "schedule/memory.hpp"

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace brood::schedule {

Memory::Memory() : slots_(kSlots) {}

void Memory::clear() noexcept {
  ++epoch_;
  used_ = 0;
  knowledge_ = {};
  before_fences_ = {};
  sc_moment_ = 0;
}

Word& Memory::word(const void* address, std::size_t bytes) {
  auto slot = reinterpret_cast<std::uintptr_t>(address) / 4 * 0x9e3779b97f4a7c15U >> 50U;
  for (;; slot = (slot + 1) % kSlots) {
    Slot& s = slots_[slot];
    if (s.epoch == epoch_ && s.address == address) return words_[s.index];
    if (s.epoch == epoch_) continue;
    if (used_ > kSlots / 2) {
      std::fputs("schedule: too many shared words in one execution\n", stderr);
      std::abort();
    }
    s = {address, static_cast<std::uint32_t>(used_), epoch_};
    if (used_ == words_.size()) words_.emplace_back();
    Word& fresh = words_[used_++];
    fresh.address = address;
    fresh.old_reads = {};
    fresh.stores.clear();
    // What was there before: everybody knows it.
    Store& first = fresh.stores.emplace_back();
    std::memcpy(&first.bits, address, bytes);
    return fresh;
  }
}

std::uint32_t Memory::tick(int actor) noexcept {
  Knowledge& self = of(actor);
  const std::uint32_t now = ++self.happened.at[static_cast<std::size_t>(actor)];
  self.visible.at[static_cast<std::size_t>(actor)] = now;
  return now;
}

std::size_t Memory::readable(const Word& word, int actor, Order order) noexcept {
  Clock known = of(actor).visible;
  const bool sc = order == Order::seq_cst;
  if (sc) known.join(before_fences_);
  std::size_t back = 0;
  for (auto store = word.stores.rbegin(); store != word.stores.rend(); ++store, ++back) {
    // Nothing older than a store that the actor knows, or that came before it in the order of the
    // seq_cst operations.
    bool is_known = store->sc != 0 && (sc || store->sc < known.fence);
    for (int i = 0; i < kMaxActors && !is_known; ++i) {
      const std::uint32_t moment = store->seen[static_cast<std::size_t>(i)];
      is_known = moment != 0 && known.knows(i, moment);
    }
    if (is_known) return back + 1;
  }
  return word.stores.size();
}

std::uint64_t Memory::read(Word& word, std::size_t back, int actor, Order order) noexcept {
  Store& store = word.stores[word.stores.size() - 1 - back];
  const std::uint32_t now = tick(actor);
  std::uint32_t& seen = store.seen[static_cast<std::size_t>(actor)];
  if (seen == 0) seen = now;
  if (order == Order::seq_cst) ++sc_moment_;
  if (store.releases) {
    Knowledge& self = of(actor);
    if (acquires(order)) {
      self.happened.join(store.release);
      self.visible.join(store.release);
    } else {
      self.to_join.join(store.release);
    }
  }
  return store.bits;
}

void Memory::write(Word& word, std::size_t bytes, std::uint64_t bits, int actor, Order order,
                   bool replaces) noexcept {
  const std::uint32_t now = tick(actor);
  Knowledge& self = of(actor);
  Store fresh;
  fresh.bits = bits;
  fresh.actor = actor;
  fresh.seen[static_cast<std::size_t>(actor)] = now;
  if (order == Order::seq_cst) fresh.sc = ++sc_moment_;
  fresh.release = releases(order) ? self.happened : self.published;
  // A read-modify-write goes on with the release sequence of what it has read.
  if (replaces && word.stores.back().releases) fresh.release.join(word.stores.back().release);
  fresh.releases = true;
  word.stores.push_back(fresh);
  std::memcpy(const_cast<void*>(word.address), &bits, bytes);
}

void Memory::fence(int actor, Order order) noexcept {
  tick(actor);
  Knowledge& self = of(actor);
  if (acquires(order)) {
    self.happened.join(self.to_join);
    self.visible.join(self.to_join);
  }
  if (releases(order)) self.published = self.happened;
  if (order != Order::seq_cst) return;
  self.visible.join(before_fences_);
  before_fences_.join(self.happened);
  self.happened.fence = self.visible.fence = ++sc_moment_;
}

}  // namespace brood::schedule
