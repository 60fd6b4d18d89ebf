// One scenario under all faults: each call that it makes, in one kind of process, fails once in
// turn with each error that the kernel can give.
#pragma once

#include <cstdint>
#include <exception>
#include <string>
#include <utility>
#include <vector>

#include "support/kernel_faults.hpp"

namespace brood::test {

// What brood does in a scenario. Throws brood's errors, and WrongResult.
struct Scenario {
  const char* name;
  void (*run)();
  // Takes what a feature keeps for good, before stock is taken; null: it keeps nothing.
  void (*prepare)() = nullptr;
};

struct WrongResult : std::exception {
  explicit WrongResult(std::string text) : text_(std::move(text)) {}
  [[nodiscard]] const char* what() const noexcept override { return text_.c_str(); }

 private:
  std::string text_;
};
#define REQUIRE_RIGHT(condition) \
  if (!(condition)) throw ::brood::test::WrongResult("a wrong result: not " #condition)

// What a scenario ended with: "success", the type of an error of brood's, or "PROBLEM: ...".
std::string outcome_of_scenario(void (*scenario)());

// In a host: what it has now (descriptors, children, mappings of shared memory), and what of that
// is new, a while after the family's warden was asked to end. Empty: nothing.
std::string left_since(const std::string& before);
std::string take_stock();

// In a host: waits until the family's owner table names nobody but host and warden; what it still
// names otherwise.
std::string owners_left();

// Whether all faults are to be tried (BROOD_SWEEP=full) or a sample of them that changes every day:
// BROOD_SEED=N repeats the one that printed N.
bool sweeps_are_full();
std::uint64_t sweep_seed();

// Fails the test where an outcome is untyped, something is left, or the scenario does not succeed
// right afterwards. Prints one line of figures.
// With `for_good`, all later calls of the kind fail too, in every process of the role.
void sweep_faults(const Scenario& scenario, Role role, bool for_good = false);

// What a sweep tries: each n of each call with each error, as often as the role made the call when
// it was counted last; all of them or the sample.
std::vector<PlannedFault> faults_to_try(Role role, bool for_good);

}  // namespace brood::test
