// Paired measurement: every competitor runs once per round, in turn, so that the machine's moods
// hit all of them alike; what counts are medians over rounds and their ratios.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace bench {

using Clock = std::chrono::steady_clock;

inline double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// The value below which `share` of the samples lie.
inline double percentile(std::vector<double> samples, double share) {
  if (samples.empty()) return std::nan("");
  std::sort(samples.begin(), samples.end());
  const auto last = static_cast<double>(samples.size() - 1);
  return samples[static_cast<std::size_t>(std::lround(share * last))];
}
inline double median(const std::vector<double>& samples) { return percentile(samples, 0.5); }
inline double mean(const std::vector<double>& samples) {
  double sum = 0;
  for (const double sample : samples) sum += sample;
  return sum / static_cast<double>(samples.size());
}

// A table whose first row is what the others are compared with.
class Comparison {
 public:
  // `unit` of what the functions return; `more_is_better` for rates.
  Comparison(std::string title, std::string unit, bool more_is_better)
      : title_(std::move(title)), unit_(std::move(unit)), more_is_better_(more_is_better) {}

  void add(std::string name, std::function<double()> measure) {
    rows_.push_back({std::move(name), std::move(measure), {}});
  }

  void run(int rounds) {
    for (Row& row : rows_) row.measure();  // warm-up, not counted
    for (int round = 0; round < rounds; ++round) {
      for (Row& row : rows_) row.samples.push_back(row.measure());
    }
    std::printf("\n%s (%s; median of %d rounds [min .. max])\n", title_.c_str(), unit_.c_str(),
                rounds);
    const double first = median(rows_.front().samples);
    for (const Row& row : rows_) {
      const double value = median(row.samples);
      const double ratio = more_is_better_ ? first / value : value / first;
      std::printf("  %-42s %14.4g  [%10.4g .. %10.4g]  %8.2fx\n", row.name.c_str(), value,
                  percentile(row.samples, 0), percentile(row.samples, 1), ratio);
    }
    std::fflush(stdout);
  }

 private:
  struct Row {
    std::string name;
    std::function<double()> measure;
    std::vector<double> samples;
  };
  std::string title_;
  std::string unit_;
  bool more_is_better_;
  std::vector<Row> rows_;
};

}  // namespace bench
