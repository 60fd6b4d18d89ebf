// What CPython's ExecutorDeadlockTest tries: tasks that throw, exit or crash in each step between
// the call and its result. There, most of these break the pool; here, each costs its own task.
#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "brood/brood.hpp"
#include "support/host.hpp"
#include "support/pools.hpp"

namespace brood::test {
namespace {

class ExecutorDeadlockTest : public PoolConformance {};
BROOD_FOR_EACH_START_METHOD(ExecutorDeadlockTest);

enum class Harm : std::uint8_t { none, throws, exits, crashes };
enum class Step : std::uint8_t { encode, decode };

constexpr int kExitCode = 3;

void do_harm(Harm harm) {
  switch (harm) {
    case Harm::throws:
      throw std::out_of_range("harm");
    case Harm::exits:
      std::exit(kExitCode);
    case Harm::crashes:
      raise(SIGSEGV);
      break;
    default:
      break;
  }
}

// Does harm to whoever takes this step with it.
class Trap {
 public:
  Trap() = default;
  Trap(Harm harm, Step step) : harm_(harm), step_(step) {}
  template <class Archive>
  void save(Archive& ar) const {
    if (step_ == Step::encode) do_harm(harm_);
    ar(harm_, step_);
  }
  template <class Archive>
  void load(Archive& ar) {
    ar(harm_, step_);
    if (step_ == Step::decode) do_harm(harm_);
  }

 private:
  Harm harm_ = Harm::none;
  Step step_ = Step::encode;
};

void take(const Trap& /*trap*/) {}
Trap give(Harm harm, Step step) { return {harm, step}; }
int twice(int n) { return 2 * n; }

template <class R>
void expect_death(Future<R> future, Harm harm) {
  const Death death = death_of([&] { static_cast<void>(future.get_for(kHangGuard)); });
  EXPECT_EQ(death.signal, harm == Harm::crashes ? SIGSEGV : 0);
  EXPECT_EQ(death.exit_code, harm == Harm::exits ? kExitCode : 0);
}

// `scene` before, between and behind tasks that it must not touch; afterwards the pool goes on.
template <class Scene>
void amid_others(Pool& pool, std::uint64_t deaths, Scene&& scene) {
  std::vector<Future<int>> others;
  const auto submit_some = [&] {
    for (int i = 0; i < 20; ++i) {
      others.push_back(pool.submit(twice, static_cast<int>(others.size())));
    }
  };
  const std::uint64_t died = pool.stats().died;
  submit_some();
  scene(submit_some);
  submit_some();
  for (std::size_t i = 0; i < others.size(); ++i) {
    EXPECT_EQ(others[i].get_for(kHangGuard), twice(static_cast<int>(i)));
  }
  EXPECT_TRUE(wait_until([&] { return pool.stats().died == died + deaths; }))
      << pool.stats().died - died << " workers died";
  EXPECT_EQ(pool.apply(twice, 21), 42);
}

// ---- arguments
//
// They are encoded in submit(), by the caller: an exit or a crash there is the caller's own end and
// nothing that a pool could take back (see WhatTheCallerDoesToItself...).

TEST_P(ExecutorDeadlockTest, AnArgumentThatCannotBeEncodedIsAnErrorOfTheCall) {
  Pool pool(with(2));
  amid_others(pool, 0, [&](auto& submit_some) {
    EXPECT_THROW(static_cast<void>(pool.submit(take, Trap(Harm::throws, Step::encode))),
                 std::out_of_range);
    submit_some();
    EXPECT_THROW(static_cast<void>(pool.try_submit(take, Trap(Harm::throws, Step::encode))),
                 std::out_of_range);
  });
}

TEST_P(ExecutorDeadlockTest, AnArgumentThatCannotBeDecodedIsAnErrorOfItsTask) {
  Pool pool(with(2));
  amid_others(pool, 2, [&](auto& submit_some) {
    auto throws = pool.submit(take, Trap(Harm::throws, Step::decode));
    auto exits = pool.submit(take, Trap(Harm::exits, Step::decode));
    auto crashes = pool.submit(take, Trap(Harm::crashes, Step::decode));
    submit_some();
    EXPECT_THROW(throws.get_for(kHangGuard), DecodeError);
    expect_death(std::move(exits), Harm::exits);
    expect_death(std::move(crashes), Harm::crashes);
  });
}

// ---- the function

TEST_P(ExecutorDeadlockTest, WhatTheFunctionDoesToItselfIsAnErrorOfItsTask) {
  Pool pool(with(2));
  amid_others(pool, 2, [&](auto& submit_some) {
    auto throws = pool.submit(do_harm, Harm::throws);
    auto exits = pool.submit(do_harm, Harm::exits);
    auto crashes = pool.submit(do_harm, Harm::crashes);
    submit_some();
    EXPECT_THROW(throws.get_for(kHangGuard), std::out_of_range);
    expect_death(std::move(exits), Harm::exits);
    expect_death(std::move(crashes), Harm::crashes);
  });
}

// A callable with bound values is decoded in each worker when it is first needed there.
TEST_P(ExecutorDeadlockTest, ACallableThatCannotBeDecodedIsAnErrorOfEachOfItsTasks) {
  Pool pool(with(2));
  const auto bound = [](Harm harm) { return brood::bind_front(take, Trap(harm, Step::decode)); };
  EXPECT_THROW(
      static_cast<void>(pool.submit(brood::bind_front(take, Trap(Harm::throws, Step::encode)))),
      std::out_of_range);
  amid_others(pool, 4, [&](auto& submit_some) {
    const auto throwing = bound(Harm::throws);
    const auto exiting = bound(Harm::exits);
    const auto crashing = bound(Harm::crashes);
    for (int again = 0; again < 2; ++again) {
      auto throws = pool.submit(throwing);
      auto exits = pool.submit(exiting);
      auto crashes = pool.submit(crashing);
      submit_some();
      EXPECT_THROW(throws.get_for(kHangGuard), DecodeError);
      expect_death(std::move(exits), Harm::exits);
      expect_death(std::move(crashes), Harm::crashes);
    }
  });
}

// ---- results

TEST_P(ExecutorDeadlockTest, AResultThatCannotBeEncodedIsAnErrorOfItsTask) {
  Pool pool(with(2));
  amid_others(pool, 2, [&](auto& submit_some) {
    auto throws = pool.submit(give, Harm::throws, Step::encode);
    auto exits = pool.submit(give, Harm::exits, Step::encode);
    auto crashes = pool.submit(give, Harm::crashes, Step::encode);
    submit_some();
    EXPECT_THROW(static_cast<void>(throws.get_for(kHangGuard)), std::out_of_range);
    expect_death(std::move(exits), Harm::exits);
    expect_death(std::move(crashes), Harm::crashes);
  });
}

// By get(), in the caller: here as well an exit or a crash would be the caller's own.
TEST_P(ExecutorDeadlockTest, AResultThatCannotBeDecodedIsAnErrorOfGet) {
  Pool pool(with(2));
  amid_others(pool, 0, [&](auto& submit_some) {
    auto throws = pool.submit(give, Harm::throws, Step::decode);
    submit_some();
    EXPECT_THROW(static_cast<void>(throws.get_for(kHangGuard)), DecodeError);
    EXPECT_FALSE(throws.valid());
  });
}

TEST_P(ExecutorDeadlockTest, WhatTheCallerDoesToItselfEndsTheFamily) {
  for (const Step step : {Step::encode, Step::decode}) {
    for (const Harm harm : {Harm::exits, Harm::crashes}) {
      Host host([&] {
        Pool pool(with(2));
        auto busy = pool.submit([] {
          for (;;) pause();
        });
        HOST_CHECK(pool.apply(twice, 1) == 2);
        if (step == Step::encode) static_cast<void>(pool.submit(take, Trap(harm, step)));
        static_cast<void>(pool.submit(give, harm, step).get());
        return 0;
      });
      EXPECT_EQ(host.end(), harm == Harm::exits ? "exit 3" : "signal 11");
      EXPECT_TRUE(host.is_gone_within(kPromisedSecond)) << describe(host.family());
    }
  }
}

// ---- large payloads

// Of many pieces; the one in the middle does harm when it is written, not when it is counted: as
// encoding first computes the size, half of it is in shared memory then.
class Mine {
 public:
  explicit Mine(Harm harm = Harm::none) : harm_(harm) {}
  template <class Archive>
  void save(Archive& ar) const {
    if (harm_ != Harm::none && ++saved_ == 2) do_harm(harm_);
    ar(harm_, filling_);
  }
  template <class Archive>
  void load(Archive& ar) {
    ar(harm_, filling_);
  }

 private:
  Harm harm_ = Harm::none;
  std::string filling_ = std::string(std::size_t{64} << 10, 'f');
  mutable int saved_ = 0;
};

constexpr std::size_t kPieces = 256;  // 16 MiB

std::vector<Mine> mined(Harm harm) {
  std::vector<Mine> pieces(kPieces);
  pieces[kPieces / 2] = Mine(harm);
  return pieces;
}
std::size_t count(const std::vector<Mine>& pieces) { return pieces.size(); }

TEST_P(ExecutorDeadlockTest, ALargeResultHalfWrittenIsAnErrorOfItsTask) {
  Pool pool(with(2));
  amid_others(pool, 10, [&](auto& submit_some) {
    for (int again = 0; again < 5; ++again) {
      auto throws = pool.submit(mined, Harm::throws);
      auto exits = pool.submit(mined, Harm::exits);
      auto crashes = pool.submit(mined, Harm::crashes);
      submit_some();
      EXPECT_THROW(static_cast<void>(throws.get_for(kHangGuard)), std::out_of_range);
      EXPECT_EQ(death_of([&] { static_cast<void>(exits.get()); }).exit_code, kExitCode);
      EXPECT_EQ(death_of([&] { static_cast<void>(crashes.get()); }).signal, SIGSEGV);
    }
    EXPECT_EQ(pool.submit(mined, Harm::none).get().size(), kPieces);
  });
}

TEST_P(ExecutorDeadlockTest, ALargeArgumentHalfWrittenIsAnErrorOfTheCall) {
  Pool pool(with(2));
  amid_others(pool, 0, [&](auto& submit_some) {
    for (int again = 0; again < 5; ++again) {
      EXPECT_THROW(static_cast<void>(pool.submit(count, mined(Harm::throws))), std::out_of_range);
      submit_some();
    }
    EXPECT_EQ(pool.submit(count, mined(Harm::none)).get(), kPieces);
  });
}

TEST_P(ExecutorDeadlockTest, CrashesWithLargeArgumentsOfAMapCostTheirElements) {
  Pool pool(with(2));
  const auto crash_with = [](const std::string& data) {
    if (data.front() == 'c') raise(SIGSEGV);
    return data.size();
  };
  constexpr std::size_t kSize = std::size_t{3} << 20;
  amid_others(pool, 5, [&](auto& /*submit_some*/) {
    std::vector<std::string> data;
    for (int i = 0; i < 10; ++i) data.emplace_back(kSize, i % 2 == 0 ? 'c' : 'd');
    const auto results = pool.map_results(crash_with, data, {.chunk_size = 2});
    ASSERT_EQ(results.size(), 10U);
    for (std::size_t i = 0; i < results.size(); ++i) {
      EXPECT_EQ(results[i].has_value(), i % 2 == 1) << i;
    }
  });
}

// ---- the end of the pool

TEST_P(ExecutorDeadlockTest, ACrashAfterClosingIsAnErrorOfItsTask) {
  for (const Harm harm : {Harm::exits, Harm::crashes}) {
    Pool pool(with(2));
    Event closed;
    const auto wait_and_harm = [](Event begin, Harm which) {
      begin.wait();
      do_harm(which);
    };
    auto first = pool.submit(wait_and_harm, closed, harm);
    auto second = pool.submit(wait_and_harm, closed, harm);
    std::vector<Future<int>> others;
    for (int i = 0; i < 20; ++i) others.push_back(pool.submit(twice, i));
    pool.close();
    closed.set();
    EXPECT_TRUE(pool.join_for(kHangGuard));
    expect_death(std::move(first), harm);
    expect_death(std::move(second), harm);
    for (int i = 0; i < 20; ++i) EXPECT_EQ(others[static_cast<std::size_t>(i)].get(), 2 * i);
  }
}

TEST_P(ExecutorDeadlockTest, ACrashDuringShutdownIsAnErrorOfItsTask) {
  Pool pool(with(2));
  Event begin;
  auto crashes = pool.submit(
      [](Event go) {
        go.wait();
        do_harm(Harm::crashes);
      },
      begin);
  std::jthread later([&] { begin.set(); });
  EXPECT_TRUE(pool.shutdown(kHangGuard)) << "a crash is an end of the task's own";
  expect_death(std::move(crashes), Harm::crashes);
}

TEST_P(ExecutorDeadlockTest, ClosingAfterACallThatFailedEnds) {
  for (int again = 0; again < 20; ++again) {
    Pool pool(with(2));
    EXPECT_EQ(pool.apply(twice, 21), 42);
    EXPECT_THROW(static_cast<void>(pool.submit(take, Trap(Harm::throws, Step::encode))),
                 std::out_of_range);
    pool.close();
    EXPECT_TRUE(pool.join_for(kHangGuard));
  }
}

// ---- others at the same time

TEST_P(ExecutorDeadlockTest, CrashesWhileOthersSubmitCostNobodyElseAnything) {
  Pool pool(with(2));
  constexpr int kThreads = 4;
  constexpr int kEach = 500 / kSlowness;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&pool, t] {
      std::vector<Future<std::string>> futures;
      const auto echo = [](std::string text) { return text; };
      const auto text_of = [t](int i) {
        return std::string(static_cast<std::size_t>(i % 11) * 997, static_cast<char>('a' + t));
      };
      for (int i = 0; i < kEach; ++i) futures.push_back(pool.submit(echo, text_of(i)));
      for (int i = 0; i < kEach; ++i) {
        EXPECT_EQ(futures[static_cast<std::size_t>(i)].get_for(kHangGuard), text_of(i));
      }
    });
  }
  const int rounds = 15;
  for (int i = 0; i < rounds; ++i) {
    auto crashes = pool.submit(do_harm, Harm::crashes);
    auto exits = pool.submit(give, Harm::exits, Step::encode);
    EXPECT_THROW(static_cast<void>(pool.submit(take, Trap(Harm::throws, Step::encode))),
                 std::out_of_range);
    expect_death(std::move(crashes), Harm::crashes);
    expect_death(std::move(exits), Harm::exits);
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(pool.stats().died, std::uint64_t{2} * rounds);
}

}  // namespace
}  // namespace brood::test
