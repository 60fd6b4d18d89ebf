// Large arguments and results: how often they are copied, in terms of a memcpy of the same size.
#include <brood/brood.hpp>

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "harness.hpp"

namespace {

using bench::Clock;
using bench::seconds_since;

constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr std::size_t kTotalBytes = 512 * kMiB;  // in each round

// Touches each page, no more: what counts is how the bytes come here.
double look_at(std::span<const double> numbers) {
  constexpr std::size_t kPage = 4096 / sizeof(double);
  double sum = 0;
  for (std::size_t i = 0; i < numbers.size(); i += kPage) sum += numbers[i];
  return sum;
}

double of_vector(const std::vector<double>& numbers) { return look_at(numbers); }
double of_span(std::span<const double> numbers) { return look_at(numbers); }
double of_array(const brood::Array<double>& numbers) { return look_at(numbers.span()); }
std::vector<double> make_vector(std::size_t count) { return std::vector<double>(count, 1.0); }
void fill_array(brood::Array<double> numbers, double value) {
  for (double& number : numbers) number = value;
}

// Seconds for one call.
template <class Call>
double time_each(std::size_t bytes, Call call) {
  const std::size_t times = kTotalBytes / bytes;
  const auto start = Clock::now();
  for (std::size_t i = 0; i < times; ++i) call();
  return seconds_since(start) / static_cast<double>(times);
}

void compare(std::size_t bytes) {
  const std::size_t count = bytes / sizeof(double);
  const std::vector<double> numbers(count, 1.0);
  std::vector<double> copy(count, 2.0);
  const brood::Array<double> array(count);
  brood::Pool pool(1);
  bench::Comparison table(std::to_string(bytes / kMiB) + " MiB", "s for each call", false);
  table.add("memcpy", [&] {
    return time_each(bytes, [&] {
      std::memcpy(copy.data(), numbers.data(), bytes);
      if (look_at(copy) < 0) std::abort();
    });
  });
  table.add("a new vector, filled, in this process",
            [&] { return time_each(bytes, [&] { look_at(make_vector(count)); }); });
  table.add("argument: const vector&",
            [&] { return time_each(bytes, [&] { pool.apply(of_vector, numbers); }); });
  table.add("argument: span",
            [&] { return time_each(bytes, [&] { pool.apply(of_span, numbers); }); });
  table.add("argument: Array",
            [&] { return time_each(bytes, [&] { pool.apply(of_array, array); }); });
  table.add("result: vector",
            [&] { return time_each(bytes, [&] { pool.apply(make_vector, count); }); });
  table.add("result: written into an Array",
            [&] { return time_each(bytes, [&] { pool.apply(fill_array, array, 1.0); }); });
  table.run(5);
}

}  // namespace

int main() {
  std::printf("a task's large argument or result, one at a time, one worker\n");
  for (const std::size_t mib : {1U, 16U, 256U}) compare(mib * kMiB);
}
