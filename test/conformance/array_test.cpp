// Array, RawArray and Slice: what CPython's _TestArray, _TestSharedCTypes and _TestHeap check, and
// what a scientist does with them.
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <array>
#include <list>
#include <mutex>
#include <numeric>
#include <random>
#include <sstream>
#include <thread>
#include <vector>

#include "support/pools.hpp"
#include "support/processes.hpp"
#include "warden/object_space.hpp"

namespace brood::test {
namespace {

class ArrayConformance : public StartMethodTest {};

template <class F, class... Args>
int run(F f, const Args&... args) {
  Process process(f, args...);
  process.start();
  process.join();
  return process.exit_code().value_or(-1000);
}

struct Point {
  double x;
  int n;  // and padding
};

template <class Range>
std::vector<int> as_vector(const Range& range) {
  return {range.begin(), range.end()};
}

const std::vector<int> kSome = {680, 626, 934, 821, 150, 233, 548, 982, 714, 831};

template <template <class> class Kind>
void is_changed_by_another_process() {
  Kind<int> array(kSome);
  ASSERT_EQ(array.size(), kSome.size());
  EXPECT_EQ(array[3], kSome[3]);
  EXPECT_EQ(as_vector(array.slice(2, 5)), std::vector<int>(kSome.begin() + 2, kSome.begin() + 7));
  std::vector<int> expected = kSome;
  std::ranges::copy(std::array{1, 2, 3, 4}, array.span().subspan(4, 4).begin());
  std::ranges::copy(std::array{1, 2, 3, 4}, expected.begin() + 4);
  EXPECT_EQ(as_vector(array), expected);
  const auto sums = [](Kind<int> a) {
    for (std::size_t i = 1; i < a.size(); ++i) a[i] += a[i - 1];
  };
  EXPECT_EQ(run(sums, array), 0);
  std::partial_sum(expected.begin(), expected.end(), expected.begin());
  EXPECT_EQ(as_vector(array), expected);
}

TEST_P(ArrayConformance, IsChangedByAnotherProcess) {
  is_changed_by_another_process<Array>();
  is_changed_by_another_process<RawArray>();
}

// test_array_from_size: memory that was used before is zeroed as well.
TEST(ArrayTest, OfASizeIsZeros) {
  for (const std::size_t size : {10UL, 100'000UL}) {
    for (int i = 0; i < 3; ++i) {
      Array<int> array(size);
      ASSERT_EQ(array.size(), size);
      ASSERT_TRUE(std::ranges::all_of(array, [](int x) { return x == 0; }));
      std::ranges::fill(array, 7);
    }
  }
  EXPECT_TRUE(Array<int>(0).empty());
  EXPECT_THROW(Array<double>(SIZE_MAX / 4), ArenaFull);
}

// _TestSharedCTypes.test_sharedctypes, the arrays; `string.value *= 2` among them.
TEST_P(ArrayConformance, AnotherProcessDoublesThem) {
  RawArray<double> numbers(std::views::iota(0, 10));
  Array<char> text(20);
  std::ranges::copy(std::string_view("hello"), text.begin());
  Array<Point> points{{1.5, 1}, {2.5, 2}};
  const auto twice = [](RawArray<double> a, Array<char> t, Array<Point> p) {
    for (double& x : a) x *= 2;
    const std::size_t length = std::string_view(t.data()).size();
    std::copy_n(t.begin(), length, t.begin() + length);
    for (Point& point : p) point = {point.x * 2, point.n * 2};
  };
  EXPECT_EQ(run(twice, numbers, text, points), 0);
  for (std::size_t i = 0; i < 10; ++i) EXPECT_EQ(numbers[i], 2.0 * static_cast<double>(i));
  EXPECT_STREQ(text.data(), "hellohello");
  EXPECT_EQ(points[1].x, 5.0);
  EXPECT_EQ(points[1].n, 4);
}

TEST(ArrayTest, IsMadeOfAnyRange) {
  EXPECT_EQ(as_vector(Array<int>{3, 1, 2}), (std::vector{3, 1, 2}));
  EXPECT_EQ(as_vector(Array<int>(std::list<short>{3, 1})), (std::vector{3, 1}));
  std::istringstream words("4 5 6");
  EXPECT_EQ(as_vector(Array<int>(std::ranges::istream_view<int>(words))), (std::vector{4, 5, 6}));
  EXPECT_EQ(Array<char>("hello").size(), 5U);
  EXPECT_EQ(Array(std::vector{1.5, 2.5})[1], 2.5);
  const Array<int> array{1, 2, 3};
  EXPECT_EQ(as_vector(Array<int>(array.slice(1, 2))), (std::vector{2, 3}));
  EXPECT_EQ(array.at(2), 3);
  EXPECT_THROW(static_cast<void>(array.at(3)), std::out_of_range);
}

// What can't be changed through a handle is told by its type.
static_assert(!std::is_assignable_v<decltype(std::declval<Array<const int>&>()[0]), int>);
static_assert(std::is_convertible_v<Array<int>, Array<const int>>);
static_assert(!std::is_convertible_v<Array<const int>, Array<int>>);

TEST(ArrayTest, ACopyIsAnotherArray) {
  Array<int> array{1, 2, 3};
  const Array<int> copy = array.copy();
  const Array<int> same = array;
  const Array<const int> seen = array;
  array[0] = 9;
  EXPECT_EQ(copy[0], 1);
  EXPECT_EQ(same[0], 9);
  EXPECT_EQ(seen[0], 9);
  EXPECT_EQ(same, array);
  EXPECT_FALSE(copy == array);
}

TEST(ArrayTest, IsCutIntoEqualParts) {
  Array<int> array(std::views::iota(0, 10));
  const auto slices = array.slices(4);
  ASSERT_EQ(slices.size(), 4U);
  std::vector<int> all;
  for (const Slice<int>& slice : slices) {
    EXPECT_GE(slice.size(), 2U);
    EXPECT_LE(slice.size(), 3U);
    all.insert(all.end(), slice.begin(), slice.end());
  }
  EXPECT_EQ(all, as_vector(array));
  EXPECT_EQ(array.slices(20).size(), 20U);
  EXPECT_EQ(array.slices(20).back().size(), 0U);
  const auto chunks = array.chunks(4);
  ASSERT_EQ(chunks.size(), 3U);
  EXPECT_EQ(as_vector(chunks[2]), (std::vector{8, 9}));
  EXPECT_THROW(static_cast<void>(array.slices(0)), Error);
  EXPECT_THROW(static_cast<void>(array.chunks(0)), Error);
  EXPECT_THROW(static_cast<void>(array.slice(5, 6)), Error);
  EXPECT_THROW(static_cast<void>(array.slice(SIZE_MAX, 2)), Error);
}

// ---- the lock

// _TestArray.test_getobj_getlock_obj.
TEST_P(ArrayConformance, HaveALockThatProcessesShare) {
  Array<int> array(100);
  const auto work = [](Array<int> a) {
    for (int i = 0; i < 200; ++i) {
      a.update([](std::span<int> all) {
        for (int& x : all) ++x;
      });
    }
  };
  Process process(work, array);
  process.start();
  work(array);
  process.join();
  EXPECT_EQ(process.exit_code(), 0);
  EXPECT_TRUE(std::ranges::all_of(array, [](int x) { return x == 400; }));
  EXPECT_EQ(array.update([](std::span<int> all) { return all.size(); }), 100U);
}

TEST_P(ArrayConformance, TellWhoComesNextThatAnUpdateWasNotFinished) {
  Array<int> array(10);
  const auto die = [](Array<int> a) {
    a.update([](std::span<int> all) {
      all[0] = 1;
      raise(SIGKILL);
    });
  };
  EXPECT_EQ(run(die, array), -SIGKILL);
  EXPECT_THROW(array.update([](std::span<int>) {}), OwnerDied);
  EXPECT_TRUE(array.get_lock().recover([&] { array[0] = 0; }));
  array.update([](std::span<int> all) { EXPECT_EQ(all[0], 0); });
}

// ---- in place

// Spans are not filled from copies, and what is written through them is in the array.
TEST_P(ArrayConformance, ViewsOfProcessesAreTheSameMemory) {
  Array<double> in(std::views::iota(0, 1000));
  Array<double> out(1000);
  const Array<char> text("hello");
  const auto scale = [](std::span<const double> a, std::span<double> b, std::string_view t) {
    for (std::size_t i = 0; i < a.size(); ++i) b[i] = a[i] * static_cast<double>(t.size());
  };
  EXPECT_EQ(run(scale, in, out, text), 0);
  EXPECT_EQ(out[999], 4995);
  EXPECT_EQ(run(scale, in.slice(0, 10), out.slice(990, 10), text), 0);
  EXPECT_EQ(out[999], 45);
  EXPECT_EQ(out[989], 4945);
  EXPECT_EQ(run(scale, Array<const double>(in), out, text), 0);
  // What is no array is copied as ever.
  EXPECT_EQ(run(scale, std::vector<double>(1000, 1), out, "four"), 0);
  EXPECT_EQ(out[999], 4);
}

TEST_P(ArrayConformance, ViewsOfTasksAreTheSameMemory) {
  Pool pool({.workers = 2, .start = GetParam()});
  Array<double> in(std::views::iota(0, 1000));
  Array<double> out(1000);
  const auto twice = [](std::span<const double> a, std::span<double> b) {
    std::ranges::transform(a, b.begin(), [](double x) { return 2 * x; });
    return std::accumulate(a.begin(), a.end(), 0.0);
  };
  const auto from = in.slices(7);
  const auto to = out.slices(7);
  std::vector<Future<double>> sums;
  for (std::size_t i = 0; i < from.size(); ++i) sums.push_back(pool.submit(twice, from[i], to[i]));
  double total = 0;
  for (auto& sum : sums) total += sum.get();
  EXPECT_EQ(total, 999 * 500);
  for (std::size_t i = 0; i < out.size(); ++i) ASSERT_EQ(out[i], 2.0 * static_cast<double>(i));
}

TEST_P(ArrayConformance, AreMappedOver) {
  Pool pool({.workers = 2, .start = GetParam()});
  Array<int> array(std::views::iota(0, 100));
  const auto negate = [](std::span<int> part) {
    for (int& x : part) x = -x;
    return std::accumulate(part.begin(), part.end(), 0);
  };
  const std::vector<int> sums = pool.map(negate, array.slices(9));
  EXPECT_EQ(std::accumulate(sums.begin(), sums.end(), 0), -99 * 50);
  EXPECT_EQ(array[99], -99);
}

// By value, generic, inside others, and back as a result.
TEST_P(ArrayConformance, TravelInsideOtherValues) {
  Pool pool({.workers = 2, .start = GetParam()});
  const auto make = [](int n, std::vector<Slice<int>> parts) {
    Array<int> array(std::views::iota(0, n));
    for (const Slice<int>& part : parts) std::ranges::fill(part, n);
    return std::pair(array, parts.at(1));
  };
  Array<int> array(9);
  const auto [made, part] = pool.submit(make, 50, array.slices(3)).get();
  EXPECT_EQ(made.size(), 50U);
  EXPECT_EQ(made[49], 49);
  EXPECT_EQ(array[8], 50);
  EXPECT_EQ(part.first(), 3U);
  EXPECT_EQ(part.array(), array);
  const auto first = [](auto values) { return values[0]; };
  EXPECT_EQ(pool.submit(first, array).get(), 50);
}

// ---- the heap

shm::Arena::Stats memory() { return warden::ObjectSpace::current()->objects().arena().stats(); }

// _TestHeap.test_heap.
TEST(ArrayHeapTest, AllMemoryComesBack) {
  const Array<char> first(1);  // founds the family
  const std::size_t before = memory().live_blocks;
  std::minstd_rand random(static_cast<unsigned>(seed_of_the_day()));
  std::lognormal_distribution<double> sizes(std::log(1000), 1);
  std::vector<Array<char>> arrays;
  for (int i = 0; i < 5000; ++i) {
    arrays.emplace_back(static_cast<std::size_t>(sizes(random)));
    if (arrays.size() <= 100) continue;
    std::swap(arrays[random() % arrays.size()], arrays.back());
    arrays.pop_back();
  }
  EXPECT_EQ(memory().live_blocks, before + arrays.size());
  std::string why;
  EXPECT_TRUE(warden::ObjectSpace::current()->objects().arena().is_valid(&why)) << why;
  arrays.clear();
  EXPECT_EQ(memory().live_blocks, before);
}

// _TestHeap.test_free_from_gc: freed by others than who allocates, in the middle of that.
TEST(ArrayHeapTest, IsFreedByAnotherThread) {
  const Array<char> first(1);
  const std::size_t before = memory().live_blocks;
  std::vector<Array<char>> shared;
  std::mutex mutex;
  std::atomic<bool> done = false;
  std::thread other([&] {
    while (!done) {
      std::vector<Array<char>> taken;
      {
        const std::lock_guard lock(mutex);
        taken.swap(shared);
      }
    }
  });
  for (int i = 0; i < 2000; ++i) {
    Array<char> array(1 + static_cast<std::size_t>(i) % 700);
    const std::lock_guard lock(mutex);
    shared.push_back(std::move(array));
  }
  done = true;
  other.join();
  shared.clear();
  EXPECT_EQ(memory().live_blocks, before);
}

// ---- death

TEST_P(ArrayConformance, OutliveTheirMaker) {
  Pool pool({.workers = 1, .start = GetParam()});
  const auto make = [](int n) { return Array<int>(std::views::iota(0, n)); };
  const Array<int> array = pool.submit(make, 100).get();
  const auto die = [] { raise(SIGKILL); };
  EXPECT_THROW(pool.submit(die).get(), WorkerDied);
  EXPECT_EQ(array[99], 99);
}

// What the dead held is freed, and only that.
TEST_P(ArrayConformance, OfTheDeadAreFreed) {
  const Array<int> kept{1, 2, 3};
  const std::size_t before = memory().live_blocks;
  const auto die = [](Array<int> a) {
    std::vector<Array<int>> more;
    for (int i = 0; i < 50; ++i) more.emplace_back(100 * i);
    a[0] = 7;
    raise(SIGKILL);
  };
  EXPECT_EQ(run(die, kept), -SIGKILL);
  EXPECT_EQ(kept[0], 7);
  EXPECT_TRUE(wait_until([&] { return memory().live_blocks == before; }));
}

BROOD_FOR_EACH_START_METHOD(ArrayConformance);

}  // namespace
}  // namespace brood::test
