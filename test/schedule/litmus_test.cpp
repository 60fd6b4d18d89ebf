// The explorer and its memory model against the small programs whose outcomes are known.
#include <gtest/gtest.h>

#include <set>
#include <string>

#include "schedule/explorer.hpp"

namespace brood::schedule {
namespace {

using sys::Atomic;
constexpr auto kRelaxed = std::memory_order_relaxed;
constexpr auto kAcquire = std::memory_order_acquire;
constexpr auto kRelease = std::memory_order_release;
constexpr auto kSc = std::memory_order_seq_cst;

using Outcomes = std::set<std::string>;

// All outcomes of a scene, which adds what it saw to the set.
template <class F>
Outcomes outcomes(F body, Limits limits = {}) {
  Outcomes seen;
  const Result result = explore(limits, [&](Scene& scene) { seen.insert(body(scene)); });
  EXPECT_EQ(result.failure, "");
  EXPECT_TRUE(result.complete);
  return seen;
}

std::string text(std::initializer_list<int> values) {
  std::string result;
  for (const int value : values) result += std::to_string(value);
  return result;
}

Outcomes store_buffering(std::memory_order stores, std::memory_order loads) {
  return outcomes([=](Scene& scene) {
    Atomic<int> x{0}, y{0};
    int a = -1, b = -1;
    scene.actor("one", [&] {
      x.store(1, stores);
      a = y.load(loads);
    });
    scene.actor("two", [&] {
      y.store(1, stores);
      b = x.load(loads);
    });
    scene.play();
    return text({a, b});
  });
}

TEST(LitmusTest, StoreBuffering) {
  EXPECT_EQ(store_buffering(kRelease, kAcquire), (Outcomes{"00", "01", "10", "11"}));
  EXPECT_EQ(store_buffering(kSc, kSc), (Outcomes{"01", "10", "11"}));
  EXPECT_EQ(store_buffering(kSc, kAcquire), (Outcomes{"00", "01", "10", "11"}));
}

Outcomes message_passing(std::memory_order store, std::memory_order load) {
  return outcomes([=](Scene& scene) {
    Atomic<int> data{0}, flag{0};
    int a = -1, b = -1;
    scene.actor("writer", [&] {
      data.store(1, kRelaxed);
      flag.store(1, store);
    });
    scene.actor("reader", [&] {
      a = flag.load(load);
      b = data.load(kRelaxed);
    });
    scene.play();
    return text({a, b});
  });
}

TEST(LitmusTest, MessagePassing) {
  EXPECT_EQ(message_passing(kRelease, kAcquire), (Outcomes{"00", "01", "11"}));
  EXPECT_EQ(message_passing(kRelaxed, kAcquire), (Outcomes{"00", "01", "10", "11"}));
  EXPECT_EQ(message_passing(kRelease, kRelaxed), (Outcomes{"00", "01", "10", "11"}));
}

TEST(LitmusTest, AReadModifyWriteContinuesAReleaseSequence) {
  const Outcomes seen = outcomes([](Scene& scene) {
    Atomic<int> data{0}, flag{0};
    int a = -1, b = -1;
    scene.actor("writer", [&] {
      data.store(1, kRelaxed);
      flag.store(1, kRelease);
    });
    scene.actor("changer", [&] { flag.fetch_add(1, kRelaxed); });
    scene.actor("reader", [&] {
      a = flag.load(kAcquire);
      b = data.load(kRelaxed);
    });
    scene.play();
    return text({a, b});
  });
  EXPECT_TRUE(seen.contains("21"));
  EXPECT_FALSE(seen.contains("20"));
  EXPECT_TRUE(seen.contains("10")) << "of the changer alone";
}

Outcomes independent_reads(std::memory_order stores, std::memory_order loads) {
  return outcomes([=](Scene& scene) {
    Atomic<int> x{0}, y{0};
    int a = 0, b = 0, c = 0, d = 0;
    scene.actor("x", [&] { x.store(1, stores); });
    scene.actor("y", [&] { y.store(1, stores); });
    scene.actor("xy", [&] {
      a = x.load(loads);
      b = y.load(loads);
    });
    scene.actor("yx", [&] {
      c = y.load(loads);
      d = x.load(loads);
    });
    scene.play();
    return text({a, b, c, d});
  });
}

TEST(LitmusTest, IndependentReadsOfIndependentWrites) {
  EXPECT_TRUE(independent_reads(kRelease, kAcquire).contains("1010"));
  EXPECT_FALSE(independent_reads(kSc, kSc).contains("1010"));
  EXPECT_EQ(independent_reads(kSc, kSc).size(), 15u);
}

TEST(LitmusTest, OneWordIsCoherent) {
  const Outcomes seen = outcomes([](Scene& scene) {
    Atomic<int> x{0};
    int a = 0, b = 0;
    scene.actor("writer", [&] {
      x.store(1, kRelaxed);
      x.store(2, kRelaxed);
    });
    scene.actor("reader", [&] {
      a = x.load(kRelaxed);
      b = x.load(kRelaxed);
    });
    scene.play();
    return text({a, b});
  });
  EXPECT_EQ(seen, (Outcomes{"00", "01", "02", "11", "12", "22"}));
}

TEST(LitmusTest, ChangesAreNeverLost) {
  const Outcomes seen = outcomes([](Scene& scene) {
    Atomic<int> x{0};
    for (const char* name : {"one", "two", "three"}) {
      scene.actor(name, [&] { x.fetch_add(1, kRelaxed); });
    }
    scene.play();
    return text({x.load(kRelaxed)});
  });
  EXPECT_EQ(seen, (Outcomes{"3"}));
}

TEST(LitmusTest, ASwapFailsOnlyByAnotherValueAndSucceedsOnce) {
  const Outcomes seen = outcomes([](Scene& scene) {
    Atomic<int> x{0};
    bool a = false, b = false;
    scene.actor("one", [&] {
      int expected = 0;
      a = x.compare_exchange_strong(expected, 1, kRelaxed);
    });
    scene.actor("two", [&] {
      int expected = 0;
      b = x.compare_exchange_strong(expected, 2, kRelaxed);
    });
    scene.play();
    return text({a, b});
  });
  EXPECT_EQ(seen, (Outcomes{"01", "10"}));
}

std::string failure(const Body& body, Limits limits = {}) {
  const std::string text = explore(limits, body).failure;
  return text.substr(0, text.find(" ("));
}

TEST(LitmusTest, PlainDataIsJudged) {
  const auto pass_on = [](std::memory_order store, std::memory_order load) {
    return failure([=](Scene& scene) {
      Data<int> data;
      Atomic<int> flag{0};
      scene.actor("writer", [&] {
        data.write(7);
        flag.store(1, store);
      });
      scene.actor("reader", [&] {
        if (flag.load(load) == 1) scene.require(data.read() == 7, "an old value");
      });
      scene.play();
    });
  };
  EXPECT_EQ(pass_on(kRelease, kAcquire), "");
  EXPECT_EQ(pass_on(kRelaxed, kAcquire), "data race");
  EXPECT_EQ(pass_on(kRelease, kRelaxed), "data race");
}

// A sleeper that looks at the flag and only then announces that it sleeps.
std::string sleep_and_wake(bool announce_first, std::memory_order order) {
  return failure([=](Scene& scene) {
    sys::FutexWord bell{0};
    Atomic<int> sleeping{0}, work{0};
    scene.actor("sleeper", [&] {
      const std::uint32_t before = bell.load(kAcquire);
      bool found = false;
      if (!announce_first) found = work.load(order) == 1;
      sleeping.store(1, order);
      if (announce_first) found = work.load(order) == 1;
      if (!found) sys::futex_wait(&bell, before, sys::kForever);
    });
    scene.actor("waker", [&] {
      work.store(1, order);
      if (sleeping.load(order) == 1) {
        bell.fetch_add(1, order);
        sys::futex_wake(&bell, 1);
      }
    });
    scene.play();
  });
}

TEST(LitmusTest, ALostWakeIsFound) {
  EXPECT_EQ(sleep_and_wake(true, kSc), "");
  EXPECT_EQ(sleep_and_wake(false, kSc), "sleeper sleeps for ever");
  EXPECT_EQ(sleep_and_wake(true, kRelaxed), "sleeper sleeps for ever");
}

TEST(LitmusTest, DeathIsAStepLikeAnother) {
  std::set<std::string> seen;
  const Result result = explore({}, [&](Scene& scene) {
    sys::RobustWord life{};
    life.word.store(7);
    Atomic<int> x{0};
    Data<int> data;
    int a = -1;
    bool marked = false;
    const int mortal = scene.mortal(
        "mortal",
        [&] {
          x.store(1, kRelaxed);
          data.write(1);
          x.store(2, kRelaxed);
        },
        &life);
    scene.actor("survivor", [&] {
      const bool died = scene.await_end(mortal);
      marked = (life.word.load(kAcquire) & sys::kFutexOwnerDied) != 0;
      scene.require(died == marked, "a death that the kernel does not mark");
      (void)data.read();
      a = x.load(kRelaxed);
    });
    scene.play();
    seen.insert(text({a, marked}));
  });
  EXPECT_EQ(result.failure, "");
  EXPECT_TRUE(result.complete);
  EXPECT_EQ(seen, (Outcomes{"01", "11", "20", "21"}));
}

TEST(LitmusTest, LeavingOutWhatIsEquivalentLosesNoOutcome) {
  const auto scene_of = [](Outcomes& seen) {
    return [&seen](Scene& scene) {
      Atomic<int> x{0}, y{0}, z{0};
      int a = 0, b = 0, c = 0;
      scene.actor("one", [&] {
        x.store(1, kRelease);
        a = y.load(kAcquire);
        z.fetch_add(1, kSc);
      });
      scene.actor("two", [&] {
        y.store(1, kSc);
        b = z.load(kSc);
        x.fetch_add(2, kRelaxed);
      });
      scene.actor("three", [&] { c = x.load(kAcquire) * 10 + z.load(kSc); });
      scene.play();
      seen.insert(text({a, b, c, x.load(), z.load()}));
    };
  };
  Outcomes all, few;
  const Result slow = explore({.reduce = false}, scene_of(all));
  const Result fast = explore({}, scene_of(few));
  ASSERT_TRUE(slow.complete && fast.complete);
  EXPECT_EQ(all, few);
  EXPECT_LT(fast.executions, slow.executions);
}

}  // namespace
}  // namespace brood::schedule
