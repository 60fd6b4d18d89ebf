// Types whose values may lie in shared memory: their bytes are all there is to them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "brood/codec.hpp"
#include "brood/detail/object.hpp"

namespace brood::detail {

template <class T>
consteval bool ask_is_plain() {
  if constexpr (!std::is_trivially_copyable_v<T> || !is_sendable<T>) {
    return false;
  } else {
    return has_fixed_size<T> && !may_carry_handles<T>();
  }
}
template <class T>
inline constexpr bool is_plain = ask_is_plain<T>();

// The one place that refuses.
template <class T>
constexpr void require_plain() {
  static_assert(std::is_object_v<T> && !std::is_volatile_v<T>,
                "brood: Value and Array hold objects: leave references and volatile out");
  require_sendable<T>();
  if constexpr (is_sendable<T>) {
    static_assert(is_plain<T>,
                  "brood: Value and Array hold types that are their bytes: numbers, enums, "
                  "std::array and aggregates of these, and trivially copyable classes with "
                  "enable_sendable. Send other types through a Queue");
  }
}

// The word that atomic instructions take for a T of that size.
template <std::size_t bytes>
struct WordOfSize {
  using type = void;
};
template <>
struct WordOfSize<1> {
  using type = std::uint8_t;
};
template <>
struct WordOfSize<2> {
  using type = std::uint16_t;
};
template <>
struct WordOfSize<4> {
  using type = std::uint32_t;
};
template <>
struct WordOfSize<8> {
  using type = std::uint64_t;
};
template <class T>
using WordOf = typename WordOfSize<sizeof(T)>::type;

template <class T>
inline constexpr bool is_word_sized = !std::is_void_v<WordOf<T>>;

template <class T>
struct alignas(T) BytesOf {
  std::byte bytes[sizeof(T)];
};

// A T need not be default-constructible. What was read may be anything.
template <class T>
[[nodiscard]] T from_bytes(const BytesOf<T>& bytes) noexcept {
  if constexpr (std::is_same_v<T, bool>) {
    return bytes.bytes[0] != std::byte{0};
  } else {
    return __builtin_bit_cast(T, bytes);
  }
}
template <class T>
[[nodiscard]] T from_word(WordOf<T> word) noexcept {
  BytesOf<T> bytes;
  std::memcpy(&bytes, &word, sizeof word);
  return from_bytes<T>(bytes);
}
template <class T>
[[nodiscard]] WordOf<T> to_word(const T& value) noexcept {
  WordOf<T> word;
  std::memcpy(&word, &value, sizeof word);
  return word;
}

}  // namespace brood::detail
