// What the user sees meanwhile, on standard error.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>

namespace checksum {

// On a terminal a bar, drawn anew some ten times a second; else a plain line every few seconds.
class Progress {
 public:
  struct Numbers {
    std::size_t files_done = 0;
    std::size_t files_found = 0;
    std::uint64_t bytes_done = 0;
    std::uint64_t bytes_found = 0;
    bool all_found = false;  // the above are final
    std::uint64_t deaths = 0;
  };

  Progress();
  ~Progress() { erase(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // Whether it is time to show something again.
  [[nodiscard]] bool due() const { return Clock::now() >= next_; }
  void show(const Numbers& numbers);
  // Takes the bar off the screen.
  void erase();
  // Since the beginning.
  [[nodiscard]] double seconds() const;

 private:
  using Clock = std::chrono::steady_clock;

  [[nodiscard]] std::string bar(const Numbers& numbers) const;

  bool terminal_;
  std::chrono::milliseconds interval_;
  Clock::time_point start_ = Clock::now();
  Clock::time_point next_ = start_ + interval_;
  std::size_t drawn_ = 0;  // width of what is on the screen
};

// "12.3 MB", "0.5 MB": decimal units.
std::string megabytes(double bytes);

}  // namespace checksum
