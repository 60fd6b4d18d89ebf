// A worker whose task was taken from it by a stray write ends up with a result for nobody.
#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <string>

#include "brood/pool.hpp"
#include "support/pool_spy.hpp"
#include "support/time.hpp"

namespace brood::test {
namespace {

// Overwrites the word of the record that it is the task of.
std::string overwrite_own_record(std::size_t bytes) {
  const PoolSpy spy(1);
  const Sighting me = spy.look(spy.active_slots().at(0));
  constexpr std::uint64_t kNonsense = 0xdead;
  spy.view().state(me.index).word.store(kNonsense);
  return std::string(bytes, 'x');
}

int own_pid() { return getpid(); }

TEST(LostBlockTest, AResultThatNobodyWillTakeIsFreedByItsWorker) {
  PoolOptions options;
  options.workers = 1;
  options.retries = 1;  // of what the dying worker may still take
  Pool pool(options);
  EXPECT_THROW(pool.apply(overwrite_own_record, std::size_t{10'000}), BrokenPool);
  // Its death has all records looked over, and what nobody wants is freed with the next tasks.
  kill(pool.apply(own_pid), SIGKILL);
  const PoolSpy spy(1);
  EXPECT_TRUE(wait_until(
      [&] {
        pool.apply(own_pid);
        return spy.accounts().records_in_use == 0;
      },
      kPromisedSecond));
  EXPECT_EQ(spy.accounts().outbox.live_blocks, 0U);
}

}  // namespace
}  // namespace brood::test
