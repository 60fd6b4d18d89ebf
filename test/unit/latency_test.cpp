#include "brood/latency.hpp"

#include <gtest/gtest.h>

namespace brood {
namespace {

using std::chrono::nanoseconds;
using namespace std::chrono_literals;

TEST(LatencyHistogramTest, EachTimeLiesInItsStep) {
  std::size_t last = 0;
  for (std::int64_t ns = 0; ns < 2'000'000'000'000; ns += 1 + ns / 50) {
    const std::size_t step = LatencyHistogram::step_of(nanoseconds(ns));
    ASSERT_GE(step, last);
    ASSERT_LE(LatencyHistogram::begin_of(step).count(), ns);
    if (step + 1 < LatencyHistogram::kSteps) {
      ASSERT_GT(LatencyHistogram::begin_of(step + 1).count(), ns);
    }
    last = step;
  }
}

TEST(LatencyHistogramTest, StepsFollowOneAnother) {
  for (std::size_t step = 1; step < LatencyHistogram::kSteps; ++step) {
    EXPECT_EQ(LatencyHistogram::step_of(LatencyHistogram::begin_of(step)), step);
    EXPECT_EQ(LatencyHistogram::step_of(LatencyHistogram::begin_of(step) - 1ns), step - 1);
  }
  EXPECT_GT(LatencyHistogram::begin_of(LatencyHistogram::kSteps - 1), 30min);
}

TEST(LatencyHistogramTest, WhatIsOutsideIsTheFirstOrTheLast) {
  EXPECT_EQ(LatencyHistogram::step_of(-5ns), 0U);
  EXPECT_EQ(LatencyHistogram::step_of(nanoseconds::max()), LatencyHistogram::kSteps - 1);
}

TEST(LatencyHistogramTest, APercentileIsTheEndOfItsStep) {
  LatencyHistogram times;
  EXPECT_EQ(times.percentile(0.5), 0ns);
  for (int i = 0; i < 90; ++i) ++times.counts[LatencyHistogram::step_of(1us)];
  for (int i = 0; i < 10; ++i) ++times.counts[LatencyHistogram::step_of(1ms)];
  EXPECT_EQ(times.count(), 100U);
  for (const double share : {0.0, 0.5, 0.9}) {
    EXPECT_GT(times.percentile(share), 1us);
    EXPECT_LE(times.percentile(share), 1200ns);
  }
  for (const double share : {0.91, 1.0}) {
    EXPECT_GT(times.percentile(share), 1ms);
    EXPECT_LE(times.percentile(share), 1200us);
  }
}

}  // namespace
}  // namespace brood
