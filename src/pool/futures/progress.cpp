#include "brood/progress.hpp"

#include <algorithm>
#include <array>
#include <cstdio>
#include <string>

#include "brood/detail/pool_core.hpp"
#include "sys/clock.hpp"
#include "sys/fd.hpp"
#include "sys/terminal.hpp"

namespace brood {

namespace {

constexpr int kStderr = 2;
constexpr std::int64_t kBarNs = 100'000'000;
constexpr std::int64_t kLineNs = 10'000'000'000;

std::string as_text(const char* format, auto... values) {
  std::array<char, 64> text;
  std::snprintf(text.data(), text.size(), format, values...);
  return text.data();
}

// 7s, 1:23, 2:03:04
std::string as_text(std::chrono::nanoseconds time) {
  const auto s = std::chrono::ceil<std::chrono::seconds>(time).count();
  if (s < 60) return as_text("%llds", static_cast<long long>(s));
  const auto minutes = static_cast<long long>(s / 60);
  const auto seconds = static_cast<long long>(s % 60);
  if (minutes < 60) return as_text("%lld:%02lld", minutes, seconds);
  return as_text("%lld:%02lld:%02lld", minutes / 60, minutes % 60, seconds);
}

std::string numbers(const MapProgress& now) {
  std::string text = std::to_string(now.done) + "/" + std::to_string(now.total);
  text += as_text(now.per_second < 10 ? ", %.1f/s" : ", %.0f/s", now.per_second);
  if (now.done == now.total) {
    text += ", " + as_text(now.elapsed);
  } else if (now.left) {
    text += ", " + as_text(*now.left) + " left";
  }
  if (now.deaths != 0) text += ", " + std::to_string(now.deaths) + " died";
  return text;
}

std::string bar(const MapProgress& now, int columns) {
  const std::string beside = " " + numbers(now);
  const int room = columns - static_cast<int>(beside.size()) - 4;
  if (room < 4) return beside.substr(1);
  const auto width = static_cast<std::size_t>(std::min(room, 40));
  const std::size_t full = now.total == 0 ? width : width * now.done / now.total;
  return "[" + std::string(full, '=') + std::string(width - full, ' ') + "]" + beside;
}

}  // namespace

ProgressMeter::ProgressMeter(Progress progress, std::size_t total, std::uint64_t deaths)
    : progress_(std::move(progress)),
      total_(total),
      deaths_before_(deaths),
      begin_ns_(sys::now_ns()) {
  if (progress_.bar_) {
    columns_ = sys::terminal_columns(kStderr);
    progress_.every_ = std::chrono::nanoseconds(columns_ > 0 ? kBarNs : kLineNs);
  }
  next_ns_ = detail::deadline_after(progress_.every_);
}

ProgressMeter::~ProgressMeter() {
  if (drawn_) static_cast<void>(sys::write_once(kStderr, "\n"));
}

void ProgressMeter::report(std::size_t done, std::uint64_t deaths) {
  if (is_over_) return;
  is_over_ = done == total_;
  const std::int64_t now = sys::now_ns();
  MapProgress so_far;
  so_far.done = done;
  so_far.total = total_;
  so_far.deaths = deaths - std::min(deaths, deaths_before_);
  so_far.elapsed = std::chrono::nanoseconds(now - begin_ns_);
  const double seconds = std::max(static_cast<double>(now - begin_ns_) / 1e9, 1e-9);
  so_far.per_second = static_cast<double>(done) / seconds;
  if (done != 0) {
    const double each_ns = static_cast<double>(now - begin_ns_) / static_cast<double>(done);
    so_far.left = std::chrono::nanoseconds(
        static_cast<std::int64_t>(each_ns * static_cast<double>(total_ - done)));
  }
  // A call whose elements have all ended may not have: its worker may be stopped.
  next_ns_ = is_over_ ? detail::kNoDeadline : detail::deadline_after(progress_.every_);
  if (progress_.report_) {
    progress_.report_(so_far);
  } else {
    draw(so_far);
  }
}

// A terminal that takes nothing is no reason to stop.
void ProgressMeter::draw(const MapProgress& now) {
  if (columns_ == 0) {
    static_cast<void>(sys::write_once(kStderr, numbers(now) + "\n"));
    return;
  }
  // To the end of the line, since the last may have been longer.
  static_cast<void>(sys::write_once(kStderr, "\r" + bar(now, columns_) + "\x1b[K"));
  drawn_ = true;
}

}  // namespace brood
