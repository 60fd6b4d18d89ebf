#include "shm/semaphore.hpp"

#include <algorithm>
#include <new>

namespace brood::shm {

namespace {

using Word = sys::Atomic<std::uint64_t>;

// A look at all permits is taken so often until two agree.
constexpr int kMostLooks = 8;

}  // namespace

Permits::Permits(std::span<std::byte> body) noexcept
    : head_(*reinterpret_cast<SemaphoreBody*>(body.data())) {
  const std::size_t room = (body.size() - sizeof(SemaphoreBody)) / sizeof(Word);
  const std::size_t permits = head_.permits.load(std::memory_order_relaxed);
  words_ = {reinterpret_cast<Word*>(&head_ + 1), std::min(permits, room)};
}

void Permits::begin(std::span<std::byte> body, std::uint32_t permits) noexcept {
  auto* head = new (body.data()) SemaphoreBody{};
  new (head + 1) Word[permits]{};
  head->permits.store(permits, std::memory_order_relaxed);
}

// Members begin to look in different places, so that they don't get into each other's way, and find
// their own soon.
std::size_t Permits::start_of(OwnerId me) const noexcept {
  return words_.empty() ? 0 : me.slot * std::size_t{7} % words_.size();
}

bool Permits::acquire(OwnerId me) noexcept {
  const std::size_t start = start_of(me);
  for (std::size_t i = 0; i < words_.size(); ++i) {
    const std::size_t at = start + i < words_.size() ? start + i : start + i - words_.size();
    std::uint64_t bits = words_[at].load(std::memory_order_seq_cst);
    for (;;) {
      const PermitWord permit = PermitWord::unpack(bits);
      if (permit.held) break;
      const PermitWord mine{true, me, permit.changes + 1};
      if (words_[at].compare_exchange_weak(bits, mine.pack(), std::memory_order_seq_cst)) {
        return true;
      }
    }
  }
  std::uint64_t extra = head_.extra.load(std::memory_order_seq_cst);
  while (extra > 0) {
    if (head_.extra.compare_exchange_weak(extra, extra - 1, std::memory_order_seq_cst)) return true;
  }
  return false;
}

bool Permits::set_free(Word& word, std::uint64_t bits, PermitWord permit) noexcept {
  const PermitWord free{false, {}, permit.changes + 1};
  return word.compare_exchange_strong(bits, free.pack(), std::memory_order_seq_cst);
}

bool Permits::release_one(OwnerId me, bool anybodys, bool* moved) noexcept {
  const std::size_t start = start_of(me);
  for (std::size_t i = 0; i < words_.size(); ++i) {
    const std::size_t at = start + i < words_.size() ? start + i : start + i - words_.size();
    const std::uint64_t bits = words_[at].load(std::memory_order_seq_cst);
    const PermitWord permit = PermitWord::unpack(bits);
    if (!permit.held || (!anybodys && permit.holder != me)) continue;
    if (set_free(words_[at], bits, permit)) return true;
    *moved = true;
  }
  return false;
}

Permits::Released Permits::release(OwnerId me, bool bounded) noexcept {
  bool moved = false;
  if (release_one(me, false, &moved)) return Released::yes;
  // All are free only if they were so at one time: if none changed between two looks.
  std::uint64_t before = 0;
  for (int look = 0; look < kMostLooks; ++look) {
    moved = false;
    std::uint64_t changes = 0;
    for (const Word& word : words_) {
      changes += PermitWord::unpack(word.load(std::memory_order_seq_cst)).changes;
    }
    if (release_one(me, true, &moved)) return Released::yes;
    if (look > 0 && !moved && changes == before) break;
    before = changes;
  }
  if (bounded) return Released::too_many;
  head_.extra.fetch_add(1, std::memory_order_seq_cst);
  return Released::yes;
}

std::uint64_t Permits::value() const noexcept {
  std::uint64_t value = 0;
  std::uint64_t before = 0;
  for (int look = 0; look < kMostLooks; ++look) {
    std::uint64_t changes = 0;
    value = head_.extra.load(std::memory_order_seq_cst);
    for (const Word& word : words_) {
      const PermitWord permit = PermitWord::unpack(word.load(std::memory_order_seq_cst));
      value += permit.held ? 0U : 1U;
      changes += permit.changes;
    }
    if (look > 0 && changes == before) break;
    before = changes;
  }
  return value;
}

std::uint64_t Permits::held_by(OwnerId member) const noexcept {
  std::uint64_t count = 0;
  for (const Word& word : words_) {
    const PermitWord permit = PermitWord::unpack(word.load(std::memory_order_seq_cst));
    count += permit.held && permit.holder == member ? 1U : 0U;
  }
  return count;
}

void Permits::bury(OwnerId dead) noexcept {
  bury_those([dead](OwnerId holder) { return holder == dead; });
}

}  // namespace brood::shm
