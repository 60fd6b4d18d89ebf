// A number for a type, so that a receiver who asks for another type is told instead of misled.
//
// It hashes the compiler's spelling of the type: equal in all processes of one build, meaningless
// between builds. Two types spelled alike (in unnamed namespaces of two files) share a number; the
// checks of the Reader still hold then.
#pragma once

#include <cstdint>
#include <string_view>

namespace brood::detail {

// `auto`, because g++ appends the meaning of a named return type to the text.
template <class T>
[[nodiscard]] constexpr auto spelled_type() {
  return std::string_view(__PRETTY_FUNCTION__);
}

template <class T>
[[nodiscard]] constexpr std::string_view type_name() {
  constexpr std::string_view text = spelled_type<T>();
  constexpr std::string_view mark = "T = ";
  constexpr std::size_t begin = text.find(mark) + mark.size();
  return text.substr(begin, text.rfind(']') - begin);
}

// FNV-1a, 64 bits.
template <class T>
[[nodiscard]] constexpr std::uint64_t type_id() {
  std::uint64_t hash = 0xcbf29ce484222325U;
  for (const char c : type_name<T>()) {
    hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3U;
  }
  return hash;
}

}  // namespace brood::detail
