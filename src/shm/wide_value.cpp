#include "shm/wide_value.hpp"

#include <algorithm>
#include <cstring>

namespace brood::shm {

// Acquire: a reader that comes by a word of version v + 2 then sees, when it looks at the version
// again, that v is over.
void WideValue::read(std::uint32_t version, std::byte* to) const noexcept {
  const sys::Atomic<std::uint64_t>* words = buffer(version);
  std::size_t left = bytes_;
  for (; left >= 8; left -= 8, to += 8) {
    const std::uint64_t bits = (words++)->load(std::memory_order_acquire);
    std::memcpy(to, &bits, 8);
  }
  if (left == 0) return;
  const std::uint64_t bits = words->load(std::memory_order_acquire);
  std::memcpy(to, &bits, left);
}

// Release: see read().
void WideValue::write(std::uint32_t version, const std::byte* from) noexcept {
  sys::Atomic<std::uint64_t>* words = buffer(version);
  for (std::size_t left = bytes_; left > 0;) {
    const std::size_t part = std::min<std::size_t>(left, 8);
    std::uint64_t bits = 0;
    std::memcpy(&bits, from, part);
    (words++)->store(bits, std::memory_order_release);
    from += part;
    left -= part;
  }
}

bool WideValue::try_read(std::byte* to) const noexcept {
  const ValueState before = ValueState::unpack(body_.state.load(std::memory_order_acquire));
  read(before.version, to);
  const ValueState after = ValueState::unpack(body_.state.load(std::memory_order_relaxed));
  return before.version == after.version;
}

std::uint64_t WideValue::state() const noexcept {
  return body_.state.load(std::memory_order_relaxed);
}

// seq_cst, as is every change of the word: whoever waits for the claim sleeps on a bell (bell.hpp).
bool WideValue::try_claim(OwnerId me) noexcept {
  std::uint64_t bits = body_.state.load(std::memory_order_seq_cst);
  for (int i = 0; i < 4; ++i) {
    ValueState state = ValueState::unpack(bits);
    if (state.claimed) return false;
    state.claimed = true;
    state.claimer = me;
    if (body_.state.compare_exchange_strong(bits, state.pack(), std::memory_order_seq_cst)) {
      return true;
    }
  }
  return false;
}

bool WideValue::unclaim(std::uint64_t seen) noexcept {
  ValueState state = ValueState::unpack(seen);
  state.claimed = false;
  return body_.state.compare_exchange_strong(seen, state.pack(), std::memory_order_seq_cst);
}

void WideValue::read_claimed(std::byte* to) const noexcept {
  read(ValueState::unpack(body_.state.load(std::memory_order_relaxed)).version, to);
}

// Nobody else changes the word while it is claimed, unless somebody scribbles there.
bool WideValue::publish(const std::byte* from, OwnerId me) noexcept {
  ValueState state = ValueState::unpack(body_.state.load(std::memory_order_relaxed));
  if (!state.claimed || state.claimer != me) return false;
  ++state.version;
  state.claimed = false;
  write(state.version, from);
  body_.state.store(state.pack(), std::memory_order_seq_cst);
  return true;
}

bool WideValue::give_up(OwnerId me) noexcept {
  const std::uint64_t bits = body_.state.load(std::memory_order_relaxed);
  const ValueState state = ValueState::unpack(bits);
  return state.claimed && state.claimer == me && unclaim(bits);
}

void WideValue::bury(std::span<std::byte> body, OwnerId dead) noexcept {
  if (body.size() < kValueWordsOffset) return;
  WideValue value(body, 0);
  const std::uint64_t bits = value.state();
  const ValueState state = ValueState::unpack(bits);
  if (state.claimed && state.claimer == dead) value.unclaim(bits);
}

}  // namespace brood::shm
