#include "brood/error.hpp"

#include <algorithm>
#include <cstddef>
#include <string_view>

#include "start/init.hpp"

namespace brood {

namespace {

constexpr std::size_t kLinesShown = 10;
constexpr std::size_t kMostOfALine = 200;

// Bytes of the UTF-8 character that `text` begins with, 0: it begins with none that can be shown.
std::size_t length_of_character(std::string_view text) {
  const auto byte = [&](std::size_t at) { return static_cast<unsigned char>(text[at]); };
  const unsigned first = byte(0);
  if (first < 0x80) return (first >= 0x20 && first != 0x7f) || first == '\t' ? 1 : 0;
  if (first < 0xc2 || first > 0xf4) return 0;
  const std::size_t length = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  if (text.size() < length) return 0;
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0U) != 0x80) return 0;
  }
  // What has a shorter form, is half of a pair or beyond the last; and more control characters.
  const unsigned second = byte(1);
  const bool is_none = (first == 0xe0 && second < 0xa0) || (first == 0xed && second >= 0xa0) ||
                       (first == 0xf0 && second < 0x90) || (first == 0xf4 && second >= 0x90) ||
                       (first == 0xc2 && second < 0xa0);
  return is_none ? 0 : length;
}

// So that nothing in it commands a terminal.
void append_line(std::string& to, std::string_view line) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  const bool is_cut = line.size() > kMostOfALine;
  if (is_cut) line = line.substr(0, kMostOfALine);
  to += "\n    ";
  while (!line.empty()) {
    const std::size_t length = length_of_character(line);
    if (length != 0) {
      to += line.substr(0, length);
    } else {
      const auto byte = static_cast<unsigned char>(line[0]);
      to += {'\\', 'x', kDigits[byte >> 4U], kDigits[byte & 0xfU]};
    }
    line.remove_prefix(std::max<std::size_t>(length, 1));
  }
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
  if (death.out_of_memory) text += " for want of memory";
  if (!death.task.empty()) text += " while it ran " + death.task;
  if (death.attempts > 1) text += " (attempt " + std::to_string(death.attempts) + ")";
  append_tail(text, death.stderr_tail);
  if (!death.kept.empty()) text += "\nto run it again: " + start::replay_command(death.kept);
  return text;
}

}  // namespace brood
