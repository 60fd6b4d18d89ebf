// What a worker writes down of how long tasks wait and run.
//
// Threads: any, of any process. Blocking: never. Ownership: none. Errors: none: what a worker that
// went wild has left here is a wrong figure. Death: before a count, that one is missing.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>

#include "brood/latency.hpp"
#include "shm/pool_layout.hpp"
#include "sys/clock.hpp"

namespace brood::pool {

inline void count_latency(shm::LatencyCounts& counts, std::int64_t ns) noexcept {
  const std::size_t step = LatencyHistogram::step_of(std::chrono::nanoseconds(ns));
  counts[step].fetch_add(1, std::memory_order_relaxed);
}

// When the task was taken, if it is one that is timed; else 0. Its waiting is counted at the first
// attempt only, since whoever tried before may have begun a reply.
inline std::int64_t count_waiting_time(shm::LatencyCounts& counts, const shm::TaskRequest& request,
                                       const shm::TaskState& state) noexcept {
  if (!request.has(shm::TaskFlag::timed)) return 0;
  const std::int64_t now = sys::now_ns();
  const bool first_attempt_of_chunk = state.progress.load(std::memory_order_relaxed) == 0;
  if (state.attempts.load(std::memory_order_relaxed) == 0 && first_attempt_of_chunk) {
    std::int64_t submitted = 0;
    std::memcpy(&submitted, state.reply.data(), sizeof submitted);
    count_latency(counts, now - submitted);
  }
  return now;
}

// For the size of the chunks to come.
inline void note_busy_time(shm::TaskState& state, std::int64_t begin) noexcept {
  const std::int64_t us = (sys::now_ns() - begin) / 1000;
  state.busy_us = static_cast<std::uint32_t>(std::clamp<std::int64_t>(us, 1, UINT32_MAX));
}

}  // namespace brood::pool
