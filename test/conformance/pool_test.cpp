// What can be submitted to a pool, and what comes back.
#include "brood/pool.hpp"

#include <unistd.h>

#include <array>
#include <complex>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <variant>
#include <vector>

#include "support/ledger.hpp"
#include "support/pools.hpp"

namespace brood::test {
namespace {

class PoolTest : public PoolConformance {};
BROOD_FOR_EACH_START_METHOD(PoolTest);

int add(int a, int b) { return a + b; }
int twice(int n) noexcept { return 2 * n; }
void nothing() {}
double half(double x) { return x / 2; }
bool is_even(int n) { return n % 2 == 0; }
std::size_t length(std::string text) { return text.size(); }
std::size_t length_of_view(std::string_view text) { return text.size(); }
double sum(std::span<const double> numbers) {
  return std::accumulate(numbers.begin(), numbers.end(), 0.0);
}
int own_pid() { return getpid(); }

TEST_P(PoolTest, FunctionsOfAllKindsAreCalledWithTheirArguments) {
  Pool pool(with(2));
  EXPECT_EQ(pool.submit(add, 2, 3).get(), 5);
  EXPECT_EQ(pool.submit(&add, 2, 3).get(), 5);
  EXPECT_EQ(pool.submit(twice, 21).get(), 42);
  EXPECT_EQ(pool.submit([](int n) { return n + 1; }, 1).get(), 2);
  EXPECT_EQ(pool.submit([](auto n) { return n + 1; }, 1L).get(), 2L);
  EXPECT_EQ(pool.apply(add, 4, 5), 9);
  EXPECT_EQ(pool.apply_async(add, 4, 6).get(), 10);
  EXPECT_EQ(pool.submit(TaskOptions{.retries = 1}, add, 1, 1).get(), 2);
}

TEST_P(PoolTest, ClosuresOfPlainDataTravelWithTheirValues) {
  Pool pool(with(1));
  const int a = 3;
  const double b = 0.5;
  const std::array<std::int64_t, 12> many = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
  EXPECT_EQ(pool.apply([a](int n) { return a * n; }, 5), 15);
  EXPECT_EQ(pool.apply([a, b] { return a + b; }), 3.5);
  EXPECT_EQ(pool.apply([many] { return std::accumulate(many.begin(), many.end(), 0L); }), 78);
  EXPECT_EQ(pool.apply([n = 1]() mutable { return ++n; }), 2);
}

TEST_P(PoolTest, ATaskRunsInAWorkerAndNotHere) {
  Pool pool(with(2));
  std::set<int> pids;
  for (int i = 0; i < 200; ++i) pids.insert(pool.apply(own_pid));
  EXPECT_FALSE(pids.contains(getpid()));
  EXPECT_LE(pids.size(), 2U);
}

TEST_P(PoolTest, ArgumentsAreConvertedToTheParametersTypesByTheCaller) {
  Pool pool(with(1));
  const char* text = "literal";
  EXPECT_EQ(pool.apply(length, text), 7U);
  EXPECT_EQ(pool.apply(length, "four"), 4U);
  EXPECT_EQ(pool.apply(half, 3), 1.5);
  EXPECT_EQ(pool.apply(half, 3.0F), 1.5);
  EXPECT_EQ(pool.apply([](auto s) { return s.size(); }, "five!"), 5U)
      << "for generic callables a char array becomes a string";
}

TEST_P(PoolTest, ViewParametersTakeAnyContiguousRange) {
  Pool pool(with(1));
  const std::vector<double> vector = {1, 2, 3};
  const std::array<double, 2> array = {4, 5};
  const double plain[] = {6, 7};
  EXPECT_EQ(pool.apply(sum, vector), 6);
  EXPECT_EQ(pool.apply(sum, array), 9);
  EXPECT_EQ(pool.apply(sum, plain), 13);
  EXPECT_EQ(pool.apply(sum, std::span<const double>(vector).first(2)), 3);
  EXPECT_EQ(pool.apply(length_of_view, "literal"), 7U);
  EXPECT_EQ(pool.apply(length_of_view, std::string(100'000, 'x')), 100'000U);
  EXPECT_EQ(pool.apply(sum, std::vector<double>{}), 0);
}

TEST_P(PoolTest, ViewParametersAreReadInPlaceAndAligned) {
  Pool pool(with(1));
  const std::vector<double> numbers(100'000, 1.0);
  // Shared memory can't be written by the worker: what it sees is not a private copy.
  const bool shared_and_aligned = pool.apply(
      [](char, std::span<const double> view) {
        const auto address = reinterpret_cast<std::uintptr_t>(view.data());
        std::ifstream maps("/proc/self/maps");
        for (std::string line; std::getline(maps, line);) {
          std::uintptr_t begin = 0;
          std::uintptr_t end = 0;
          char access[5] = {};
          if (std::sscanf(line.c_str(), "%lx-%lx %4s", &begin, &end, access) != 3) continue;
          if (address < begin || address >= end) continue;
          return std::string(access) == "r--s" && address % alignof(double) == 0;
        }
        return false;
      },
      'x', numbers);
  EXPECT_TRUE(shared_and_aligned);
}

TEST_P(PoolTest, MoveOnlyArgumentsAndResultsWork) {
  Pool pool(with(1));
  EXPECT_EQ(pool.apply([](std::unique_ptr<int> p) { return *p + 1; }, std::make_unique<int>(6)), 7);
  const std::unique_ptr<std::string> result =
      pool.apply([](int n) { return std::make_unique<std::string>(std::size_t(n), 'y'); }, 3);
  ASSERT_NE(result, nullptr);
  EXPECT_EQ(*result, "yyy");
}

TEST_P(PoolTest, ResultsOfAllSizesComeBackWhole) {
  Pool pool(with(2));
  const std::size_t largest = std::size_t{100} << 20;
  for (std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{23}, std::size_t{24},
                           std::size_t{25}, std::size_t{4095}, std::size_t{4096},
                           std::size_t{65536}, std::size_t{1'000'003}, largest}) {
    const auto make = [](std::size_t n) {
      std::vector<std::uint8_t> bytes(n);
      for (std::size_t i = 0; i < n; ++i) bytes[i] = static_cast<std::uint8_t>(i * 131 >> 3);
      return bytes;
    };
    EXPECT_TRUE(pool.apply(make, size) == make(size)) << size;
  }
}

TEST_P(PoolTest, ArgumentsOfAllSizesArriveWhole) {
  Pool pool(with(2));
  for (std::size_t size : {0U, 1U, 63U, 64U, 65U, 79U, 80U, 81U, 4096U, 100'000U, 50'000'000U}) {
    std::vector<std::uint8_t> bytes(size);
    for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::uint8_t>(i * 7);
    EXPECT_TRUE(pool.apply([](std::vector<std::uint8_t> b) { return b; }, bytes) == bytes) << size;
  }
}

struct Point {
  double x, y;
  friend bool operator==(const Point&, const Point&) = default;
};
struct Shape {
  std::string name;
  std::vector<Point> points;
  std::optional<std::complex<double>> phase;
  std::map<std::string, std::variant<int, std::string>> tags;
  friend bool operator==(const Shape&, const Shape&) = default;
};

TEST_P(PoolTest, StructuredValuesMakeTheRoundTrip) {
  Pool pool(with(1));
  const Shape shape{
      "hull", {{1, 2}, {3, 4}}, std::complex<double>(0, 1), {{"a", 1}, {"b", std::string("two")}}};
  EXPECT_EQ(pool.apply([](Shape s) { return s; }, shape), shape);
  EXPECT_EQ(pool.apply([](const Shape& s) { return s.points.size(); }, shape), 2U);
}

TEST_P(PoolTest, VoidAndBoolResultsWork) {
  Pool pool(with(1));
  pool.submit(nothing).get();
  static_assert(std::is_void_v<decltype(pool.submit(nothing).get())>);
  EXPECT_TRUE(pool.apply(is_even, 2));
  EXPECT_FALSE(pool.apply(is_even, 3));
}

// Tells how often it was decoded in this process.
class Counted {
 public:
  Counted() = default;
  explicit Counted(std::string payload) : payload_(std::move(payload)) {}
  template <class Archive>
  void save(Archive& ar) const {
    ar(payload_);
  }
  template <class Archive>
  void load(Archive& ar) {
    ar(payload_);
    ++decodes;
  }
  [[nodiscard]] std::size_t size() const { return payload_.size(); }
  static inline int decodes = 0;

 private:
  std::string payload_;
};

struct DecodeReport {
  int pid = 0;
  int decodes = 0;
  std::size_t size = 0;
};

TEST_P(PoolTest, BoundValuesAreDecodedAtMostOncePerWorker) {
  Pool pool(with(2));
  const auto task =
      brood::bind_front([](const Counted& bound,
                           int) { return DecodeReport{getpid(), Counted::decodes, bound.size()}; },
                        Counted(std::string(1'000'000, 'b')));
  std::vector<Future<DecodeReport>> futures;
  for (int i = 0; i < 1000; ++i) futures.push_back(pool.submit(task, i));
  for (auto& future : futures) {
    const DecodeReport report = future.get();
    EXPECT_EQ(report.size, 1'000'000U);
    EXPECT_EQ(report.decodes, 1);
  }
  const std::vector<DecodeReport> reports = pool.map(task, std::vector<int>(1000));
  for (const DecodeReport& report : reports) EXPECT_EQ(report.decodes, 1);
}

TEST_P(PoolTest, BoundValuesOutliveTheirBindFrontWhileTasksNeedThem) {
  Pool pool(with(1));
  TempFolder folder;
  const std::string gate = folder.path("gate");
  auto blocked = pool.submit(wait_at_gate, gate);
  std::vector<Future<std::size_t>> futures;
  for (int i = 0; i < 50; ++i) {
    futures.push_back(pool.submit(
        brood::bind_front(
            [](const std::string& a, const std::string& b) { return a.size() + b.size(); },
            std::string(static_cast<std::size_t>(i) * 1000, 'a')),
        "xy"));
  }
  open_gate(gate);
  blocked.get();
  for (std::size_t i = 0; i < futures.size(); ++i) EXPECT_EQ(futures[i].get(), i * 1000 + 2);
}

TEST_P(PoolTest, WorkersKeepTheirOwnGlobals) {
  Pool pool(with(1));
  static int global = 5;
  EXPECT_EQ(pool.apply([] { return ++global; }), 6);
  EXPECT_EQ(pool.apply([] { return ++global; }), 7);
  EXPECT_EQ(global, 5);
}

TEST_P(PoolTest, PoolsOfOneEightAndSixtyFourWorkersDoAllTasks) {
  for (const std::size_t workers : {1U, 8U, 64U}) {
    Pool pool(with(workers));
    std::vector<Future<int>> futures;
    for (int i = 0; i < 5000; ++i) futures.push_back(pool.submit(twice, i));
    for (int i = 0; i < 5000; ++i) ASSERT_EQ(futures[static_cast<std::size_t>(i)].get(), 2 * i);
    EXPECT_EQ(pool.stats().workers.size(), workers);
  }
}

TEST_P(PoolTest, AHundredThousandFuturesMayBePending) {
  Pool pool(with(2));
  TempFolder folder;
  const std::string gate = folder.path("gate");
  auto first = pool.submit(wait_at_gate, gate);
  auto second = pool.submit(wait_at_gate, gate);
  std::vector<Future<int>> futures;
  for (int i = 0; i < 100'000; ++i) futures.push_back(pool.submit(twice, i));
  const PoolStats stats = pool.stats();
  EXPECT_GE(stats.pending, 100'000U);
  open_gate(gate);
  for (int i = 0; i < 100'000; ++i) ASSERT_EQ(futures[static_cast<std::size_t>(i)].get(), 2 * i);
}

TEST_P(PoolTest, SeveralThreadsMaySubmitAndGetAtOnce) {
  Pool pool(with(4));
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&pool, &wrong, t] {
      std::vector<Future<std::string>> futures;
      for (int i = 0; i < 1000; ++i) {
        const std::size_t size = static_cast<std::size_t>(i % 7) * 500;
        futures.push_back(pool.submit([](std::string s) { return s + "!"; },
                                      std::string(size, static_cast<char>('a' + t))));
        if (i % 3 == 0) continue;
        if (pool.apply(add, t, i) != t + i) ++wrong;
      }
      for (int i = 0; i < 1000; ++i) {
        const std::size_t size = static_cast<std::size_t>(i % 7) * 500;
        const std::string expected = std::string(size, static_cast<char>('a' + t)) + "!";
        if (futures[static_cast<std::size_t>(i)].get() != expected) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong.load(), 0);
}

TEST_P(PoolTest, StatsTellWhatWorkersDo) {
  Pool pool(with(2));
  TempFolder folder;
  const std::string gate = folder.path("gate");
  auto running = pool.submit(wait_at_gate, gate);
  ASSERT_TRUE(wait_until([&] { return pool.stats().running == 1; }));
  ASSERT_TRUE(wait_until([&] {
    const PoolStats stats = pool.stats();
    return std::any_of(stats.workers.begin(), stats.workers.end(),
                       [](const auto& worker) { return worker.state == "running"; });
  }));
  for (const PoolStats::Worker& worker : pool.stats().workers) {
    if (worker.state != "running") continue;
    EXPECT_GT(worker.pid, 0);
    EXPECT_GT(worker.rss_bytes, 0U);
    EXPECT_FALSE(worker.task.empty());
  }
  open_gate(gate);
  running.get();
  EXPECT_TRUE(wait_until([&] { return pool.stats().done == 1; }));
  const PoolStats stats = pool.stats();
  EXPECT_EQ(stats.pending, 0U);
  EXPECT_EQ(stats.running, 0U);
  EXPECT_EQ(stats.died, 0U);
}

TEST_P(PoolTest, AMovedPoolGoesOnAndTheMovedFromOneIsClosed) {
  Pool pool(with(1));
  auto future = pool.submit(add, 1, 2);
  Pool other = std::move(pool);
  EXPECT_EQ(other.apply(add, 3, 4), 7);
  EXPECT_EQ(future.get(), 3);
  EXPECT_THROW(static_cast<void>(pool.submit(add, 1, 1)), PoolClosed);  // NOLINT: on purpose
  Pool third(with(1));
  third = std::move(other);
  EXPECT_EQ(third.apply(add, 5, 6), 11);
}

TEST_P(PoolTest, SeveralPoolsLiveSideBySideAndOneInsideTheOther) {
  Pool one(with(2));
  Pool two(with(2));
  EXPECT_NE(one.apply(own_pid), two.apply(own_pid));
  EXPECT_EQ(one.apply(
                [](int n) {
                  PoolOptions options;
                  options.workers = 1;
                  options.start = StartMethod::fork;
                  Pool inner(options);
                  return inner.apply(twice, n);
                },
                4),
            8);
}

TEST_P(PoolTest, AnImpossibleNumberOfWorkersIsRefused) {
  EXPECT_THROW(Pool(with(0)), StartError);
  EXPECT_THROW(Pool(with(100'000)), StartError);
}

TEST_P(PoolTest, AFailedEncodingLeavesThePoolUsableAndItsMemoryFree) {
  struct Node {
    std::unique_ptr<Node> next;
  };
  Pool pool(with(1));
  const auto depth = [](Node node) {
    int n = 0;
    for (const Node* at = &node; at != nullptr; at = at->next.get()) ++n;
    return n;
  };
  const auto chain = [](int links) {
    Node head;
    for (int i = 0; i < links; ++i) {
      Node next;
      next.next = std::make_unique<Node>(std::move(head));
      head = std::move(next);
    }
    return head;
  };
  for (int i = 0; i < 2000; ++i) {
    EXPECT_THROW(static_cast<void>(pool.submit(depth, chain(1500))), NotSendable);
  }
  EXPECT_EQ(pool.apply(depth, chain(100)), 101);
  EXPECT_EQ(pool.stats().pending, 0U);
}

}  // namespace
}  // namespace brood::test
