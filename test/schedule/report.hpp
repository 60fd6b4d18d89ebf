// Runs a scene within limits, and says how far it came.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "schedule/explorer.hpp"

namespace brood::schedule {

// All schedules within the limits: it fails if there are more than it can try in time.
void expect_right_in_all(const char* name, const Body& body, Limits limits = {});

// As many as there is time for, by a seed that changes from day to day; it is printed, and
// BROOD_SEED=n repeats it. `seconds` weighs it against others: half of them in a sample of all
// tests, and thirty times as many with BROOD_SWEEP=full.
void expect_right_by_seed(const char* name, const Body& body, double seconds, Limits limits = {});

// A damage that no scene can notice, and why.
struct Excuse {
  const char* file;
  const char* text;  // in the damaged line
  Damage damage;
  const char* reason;
};

// Breaks each shared operation in the files that the scenes execute, one at a time and in each way
// that it can be broken, and fails for each break that no scene notices and no excuse explains, and
// for each excuse that is not needed.
void expect_breaks_noticed(const std::string& protocol, const std::vector<std::string>& files,
                           const std::vector<Body>& scenes, const std::vector<Excuse>& excuses,
                           std::uint64_t executions);

}  // namespace brood::schedule
