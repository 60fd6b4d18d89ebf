#include "brood/error.hpp"

#include <algorithm>
#include <cstddef>
#include <string_view>

#include "start/init.hpp"
#include "start/printable.hpp"

namespace brood {

namespace {

constexpr std::size_t kLinesShown = 10;
constexpr std::size_t kMostOfALine = 200;

void append_line(std::string& to, std::string_view line) {
  const bool is_cut = line.size() > kMostOfALine;
  if (is_cut) line = line.substr(0, kMostOfALine);
  to += "\n    ";
  start::append_printable(to, line);
  if (is_cut) to += "...";
}

void append_tail(std::string& to, std::string_view tail) {
  while (tail.ends_with('\n')) tail.remove_suffix(1);
  if (tail.empty()) return;
  std::size_t begin = tail.size();
  for (std::size_t lines = 0; lines < kLinesShown && begin != 0; ++lines) {
    const std::size_t before = begin == tail.size() ? begin : begin - 1;
    const std::size_t found = before == 0 ? std::string_view::npos : tail.rfind('\n', before - 1);
    begin = found == std::string_view::npos ? 0 : found + 1;
  }
  to += "; the last it wrote to stderr:";
  for (tail.remove_prefix(begin); !tail.empty();) {
    const std::string_view line = tail.substr(0, tail.find('\n'));
    append_line(to, line);
    tail.remove_prefix(std::min(line.size() + 1, tail.size()));
  }
}

}  // namespace

std::string WorkerDied::describe(const Death& death) {
  std::string text = death.task.empty() ? "brood: process " : "brood: worker ";
  text += std::to_string(death.pid);
  if (death.hung) {
    text += " gave no sign of life and was killed";
  } else if (death.signal != 0) {
    text += " was killed by signal " + std::to_string(death.signal);
  } else {
    text += " exited with status " + std::to_string(death.exit_code);
  }
  if (death.stack_overflow) text += " (stack overflow)";
  if (death.memory_limit_bytes != 0) {
    text += " for having more than PoolOptions::memory_limit_bytes, " +
            std::to_string(death.memory_limit_bytes);
  } else if (death.out_of_memory) {
    text += " for want of memory";
  }
  if (!death.task.empty()) text += " while it ran " + death.task;
  if (death.attempts > 1) text += " (attempt " + std::to_string(death.attempts) + ")";
  append_tail(text, death.stderr_tail);
  if (!death.kept.empty()) text += "\nto run it again: " + start::replay_command(death.kept);
  return text;
}

}  // namespace brood
