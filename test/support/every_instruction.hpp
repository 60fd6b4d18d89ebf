// Which instructions of an operation a test kills at, and how it tells.
//
//   BROOD_SWEEP=full     at every one of them, whatever time that takes
//   BROOD_SEED=n         in a sample: which ones, and in which order, as the seed says; printed
//   BROOD_STEP_AT=n     at this one only: repeats a failure
//   BROOD_STEP_BESIDE=m where a second process is to be stopped meanwhile
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "support/stepper.hpp"

namespace brood::test {

class EveryInstruction {
 public:
  // `share`: the operation's part of the time that a run of all tests may take.
  EveryInstruction(std::string operation, std::chrono::milliseconds share);
  // Prints the figure line.
  ~EveryInstruction();
  EveryInstruction(const EveryInstruction&) = delete;
  EveryInstruction& operator=(const EveryInstruction&) = delete;

  // What became of one run.
  struct Run {
    long taken = 0;        // instructions after which it was killed
    bool at_end = false;   // the operation had ended by then
    bool strayed = false;  // it took another way, and was killed somewhere
  };
  // Carries out the operation, kills it after the n-th instruction, checks the survivors (by
  // gtest's expectations). A huge n measures the operation: in so many passes, if later runs go
  // another way than the first.
  using KillAfter = std::function<Run(long n)>;
  void sweep(const KillAfter& kill_after, int passes = 1);

  // For tests with loops of their own.
  [[nodiscard]] static bool full();
  [[nodiscard]] static long only();    // -1: all
  [[nodiscard]] static long beside();  // BROOD_STEP_BESIDE: of a second process; 0: none
  [[nodiscard]] static std::uint64_t seed();
  [[nodiscard]] long random_instruction();
  [[nodiscard]] bool time_is_up() const;
  [[nodiscard]] std::string how_to_repeat(long n) const;
  void count_kill() { ++kills_; }
  [[nodiscard]] long length() const { return length_; }
  void set_length(long instructions) { length_ = instructions; }
  void note(const std::string& text) { notes_ += text; }

  static constexpr long kToTheEnd = 10'000'000;

 private:
  bool once(const KillAfter& kill_after, long n);
  void every_one(const KillAfter& kill_after);
  void some(const KillAfter& kill_after);

  std::string operation_;
  std::chrono::steady_clock::time_point end_;
  std::mt19937_64 random_;
  long length_ = 0;
  long kills_ = 0;
  long ends_ = 0;  // runs that were killed at their end
  long strays_ = 0;
  std::string notes_;
};

// The way through an operation, as its first runs took it: later ones need not be stepped through
// from the beginning. They run at full speed to an address that the way passes shortly before the
// wanted instruction, as often as it does.
class Path {
 public:
  // Takes a process that stands before an operation n instructions on, or to the operation's end:
  // a mark, its own end, or sleep if `is_over` then. Fails the test if it sleeps for ever.
  EveryInstruction::Run go(Stepper& stepper, long n, const std::function<bool()>& is_over);

  // The addresses of an operation's instructions, for who steps through it otherwise.
  void learn(std::vector<std::uint64_t> addresses);

 private:
  void learn();
  // After so many instructions the process is at an address that is easily told; 0: at none.
  [[nodiscard]] long best_before(long n) const;

  std::vector<std::uint64_t> addresses_;  // of the instruction after so many
  // So often in a row another way was taken than at first: then each instruction is stepped
  // through.
  static constexpr int kMostStrays = 3;
  int strays_ = 0;
  std::vector<long> times_;  // how often the way has been there, this time included
};

// "arena: adopt a slab" as the name of a test: "ArenaAdoptASlab".
std::string test_name(const std::string& operation);
template <class Case>
std::string name_of_case(const testing::TestParamInfo<Case>& info) {
  return test_name(info.param.name);
}

}  // namespace brood::test
