#include "shm/barrier.hpp"

#include <algorithm>
#include <bit>
#include <new>
#include <optional>

namespace brood::shm {

namespace {

using Word = sys::Atomic<std::uint64_t>;

}  // namespace

void BarrierView::begin(std::span<std::byte> body, std::uint32_t parties) noexcept {
  auto* barrier = new (body.data()) BarrierBody{};
  new (barrier + 1) Word[places_of(parties)]{};
  barrier->parties.store(parties, std::memory_order_relaxed);
}

BarrierView::BarrierView(std::span<std::byte> body) noexcept
    : body_(*reinterpret_cast<BarrierBody*>(body.data())) {
  const std::size_t room = (body.size() - sizeof(BarrierBody)) / sizeof(Word);
  const std::size_t most = std::min<std::size_t>((room - 2) / 2, kMostParties);
  const std::size_t said = body_.parties.load(std::memory_order_relaxed);
  parties_ = static_cast<std::uint32_t>(std::clamp<std::size_t>(said, 1, most));
  places_ = {reinterpret_cast<Word*>(&body_ + 1), places_of(parties_)};
}

// Swaps what `next(word)` makes of it; false: `next` said no, by leaving it unset.
template <class Next>
bool BarrierView::change(Next&& next) noexcept {
  std::uint64_t bits = body_.word.load(std::memory_order_seq_cst);
  for (;;) {
    const std::optional<BarrierWord> wanted = next(BarrierWord::unpack(bits));
    if (!wanted) return false;
    if (body_.word.compare_exchange_weak(bits, wanted->pack(), std::memory_order_seq_cst)) {
      return true;
    }
  }
}

std::size_t BarrierView::take_place(OwnerId me, std::uint32_t generation) noexcept {
  const PlaceWord mine{true, me, generation};
  for (std::size_t i = 0; i < places_.size(); ++i) {
    std::uint64_t bits = places_[i].load(std::memory_order_seq_cst);
    while (!PlaceWord::unpack(bits).taken) {
      if (places_[i].compare_exchange_weak(bits, mine.pack(), std::memory_order_seq_cst)) return i;
    }
  }
  return places_.size();
}

BarrierView::Arrival BarrierView::arrive(OwnerId me, bool has_action) noexcept {
  Arrival arrival;
  std::uint64_t bits = body_.word.load(std::memory_order_seq_cst);
  bool has_place = false;
  const auto give_up = [&](Arrived how) {
    if (has_place) places_[arrival.place].store(0, std::memory_order_seq_cst);
    arrival.how = how;
    return arrival;
  };
  for (;;) {
    const BarrierWord word = BarrierWord::unpack(bits);
    if (word.state == BarrierState::broken) return give_up(Arrived::broken);
    if (word.state == BarrierState::acting) return give_up(Arrived::full);
    // The place says of which generation its party's death would be: before it arrives there.
    if (!has_place) {
      arrival.place = take_place(me, word.generation);
      if (arrival.place == places_.size()) return give_up(Arrived::full);
      has_place = true;
    } else if (arrival.generation != word.generation) {
      places_[arrival.place].store(PlaceWord{true, me, word.generation}.pack(),
                                   std::memory_order_seq_cst);
    }
    arrival.generation = word.generation;
    arrival.index = std::min(word.arrived, parties_ - 1);
    const bool last = arrival.index == parties_ - 1;
    BarrierWord next = word;
    ++next.arrived;
    arrival.how = Arrived::waits;
    if (last && has_action) {
      next.state = BarrierState::acting;
      arrival.how = Arrived::acts;
    } else if (last) {
      next = word.next(true);
      arrival.how = Arrived::passed;
    }
    if (body_.word.compare_exchange_weak(bits, next.pack(), std::memory_order_seq_cst)) {
      return arrival;
    }
  }
}

void BarrierView::leave(const Arrival& arrival) noexcept {
  if (arrival.place < places_.size()) places_[arrival.place].store(0, std::memory_order_seq_cst);
}

BarrierView::Outcome BarrierView::outcome(std::uint32_t generation) const noexcept {
  const BarrierWord word = look();
  const std::uint32_t since = word.generation - generation;
  if (since == 0) {
    return word.state == BarrierState::broken ? Outcome::broken : Outcome::open;
  }
  if (since <= BarrierWord::kOutcomes) {
    return (word.outcomes >> (since - 1) & 1U) != 0 ? Outcome::broken : Outcome::passed;
  }
  const int broken = std::popcount(word.outcomes);
  return broken > static_cast<int>(BarrierWord::kOutcomes / 2) ? Outcome::broken : Outcome::passed;
}

bool BarrierView::acted(std::uint32_t generation) noexcept {
  return change([&](const BarrierWord& word) -> std::optional<BarrierWord> {
    if (word.generation != generation || word.state != BarrierState::acting) return std::nullopt;
    return word.next(true);
  });
}

bool BarrierView::break_generation(std::uint32_t generation) noexcept {
  return change([&](const BarrierWord& word) -> std::optional<BarrierWord> {
    if (word.generation != generation || word.state == BarrierState::broken) return std::nullopt;
    BarrierWord broken = word;
    broken.state = BarrierState::broken;
    broken.arrived = 0;
    return broken;
  });
}

void BarrierView::abort() noexcept {
  change([](const BarrierWord& word) -> std::optional<BarrierWord> {
    if (word.state == BarrierState::broken) return std::nullopt;
    BarrierWord broken = word;
    broken.state = BarrierState::broken;
    broken.arrived = 0;
    return broken;
  });
}

void BarrierView::reset() noexcept {
  change([](const BarrierWord& word) -> std::optional<BarrierWord> {
    if (word.state == BarrierState::filling && word.arrived == 0) return std::nullopt;
    return word.next(false);
  });
}

void BarrierView::bury(OwnerId dead) noexcept {
  for (Word& place : places_) {
    std::uint64_t bits = place.load(std::memory_order_seq_cst);
    const PlaceWord word = PlaceWord::unpack(bits);
    if (!word.taken || word.party != dead) continue;
    break_generation(word.generation);
    place.compare_exchange_strong(bits, 0, std::memory_order_seq_cst);
  }
}

}  // namespace brood::shm
