#include "shm/condition.hpp"

namespace brood::shm {

namespace {

// Whether ticket a was drawn before b.
bool is_earlier(std::uint64_t a, std::uint64_t b) noexcept {
  constexpr std::uint64_t kMask = (std::uint64_t{1} << WaitWord::kTicketBits) - 1;
  return a != b && ((b - a) & kMask) <= kMask / 2;
}

WaitWord look(const WaitCell& cell) noexcept {
  return WaitWord::unpack(cell.word.load(std::memory_order_seq_cst));
}

// Notifies and wakes the one who has waited longest. False: nobody waits.
bool notify_longest(ConditionBody& condition) noexcept {
  for (;;) {
    WaitCell* longest = nullptr;
    WaitWord its;
    for (WaitCell& cell : condition.cells) {
      const WaitWord word = look(cell);
      if (word.state != WaitState::waiting) continue;
      if (longest != nullptr && !is_earlier(word.ticket, its.ticket)) continue;
      longest = &cell;
      its = word;
    }
    if (longest == nullptr) return false;
    std::uint64_t bits = its.pack();
    WaitWord notified = its;
    notified.state = WaitState::notified;
    if (longest->word.compare_exchange_strong(bits, notified.pack(), std::memory_order_seq_cst)) {
      longest->bell.ring_for_all();
      return true;
    }
  }
}

}  // namespace

std::size_t enter(ConditionBody& condition, OwnerId me) noexcept {
  const std::uint64_t ticket = condition.tickets.fetch_add(1, std::memory_order_relaxed);
  const WaitWord waiting{WaitState::waiting, me, ticket};
  for (std::size_t i = 0; i < kWaitCells; ++i) {
    WaitCell& cell = condition.cells[i];
    if (look(cell).state != WaitState::empty) continue;
    std::uint64_t empty = 0;
    if (cell.word.compare_exchange_strong(empty, waiting.pack(), std::memory_order_seq_cst)) {
      return i;
    }
  }
  return kNoCell;
}

bool is_notified(const ConditionBody& condition, std::size_t cell) noexcept {
  return look(condition.cells[cell]).state != WaitState::waiting;
}

bool leave(ConditionBody& condition, std::size_t cell) noexcept {
  const std::uint64_t bits = condition.cells[cell].word.exchange(0, std::memory_order_seq_cst);
  return WaitWord::unpack(bits).state == WaitState::notified;
}

std::uint64_t notify(ConditionBody& condition, std::uint64_t count) noexcept {
  std::uint64_t notified = 0;
  while (notified < count && notify_longest(condition)) ++notified;
  condition.notifications.fetch_add(1, std::memory_order_seq_cst);
  return notified;
}

std::size_t waiters(const ConditionBody& condition) noexcept {
  std::size_t count = 0;
  for (const WaitCell& cell : condition.cells) {
    count += look(cell).state == WaitState::waiting ? 1U : 0U;
  }
  return count;
}

void bury_waiter(ConditionBody& condition, OwnerId dead) noexcept {
  for (WaitCell& cell : condition.cells) {
    std::uint64_t bits = cell.word.load(std::memory_order_seq_cst);
    for (;;) {
      const WaitWord word = WaitWord::unpack(bits);
      if (word.state == WaitState::empty || word.waiter != dead) break;
      if (!cell.word.compare_exchange_weak(bits, 0, std::memory_order_seq_cst)) continue;
      if (word.state == WaitState::notified) notify(condition, 1);
      break;
    }
  }
  // The dead may have notified some whom it did not wake.
  for (WaitCell& cell : condition.cells) {
    if (look(cell).state == WaitState::notified) cell.bell.ring_for_the_dead();
  }
}

}  // namespace brood::shm
