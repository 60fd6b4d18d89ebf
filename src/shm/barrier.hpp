// How parties come to a barrier and pass it (sync_layout.hpp), without waiting.
//
// Threads: any, of any process. Blocking: never. Ownership: of a place by the party that took it.
// Errors: as values; everything in shared memory is input. Death: of a party, at any instruction,
// leaves a place that names it; bury() then breaks the generation that it was to pass, unless that
// has passed. bury() may be repeated.
//
// Memory ordering: what a party did before it arrived is known to all who pass with it, by the
// swaps of the barrier's word, each of which reads from the one before. seq_cst for the sake of
// bells.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "shm/sync_layout.hpp"

namespace brood::shm {

class BarrierView {
 public:
  static constexpr std::size_t bytes_for(std::uint32_t parties) noexcept {
    return sizeof(BarrierBody) + places_of(parties) * sizeof(std::uint64_t);
  }
  // Of a body of zeros, before anybody else sees it.
  static void begin(std::span<std::byte> body, std::uint32_t parties) noexcept;
  // A view of an object's body, which has at least bytes_for(1).
  explicit BarrierView(std::span<std::byte> body) noexcept;

  [[nodiscard]] std::uint32_t parties() const noexcept { return parties_; }
  [[nodiscard]] BarrierWord look() const noexcept {
    return BarrierWord::unpack(body_.word.load(std::memory_order_seq_cst));
  }
  [[nodiscard]] BarrierBody& body() noexcept { return body_; }

  enum class Arrived : std::uint8_t {
    waits,   // for the others
    passed,  // it was the last
    acts,    // it was the last, and all wait for it to act and call acted()
    broken,
    full,  // others are about to pass: try again
  };
  struct Arrival {
    Arrived how = Arrived::full;
    std::uint32_t index = 0;
    std::uint32_t generation = 0;
    std::size_t place = 0;  // to be left, unless it is broken or full
  };
  Arrival arrive(OwnerId me, bool has_action) noexcept;
  // Whoever waits at the entrance may come in then.
  void leave(const Arrival& arrival) noexcept;

  enum class Outcome : std::uint8_t { open, passed, broken };
  [[nodiscard]] Outcome outcome(std::uint32_t generation) const noexcept;
  // After the action. False: it is broken meanwhile.
  bool acted(std::uint32_t generation) noexcept;
  // Breaks this generation. False: it has ended already.
  bool break_generation(std::uint32_t generation) noexcept;
  // Breaks whichever is there.
  void abort() noexcept;
  // A new generation; who waits in the old one is told that it is broken.
  void reset() noexcept;

  void bury(OwnerId dead) noexcept;
  // The same for all parties of whom `is_dead` says so; and breaks a generation that waits for an
  // action of which nobody is left. Whether anything changed.
  template <class IsDead>
  bool bury_those(IsDead&& is_dead) noexcept {
    bool any = false;
    const BarrierWord word = look();
    bool somebody = word.state != BarrierState::acting;
    for (sys::Atomic<std::uint64_t>& place : places_) {
      const PlaceWord it = PlaceWord::unpack(place.load(std::memory_order_seq_cst));
      if (!it.taken) continue;
      if (is_dead(it.party)) {
        bury(it.party);
        any = true;
      } else {
        somebody = somebody || it.generation == word.generation;
      }
    }
    return (!somebody && break_generation(word.generation)) || any;
  }

 private:
  template <class Next>
  bool change(Next&& next) noexcept;
  [[nodiscard]] std::size_t take_place(OwnerId me, std::uint32_t generation) noexcept;

  BarrierBody& body_;
  std::uint32_t parties_ = 1;
  std::span<sys::Atomic<std::uint64_t>> places_;
};

}  // namespace brood::shm
