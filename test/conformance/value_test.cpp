// Value and RawValue: what CPython's _TestValue and _TestSharedCTypes check, and what becomes of
// them when processes die or stand still.
#include <gtest/gtest.h>
#include <signal.h>

#include <array>
#include <complex>
#include <cstdint>
#include <limits>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#include "support/pools.hpp"
#include "support/processes.hpp"

namespace brood::test {
namespace {

class ValueConformance : public StartMethodTest {};

// Runs f(args...) in a process by the start method of the test, to its end.
template <class F, class... Args>
int run(F f, const Args&... args) {
  Process process(f, args...);
  process.start();
  process.join();
  return process.exit_code().value_or(-1000);
}

enum class Colour : std::uint8_t { red, green };
struct Foo {
  int x;
  double y;
  std::int64_t z;
  friend bool operator==(const Foo&, const Foo&) = default;
};
using Wide = std::array<std::uint64_t, 12>;

// What assignment would mean, storing or naming another value, is not left to guess.
static_assert(!std::is_assignable_v<Value<int>&, int>);
static_assert(!std::is_convertible_v<int, Value<int>>);

template <class T>
void goes_both_ways(T first, T second) {
  Value<T> value(first);
  RawValue<T> raw(first);
  EXPECT_EQ(value.get(), first);
  EXPECT_EQ(run(
                [](Value<T> v, RawValue<T> r, T before, T after) {
                  if (v.get() != before || r.get() != before) return ExitCode{1};
                  v.set(after);
                  r.set(after);
                  return ExitCode{0};
                },
                value, raw, first, second),
            0);
  EXPECT_EQ(value.get(), second);
  EXPECT_EQ(raw.get(), second);
  EXPECT_EQ(raw.ref(), second);
}

TEST_P(ValueConformance, ValuesOfAllTypesAreSeenAndSetByOthers) {
  goes_both_ways<int>(4343, 24234);
  goes_both_ways<double>(3.625, -4.25);
  goes_both_ways<short>(-232, 234);
  goes_both_ways<std::int64_t>(std::int64_t{1} << 33, std::int64_t{1} << 34);
  goes_both_ways<char>('x', 'y');
  goes_both_ways<bool>(false, true);
  goes_both_ways<Colour>(Colour::red, Colour::green);
  goes_both_ways<long double>(1.5L, -2.5L);
  goes_both_ways<std::complex<double>>({1, 2}, {3, 4});
  goes_both_ways<Foo>({3, 2, 1}, {1, 2.5, 3});
  goes_both_ways<std::array<char, 3>>({'a', 'b', 'c'}, {'x', 'y', 'z'});
  goes_both_ways<Wide>({1, 2}, {3, 4, 5});
}

// _TestSharedCTypes.test_sharedctypes, the values.
TEST_P(ValueConformance, AnotherProcessDoublesThem) {
  Value<int> x(7);
  Value<double> y(1.0 / 3.0);
  Value<std::int64_t> z(std::int64_t{1} << 33);
  Value<Foo> foo({3, 2, 0});
  const auto twice = [](Value<int> a, Value<double> b, Value<std::int64_t> c, Value<Foo> f) {
    a.update([](int& v) { v *= 2; });
    b.update([](double v) { return v * 2; });
    c += c.get();
    f.update([](Foo& v) {
      v.x *= 2;
      v.y *= 2;
    });
  };
  EXPECT_EQ(run(twice, x, y, z, foo), 0);
  EXPECT_EQ(x.get(), 14);
  EXPECT_DOUBLE_EQ(y.get(), 2.0 / 3.0);
  EXPECT_EQ(z.get(), std::int64_t{1} << 34);
  EXPECT_EQ(foo.get(), (Foo{6, 4, 0}));
}

// _TestSharedCTypes.test_copy.
TEST_P(ValueConformance, ACopyIsAnotherValue) {
  Value<Foo> foo({2, 5.0, std::int64_t{1} << 33});
  const Value<Foo> copy = foo.copy();
  const Value<Foo> same = foo;
  foo.set({0, 0, 0});
  EXPECT_EQ(copy.get(), (Foo{2, 5.0, std::int64_t{1} << 33}));
  EXPECT_EQ(same.get(), (Foo{0, 0, 0}));
  EXPECT_EQ(same, foo);
  EXPECT_FALSE(copy == foo);
}

TEST(ValueTest, HasTheOperationsOfNumbers) {
  Value<int> i(10);
  EXPECT_EQ(i += 5, 15);
  EXPECT_EQ(i -= 3, 12);
  EXPECT_EQ(++i, 13);
  EXPECT_EQ(i++, 13);
  EXPECT_EQ(--i, 13);
  EXPECT_EQ(i--, 13);
  EXPECT_EQ(i.fetch_add(8), 12);
  EXPECT_EQ(i.fetch_sub(4), 20);
  EXPECT_EQ(i.fetch_or(3), 16);
  EXPECT_EQ(i.fetch_and(18), 19);
  EXPECT_EQ(i.fetch_xor(2), 18);
  EXPECT_EQ(i.exchange(-1), 16);
  int expected = 5;
  EXPECT_FALSE(i.compare_exchange(expected, 7));
  EXPECT_EQ(expected, -1);
  EXPECT_TRUE(i.compare_exchange(expected, 7));
  EXPECT_EQ(i.get(), 7);
  Value<int> most(std::numeric_limits<int>::max());
  EXPECT_EQ(++most, std::numeric_limits<int>::min());  // wraps around, as std::atomic does

  Value<double> d(0.5);
  EXPECT_EQ(d += 1, 1.5);
  EXPECT_EQ(d.fetch_sub(1), 1.5);
  Value<long double> wide(0.5L);
  EXPECT_EQ(wide += 1, 1.5L);
  EXPECT_EQ(wide.exchange(4), 1.5L);
  EXPECT_EQ(Value<Colour>().get(), Colour::red);
}

TEST(ValueTest, WideOnesHaveThemToo) {
  Value<Foo> foo({1, 2, 3});
  EXPECT_EQ(foo.exchange({4, 5, 6}), (Foo{1, 2, 3}));
  Foo expected{1, 2, 3};
  EXPECT_FALSE(foo.compare_exchange(expected, {7, 8, 9}));
  EXPECT_EQ(expected, (Foo{4, 5, 6}));
  EXPECT_TRUE(foo.compare_exchange(expected, {7, 8, 9}));
  EXPECT_EQ(foo.update([](const Foo& old) { return Foo{old.x + 1, old.y, old.z}; }),
            (Foo{8, 8, 9}));
}

TEST(ValueTest, AnUpdateThatThrowsChangesNothing) {
  Value<int> small(1);
  Value<Foo> wide({1, 1, 1});
  const auto fail = [](auto& v) {
    v = {};
    throw std::runtime_error("no");
  };
  EXPECT_THROW(small.update(fail), std::runtime_error);
  EXPECT_THROW(wide.update(fail), std::runtime_error);
  EXPECT_EQ(small.get(), 1);
  EXPECT_EQ(wide.get(), (Foo{1, 1, 1}));
  wide.set({2, 2, 2});
  EXPECT_EQ(wide.get(), (Foo{2, 2, 2}));
}

TEST(ValueTest, AnUpdateWithinItselfIsAnError) {
  Value<Foo> value({1, 1, 1});
  Value<Foo> other({0, 0, 0});
  EXPECT_THROW(value.update([&](Foo&) { value.set({}); }), Error);
  value.update([&](Foo& v) {
    v.x = 5;
    EXPECT_EQ(value.get().x, 1);  // reading waits for nobody
    other.set({7, 7, 7});
  });
  EXPECT_EQ(value.get().x, 5);
  EXPECT_EQ(other.get().x, 7);
}

TEST(ValueTest, AMovedFromHandleSaysSo) {
  Value<int> value(1);
  Value<int> other = std::move(value);
  EXPECT_EQ(other.get(), 1);
  EXPECT_THROW(static_cast<void>(value.get()), StaleHandle);  // NOLINT(bugprone-use-after-move)
  value = other;
  EXPECT_EQ(value.get(), 1);
}

TEST(ValueTest, IsInertInAForkOfTheUsers) {
  Value<int> value(1);
  Value<Foo> wide({1, 1, 1});
  const pid_t child = fork();
  if (child == 0) {
    int stale = 0;
    try {
      value.set(2);
    } catch (const StaleHandle&) {
      ++stale;
    }
    try {
      static_cast<void>(wide.get());
    } catch (const StaleHandle&) {
      ++stale;
    }
    _exit(stale);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), 2);
  EXPECT_EQ(value.get(), 1);
}

// ---- the lock

// _TestValue.test_getobj_getlock: there is one, always the same.
TEST_P(ValueConformance, HasALockThatProcessesShare) {
  Value<std::int64_t> value(5);
  const RLock lock = value.get_lock();
  lock.lock();
  EXPECT_TRUE(value.get_lock().try_lock());  // recursive
  value.get_lock().unlock();
  const auto try_it = [](Value<std::int64_t> v, const RLock& l) {
    ++v;  // is for those who take it only
    if (v.get_lock().try_lock()) return ExitCode{1};
    return ExitCode{l.try_lock() ? 2 : 0};
  };
  EXPECT_EQ(run(try_it, value, lock), 0);
  lock.unlock();
  EXPECT_EQ(value.get(), 6);
  EXPECT_EQ(run(try_it, value, lock), 1);  // which ended while it held it
  EXPECT_THROW(lock.lock(), OwnerDied);
  EXPECT_EQ(value.get(), 7);
  EXPECT_TRUE(lock.recover());
  lock.lock();
  lock.unlock();
}

// _TestSharedCTypes.test_synchronize: what is not atomic by itself.
TEST_P(ValueConformance, SectionsUnderTheLockAreNotMixed) {
  Value<int> a(0);
  Value<Wide> b(Wide{});
  const auto work = [](Value<int> x, Value<Wide> y) {
    for (int i = 0; i < 300; ++i) {
      const RLock lock = y.get_lock();
      const std::lock_guard guard(lock);
      const Wide old = y.get();
      if (old[0] != static_cast<std::uint64_t>(x.get())) return ExitCode{1};
      x.set(x.get() + 1);
      Wide next = old;
      ++next[0];
      y.set(next);
    }
    return ExitCode{0};
  };
  Process process(work, a, b);
  process.start();
  EXPECT_EQ(work(a, b).value, 0);
  process.join();
  EXPECT_EQ(process.exit_code(), 0);
  EXPECT_EQ(a.get(), 600);
}

TEST(ValueTest, ItsLockServesACondition) {
  Value<int> value(0);
  const Condition changed(value.get_lock());
  Process process(
      [](Value<int> v, const Condition& c) {
        const std::lock_guard guard(c);
        v.set(1);
        c.notify();
      },
      value, changed);
  {
    const std::lock_guard guard(changed);
    process.start();
    changed.wait([&] { return value.get() == 1; });
  }
  process.join();
  EXPECT_EQ(value.get(), 1);
}

// ---- several at once

TEST_P(ValueConformance, NoChangeIsLost) {
  constexpr int kEach = 2000;
  Value<int> count(0);
  Value<double> sum(0);
  Value<Wide> wide(Wide{});
  const auto work = [](Value<int> c, Value<double> s, Value<Wide> w) {
    for (int i = 0; i < kEach; ++i) {
      ++c;
      s += 0.5;
      w.update([](Wide& v) {
        for (auto& x : v) ++x;
      });
    }
  };
  std::vector<Process> processes;
  for (int i = 0; i < 3; ++i) processes.emplace_back(work, count, sum, wide);
  for (Process& process : processes) process.start();
  std::thread here([&] { work(count, sum, wide); });
  work(count, sum, wide);
  here.join();
  for (Process& process : processes) {
    process.join();
    EXPECT_EQ(process.exit_code(), 0);
  }
  EXPECT_EQ(count.get(), 5 * kEach);
  EXPECT_EQ(sum.get(), 2.5 * kEach);
  for (const std::uint64_t x : wide.get()) EXPECT_EQ(x, 5U * kEach);
}

// ---- death

bool is_whole(const Wide& value) {
  return std::ranges::all_of(value, [&](std::uint64_t x) { return x == value[0]; });
}

TEST(ValueDeathTest, InsideAnUpdateLeavesTheOldValue) {
  Value<Wide> wide(Wide{});
  Value<int> small(1);
  Process process(forked, [=]() mutable {
    wide.update([&](Wide& v) {
      v[0] = 1;
      small.update([](int& s) {
        s = 2;
        raise(SIGKILL);
      });
    });
  });
  process.start();
  process.join();
  EXPECT_EQ(process.exit_code(), -SIGKILL);
  EXPECT_EQ(small.get(), 1);
  EXPECT_EQ(wide.get(), Wide{});
  // The next one waits for the burial at most.
  wide.update([](Wide& v) { v.fill(3); });
  EXPECT_TRUE(is_whole(wide.get()));
}

// Killed at any moment: what it had finished is there, of the rest nothing.
TEST(ValueDeathTest, AtAnyMomentLosesNothingAndTearsNothing) {
  Value<Wide> wide(Wide{});
  Value<std::uint64_t> finished(0);
  std::minstd_rand random(static_cast<unsigned>(seed_of_the_day()));
  const auto work = [=]() mutable {
    for (;;) {
      wide.update([](Wide& v) {
        for (auto& x : v) ++x;
      });
      ++finished;
    }
  };
  std::uint64_t killed = 0;
  for (int round = 0; round < 20; ++round) {
    std::vector<Process> processes;
    for (int i = 0; i < 2; ++i) processes.emplace_back(forked, work);
    for (Process& process : processes) process.start();
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 4000));
    ASSERT_TRUE(is_whole(wide.get()));
    for (Process& process : processes) process.kill();
    for (Process& process : processes) process.join();
    killed += processes.size();
    const Wide now = wide.update([](Wide&) {});
    ASSERT_TRUE(is_whole(now));
    ASSERT_GE(now[0], finished.get());
    ASSERT_LE(now[0], finished.get() + killed);
  }
}

// Who stands still in a change is waited for by those who want to change, and by nobody else.
TEST(ValueDeathTest, AStoppedWriterHoldsUpNoReader) {
  Value<Wide> wide(Wide{});
  Value<int> inside(0);
  Process process(forked, [=]() mutable {
    wide.update([&](Wide& v) {
      v.fill(7);
      inside.set(1);
      raise(SIGSTOP);
    });
  });
  process.start();
  ASSERT_TRUE(wait_until([&] { return inside.get() == 1; }));
  ASSERT_TRUE(stop_and_see(process.pid()));
  EXPECT_EQ(wide.get(), Wide{});
  std::atomic<bool> changed = false;
  std::thread writer([&] {
    wide.update([](Wide& v) { ++v[0]; });
    changed = true;
  });
  std::this_thread::sleep_for(50ms);
  EXPECT_FALSE(changed);
  EXPECT_EQ(wide.get(), Wide{});
  process.kill();
  writer.join();
  process.join();
  EXPECT_EQ(wide.get()[0], 1U);
  EXPECT_EQ(wide.get()[1], 0U);
}

BROOD_FOR_EACH_START_METHOD(ValueConformance);

}  // namespace
}  // namespace brood::test
