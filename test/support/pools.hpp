// What the tests of pools have in common.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <exception>
#include <string>

#include "brood/brood.hpp"
#include "support/host.hpp"
#include "support/time.hpp"

namespace brood::test {

using namespace std::chrono_literals;

// Tests of such a fixture run once for each start method.
class StartMethodTest : public testing::TestWithParam<StartMethod> {
 protected:
  void SetUp() override {
    prepare_for(GetParam());
    hosts_prepare_for(GetParam());
  }
};

class PoolConformance : public StartMethodTest {
 protected:
  [[nodiscard]] static PoolOptions with(std::size_t workers) {
    PoolOptions options;
    options.workers = workers;
    options.start = GetParam();
    return options;
  }
};

inline std::string start_method_name(const testing::TestParamInfo<StartMethod>& info) {
  return std::string(name_of(info.param));
}

#define BROOD_FOR_EACH_START_METHOD(Fixture)                                        \
  INSTANTIATE_TEST_SUITE_P(                                                         \
      , Fixture,                                                                    \
      testing::Values(::brood::StartMethod::fork, ::brood::StartMethod::forkserver, \
                      ::brood::StartMethod::spawn),                                 \
      ::brood::test::start_method_name)

// The exception of type E that `action` throws; fails the test and returns nothing useful if it
// throws none or another.
template <class E, class Action>
std::exception_ptr thrown_by(Action&& action) {
  try {
    action();
  } catch (const E&) {
    return std::current_exception();
  } catch (const std::exception& e) {
    ADD_FAILURE() << "another exception: " << e.what();
    return nullptr;
  }
  ADD_FAILURE() << "no exception";
  return nullptr;
}

// The WorkerDied that a future or an action ends with.
template <class Action>
Death death_of(Action&& action) {
  try {
    action();
  } catch (const WorkerDied& e) {
    return e;
  } catch (const std::exception& e) {
    ADD_FAILURE() << "not WorkerDied but: " << e.what();
    return {};
  }
  ADD_FAILURE() << "no exception";
  return {};
}

// What a future ends with, as text: "value", "PoolClosed", ...
template <class Action>
std::string outcome_of(Action&& action) {
  try {
    action();
    return "value";
  } catch (const WorkerDied&) {
    return "WorkerDied";
  } catch (const PoolClosed&) {
    return "PoolClosed";
  } catch (const BrokenPool&) {
    return "BrokenPool";
  } catch (const FamilyBroken&) {
    return "FamilyBroken";
  } catch (const Cancelled&) {
    return "Cancelled";
  } catch (const TimeoutError&) {
    return "TimeoutError";
  } catch (const Error& e) {
    return std::string("Error: ") + e.what();
  } catch (const std::exception& e) {
    return std::string("exception: ") + e.what();
  }
}

}  // namespace brood::test
