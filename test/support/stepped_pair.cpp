#include "support/stepped_pair.hpp"

#include <gtest/gtest.h>

#include <string>

namespace brood::test {

void SteppedPair::sweep(EveryInstruction& every) {
  if (EveryInstruction::only() >= 0) {
    kill_beside(every, EveryInstruction::only(), EveryInstruction::beside());
    return;
  }
  watch_every_instruction(every);
  int pairs = 0;
  for (; pairs < 1000 && !testing::Test::HasFailure() && !every.time_is_up(); ++pairs) {
    const long n = every.random_instruction();
    kill_beside(every, n, every.random_instruction());
  }
  every.note(", beside another at " + std::to_string(pairs));
}

void SteppedPair::watch_every_instruction(EveryInstruction& every) {
  prepare();
  const auto judge = [&](long n) {
    if (testing::Test::HasFatalFailure()) return;
    SCOPED_TRACE(every.how_to_repeat(n));
    judge_copy(n == 0);
    every.count_kill();
  };
  judge(0);
  SteppedChild victim([&] { operate(Victim::first); });
  every.set_length(victim.step_through(path_, judge));
}

void SteppedPair::kill_beside(EveryInstruction& every, long n, long m) {
  SCOPED_TRACE(every.how_to_repeat(n) + " BROOD_STEP_BESIDE=" + std::to_string(m));
  prepare();
  SteppedChild first([&] { operate(Victim::first); });
  SteppedChild other([&] { operate(Victim::other); });
  other.go(path_, m);
  first.go(path_, n);
  first.kill();
  bury_first();
  ASSERT_TRUE(other.go_on());
  other.kill();
  judge();
}

}  // namespace brood::test
