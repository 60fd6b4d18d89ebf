#include "shm/lock.hpp"

namespace brood::shm {

namespace {

// Swaps what `next(word)` makes of it; false: `next` said no, by leaving it unset.
template <class Next>
bool change(LockBody& lock, Next&& next) noexcept {
  std::uint64_t bits = lock.word.load(std::memory_order_seq_cst);
  for (;;) {
    const std::optional<LockWord> wanted = next(LockWord::unpack(bits));
    if (!wanted) return false;
    if (lock.word.compare_exchange_weak(bits, wanted->pack(), std::memory_order_seq_cst)) {
      return true;
    }
  }
}

bool is_owned(const LockWord& word, ThreadName me) noexcept {
  return word.state == LockState::held && word.owner == me;
}

// As it is once its owner has let go of it.
LockWord let_go(const LockWord& word) noexcept {
  LockWord left;
  if (word.damaged) {
    left.state = LockState::orphaned;
    left.owner = word.owner;
  }
  left.hungry = word.hungry;
  return left;
}

LockWord left_by_the_dead(const LockBody& lock, const LockWord& word) noexcept {
  LockWord left = let_go(word);
  if (lock.ignore_owner_death.load(std::memory_order_relaxed) != 0) {
    left.state = LockState::free;
    left.owner = {};
    return left;
  }
  left.state = LockState::orphaned;
  left.owner = word.owner;
  return left;
}

}  // namespace

Take take(LockBody& lock, ThreadName me, TakeRules rules) noexcept {
  Take result = Take::taken;
  change(lock, [&](const LockWord& word) -> std::optional<LockWord> {
    if (word.state == LockState::free) {
      result = word.hungry && rules.polite ? Take::busy : Take::taken;
      if (result == Take::busy) return std::nullopt;
      return LockWord::held_by(me);
    }
    if (word.state == LockState::orphaned) {
      result = Take::owner_died;
      return std::nullopt;
    }
    if (word.owner != me) {
      result = word.damaged ? Take::owner_died : Take::busy;
      return std::nullopt;
    }
    result = !rules.recursive                     ? Take::mine
             : word.depth == LockWord::kMostDepth ? Take::too_deep
                                                  : Take::deeper;
    if (result != Take::deeper) return std::nullopt;
    LockWord deeper = word;
    ++deeper.depth;
    return deeper;
  });
  return result;
}

Take retake(LockBody& lock, ThreadName me, std::uint32_t depth) noexcept {
  const bool taken = change(lock, [&](const LockWord& word) -> std::optional<LockWord> {
    if (word.state == LockState::held) return std::nullopt;
    LockWord mine = LockWord::held_by(me, depth);
    mine.damaged = word.state == LockState::orphaned;
    return mine;
  });
  return taken ? Take::taken : Take::busy;
}

Drop drop(LockBody& lock, ThreadName me) noexcept {
  Drop result = Drop::not_mine;
  change(lock, [&](const LockWord& word) -> std::optional<LockWord> {
    result = Drop::not_mine;
    if (!is_owned(word, me)) return std::nullopt;
    if (word.depth <= 1) {
      result = Drop::dropped;
      return let_go(word);
    }
    result = Drop::kept;
    LockWord kept = word;
    --kept.depth;
    return kept;
  });
  return result;
}

std::optional<std::uint32_t> drop_all(LockBody& lock, ThreadName me) noexcept {
  std::uint32_t depth = 0;
  const bool dropped = change(lock, [&](const LockWord& word) -> std::optional<LockWord> {
    if (!is_owned(word, me)) return std::nullopt;
    depth = word.depth;
    return let_go(word);
  });
  return dropped ? std::optional(depth) : std::nullopt;
}

bool recover(LockBody& lock, ThreadName me) noexcept {
  return change(lock, [&](const LockWord& word) -> std::optional<LockWord> {
    if (word.state == LockState::orphaned) return LockWord{};
    if (!is_owned(word, me) || !word.damaged) return std::nullopt;
    LockWord mended = word;
    mended.damaged = false;
    return mended;
  });
}

bool take_orphaned(LockBody& lock, ThreadName me) noexcept {
  return change(lock, [&](const LockWord& word) -> std::optional<LockWord> {
    if (word.state != LockState::orphaned) return std::nullopt;
    LockWord mine = LockWord::held_by(me);
    mine.damaged = true;
    return mine;
  });
}

void mark_hungry(LockBody& lock) noexcept {
  change(lock, [](const LockWord& word) -> std::optional<LockWord> {
    if (word.state != LockState::held || word.hungry) return std::nullopt;
    LockWord marked = word;
    marked.hungry = true;
    return marked;
  });
}

bool orphan(LockBody& lock, OwnerId dead) noexcept {
  return change(lock, [&](const LockWord& word) -> std::optional<LockWord> {
    if (word.state != LockState::held || word.owner.owner != dead) return std::nullopt;
    return left_by_the_dead(lock, word);
  });
}

bool orphan(LockBody& lock, ThreadName ended) noexcept {
  return change(lock, [&](const LockWord& word) -> std::optional<LockWord> {
    if (!is_owned(word, ended)) return std::nullopt;
    return left_by_the_dead(lock, word);
  });
}

}  // namespace brood::shm
