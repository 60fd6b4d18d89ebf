#include "start/printable.hpp"

#include <algorithm>
#include <cstddef>
#include <span>

#include "sys/hexadecimal.hpp"

namespace brood::start {

namespace {

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

}  // namespace

void append_printable(std::string& to, std::string_view text) {
  while (!text.empty()) {
    const std::size_t length = length_of_character(text);
    if (length != 0) {
      to += text.substr(0, length);
    } else {
      to += "\\x";
      sys::append_hexadecimal(to, std::as_bytes(std::span(text).first(1)));
    }
    text.remove_prefix(std::max<std::size_t>(length, 1));
  }
}

}  // namespace brood::start
