// Numbers and bytes in hexadecimal digits, where nothing may be allocated or printf() not called.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace brood::sys {

inline constexpr std::string_view kHexadecimalDigits = "0123456789abcdef";

// Writes a text into room that its owner has made large enough.
//
// Threads: one. Blocking: never. Ownership: none. Errors: none. Death: of no matter.
class TextWriter {
 public:
  explicit TextWriter(char* to) noexcept : to_(to) {}

  TextWriter& text(std::string_view part) noexcept {
    to_ = std::copy(part.begin(), part.end(), to_);
    return *this;
  }
  // The last `count` hexadecimal digits of `value`.
  TextWriter& hexadecimal(std::uint64_t value, unsigned count) noexcept {
    while (count-- > 0) *to_++ = kHexadecimalDigits[value >> (4U * count) & 15U];
    return *this;
  }

 private:
  char* to_;
};

// Two digits for each byte.
inline void append_hexadecimal(std::string& to, std::span<const std::byte> bytes) {
  for (const std::byte byte : bytes) {
    to += kHexadecimalDigits[std::to_integer<unsigned>(byte) >> 4U];
    to += kHexadecimalDigits[std::to_integer<unsigned>(byte) & 15U];
  }
}

// "0x2a"
inline std::string hexadecimal(std::uint64_t number) {
  std::string text;
  for (; number != 0; number >>= 4U) {
    text.insert(text.begin(), kHexadecimalDigits[number & 15U]);
  }
  return "0x" + (text.empty() ? "0" : text);
}

}  // namespace brood::sys
