// Sending values between processes: which types can be sent, and how a type joins in.
//
// Most programs never call anything here. Arguments, results, queue items and messages are encoded
// and decoded for you; this page says what they may be made of.
//
// SENDABLE WITHOUT FURTHER ADO
//
//   * bool, the arithmetic types, enums, std::byte
//   * string (any character type), vector (also vector<bool>), array, deque, list,
//     map, multimap, set, multiset and their unordered_ forms
//   * pair, tuple, optional, variant, monostate, unique_ptr (null or one object), bitset,
//     chrono::duration and time_point, complex, filesystem::path
//   * aggregates of all these, also nested, with up to 32 fields and no base class; a field may be
//     a C array. Nothing needs to be written for them:
//
//       struct Point { double x, y; };
//       struct Path { std::string name; std::vector<Point> points; char unit[4]; };
//       static_assert(brood::Sendable<Path>);
//
// CLASSES WITH PRIVATE DATA say how they are sent, in one of three ways. The first two are those of
// cereal; the functions may also be free functions serialize(ar, x), save(ar, x) and load(ar, x)
// in the namespace of the class. The class needs a default constructor.
//
//   class Account {
//    public:
//     template <class Archive>
//     void serialize(Archive& ar) { ar(owner_, cents_); }    // or: ar & owner_ & cents_;
//     ...
//
//   class Histogram {
//    public:
//     template <class Archive> void save(Archive& ar) const { ar(low_, high_, to_counts()); }
//     template <class Archive> void load(Archive& ar) { ...; ar(low_, high_, counts); ... }
//     ...
//
//   template <>                                   // trivially copyable: sent as its bytes
//   inline constexpr bool brood::enable_sendable<Money> = true;
//
// The third is a promise that the class keeps no pointer and nothing else that means something in
// one process only. Being trivially copyable is not enough: an error_code, a reference_wrapper and
// a vector's iterator are that too, and would arrive as traps.
//
// REFUSED AT COMPILE TIME, with advice in the message: pointers, references, string_view, span,
// shared_ptr, function, unions, classes with virtual functions (unless they have serialize),
// mutexes, atomics, and everything that contains one of them. The message begins with "brood:"; the
// compiler names the part at fault as `Culprit` beside it.
//
// REFUSED AT RUN TIME, by NotSendable: a value nested more than 1000 levels deep through unique_ptr
// or containers, and a variant that is valueless by exception.
//
// WHAT ARRIVES is checked. Lengths are compared with the bytes that came before anything is
// allocated; tags, bools, duplicate keys, depth and leftovers are checked, and each byte is looked
// at once, since it may lie in memory that a broken process is still writing. Not checked is what
// only the program can know: an enum arrives with any value of its underlying type (for an enum
// declared without one, a forged value outside the enumerators' range is undefined behaviour:
// declare one), and a class that opted in by enable_sendable with any bytes.
//
// The encoding is in the machine's byte order and may change with every release: it is for
// processes of one build on one machine, not for files.
#pragma once

#include "brood/detail/cpp20.hpp"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "brood/detail/codec_containers.hpp"
#include "brood/detail/codec_core.hpp"
#include "brood/detail/codec_refusal.hpp"
#include "brood/detail/codec_std.hpp"
#include "brood/detail/codec_stream.hpp"
#include "brood/detail/codec_type_id.hpp"
#include "brood/error.hpp"

namespace brood {

// Whether values of type T can be sent. T must be complete; const is ignored. For a class with
// serialize(), save() or load() it is true before its fields have been looked at: those are checked
// when it is first sent.
template <class T>
inline constexpr bool is_sendable_v = detail::is_sendable<T>;

template <class T>
concept Sendable = is_sendable_v<T>;

namespace detail {

template <class T>
[[noreturn, gnu::cold, gnu::noinline]] void throw_type_mismatch() {
  throw TypeMismatch("brood: the bytes are not an encoding of " + std::string(type_name<T>()));
}

// The number of bytes encode_untagged() will write. Throws NotSendable.
template <class T>
[[nodiscard]] std::size_t encoded_size(const T& value) {
  if constexpr (has_fixed_size<T>) {
    return *fixed_size<T>;
  } else {
    Sizer sizer;
    encode_part(value, sizer);
    return sizer.size();
  }
}

// Writes without type id into a buffer with room for encoded_size(value). Throws NotSendable.
template <class T>
void encode_untagged(const T& value, Writer& writer) {
  require_sendable<T>();
  if constexpr (is_sendable<T>) {
    if constexpr (has_fixed_size<T>) writer.require(*fixed_size<T>);
    encode_part(value, writer);
  }
}

// Reads what encode_untagged() wrote. More may follow: call reader.expect_end() after the last.
template <class T>
[[nodiscard]] std::remove_const_t<T> decode_untagged(Reader& reader) {
  require_sendable<T>();
  if constexpr (is_sendable<T>) {
    if constexpr (has_fixed_size<T>) reader.require(*fixed_size<T>);
    return decode_part<T>(reader);
  } else {
    throw_type_mismatch<T>();
  }
}

}  // namespace detail

// The bytes of `value`, marked with its type.
//
//   Threads:   safe while no other thread changes the value.
//   Blocking:  never.
//   Ownership: the result is the caller's; the value is only read.
//   Errors:    NotSendable, std::bad_alloc, what the type's own save() throws.
//   Death:     no shared state.
template <class T>
[[nodiscard]] std::vector<std::byte> encode(const T& value) {
  detail::require_sendable<T>();
  std::vector<std::byte> bytes;
  if constexpr (is_sendable_v<T>) {
    bytes.resize(sizeof(std::uint64_t) + detail::encoded_size(value));
    detail::Writer writer(bytes);
    writer.write_scalar(detail::type_id<T>());
    detail::encode_untagged(value, writer);
    writer.expect_full();
  }
  return bytes;
}

// The value that encode<T>() made `bytes` from. T need not be default-constructible unless it has
// its own serialize() or load().
//
//   Threads:   safe, even while another process changes the bytes.
//   Blocking:  never.
//   Ownership: the value is the caller's and keeps no reference to the bytes.
//   Errors:    TypeMismatch (another type's bytes), DecodeError (no encoding at all; also for any
//              std::exception of the type's own load()), std::bad_alloc or std::length_error (the
//              value is too large).
//   Death:     no shared state.
template <class T>
[[nodiscard]] T decode(std::span<const std::byte> bytes) {
  detail::require_sendable<T>();
  if constexpr (is_sendable_v<T>) {
    detail::Reader reader(bytes);
    if (reader.read_scalar<std::uint64_t>() != detail::type_id<T>()) {
      detail::throw_type_mismatch<T>();
    }
    auto value = detail::decode_untagged<T>(reader);
    reader.expect_end();
    return value;
  } else {
    detail::throw_type_mismatch<T>();
  }
}

}  // namespace brood
