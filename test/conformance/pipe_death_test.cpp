// Pipes when somebody is killed, stopped or interrupted.
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "brood/brood.hpp"
#include "support/ledger.hpp"
#include "support/pools.hpp"
#include "support/processes.hpp"
#include "warden/family.hpp"
#include "warden/object_space.hpp"

namespace brood::test {
namespace {

using Clock = std::chrono::steady_clock;

class PipeDeathTest : public StartMethodTest {
 protected:
  static ProcessOptions options() { return {.start = GetParam()}; }
  [[nodiscard]] std::string path(const std::string& name) const { return folder_.path(name); }

 private:
  TempFolder folder_;
};
BROOD_FOR_EACH_START_METHOD(PipeDeathTest);

std::size_t blocks() { return warden::ObjectSpace::join().objects().arena().stats().live_blocks; }
bool come_to(std::size_t expected) {
  return wait_until([&] { return blocks() == expected; }, 5s * kSlowness);
}

// A message whose every part tells which it is; every third is large.
std::vector<std::uint64_t> message(std::uint64_t number) {
  return std::vector<std::uint64_t>(number % 3 == 0 ? 3000 : 3, number);
}
void expect_whole(const std::vector<std::uint64_t>& got, std::uint64_t number) {
  EXPECT_EQ(got, message(number));
}

void send_for_ever(Connection end) {
  for (std::uint64_t i = 0;; ++i) end.send(message(i));
}
void receive_for_ever(Connection end) {
  for (;;) static_cast<void>(end.recv<std::vector<std::uint64_t>>());
}
void sit(const Connection& /*end*/) {
  for (;;) pause();
}

TEST_P(PipeDeathTest, WhoSleepsInRecvIsToldOfThePeersDeath) {
  auto [ours, theirs] = Pipe();
  Process child(options(), sit, std::move(theirs));
  child.start();
  std::thread killer([&] {
    std::this_thread::sleep_for(30ms);
    child.kill();
  });
  EXPECT_THROW((void)ours.recv<int>(), Closed);
  EXPECT_THROW(ours.send(1), Closed);
  killer.join();
  child.join();
}

TEST_P(PipeDeathTest, WhoSleepsInSendIsToldOfThePeersDeath) {
  auto [ours, theirs] = Pipe({.max_messages = 2});
  Process child(options(), sit, std::move(theirs));
  child.start();
  EXPECT_TRUE(ours.try_send(1));
  EXPECT_TRUE(ours.try_send(2));
  std::thread killer([&] {
    std::this_thread::sleep_for(30ms);
    child.kill();
  });
  EXPECT_THROW(ours.send(3), Closed);
  killer.join();
  child.join();
}

// Closed comes with the last one that has the end, and not before.
TEST_P(PipeDeathTest, AnEndThatSomebodyElseHasTooIsNotGone) {
  auto [ours, theirs] = Pipe();
  Process first(options(), sit, theirs.share());
  Process second(options(), sit, theirs.share());
  first.start();
  second.start();
  first.kill();
  first.join();
  EXPECT_FALSE(ours.poll(100ms));
  theirs.close();
  EXPECT_FALSE(ours.poll(50ms));
  second.kill();
  EXPECT_TRUE(ours.poll(kHangGuard));
  EXPECT_THROW((void)ours.recv<int>(), Closed);
}

TEST_P(PipeDeathTest, OursKeepsTheEndOfAChildThatDies) {
  auto [ours, theirs] = Pipe();
  Process child(options(), sit, theirs.share());
  child.start();
  child.kill();
  child.join();
  EXPECT_FALSE(ours.poll(100ms));
  ours.send(1);
  EXPECT_EQ(theirs.recv<int>(), 1);
  theirs.close();
  EXPECT_TRUE(ours.poll(kHangGuard));
}

TEST_P(PipeDeathTest, ASenderKilledAtAnyMomentLeavesWholeMessagesInTheirOrder) {
  std::mt19937_64 random(seed_of_the_day());
  auto [keeps_the_family, other] = Pipe();
  const std::size_t before = blocks();
  for (int round = 0; round < 5; ++round) {
    auto [reader, writer] = Pipe({.duplex = false, .max_messages = 8});
    Process child(options(), send_for_ever, std::move(writer));
    child.start();
    std::thread killer([&, after = std::chrono::microseconds(random() % 20'000)] {
      std::this_thread::sleep_for(after);
      child.kill();
    });
    std::uint64_t next = 0;
    try {
      for (;;) expect_whole(reader.recv<std::vector<std::uint64_t>>(), next++);
    } catch (const Closed&) {
    }
    killer.join();
    child.join();
    reader.close();
    EXPECT_TRUE(come_to(before)) << "round " << round;
  }
}

void record_all(Connection end, const std::string& path) {
  try {
    for (;;) {
      const auto got = end.recv<std::vector<std::uint64_t>>();
      record(path, static_cast<std::int64_t>(got.at(0)));
    }
  } catch (const Closed&) {
  }
}

TEST_P(PipeDeathTest, AReceiverKilledAtAnyMomentCostsAtMostTheMessageItWasTaking) {
  std::mt19937_64 random(seed_of_the_day() + 1);
  for (int round = 0; round < 4; ++round) {
    const std::string victims = path("victim" + std::to_string(round));
    const std::string others = path("other" + std::to_string(round));
    auto [reader, writer] = Pipe({.duplex = false, .max_messages = 8});
    Process victim(options(), record_all, reader.share(), victims);
    Process survivor(options(), record_all, std::move(reader), others);
    victim.start();
    survivor.start();
    std::thread killer([&, after = std::chrono::microseconds(random() % 10'000)] {
      std::this_thread::sleep_for(after);
      victim.kill();
    });
    constexpr std::uint64_t kCount = 600;
    for (std::uint64_t i = 0; i < kCount; ++i) writer.send(message(i));
    killer.join();
    victim.join();
    writer.close();
    survivor.join();
    EXPECT_EQ(survivor.exit_code(), 0);
    std::map<std::int64_t, int> seen = counted(victims);
    for (const auto& [number, count] : counted(others)) seen[number] += count;
    for (const auto& [number, count] : seen) EXPECT_EQ(count, 1) << number;
    EXPECT_GE(seen.size() + 1, kCount) << "round " << round;
  }
}

TEST_P(PipeDeathTest, BothEndsMayDieAtOnceAndNothingIsLeft) {
  auto [keeps_the_family, other] = Pipe();
  const std::size_t before = blocks();
  for (int round = 0; round < 3; ++round) {
    auto [reader, writer] = Pipe({.max_messages = 4});
    Process sender(options(), send_for_ever, std::move(writer));
    Process receiver(options(), receive_for_ever, std::move(reader));
    sender.start();
    receiver.start();
    std::this_thread::sleep_for(std::chrono::milliseconds(3 * round));
    sender.kill();
    receiver.kill();
    sender.join();
    receiver.join();
    EXPECT_TRUE(come_to(before));
  }
}

TEST_P(PipeDeathTest, AStoppedPeerIsNoDeadPeer) {
  auto [ours, theirs] = Pipe();
  Process child(
      options(),
      [](Connection end) {
        for (;;) end.send(end.recv<int>() + 1);
      },
      std::move(theirs));
  child.start();
  ours.send(1);
  EXPECT_EQ(ours.recv<int>(), 2);
  ASSERT_TRUE(stop_and_see(child.pid()));
  ours.send(5);
  EXPECT_EQ(ours.recv_for<int>(100ms), std::nullopt);
  EXPECT_FALSE(ours.poll(10ms));
  child.send_signal(SIGCONT);
  EXPECT_EQ(ours.recv<int>(), 6);
  child.kill();
}

TEST_P(PipeDeathTest, AStoppedReceiverKeepsTheNextMessageFromNobody) {
  auto [reader, writer] = Pipe({.duplex = false, .max_messages = 64});
  Process child(options(), receive_for_ever, reader.share());
  child.start();
  for (std::uint64_t i = 0; i < 50; ++i) writer.send(message(i));
  ASSERT_TRUE(stop_and_see(child.pid()));
  for (int i = 0; i < 10; ++i) {
    writer.send(i);
    // What the child had left comes first.
    for (;;) {
      const auto got = reader.recv<std::variant<int, std::vector<std::uint64_t>>>();
      if (got.index() == 1) continue;
      EXPECT_EQ(std::get<0>(got), i);
      break;
    }
  }
  child.kill();
}

TEST_P(PipeDeathTest, WithoutAWardenWaitsEndWithFamilyBroken) {
  const HostRun run = run_host([] {
    auto [a, b] = Pipe();
    const int warden = warden::Family::join().warden_pid();
    std::thread killer([&] {
      std::this_thread::sleep_for(30ms);
      ::kill(warden, SIGKILL);
    });
    const auto start = Clock::now();
    try {
      static_cast<void>(a.recv<int>());
      return 1;
    } catch (const FamilyBroken&) {
    }
    HOST_CHECK(Clock::now() - start < kPromisedSecond);
    killer.join();
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
}

TEST_P(PipeDeathTest, NothingIsLeftOfAKilledHost) {
  Host host([] {
    auto [a, b] = Pipe();
    Process sleeper({.daemon = true}, receive_for_ever, std::move(b));
    sleeper.start();
    auto [c, d] = Pipe({.duplex = false});
    Process sender({.daemon = true}, send_for_ever, std::move(d));
    sender.start();
    a.send(message(1));
    say("ready");
    for (;;) pause();
    return 0;
  });
  ASSERT_EQ(host.read_line(), "ready");
  host.send(SIGKILL);
  EXPECT_EQ(host.end(), "signal 9");
  EXPECT_TRUE(host.is_gone_within(kPromisedSecond));
}

// ---- TestIgnoreEINTR, _TestPollEintr

void ignore(int /*signal*/) {}

void answer_under_signals(Connection end) {
  struct sigaction action{};
  action.sa_handler = ignore;  // and no SA_RESTART
  sigaction(SIGUSR1, &action, nullptr);
  end.send(std::string("ready"));
  const auto number = end.recv<int>();
  if (!end.poll(kHangGuard)) _exit(8);
  const auto large = end.recv<std::vector<std::uint64_t>>();
  end.send(number);
  for (int i = 0; i < 4; ++i) end.send(large);
}

TEST_P(PipeDeathTest, SignalsWithHandlersEndNoWait) {
  auto [ours, theirs] = Pipe({.max_messages = 1});
  Process child(options(), answer_under_signals, std::move(theirs));
  child.start();
  EXPECT_EQ(ours.recv<std::string>(), "ready");
  const auto pester = [&] {
    for (int i = 0; i < 10; ++i) {
      child.send_signal(SIGUSR1);
      std::this_thread::sleep_for(2ms);
    }
  };
  pester();
  ours.send(42);
  pester();
  const std::vector<std::uint64_t> large(500'000, 7);
  ours.send(large);
  pester();
  EXPECT_EQ(ours.recv<int>(), 42);
  for (int i = 0; i < 4; ++i) {
    pester();
    EXPECT_EQ(ours.recv<std::vector<std::uint64_t>>(), large);
  }
  child.join();
  EXPECT_EQ(child.exit_code(), 0);
}

TEST_P(PipeDeathTest, AnInterruptThatWasAskedForEndsAWaitAndLosesNoMessage) {
  const HostRun run = run_host([] {
    auto [a, b] = Pipe();
    signals::interrupt_on(SIGINT);
    signals::on(SIGALRM, [](int) { raise(SIGINT); });
    signals::alarm(20ms);
    try {
      static_cast<void>(a.recv<int>());
      return 1;
    } catch (const Interrupted&) {
    }
    b.send(1);
    HOST_CHECK(a.recv<int>() == 1);
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
}

}  // namespace
}  // namespace brood::test
