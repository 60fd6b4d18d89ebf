// How far a call of map has come.
#pragma once

#include "brood/detail/cpp20.hpp"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <utility>

namespace brood {

struct MapProgress {
  std::size_t done = 0;  // elements that have ended, in whatever way
  std::size_t total = 0;
  std::uint64_t deaths = 0;  // of workers of the pool, since the call began
  std::chrono::nanoseconds elapsed{};
  double per_second = 0;                                        // elements, since the call began
  std::optional<std::chrono::nanoseconds> left = std::nullopt;  // expected; empty: nobody knows yet
};

// MapOptions::progress: nothing, a bar, or a function of yours.
//
//   pool.map(f, range, {.progress = true});
//   pool.map(f, range, {.progress = [&](const MapProgress& p) { window.show(p.done, p.total); }});
//
// A bar is drawn on stderr if that is a terminal; else there is a line every ten seconds and one at
// the end.
//
//   Threads:   the function is called in the thread that called map, while that waits.
//   Blocking:  as long as the function takes, the call does not go on gathering; workers do.
//   Ownership: a copy of the function, until the call has ended.
//   Errors:    what the function throws leaves the call, and cancels its elements.
//   Death:     of workers is in the count of deaths.
class Progress {
 public:
  using Report = std::function<void(const MapProgress&)>;

  Progress() noexcept = default;
  Progress(bool bar) noexcept : bar_(bar) {}  // NOLINT(google-explicit-constructor): reads well
  // Called at most once per `every`, and at the end.
  template <class F>
    requires std::is_invocable_v<F&, const MapProgress&>
  Progress(F report,  // NOLINT(google-explicit-constructor)
           std::chrono::nanoseconds every = std::chrono::milliseconds(100))
      : report_(std::move(report)), every_(every) {}

  [[nodiscard]] bool wanted() const noexcept { return bar_ || report_ != nullptr; }

 private:
  friend class ProgressMeter;
  bool bar_ = false;
  Report report_;
  std::chrono::nanoseconds every_{};
};

// What map needs of it: when to report, and doing so.
class ProgressMeter {
 public:
  ProgressMeter(Progress progress, std::size_t total, std::uint64_t deaths);
  ~ProgressMeter();  // leaves the bar's line
  ProgressMeter(const ProgressMeter&) = delete;
  ProgressMeter& operator=(const ProgressMeter&) = delete;

  [[nodiscard]] std::int64_t next_ns() const noexcept { return next_ns_; }  // steady_clock
  // `deaths`: of the pool in all its time.
  void report(std::size_t done, std::uint64_t deaths);

 private:
  void draw(const MapProgress& now);

  Progress progress_;
  std::size_t total_;
  std::uint64_t deaths_before_;
  std::int64_t begin_ns_;
  std::int64_t next_ns_ = 0;
  int columns_ = 0;     // of the terminal; 0: it is none
  bool drawn_ = false;  // the bar's line has not been left
  bool is_over_ = false;
};

}  // namespace brood
