#include "progress.hpp"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace checksum {
namespace {

using namespace std::chrono_literals;

// What a file costs besides its content, as bytes that could be hashed in the same time: it keeps
// the estimate right for trees of small files.
constexpr double kBytesPerFile = 8192;

double cost(std::size_t files, std::uint64_t bytes) {
  return static_cast<double>(bytes) + kBytesPerFile * static_cast<double>(files);
}

std::size_t terminal_width() {
  winsize size{};
  const bool known = ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  return known ? size.ws_col : 80;
}

std::string minutes(double seconds) {
  const long whole = std::lround(seconds);
  const std::string tail = std::to_string(whole % 60);
  return std::to_string(whole / 60) + (tail.size() == 1 ? ":0" : ":") + tail;
}

std::string numbers_text(const Progress::Numbers& numbers, double seconds) {
  std::string text = std::to_string(numbers.files_done) + "/" + std::to_string(numbers.files_found);
  text += numbers.all_found ? " files, " : "+ files, ";
  text += megabytes(static_cast<double>(numbers.bytes_done) / std::max(seconds, 1e-3)) + "/s";
  const double done = cost(numbers.files_done, numbers.bytes_done);
  const double all = cost(numbers.files_found, numbers.bytes_found);
  if (numbers.all_found && done > 0) {
    text += ", ETA " + minutes(seconds * std::max(all - done, 0.0) / done);
  }
  if (numbers.deaths > 0) text += ", " + std::to_string(numbers.deaths) + " died";
  return text;
}

void write(const std::string& text) { std::fputs(text.c_str(), stderr); }

}  // namespace

Progress::Progress()
    : terminal_(::isatty(STDERR_FILENO) == 1), interval_(terminal_ ? 100ms : 5000ms) {}

void Progress::show(const Numbers& numbers) {
  if (terminal_) {
    std::string line = bar(numbers);
    const std::size_t width = line.size();
    if (width < drawn_) line.append(drawn_ - width, ' ');
    drawn_ = width;
    write("\r" + line);
  } else {
    write("checksum: " + numbers_text(numbers, seconds()) + "\n");
  }
  next_ = Clock::now() + interval_;
}

void Progress::erase() {
  if (drawn_ == 0) return;
  write("\r" + std::string(drawn_, ' ') + "\r");
  drawn_ = 0;
}

double Progress::seconds() const {
  return std::chrono::duration<double>(Clock::now() - start_).count();
}

std::string Progress::bar(const Numbers& numbers) const {
  const std::size_t width = terminal_width() - 1;  // a line that is full would scroll
  const std::string text = numbers_text(numbers, seconds());
  if (text.size() + 10 > width) return text.substr(0, width);
  const std::size_t room = std::min<std::size_t>(width - text.size() - 3, 40);
  const double all = cost(numbers.files_found, numbers.bytes_found);
  const double part = all > 0 ? cost(numbers.files_done, numbers.bytes_done) / all : 0;
  const auto filled = static_cast<std::size_t>(std::min(part, 1.0) * static_cast<double>(room));
  return "[" + std::string(filled, '#') + std::string(room - filled, '.') + "] " + text;
}

std::string megabytes(double bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f MB", bytes / 1e6);
  return text;
}

}  // namespace checksum
