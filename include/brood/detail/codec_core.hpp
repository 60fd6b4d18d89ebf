// Codec<T>: the one trait through which every type is sent.
//
// A type becomes sendable by a specialisation (this is how Queue<T>, Lock, Fd... join in):
//
//   template <> struct Codec<Handle> {
//     using Parts = TypeList<>;                     // optional: types that must be sendable too
//     static constexpr Refusal refusal = ...;       // optional: Refusal::none if absent
//     static constexpr std::optional<std::size_t> fixed_size = 16;  // optional: bytes, if constant
//     static constexpr std::size_t min_size = 16;   // optional: the fewest bytes it can take;
//                                                   //   absent: fixed_size, else 1
//     static constexpr bool bulk = false;           // optional: encoding == its object bytes
//     static constexpr bool carries_handles = true; // optional: see object.hpp; absent: as its
//     parts template <class Out> static void encode(const Handle&, Out&);  // Out: Sizer, then
//     Writer static Handle decode(Reader&);                // throws DecodeError only
//   };
//
// encode() runs twice, so that size and bytes come from one text: with a Sizer first (left out if
// fixed_size is known), then with a Writer. Side effects belong under
// `if constexpr (!Out::counts_only)`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <type_traits>

#include "brood/detail/codec_stream.hpp"

namespace brood {

// Opt-in for trivially copyable classes with private data: they are sent as their bytes. Say true
// only for a class that keeps no pointer, no index into private tables and no file descriptor.
template <class T>
inline constexpr bool enable_sendable = false;

namespace detail {

template <class... Ts>
struct TypeList {};

// Why a type can't be sent; the texts are in codec_refusal.hpp.
enum class Refusal {
  none,
  raw_pointer,
  reference,
  function_pointer,
  member_pointer,
  c_array,
  union_type,
  view,
  reference_wrapper,
  shared_ownership,
  type_erased,
  synchronisation,
  unique_ptr_array,
  unique_ptr_deleter,
  unique_ptr_polymorphic,
  stateful_functor,
  polymorphic,
  immovable,
  not_trivially_copyable,
  save_without_load,
  inherited_hook,
  hook_without_default,
  aggregate_with_base,
  too_many_fields,
  uncountable_fields,
  array_without_default,
  opaque_class,
};

template <class T>
struct Codec;

template <class T>
using CodecOf = Codec<std::remove_const_t<T>>;

template <class T>
inline constexpr Refusal codec_refusal = [] {
  if constexpr (requires { CodecOf<T>::refusal; }) {
    return CodecOf<T>::refusal;
  } else {
    return Refusal::none;
  }
}();

// The encoded size, when it is the same for all values.
template <class T>
inline constexpr std::optional<std::size_t> fixed_size = []() -> std::optional<std::size_t> {
  if constexpr (requires { CodecOf<T>::fixed_size; }) {
    return CodecOf<T>::fixed_size;
  } else {
    return std::nullopt;
  }
}();

template <class T>
inline constexpr bool has_fixed_size = fixed_size<T>.has_value();

template <class T>
inline constexpr std::size_t min_size = [] {
  if constexpr (requires { CodecOf<T>::min_size; }) {
    return CodecOf<T>::min_size;
  } else {
    return fixed_size<T>.value_or(1);
  }
}();

// The encoding of a T is its object representation, any bit pattern of which is a value.
template <class T>
inline constexpr bool is_bulk = [] {
  if constexpr (requires { CodecOf<T>::bulk; }) {
    return CodecOf<T>::bulk;
  } else {
    return false;
  }
}();

template <class... Ts>
inline constexpr std::optional<std::size_t> sum_of_fixed_sizes =
    (has_fixed_size<Ts> && ...)
        ? std::optional<std::size_t>((std::size_t{0} + ... + fixed_size<Ts>.value_or(0)))
        : std::nullopt;

template <class T, class Out>
void encode_part(const T& value, Out& out) {
  if constexpr (Out::counts_only && has_fixed_size<T>) {
    out.add(fixed_size<T>.value_or(0));
  } else {
    CodecOf<T>::encode(value, out);
  }
}

template <class T>
[[nodiscard]] std::remove_const_t<T> decode_part(Reader& reader) {
  return CodecOf<T>::decode(reader);
}

// Elements of containers take at least one byte each, whatever their type: this is what ties a
// count of empty structs to the number of bytes that came.
template <class... Parts>
inline constexpr bool needs_filler = (min_size<Parts> + ... + 0) == 0;

template <class... Parts>
inline constexpr std::size_t min_element_size =
    needs_filler<Parts...> ? 1 : (min_size<Parts> + ... + 0);

template <class... Parts, class Out>
void encode_filler(Out& out) {
  if constexpr (needs_filler<Parts...>) out.write_scalar(std::uint8_t{0});
}

template <class... Parts>
void decode_filler(Reader& reader) {
  if constexpr (needs_filler<Parts...>) static_cast<void>(reader.read_tag<std::uint8_t>(1));
}

// A value of fixed size can't contain itself, so only the others count towards the depth limit.
struct NoDescent {
  template <class Stream>
  explicit NoDescent(Stream& /*stream*/) noexcept {}
};
template <class Stream, class... Parts>
using DescentInto = std::conditional_t<(has_fixed_size<Parts> && ...), NoDescent, Descent<Stream>>;

// What may be allocated before the elements have been seen to exist: a small multiple of the bytes
// that came, because one byte of input may stand for a large empty element.
template <class Element>
[[nodiscard]] std::size_t safe_reserve(std::size_t count, const Reader& reader) {
  const std::size_t most = (4096 + 8 * reader.remaining()) / sizeof(Element);
  return count < most ? count : most;
}

}  // namespace detail
}  // namespace brood
