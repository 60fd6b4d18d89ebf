// The search for schedules: which choices the next execution makes.
//
// An execution is a sequence of choices: whose turn it is, and which way a step goes that may go
// several. Orders of turns that differ only in turns which don't touch each other are equal, so a
// turn is tried earlier only where it could have come before one that it depends on: dynamic
// partial order reduction (Flanagan and Godefroid, POPL 2005) with sleep sets (Godefroid 1996).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "schedule/memory.hpp"

namespace brood::schedule {

using ActorSet = std::uint32_t;  // a bit per actor
constexpr ActorSet only(int actor) noexcept { return ActorSet{1} << actor; }

// What an actor does in one turn, as far as it matters to others.
struct Step {
  const void* address = nullptr;  // null: nothing shared
  bool writes = false;
  bool sc = false;
  bool waits_for_all = false;  // depends on whatever others do
  bool may_die = false;        // so long as no other has
  bool dies = false;
  const void* marked = nullptr;  // a second word that is written, or may be
};

class Search {
 public:
  // `seed` 0: all executions; else endless ones by chance. `reduce`: leave out what is equal.
  Search(std::uint64_t seed, bool reduce) : seed_(seed), reduce_(reduce), random_(seed) {}

  void begin_execution();
  // Looks what the turns of the execution that has ended could have been instead; `next` are the
  // steps that were not taken any more, of the actors in `left`. False: nothing is left to try.
  bool end_execution(ActorSet left, const std::array<Step, kMaxActors>& next);

  // One of `count` ways.
  std::uint32_t way(std::uint32_t count);
  // One chance in `n`, by seed; all executions: both ways are tried.
  bool chance(std::uint32_t n);
  // Who of `can_go` has the next turn, preferably `last`; -1: this execution would equal another.
  int turn(ActorSet can_go, int last);
  // The actor whose turn it is takes this step. `next`: what each actor would do.
  void take(int actor, const Step& step, const std::array<Step, kMaxActors>& next);

  // `second` could not go on without what `first` did.
  void order(int first, int second);

  // False if the scene did not behave as in the run before, with the same choices.
  [[nodiscard]] bool deterministic() const noexcept { return deterministic_; }

 private:
  struct Choice {
    std::uint32_t chosen = 0;  // a way, or an actor
    std::uint32_t count = 0;   // of ways; 0: of a turn
    ActorSet can_go = 0;
    ActorSet asleep = 0;  // need not be tried: they were before, and nothing since mattered to them
    ActorSet wanted = 0;
    ActorSet tried = 0;
  };
  struct Turn {
    int actor = 0;
    int number = 0;  // of this actor's turns
    Step step;
    std::size_t choice = 0;
    std::array<int, kMaxActors> knows{};  // how many turns of each actor came before it for sure
  };

  void find_race(int actor, const Step& step, std::array<int, kMaxActors>& knows);
  void want(const Turn& instead_of, int actor, const std::array<int, kMaxActors>& knows);

  std::uint64_t seed_;
  bool reduce_;
  std::minstd_rand random_;
  unsigned patience_ = 2;  // by seed: how many turns in a row are usual in this execution
  std::vector<Choice> choices_;
  std::size_t depth_ = 0;
  ActorSet asleep_ = 0;
  std::size_t turn_choice_ = 0;
  std::vector<Turn> turns_;
  std::array<std::array<int, kMaxActors>, kMaxActors> knows_{};
  bool deterministic_ = true;
};

}  // namespace brood::schedule
