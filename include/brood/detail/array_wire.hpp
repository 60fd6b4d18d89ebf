// How arrays and their parts are sent. Included by array.hpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <type_traits>
#include <utility>

#include "brood/array.hpp"
#include "brood/codec.hpp"

namespace brood::detail {

template <class T>
struct Codec<RawArray<T>> : HandleCodec<RawArray<T>> {};
template <class T>
struct Codec<Array<T>> : HandleCodec<Array<T>> {};

template <class T>
struct Codec<Slice<T>> {
  using Parts = TypeList<RawArray<T>>;
  static constexpr bool carries_handles = true;
  static constexpr std::optional<std::size_t> fixed_size = 40;

  template <class Out>
  static void encode(const Slice<T>& slice, Out& out) {
    HandleCodec<RawArray<T>>::encode(slice.array(), out);
    out.write_scalar(static_cast<std::uint64_t>(slice.first()));
    out.write_scalar(static_cast<std::uint64_t>(slice.size()));
  }
  static Slice<T> decode(Reader& reader) {
    RawArray<T> array = HandleCodec<RawArray<T>>::decode(reader);
    const auto first = reader.read_scalar<std::uint64_t>();
    const auto count = reader.read_scalar<std::uint64_t>();
    if (first > array.size() || count > array.size() - first) {
      throw DecodeError("brood: the bytes are no part of the array that they name");
    }
    return Slice<T>(std::move(array), first, count);
  }
};

template <class T>
struct SharedElement<RawArray<T>> {
  using type = T;
};
template <class T>
struct SharedElement<Array<T>> : SharedElement<RawArray<T>> {};
template <class T>
struct SharedElement<Slice<T>> : SharedElement<RawArray<T>> {};

// The element of a span parameter, and of string_view.
template <class View>
using ViewElement = std::remove_pointer_t<decltype(std::declval<const View&>().data())>;

// What the worker gives to the function.
template <class View>
struct ReceivedView {
  Slice<ViewElement<View>> slice;
  // NOLINTNEXTLINE(google-explicit-constructor)
  operator View() const { return View(slice.data(), slice.size()); }
};

template <class View>
struct SharedViewWire {
  using Value = Slice<ViewElement<View>>;
  using Decoded = ReceivedView<View>;
  using SliceCodec = Codec<Value>;
  static constexpr bool carries_handles = true;
  template <class Arg>
  using Prepared = Value;

  template <class Arg>
  static Value prepare(const Arg& arg) {
    Value slice(arg);
    if (!std::is_const_v<ViewElement<View>> && !slice.array().writable()) throw_read_only();
    return slice;
  }
  static View view(const Value& slice) { return View(slice.data(), slice.size()); }
  static std::size_t end_after(std::size_t begin, const Value& /*slice*/) {
    return begin + *SliceCodec::fixed_size;
  }
  static void encode(const Value& slice, Writer& out, std::size_t /*begin*/) {
    SliceCodec::encode(slice, out);
  }
  static Decoded decode(Reader& in, std::size_t /*begin*/) { return {SliceCodec::decode(in)}; }
};

}  // namespace brood::detail
