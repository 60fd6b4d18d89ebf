// Codecs of the standard containers and strings: a 64-bit count, then the elements.
#pragma once

#include <array>
#include <bitset>
#include <cstdint>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <type_traits>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "brood/detail/codec_core.hpp"

namespace brood::detail {

inline constexpr std::size_t kLengthSize = sizeof(std::uint64_t);

template <class Container, class Out>
void encode_elements(const Container& container, Out& out) {
  using Element = typename Container::value_type;
  if constexpr (Out::counts_only && has_fixed_size<Element>) {
    out.add(container.size() * fixed_size<Element>.value_or(0));
    if constexpr (needs_filler<Element>) out.add(container.size());
  } else {
    if (container.empty()) return;
    [[maybe_unused]] const DescentInto<Out, Element> level(out);
    for (const auto& element : container) {
      encode_part(element, out);
      encode_filler<Element>(out);
    }
  }
}

// Calls store(element) for each of `count` elements.
template <class Element, class Store>
void decode_elements(std::size_t count, Reader& reader, Store store) {
  if (count == 0) return;
  [[maybe_unused]] const DescentInto<Reader, Element> level(reader);
  for (std::size_t i = 0; i < count; ++i) {
    store(decode_part<Element>(reader));
    decode_filler<Element>(reader);
  }
}

template <class Char, class Traits, class Allocator>
struct Codec<std::basic_string<Char, Traits, Allocator>> {
  using String = std::basic_string<Char, Traits, Allocator>;
  using Parts = TypeList<Char>;
  static constexpr std::size_t min_size = kLengthSize;

  template <class Out>
  static void encode(const String& value, Out& out) {
    out.write_length(value.size());
    out.write_bytes(value.data(), value.size() * sizeof(Char));
  }
  static String decode(Reader& reader) {
    const std::size_t size = reader.read_length(sizeof(Char));
    if constexpr (sizeof(Char) == 1) {
      String value(reinterpret_cast<const Char*>(reader.take(size)), size);
      forget_source(value.data());
      return value;
    } else {
      String value(size, Char{});
      reader.read_bytes(value.data(), size * sizeof(Char));
      return value;
    }
  }
};

template <class T, class Allocator>
struct Codec<std::vector<T, Allocator>> {
  using Vector = std::vector<T, Allocator>;
  using Parts = TypeList<T>;
  static constexpr std::size_t min_size = kLengthSize;

  template <class Out>
  static void encode(const Vector& value, Out& out) {
    out.write_length(value.size());
    if constexpr (is_bulk<T>) {
      out.write_bytes(value.data(), value.size() * sizeof(T));
    } else {
      encode_elements(value, out);
    }
  }
  static Vector decode(Reader& reader) {
    if constexpr (is_bulk<T>) {
      return decode_bulk(reader.read_length(sizeof(T)), reader);
    } else {
      const std::size_t count = reader.read_length(min_element_size<T>);
      Vector value;
      value.reserve(safe_reserve<T>(count, reader));
      decode_elements<T>(count, reader, [&](T&& element) { value.push_back(std::move(element)); });
      return value;
    }
  }

 private:
  static Vector decode_bulk(std::size_t count, Reader& reader) {
    const std::byte* from = reader.take(count * sizeof(T));
    if (reinterpret_cast<std::uintptr_t>(from) % alignof(T) == 0) {
      // From iterators, since vector(count) would first fill with zeros what is then overwritten.
      const T* first = reinterpret_cast<const T*>(from);
      Vector value(first, first + count);
      forget_source(value.data());
      return value;
    }
    Vector value;
    if constexpr (std::is_default_constructible_v<T>) {
      value.resize(count);
      if (count != 0) {
        std::memcpy(static_cast<void*>(value.data()), from, count * sizeof(T));
      }
      forget_source(value.data());
    } else {
      Reader elements(std::span(from, count * sizeof(T)));
      value.reserve(count);
      for (std::size_t i = 0; i < count; ++i) value.push_back(decode_part<T>(elements));
    }
    return value;
  }
};

template <class Bits, class Out>
void encode_bits(const Bits& bits, Out& out) {
  for (std::size_t at = 0; at < bits.size(); at += 8) {
    unsigned byte = 0;
    for (std::size_t i = 0; i < 8 && at + i < bits.size(); ++i) {
      byte |= static_cast<unsigned>(static_cast<bool>(bits[at + i])) << i;
    }
    out.write_scalar(static_cast<std::uint8_t>(byte));
  }
}

template <class Bits>
void decode_bits(Bits& bits, Reader& reader) {
  for (std::size_t at = 0; at < bits.size(); at += 8) {
    const unsigned byte = reader.read_scalar<std::uint8_t>();
    const std::size_t used = bits.size() - at < 8 ? bits.size() - at : 8;
    if ((byte >> used) != 0) throw_decode_error("bits are set past the end");
    for (std::size_t i = 0; i < used; ++i) bits[at + i] = ((byte >> i) & 1U) != 0;
  }
}

template <class Allocator>
struct Codec<std::vector<bool, Allocator>> {
  using Vector = std::vector<bool, Allocator>;
  using Parts = TypeList<>;
  static constexpr std::size_t min_size = kLengthSize;

  template <class Out>
  static void encode(const Vector& value, Out& out) {
    out.write_length(value.size());
    if constexpr (Out::counts_only) {
      out.add(bytes_for(value.size()));
    } else {
      encode_bits(value, out);
    }
  }
  static Vector decode(Reader& reader) {
    // Not read_length(): eight elements share a byte.
    const auto count = reader.read_scalar<std::uint64_t>();
    if (bytes_for(count) > reader.remaining()) {
      throw_decode_error("a length exceeds the bytes that are left");
    }
    Vector value(count);
    decode_bits(value, reader);
    return value;
  }

 private:
  static constexpr std::size_t bytes_for(std::size_t bits) {
    return bits / 8 + (bits % 8 != 0 ? 1 : 0);
  }
};

template <std::size_t size>
struct Codec<std::bitset<size>> {
  using Parts = TypeList<>;
  static constexpr std::optional<std::size_t> fixed_size = (size + 7) / 8;

  template <class Out>
  static void encode(const std::bitset<size>& value, Out& out) {
    encode_bits(value, out);
  }
  static std::bitset<size> decode(Reader& reader) {
    std::bitset<size> value;
    decode_bits(value, reader);
    return value;
  }
};

template <class T, std::size_t size>
struct Codec<std::array<T, size>> {
  using Array = std::array<T, size>;
  using Parts = TypeList<T>;
  static constexpr std::optional<std::size_t> fixed_size =
      has_fixed_size<T> ? std::optional(detail::fixed_size<T>.value_or(0) * size) : std::nullopt;
  static constexpr std::size_t min_size = detail::min_size<T> * size;
  static constexpr bool bulk =
      size > 0 &&
      is_bulk<T>&& std::is_trivially_copyable_v<Array>&& std::is_copy_constructible_v<Array>;

  template <class Out>
  static void encode(const Array& value, [[maybe_unused]] Out& out) {
    if constexpr (bulk) {
      out.write_bytes(value.data(), sizeof(T) * size);
    } else {
      for (const T& element : value) encode_part(element, out);
    }
  }
  static Array decode([[maybe_unused]] Reader& reader) {
    if constexpr (bulk) {
      return reader.read_scalar<Array>();
    } else if constexpr (std::is_default_constructible_v<T> && std::is_move_assignable_v<T>) {
      Array value{};
      for (T& element : value) element = decode_part<T>(reader);
      return value;
    } else {
      return decode_each(reader, std::make_index_sequence<size>{});
    }
  }

 private:
  template <std::size_t... i>
  static Array decode_each(Reader& reader, std::index_sequence<i...>) {
    return Array{{(static_cast<void>(i), decode_part<T>(reader))...}};
  }
};

// deque and list.
template <class Sequence>
struct SequenceCodec {
  using Element = typename Sequence::value_type;
  using Parts = TypeList<Element>;
  static constexpr std::size_t min_size = kLengthSize;

  template <class Out>
  static void encode(const Sequence& value, Out& out) {
    out.write_length(value.size());
    encode_elements(value, out);
  }
  static Sequence decode(Reader& reader) {
    Sequence value;
    decode_elements<Element>(reader.read_length(min_element_size<Element>), reader,
                             [&](Element&& element) { value.push_back(std::move(element)); });
    return value;
  }
};
template <class T, class Allocator>
struct Codec<std::deque<T, Allocator>> : SequenceCodec<std::deque<T, Allocator>> {};
template <class T, class Allocator>
struct Codec<std::list<T, Allocator>> : SequenceCodec<std::list<T, Allocator>> {};

// A comparator or hash is not sent but made anew, which is right only if it holds nothing.
template <class... Functors>
inline constexpr Refusal refusal_of_functors =
    (std::is_empty_v<Functors> && ...) && (std::is_default_constructible_v<Functors> && ...)
        ? Refusal::none
        : Refusal::stateful_functor;

template <class Container>
void expect_inserted(const Container& container, std::size_t size_before) {
  if (container.size() == size_before) throw_decode_error("a key occurs twice");
}

// Ordered and unordered sets. Insertion is hinted at the end, where an honest sender's next
// element belongs; a multiset's equal elements so keep their order.
template <class Set, class... Functors>
struct SetCodec {
  using Key = typename Set::key_type;
  using Parts = TypeList<Key>;
  static constexpr Refusal refusal = refusal_of_functors<Functors...>;
  static constexpr std::size_t min_size = kLengthSize;

  template <class Out>
  static void encode(const Set& value, Out& out) {
    out.write_length(value.size());
    encode_elements(value, out);
  }
  static Set decode(Reader& reader) {
    const std::size_t count = reader.read_length(min_element_size<Key>);
    Set value;
    if constexpr (requires { value.reserve(count); }) {
      value.reserve(safe_reserve<Key>(count, reader));
    }
    decode_elements<Key>(count, reader, [&](Key&& key) {
      const std::size_t size_before = value.size();
      value.emplace_hint(value.end(), std::move(key));
      expect_inserted(value, size_before);
    });
    return value;
  }
};

template <class Map, class... Functors>
struct MapCodec {
  using Key = typename Map::key_type;
  using Mapped = typename Map::mapped_type;
  using Parts = TypeList<Key, Mapped>;
  static constexpr Refusal refusal = refusal_of_functors<Functors...>;
  static constexpr std::size_t min_size = kLengthSize;

  template <class Out>
  static void encode(const Map& value, Out& out) {
    out.write_length(value.size());
    encode_elements(value, out);
  }
  static Map decode(Reader& reader) {
    using Entry = std::pair<Key, Mapped>;
    const std::size_t count = reader.read_length(min_element_size<Entry>);
    Map value;
    if constexpr (requires { value.reserve(count); }) {
      value.reserve(safe_reserve<Entry>(count, reader));
    }
    decode_elements<Entry>(count, reader, [&](Entry&& entry) {
      const std::size_t size_before = value.size();
      value.emplace_hint(value.end(), std::move(entry.first), std::move(entry.second));
      expect_inserted(value, size_before);
    });
    return value;
  }
};

template <class K, class C, class A>
struct Codec<std::set<K, C, A>> : SetCodec<std::set<K, C, A>, C> {};
template <class K, class C, class A>
struct Codec<std::multiset<K, C, A>> : SetCodec<std::multiset<K, C, A>, C> {};
template <class K, class H, class E, class A>
struct Codec<std::unordered_set<K, H, E, A>> : SetCodec<std::unordered_set<K, H, E, A>, H, E> {};
template <class K, class H, class E, class A>
struct Codec<std::unordered_multiset<K, H, E, A>>
    : SetCodec<std::unordered_multiset<K, H, E, A>, H, E> {};
template <class K, class V, class C, class A>
struct Codec<std::map<K, V, C, A>> : MapCodec<std::map<K, V, C, A>, C> {};
template <class K, class V, class C, class A>
struct Codec<std::multimap<K, V, C, A>> : MapCodec<std::multimap<K, V, C, A>, C> {};
template <class K, class V, class H, class E, class A>
struct Codec<std::unordered_map<K, V, H, E, A>>
    : MapCodec<std::unordered_map<K, V, H, E, A>, H, E> {};
template <class K, class V, class H, class E, class A>
struct Codec<std::unordered_multimap<K, V, H, E, A>>
    : MapCodec<std::unordered_multimap<K, V, H, E, A>, H, E> {};

}  // namespace brood::detail
