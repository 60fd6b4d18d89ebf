// Values and arrays: beside std::atomic, threads, TBB and CPython's multiprocessing.Value.
#include <tbb/blocked_range.h>
#include <tbb/parallel_for.h>
#include <tbb/parallel_reduce.h>
#include <brood/brood.hpp>

#include <array>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <mutex>
#include <numeric>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "harness.hpp"

namespace {

using bench::Clock;
using bench::seconds_since;

constexpr int kRounds = 7;
using Wide = std::array<std::uint64_t, 8>;

double rate_here(std::size_t count, const std::function<void()>& once) {
  const auto start = Clock::now();
  for (std::size_t i = 0; i < count; ++i) once();
  return static_cast<double>(count) / seconds_since(start);
}

// `work` in two processes at once; per second, of `count` in each. They begin together.
template <class Work>
double rate_of_two_processes(std::size_t count, Work work) {
  brood::Value<int> ready(0);
  const auto body = [=]() mutable {
    ++ready;
    while (ready.get() < 3) std::this_thread::yield();
    work(count);
  };
  std::vector<brood::Process> processes;
  for (int i = 0; i < 2; ++i) processes.emplace_back(brood::forked, body);
  for (brood::Process& process : processes) process.start();
  while (ready.get() < 2) std::this_thread::yield();
  const auto start = Clock::now();
  ++ready;
  for (brood::Process& process : processes) process.join();
  return 2.0 * static_cast<double>(count) / seconds_since(start);
}

template <class Work>
double rate_of_two_threads(std::size_t count, Work work) {
  const auto start = Clock::now();
  std::thread other([&] { work(count); });
  work(count);
  other.join();
  return 2.0 * static_cast<double>(count) / seconds_since(start);
}

double cpython_increments(std::size_t count) {
  const std::string command = std::string(BROOD_BENCH_PYTHON) + " " + BROOD_BENCH_DIR +
                              "/cpython_value.py " + std::to_string(count);
  FILE* const pipe = ::popen(command.c_str(), "r");
  double value = 0;
  if (pipe == nullptr || std::fscanf(pipe, "%lf", &value) != 1) {
    throw std::runtime_error("python failed");
  }
  ::pclose(pipe);
  return value;
}

void compare_values_alone() {
  constexpr std::size_t kCount = 2'000'000;
  brood::Value<std::int64_t> value(0);
  std::atomic<std::int64_t> atomic{0};
  brood::Value<Wide> wide(Wide{});
  Wide guarded{};
  std::mutex mutex;
  const brood::RLock lock = value.get_lock();
  bench::Comparison alone("one process", "operations/s", true);
  alone.add("Value<int64>: ++", [&] { return rate_here(kCount, [&] { ++value; }); });
  alone.add("std::atomic: ++", [&] { return rate_here(kCount, [&] { ++atomic; }); });
  alone.add("Value<int64>: get", [&] {
    std::int64_t sum = 0;
    const double rate = rate_here(kCount, [&] { sum += value.get(); });
    return sum == 1 ? 0 : rate;
  });
  alone.add("Value<64 bytes>: get", [&] {
    std::uint64_t sum = 0;
    const double rate = rate_here(kCount, [&] { sum += wide.get()[7]; });
    return sum == 1 ? 0 : rate;
  });
  alone.add("Value<64 bytes>: update",
            [&] { return rate_here(kCount, [&] { wide.update([](Wide& v) { ++v[3]; }); }); });
  alone.add("std::mutex and 64 bytes: update", [&] {
    return rate_here(kCount, [&] {
      const std::lock_guard guard(mutex);
      ++guarded[3];
    });
  });
  alone.add("Value: get_lock(), lock, ++, unlock", [&] {
    return rate_here(kCount, [&] {
      const std::lock_guard guard(lock);
      ++value;
    });
  });
  alone.run(kRounds);
}

void compare_values_of_two() {
  constexpr std::size_t kCount = 1'000'000;
  const auto plus_plus = [](auto& value) {
    return [&value](std::size_t n) {
      for (std::size_t i = 0; i < n; ++i) ++value;
    };
  };
  brood::Value<std::int64_t> value(0);
  brood::Value<Wide> wide(Wide{});
  std::atomic<std::int64_t> atomic{0};
  bench::Comparison two("two at once", "increments/s", true);
  two.add("Value<int64>, two processes", [&] {
    return rate_of_two_processes(kCount, [value](std::size_t n) mutable {
      for (std::size_t i = 0; i < n; ++i) ++value;
    });
  });
  two.add("std::atomic, two threads",
          [&] { return rate_of_two_threads(kCount, plus_plus(atomic)); });
  two.add("Value<64 bytes>, two processes", [&] {
    return rate_of_two_processes(kCount, [wide](std::size_t n) mutable {
      for (std::size_t i = 0; i < n; ++i) wide.update([](Wide& v) { ++v[3]; });
    });
  });
  two.add("Value<64 bytes> changed and read", [&] {
    return rate_of_two_processes(kCount, [wide](std::size_t n) mutable {
      for (std::size_t i = 0; i < n; ++i) {
        if ((i & 1U) != 0) {
          wide.update([](Wide& v) { ++v[3]; });
        } else if (wide.get()[0] != 0) {
          std::abort();
        }
      }
    });
  });
  two.add("CPython's Value, two processes", [] { return cpython_increments(20'000); });
  two.run(kRounds);
}

void compare_arrays() {
  constexpr std::size_t kCount = std::size_t{1} << 24;  // 128 MiB
  brood::Array<double> array(kCount);
  std::vector<double> vector(kCount);
  brood::Pool pool({.workers = 2, .start = brood::StartMethod::fork});
  const auto slices = array.slices(2);
  const auto fill = [](std::span<double> part) {
    for (double& x : part) x = 0.5;
  };
  const auto sum = [](std::span<const double> part) {
    return std::accumulate(part.begin(), part.end(), 0.0);
  };
  const auto gigabytes = [](const std::function<void()>& once) {
    const auto start = Clock::now();
    once();
    return static_cast<double>(kCount * sizeof(double)) / seconds_since(start) / 1e9;
  };
  bench::Comparison filling("fill 128 MiB by two", "GB/s", true);
  filling.add("Array slices, Pool of two", [&] {
    return gigabytes([&] {
      auto first = pool.submit(fill, slices[0]);
      pool.submit(fill, slices[1]).get();
      first.get();
    });
  });
  filling.add("two threads", [&] {
    return gigabytes([&] {
      std::thread other([&] { fill(std::span(vector).first(kCount / 2)); });
      fill(std::span(vector).subspan(kCount / 2));
      other.join();
    });
  });
  const tbb::blocked_range<std::size_t> all(0, kCount);
  filling.add("TBB parallel_for", [&] {
    return gigabytes([&] {
      tbb::parallel_for(
          all, [&](const auto& r) { fill(std::span(vector).subspan(r.begin(), r.size())); });
    });
  });
  filling.run(kRounds);
  double total = 0;
  bench::Comparison summing("sum 128 MiB by two", "GB/s", true);
  summing.add("Array slices, Pool of two", [&] {
    return gigabytes([&] {
      auto first = pool.submit(sum, slices[0]);
      total += pool.submit(sum, slices[1]).get() + first.get();
    });
  });
  summing.add("TBB parallel_reduce", [&] {
    return gigabytes([&] {
      total += tbb::parallel_reduce(
          all, 0.0,
          [&](const auto& r, double so_far) {
            return so_far + sum(std::span(vector).subspan(r.begin(), r.size()));
          },
          std::plus<>());
    });
  });
  summing.run(kRounds);
  if (total == 0) std::abort();
}

// The time to hand an array over does not depend on its size.
void compare_sending() {
  brood::Pool pool({.workers = 1, .start = brood::StartMethod::fork});
  const auto last = [](std::span<const char> a) { return a[a.size() - 1]; };
  const brood::Array<char> small(1 << 10);
  const brood::Array<char> large(std::size_t{1} << 30);
  const std::string copied(1 << 20, '\0');
  const auto microseconds = [](std::size_t count, const std::function<void()>& once) {
    return 1e6 / rate_here(count, once);
  };
  bench::Comparison sending("hand over to a task, and back", "us", false);
  sending.add("Array of 1 KiB",
              [&] { return microseconds(20'000, [&] { pool.submit(last, small).get(); }); });
  sending.add("Array of 1 GiB",
              [&] { return microseconds(20'000, [&] { pool.submit(last, large).get(); }); });
  sending.add("string of 1 MiB, copied",
              [&] { return microseconds(500, [&] { pool.submit(last, copied).get(); }); });
  sending.run(kRounds);
  bench::Comparison starting("hand over to a Process, start and join", "us", false);
  const auto process = [&](const brood::Array<char>& array) {
    return microseconds(100, [&] {
      brood::Process p({.start = brood::StartMethod::fork}, last, array);
      p.start();
      p.join();
    });
  };
  starting.add("Array of 1 KiB", [&] { return process(small); });
  starting.add("Array of 1 GiB", [&] { return process(large); });
  starting.run(kRounds);
}

}  // namespace

int main() {
  compare_values_alone();
  compare_values_of_two();
  compare_arrays();
  compare_sending();
}
