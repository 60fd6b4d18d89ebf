// A worker that may run so many elements and no more is killed after each instruction from being
// woken for a chunk until it has left.
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "brood/pool.hpp"
#include "support/every_instruction.hpp"
#include "support/pool_spy.hpp"
#include "support/pools.hpp"
#include "support/processes.hpp"
#include "support/stepper.hpp"

namespace brood::test {
namespace {

std::string element(int n) { return std::string(static_cast<std::size_t>(n) * 20, 'e'); }

// Each element has its value, or one the death.
std::string fault_in(const std::vector<Result<std::string>>& results) {
  int died = 0;
  for (std::size_t i = 0; i < results.size(); ++i) {
    try {
      if (results[i].value() != element(static_cast<int>(i))) return "a wrong value";
    } catch (const WorkerDied&) {
      if (++died > 1) return "two elements died";
    } catch (const std::exception& e) {
      return e.what();
    }
  }
  return {};
}

class WorkerLeaveStepTest : public testing::Test {
 protected:
  EveryInstruction::Run kill_after(long n) {
    EveryInstruction::Run run;
    PoolOptions options;
    options.workers = 1;
    options.max_tasks_per_worker = 2;
    Pool pool(options);
    const PoolSpy spy(1);
    const auto is_ready = [&] {
      const auto active = spy.active_slots();
      return active.size() == 1 && spy.view().desk(active.front()).prepared.load() == 1;
    };
    EXPECT_TRUE(wait_until(is_ready));
    if (HasFailure()) return run;
    const OnOneProcessor here;
    std::string fault;
    {
      Stepper victim(spy.look(spy.active_slots().front()).pid);
      here.bring(victim.pid());
      while (victim.step() == Stepper::Seen::step) {
      }
      std::atomic<bool> done{false};
      std::jthread caller([&] {
        const std::vector<int> numbers = {0, 1, 2, 3};
        fault = fault_in(pool.map_results(element, numbers, {.chunk_size = 4}));
        done.store(true);
      });
      run = path_.go(victim, n, [] { return false; });  // it ends itself
      victim.kill();
      EXPECT_TRUE(wait_until([&] { return done.load(); })) << "the caller hangs";
      if (!done.load()) std::abort();
    }
    EXPECT_EQ(fault, "");
    EXPECT_EQ(pool.apply(element, 1), element(1));
    EXPECT_EQ(pool.stats().retried, 0U);
    EXPECT_TRUE(wait_until([&] {
      const PoolSpy::Accounts now = spy.accounts();
      return now.records_in_use == 0 && now.inbox.live_blocks == 0 && now.outbox.live_blocks == 0;
    }));
    EXPECT_EQ(spy.broken_invariant(), "");
    return run;
  }

  Path path_;
};

TEST_F(WorkerLeaveStepTest, KilledAfterEveryInstruction) {
  EveryInstruction every("worker: it stops in a chunk and leaves", 1500ms);
  every.sweep([&](long n) { return kill_after(n); });
}

}  // namespace
}  // namespace brood::test
