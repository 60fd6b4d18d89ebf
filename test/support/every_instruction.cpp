#include "support/every_instruction.hpp"

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "support/time.hpp"

namespace brood::test {

namespace {

std::uint64_t number_from(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::strtoull(text, nullptr, 10) : otherwise;
}

}  // namespace

bool EveryInstruction::full() {
  const char* sweep = std::getenv("BROOD_SWEEP");
  return sweep != nullptr && std::string_view(sweep) == "full";
}
long EveryInstruction::only() {
  return static_cast<long>(number_from("BROOD_STEP_AT", static_cast<std::uint64_t>(-1)));
}
long EveryInstruction::beside() { return static_cast<long>(number_from("BROOD_STEP_BESIDE", 0)); }
std::uint64_t EveryInstruction::seed() {
  static const std::uint64_t seed = number_from("BROOD_SEED", seed_of_the_day());
  return seed;
}

EveryInstruction::EveryInstruction(std::string operation, std::chrono::milliseconds share)
    : operation_(std::move(operation)),
      end_(std::chrono::steady_clock::now() + share),
      random_(seed()) {}

EveryInstruction::~EveryInstruction() {
  std::printf("%-52s %7ld instructions, killed at %6ld%s", operation_.c_str(), length_, kills_,
              notes_.c_str());
  if (ends_ > 0) std::printf(", %ld times at the end", ends_);
  if (strays_ > 0) std::printf(", %ld times somewhere else", strays_);
  if (full()) {
    std::printf("\n");
  } else {
    std::printf(", BROOD_SEED=%llu\n", static_cast<unsigned long long>(seed()));
  }
  std::fflush(stdout);
}

long EveryInstruction::random_instruction() {
  return static_cast<long>(random_() % static_cast<std::uint64_t>(length_ + 1));
}

bool EveryInstruction::time_is_up() const {
  return !full() && std::chrono::steady_clock::now() >= end_;
}

std::string EveryInstruction::how_to_repeat(long n) const {
  const testing::TestInfo* test = testing::UnitTest::GetInstance()->current_test_info();
  return operation_ + ", killed after instruction " + std::to_string(n) +
         "; to repeat: BROOD_STEP_AT=" + std::to_string(n) +
         " BROOD_SEED=" + std::to_string(seed()) +
         " crash_test --gtest_filter=" + test->test_suite_name() + "." + test->name();
}

// Whether the operation still went on at the kill.
bool EveryInstruction::once(const KillAfter& kill_after, long n) {
  SCOPED_TRACE(how_to_repeat(n));
  const Run run = kill_after(n);
  length_ = std::max(length_, run.taken);
  if (n == kToTheEnd) return false;
  ++kills_;
  if (run.at_end) ++ends_;
  if (run.strayed) ++strays_;
  return !run.at_end;
}

void EveryInstruction::every_one(const KillAfter& kill_after) {
  // Two runs of an operation need not have the same length: only when several have ended before
  // the n-th instruction is there none.
  constexpr int kEnough = 5;
  constexpr int kMostStrays = 20;
  int ended = 0;
  int strays_here = 0;
  for (long n = 0; ended < kEnough && !testing::Test::HasFailure(); ++n) {
    const long strays = strays_;
    const bool went_on = once(kill_after, n);
    // Where one that took another way ended says nothing of this instruction.
    if (strays_ != strays) {
      if (++strays_here < kMostStrays) --n;
      continue;
    }
    strays_here = 0;
    ended = went_on ? 0 : ended + 1;
  }
}

void EveryInstruction::some(const KillAfter& kill_after) {
  std::vector<long> all(static_cast<std::size_t>(length_ + 1));
  std::iota(all.begin(), all.end(), 0);
  std::shuffle(all.begin(), all.end(), random_);
  constexpr long kAtLeast = 5;
  for (const long n : all) {
    if ((time_is_up() && kills_ >= kAtLeast) || testing::Test::HasFailure()) return;
    once(kill_after, n);
  }
}

void EveryInstruction::sweep(const KillAfter& kill_after, int passes) {
  if (only() >= 0) {
    once(kill_after, only());
    return;
  }
  for (int pass = 0; pass < passes; ++pass) {
    length_ = 0;
    once(kill_after, kToTheEnd);
    if (testing::Test::HasFailure()) return;
  }
  if (full()) {
    every_one(kill_after);
  } else {
    some(kill_after);
  }
}

void Path::learn(std::vector<std::uint64_t> addresses) {
  addresses_ = std::move(addresses);
  learn();
}

void Path::learn() {
  std::unordered_map<std::uint64_t, long> times;
  times_.clear();
  for (const std::uint64_t address : addresses_) times_.push_back(++times[address]);
}

// A stop at an address costs about as much as a step.
long Path::best_before(long n) const {
  constexpr long kFarthest = 4000;
  n = std::min(n, static_cast<long>(times_.size()) - 1);
  long best = 0;
  long least = n;
  for (long at = n; at > 0 && n - at < std::min(kFarthest, least); --at) {
    const long steps = n - at + times_[static_cast<std::size_t>(at)];
    if (steps < least) {
      least = steps;
      best = at;
    }
  }
  return best;
}

EveryInstruction::Run Path::go(Stepper& stepper, long n, const std::function<bool()>& is_over) {
  const long base = stepper.taken();
  EveryInstruction::Run run;
  if (n == EveryInstruction::kToTheEnd) {
    addresses_.clear();
    stepper.record(&addresses_);
  }
  const bool steps_all = n == EveryInstruction::kToTheEnd || strays_ >= kMostStrays;
  const long start = steps_all ? 0 : best_before(n);
  if (start > 0) {
    const auto at = static_cast<std::size_t>(start);
    // It may take another way this time: then it is killed wherever that led.
    const Stepper::Seen seen = stepper.run_to(addresses_[at], times_[at], start);
    run.strayed = seen != Stepper::Seen::step;
    run.at_end = seen == Stepper::Seen::mark || seen == Stepper::Seen::ended;
    strays_ = run.strayed ? strays_ + 1 : 0;
    if (run.strayed) return run;
  }
  strays_ = 0;
  const Deadline guard(kHangGuard * 4);
  while (stepper.taken() - base < n) {
    const Stepper::Seen seen = stepper.step();
    if (seen == Stepper::Seen::step) continue;
    run.at_end = seen != Stepper::Seen::asleep || is_over();
    if (run.at_end) break;
    if (guard.passed()) {
      ADD_FAILURE() << "the process sleeps, and its operation is not over";
      break;
    }
  }
  run.taken = stepper.taken() - base;
  stepper.record(nullptr);
  if (n == EveryInstruction::kToTheEnd) learn();
  return run;
}

std::string test_name(const std::string& operation) {
  std::string name;
  bool upper = true;
  for (const char c : operation) {
    const bool letter = std::isalnum(static_cast<unsigned char>(c)) != 0;
    if (letter) name += upper ? static_cast<char>(std::toupper(c)) : c;
    upper = !letter;
  }
  return name;
}

}  // namespace brood::test
