// Barriers (CPython: _TestBarrier).
#include <algorithm>
#include <optional>
#include <random>

#include "support/sync.hpp"

namespace brood::test {
namespace {

constexpr int kParties = 5;

class BarrierTest : public SyncTest {
 protected:
  // Runs `party(barrier, word)` in as many processes as there are parties, one of them this one.
  template <class F>
  static void all_parties(F&& party, const Barrier& barrier, const SharedWord& word) {
    std::vector<Process> processes;
    for (std::size_t i = 1; i < barrier.parties(); ++i) {
      processes.push_back(run(party, barrier, word));
    }
    party(barrier, word);
    join_all(processes);
  }
};
BROOD_FOR_EACH_START_METHOD(BarrierTest);

// Ends a child with status 1, a test with a failure.
void require_right(bool condition) {
  if (!condition) throw std::logic_error("not as it should be");
}

bool is_broken(const Barrier& barrier) {
  try {
    barrier.wait();
  } catch (const BrokenBarrier&) {
    return true;
  }
  return false;
}

// ---- as in Python

// Nobody begins a round before all have ended the last: at any time they differ by one.
template <int Passes>
void go_in_lockstep(const Barrier& barrier, const SharedWord& steps) {
  for (std::uint64_t n = 0; n < Passes; ++n) {
    const std::uint64_t before = steps.word().fetch_add(1);
    require_right(before >= n * kParties && before < (n + 1) * kParties);
    barrier.wait();
    require_right(steps.word().load() >= (n + 1) * kParties);
  }
}

TEST_P(BarrierTest, AllGoOnTogether) {
  const Barrier barrier(kParties);
  const SharedWord steps(0);
  all_parties(go_in_lockstep<1>, barrier, steps);
  EXPECT_FALSE(barrier.broken());
  EXPECT_EQ(barrier.n_waiting(), 0U);
  EXPECT_EQ(barrier.parties(), 5U);
}

TEST_P(BarrierTest, AndAgainAndAgain) {
  const Barrier barrier(kParties);
  const SharedWord steps(0);
  all_parties(go_in_lockstep<10>, barrier, steps);
  EXPECT_EQ(steps.word().load(), 50U);
}

TEST_P(BarrierTest, AHundredTimes) {
  const Barrier barrier(kParties);
  const SharedWord steps(0);
  all_parties(go_in_lockstep<(kSanitized ? 30 : 100)>, barrier, steps);
  EXPECT_EQ(printed(barrier), "<Barrier waiters=0/5>");
}

TEST_P(BarrierTest, EachHasANumberOfItsOwn) {
  const Barrier barrier(kParties);
  const SharedWord seen(0);
  all_parties(
      [](const Barrier& mine, const SharedWord& bits) {
        const std::size_t index = mine.wait();
        require_right((bits.word().fetch_or(1U << index) & 1U << index) == 0);
      },
      barrier, seen);
  EXPECT_EQ(seen.word().load(), 31U);
}

TEST_P(BarrierTest, OneActsForAllBeforeTheyGoOn) {
  static std::atomic<int> acted{0};  // in each process its own
  acted = 0;
  const Barrier barrier(kParties, [] { ++acted; });
  const SharedWord sum(0);
  all_parties(
      [](const Barrier& mine, const SharedWord& all) {
        acted = 0;
        for (int i = 0; i < 3; ++i) mine.wait();
        all.word().fetch_add(static_cast<std::uint64_t>(acted.load()));
        mine.wait();
        require_right(all.word().load() == 3);
      },
      barrier, sum);
}

int captured_sum = 0;
TEST_P(BarrierTest, AnActionMayBeAFunctionOrCapturePlainData) {
  captured_sum = 0;
  const Barrier plain(1, +[] { captured_sum += 1; });
  plain.wait();
  const int number = 40;
  const Barrier capturing(1, [number, more = 1] { captured_sum += number + more; });
  EXPECT_EQ(capturing.wait(), 0U);
  EXPECT_EQ(captured_sum, 42);
  int local = 0;
  EXPECT_THROW(Barrier(1, [&local] { ++local; }), NotSendable);
}

TEST_P(BarrierTest, AnActionThatThrowsBreaksIt) {
  const Barrier barrier(2, [] { throw std::out_of_range("no"); });
  std::vector<Process> processes;
  processes.push_back(run(
      [](const Barrier& mine) {
        try {
          mine.wait();
        } catch (const BrokenBarrier&) {
          return ExitCode{0};
        } catch (const std::out_of_range&) {
          return ExitCode{2};
        }
        return ExitCode{1};
      },
      barrier));
  ASSERT_TRUE(wait_until([&] { return barrier.n_waiting() == 1; }));
  EXPECT_THROW(barrier.wait(), std::out_of_range);
  EXPECT_TRUE(barrier.broken());
  join_all(processes);
}

TEST_P(BarrierTest, AbortedItIsBrokenForAll) {
  const Barrier barrier(kParties);
  const SharedWord broken(0);
  all_parties(
      [](const Barrier& mine, const SharedWord& count) {
        if (count.word().fetch_add(1) == 2) {
          mine.abort();
        } else {
          require_right(is_broken(mine));
        }
        require_right(mine.broken() && mine.n_waiting() == 0);
      },
      barrier, broken);
  EXPECT_TRUE(is_broken(barrier)) << "also for who comes later";
  EXPECT_EQ(printed(barrier), "<Barrier broken>");
}

TEST_P(BarrierTest, ResetItIsBrokenForThoseWhoWaitAndThenAsNew) {
  const Barrier barrier(kParties);
  const SharedWord broken(0);
  all_parties(
      [](const Barrier& mine, const SharedWord& count) {
        if (count.word().fetch_add(1) == 2) {
          require_right(wait_until([&] { return mine.n_waiting() == kParties - 1; }));
          mine.reset();
        } else {
          require_right(is_broken(mine));
        }
        mine.wait();  // all of them
      },
      barrier, broken);
  EXPECT_FALSE(barrier.broken());
}

TEST_P(BarrierTest, AbortedAndResetItIsAsNew) {
  const Barrier barrier(kParties);
  const Barrier among_them(kParties);
  for (int i = 0; i < 2; ++i) {
    barrier.abort();
    EXPECT_TRUE(is_broken(barrier));
    barrier.reset();
    EXPECT_FALSE(barrier.broken());
  }
  const SharedWord steps(0);
  all_parties(go_in_lockstep<2>, barrier, steps);
}

TEST_P(BarrierTest, WhoGivesUpBreaksIt) {
  const Barrier barrier(kParties);
  const SharedWord count(0);
  all_parties(
      [](const Barrier& mine, const SharedWord& place) {
        if (place.word().fetch_add(1) == 2) return;  // one never comes
        try {
          mine.wait_for(100ms);
          require_right(false);
        } catch (const BrokenBarrier&) {
        }
        require_right(mine.broken());
      },
      barrier, count);
}

TEST_P(BarrierTest, ALimitMayBeTheBarriersOwn) {
  const Barrier barrier(2, Barrier::Limit(5ms));
  EXPECT_TRUE(is_broken(barrier));
  barrier.reset();
  EXPECT_THROW(barrier.wait_until(std::chrono::steady_clock::now()), BrokenBarrier);
  const Barrier acting(2, [] {}, 1ms);
  EXPECT_TRUE(is_broken(acting));
}

TEST_P(BarrierTest, OneAloneNeverWaits) {
  const Barrier barrier(1);
  EXPECT_EQ(barrier.wait(), 0U);
  EXPECT_EQ(barrier.wait_for(0s), 0U);
  EXPECT_THROW(Barrier(0), Error);
  EXPECT_THROW(Barrier(-3), Error);
  EXPECT_THROW(Barrier(4096), Error);
}

// More processes than parties: some pass, others come next.
TEST_P(BarrierTest, MoreMayUseItThanThereAreParties) {
  const Barrier barrier(2, [] {});
  const SharedWord passes(0);
  std::vector<Process> processes;
  for (int i = 0; i < 4; ++i) {
    processes.push_back(run(
        [](const Barrier& mine, const SharedWord& count) {
          try {
            while (count.word().load() < 100) {
              mine.wait_for(kHangGuard);
              say_so(count);
            }
            mine.abort();  // the others may be left without a partner
          } catch (const BrokenBarrier&) {
            require_right(count.word().load() >= 100);
          }
        },
        barrier, passes));
  }
  join_all(processes);
  EXPECT_GE(passes.word().load(), 100U);
}

// ---- deaths

TEST_P(BarrierTest, APartyThatDiesWaitingBreaksIt) {
  const Barrier barrier(3);
  Process victim = run([](const Barrier& mine) { mine.wait(); }, barrier);
  std::vector<Process> processes;
  processes.push_back(run([](const Barrier& mine) { require_right(is_broken(mine)); }, barrier));
  ASSERT_TRUE(wait_until([&] { return barrier.n_waiting() == 2; }));
  victim.kill();
  victim.join();
  join_all(processes);
  EXPECT_TRUE(barrier.broken());
  barrier.reset();
  const SharedWord unused(0);
  all_parties([](const Barrier& mine, const SharedWord&) { mine.wait(); }, barrier, unused);
}

TEST_P(BarrierTest, APartyThatDiesActingBreaksIt) {
  const Barrier barrier(2, die_now);
  std::vector<Process> processes;
  processes.push_back(run([](const Barrier& mine) { require_right(is_broken(mine)); }, barrier));
  ASSERT_TRUE(wait_until([&] { return barrier.n_waiting() == 1; }));
  Process victim = run([](const Barrier& mine) { mine.wait(); }, barrier);
  victim.join();
  EXPECT_EQ(victim.exit_code(), -SIGKILL);
  join_all(processes);
}

TEST_P(BarrierTest, WhoDiesAfterItHasPassedBreaksNothing) {
  const Barrier barrier(2);
  Process process = run(
      [](const Barrier& mine) {
        mine.wait();
        die_now();
      },
      barrier);
  barrier.wait();
  process.join();
  EXPECT_FALSE(wait_until([&] { return barrier.broken(); }, 20ms));
}

TEST_P(BarrierTest, KilledAtRandomMomentsPartiesLeaveItUsable) {
  const Barrier barrier(2);
  const SharedWord passes(0);
  std::mt19937_64 random(seed_of_the_day());
  const auto start = [&] {
    return run(
        [](const Barrier& mine, const SharedWord& count) {
          for (;;) {
            try {
              mine.wait();
              say_so(count);
            } catch (const BrokenBarrier&) {
              mine.reset();
            }
          }
        },
        barrier, passes);
  };
  std::vector<Process> processes;
  for (int i = 0; i < 3; ++i) processes.push_back(start());
  for (int kills = 0; kills < 10; ++kills) {
    ASSERT_TRUE(comes_to(passes, passes.word().load() + 10));
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 2000));
    Process& victim = processes[random() % processes.size()];
    victim.kill();
    victim.join();
    victim = start();
  }
  ASSERT_TRUE(comes_to(passes, passes.word().load() + 10));
  for (Process& process : processes) process.kill();
  for (Process& process : processes) process.join();
}

}  // namespace
}  // namespace brood::test
