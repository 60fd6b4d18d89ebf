#include "schedule/search.hpp"

#include <algorithm>
#include <bit>

namespace brood::schedule {

namespace {

bool same_word(const void* a, const void* b) noexcept {
  return a != nullptr && b != nullptr &&
         reinterpret_cast<std::uintptr_t>(a) / 8 == reinterpret_cast<std::uintptr_t>(b) / 8;
}

// Whether it may matter which of two actors' steps comes first.
bool depend(const Step& a, const Step& b) noexcept {
  if (a.waits_for_all || b.waits_for_all) return true;
  if (a.sc && b.sc) return true;
  if ((a.dies && b.may_die) || (b.dies && a.may_die)) return true;
  if (same_word(a.address, b.address) && (a.writes || b.writes)) return true;
  return same_word(a.marked, b.address) || same_word(a.address, b.marked) ||
         same_word(a.marked, b.marked);
}

}  // namespace

void Search::begin_execution() {
  depth_ = 0;
  asleep_ = 0;
  turns_.clear();
  knows_ = {};
  // What takes many turns in a row would never happen if every turn were a toss.
  constexpr std::array<unsigned, 4> kPatience = {2, 8, 32, 128};
  if (seed_ != 0) patience_ = kPatience[random_() % kPatience.size()];
}

bool Search::end_execution(ActorSet left, const std::array<Step, kMaxActors>& next) {
  if (seed_ != 0) return true;
  if (depth_ < choices_.size()) deterministic_ = false;
  for (int actor = 0; actor < kMaxActors && reduce_; ++actor) {
    auto knows = knows_[static_cast<std::size_t>(actor)];
    if ((left & only(actor)) != 0) find_race(actor, next[static_cast<std::size_t>(actor)], knows);
  }
  while (!choices_.empty()) {
    Choice& last = choices_.back();
    if (last.count != 0) {
      if (++last.chosen < last.count) return true;
    } else {
      last.tried |= only(static_cast<int>(last.chosen));
      const ActorSet open = last.wanted & ~last.tried & ~last.asleep;
      if (open != 0) {
        last.chosen = static_cast<std::uint32_t>(std::countr_zero(open));
        return true;
      }
    }
    choices_.pop_back();
  }
  return false;
}

std::uint32_t Search::way(std::uint32_t count) {
  if (count == 1) return 0;
  if (seed_ != 0) return static_cast<std::uint32_t>(random_() % count);
  if (depth_ == choices_.size()) choices_.push_back({.count = count});
  Choice& choice = choices_[depth_++];
  deterministic_ = deterministic_ && choice.count == count;
  return std::min(choice.chosen, count - 1);
}

bool Search::chance(std::uint32_t n) { return seed_ != 0 ? random_() % n == 0 : way(2) == 1; }

int Search::turn(ActorSet can_go, int last) {
  if (seed_ != 0) {
    if ((can_go & only(last)) != 0 && random_() % patience_ != 0) return last;
    auto nth = static_cast<int>(random_() % static_cast<unsigned>(std::popcount(can_go)));
    ActorSet left = can_go;
    while (nth-- > 0) left &= left - 1;
    return std::countr_zero(left);
  }
  if (depth_ == choices_.size()) {
    const ActorSet open = can_go & ~asleep_;
    if (open == 0) return -1;
    const int first = (open & only(last)) != 0 ? last : std::countr_zero(open);
    choices_.push_back({.chosen = static_cast<std::uint32_t>(first),
                        .can_go = can_go,
                        .asleep = asleep_,
                        .wanted = reduce_ ? only(first) : can_go});
  }
  turn_choice_ = depth_;
  const Choice& choice = choices_[depth_++];
  deterministic_ = deterministic_ && choice.count == 0 && choice.can_go == can_go;
  return static_cast<int>(choice.chosen);
}

void Search::take(int actor, const Step& step, const std::array<Step, kMaxActors>& next) {
  if (seed_ != 0 || !reduce_) return;
  const Choice& choice = choices_[turn_choice_];
  asleep_ = choice.asleep | choice.tried;
  for (int other = 0; other < kMaxActors; ++other) {
    if (other == actor || depend(next[static_cast<std::size_t>(other)], step)) {
      asleep_ &= ~only(other);
    }
  }
  auto& knows = knows_[static_cast<std::size_t>(actor)];
  find_race(actor, step, knows);
  const int number = ++knows[static_cast<std::size_t>(actor)];
  turns_.push_back({actor, number, step, turn_choice_, knows});
}

void Search::order(int first, int second) {
  const auto& from = knows_[static_cast<std::size_t>(first)];
  auto& to = knows_[static_cast<std::size_t>(second)];
  for (std::size_t i = 0; i < kMaxActors; ++i) to[i] = std::max(to[i], from[i]);
}

// Finds the last turn that this step could have come before, and wants that to be tried. Then it
// knows all that it depends on.
void Search::find_race(int actor, const Step& step, std::array<int, kMaxActors>& knows) {
  const std::array<int, kMaxActors> before = knows;
  bool found = false;
  for (auto turn = turns_.rbegin(); turn != turns_.rend(); ++turn) {
    if (turn->actor == actor || !depend(turn->step, step)) continue;
    const auto whose = static_cast<std::size_t>(turn->actor);
    if (!found && turn->number > before[whose]) {
      found = true;
      want(*turn, actor, before);
    }
    if (turn->number <= knows[whose]) continue;
    for (std::size_t i = 0; i < kMaxActors; ++i) knows[i] = std::max(knows[i], turn->knows[i]);
  }
}

void Search::want(const Turn& instead_of, int actor, const std::array<int, kMaxActors>& knows) {
  Choice& choice = choices_[instead_of.choice];
  if ((choice.can_go & only(actor)) != 0) {
    choice.wanted |= only(actor);
    return;
  }
  // It could not go then: somebody did something first that lets it.
  for (const Turn& turn : turns_) {
    if (turn.choice <= instead_of.choice || (choice.can_go & only(turn.actor)) == 0) continue;
    if (turn.number > knows[static_cast<std::size_t>(turn.actor)]) continue;
    choice.wanted |= only(turn.actor);
    return;
  }
  choice.wanted |= choice.can_go;
}

}  // namespace brood::schedule
