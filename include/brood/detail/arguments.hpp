// Arguments: from what the caller has, to what the function's parameters ask for.
//
// Each parameter has a wire type, found from the function's signature where it has one (a generic
// callable's parameters are those of the decayed arguments):
//   span<const T>, string_view   any contiguous range; read in place by the worker
//   these and span<T>            an Array, RawArray or Slice: the worker's is the same memory
//   everything else              the parameter's type without reference and const, by the codec
#pragma once

#include <cstddef>
#include <initializer_list>
#include <memory>
#include <ranges>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>

#include "brood/codec.hpp"
#include "brood/detail/callable.hpp"
#include "brood/detail/object.hpp"
#include "brood/detail/shared_view.hpp"

namespace brood::detail {

// ---- the parameters of a callable

struct Generic {};  // an overloaded or templated call operator: parameters unknown

template <class T>
struct SignatureOf {
  using type = Generic;
};
template <class R, class... P>
struct SignatureOf<R (*)(P...)> {
  using type = TypeList<P...>;
};
template <class R, class... P>
struct SignatureOf<R (*)(P...) noexcept> : SignatureOf<R (*)(P...)> {};

template <class T>
struct MemberSignature;
template <class C, class R, class... P>
struct MemberSignature<R (C::*)(P...)> {
  using type = TypeList<P...>;
};
template <class C, class R, class... P>
struct MemberSignature<R (C::*)(P...) const> : MemberSignature<R (C::*)(P...)> {};
template <class C, class R, class... P>
struct MemberSignature<R (C::*)(P...) noexcept> : MemberSignature<R (C::*)(P...)> {};
template <class C, class R, class... P>
struct MemberSignature<R (C::*)(P...) const noexcept> : MemberSignature<R (C::*)(P...)> {};

template <class T>
  requires requires { &T::operator(); }
struct SignatureOf<T> : MemberSignature<decltype(&T::operator())> {};

template <std::size_t N, class List>
struct DropFirst {
  using type = List;
};
template <std::size_t N, class First, class... Rest>
  requires(N > 0)
struct DropFirst<N, TypeList<First, Rest...>> : DropFirst<N - 1, TypeList<Rest...>> {};

template <class F, class... Bound>
struct SignatureOf<BoundFront<F, Bound...>> {
  using inner = typename SignatureOf<F>::type;
  using type = typename DropFirst<sizeof...(Bound), inner>::type;
};

// What {{1, 2}, {3, 4}} is for a callable: the arguments of several calls.
template <class Signature>
struct ArgumentListsOf {};
template <class... P>
struct ArgumentListsOf<TypeList<P...>> {
  using type = std::initializer_list<std::tuple<std::remove_cvref_t<P>...>>;
};
template <class F>
using ArgumentLists = typename ArgumentListsOf<typename SignatureOf<std::decay_t<F>>::type>::type;

// ---- wire types

template <class T>
struct ValueWire {
  using Value = T;
  using Decoded = T;
  // Whether handles of shared objects may be among what is sent.
  static constexpr bool carries_handles = may_carry_handles<T>();

  // Keeps a reference where no conversion is needed, so that nothing is copied or moved before
  // the task is sure to be accepted.
  template <class Arg>
  using Prepared = std::conditional_t<std::is_same_v<std::remove_cvref_t<Arg>, T>, const T&, T>;

  template <class Arg>
  static Prepared<Arg> prepare(Arg&& arg) {
    static_assert(std::is_convertible_v<Arg&&, Prepared<Arg>>,
                  "brood: this argument does not convert to the function's parameter by itself, as "
                  "in an ordinary call: convert it where you submit");
    // The caller's conversion, not ours: a compiler that warns of it would point here.
    return static_cast<Prepared<Arg>>(std::forward<Arg>(arg));
  }
  static std::size_t end_after(std::size_t begin, const T& value) {
    if constexpr (has_fixed_size<T>) {
      return begin + *fixed_size<T>;
    } else {
      Sizer sizer;
      encode_part(value, sizer);
      return begin + sizer.size();
    }
  }
  static void encode(const T& value, Writer& out, std::size_t /*begin*/) {
    encode_part(value, out);
  }
  static T decode(Reader& in, std::size_t /*begin*/) { return decode_part<T>(in); }
};

// A range that the worker reads where it lies: `View` is span<const T> or string_view.
template <class View>
struct ViewWire {
  using Element = std::remove_cvref_t<std::ranges::range_value_t<View>>;
  static_assert(is_bulk<Element> && alignof(Element) <= 16,
                "brood: only spans of plain numbers and enums can be read in place; take a "
                "vector instead");
  using Value = View;
  using Decoded = View;
  static constexpr bool carries_handles = false;
  template <class Arg>
  using Prepared = View;

  template <class Arg>
  static View prepare(const Arg& arg) {
    return View(arg);
  }
  static constexpr std::size_t elements_begin(std::size_t begin) {
    const std::size_t after_length = begin + sizeof(std::uint64_t);
    return (after_length + alignof(Element) - 1) / alignof(Element) * alignof(Element);
  }
  static std::size_t end_after(std::size_t begin, const View& view) {
    return elements_begin(begin) + view.size() * sizeof(Element);
  }
  static void encode(const View& view, Writer& out, std::size_t begin) {
    constexpr std::array<std::byte, 16> kZeros{};
    out.write_length(view.size());
    out.write_bytes(kZeros.data(), elements_begin(begin) - begin - sizeof(std::uint64_t));
    out.write_bytes(view.data(), view.size() * sizeof(Element));
  }
  static View decode(Reader& in, std::size_t begin) {
    const std::size_t count = in.read_length(sizeof(Element));
    static_cast<void>(in.take(elements_begin(begin) - begin - sizeof(std::uint64_t)));
    const std::byte* elements = in.take(count * sizeof(Element));
    return View(reinterpret_cast<const Element*>(elements), count);
  }
};

template <class Parameter>
struct WireOfParameter {
  static_assert(!std::is_lvalue_reference_v<Parameter> ||
                    std::is_const_v<std::remove_reference_t<Parameter>>,
                "brood: a function that runs in another process can't change its caller's "
                "variables: take the parameter by value or const reference, and return the result");
  using Plain = std::remove_cvref_t<Parameter>;
  using type = ValueWire<Plain>;
};
template <class Parameter>
  requires std::is_same_v<std::remove_cvref_t<Parameter>, std::string_view>
struct WireOfParameter<Parameter> {
  using type = ViewWire<std::string_view>;
};
template <class T>
struct SpanElement {
  using type = void;
};
template <class T>
struct SpanElement<std::span<T>> {
  using type = T;
};
template <class Parameter>
  requires(!std::is_void_v<typename SpanElement<std::remove_cvref_t<Parameter>>::type>)
struct WireOfParameter<Parameter> {
  using Element = typename SpanElement<std::remove_cvref_t<Parameter>>::type;
  static_assert(std::is_const_v<Element>,
                "brood: a span<T> parameter would write to a copy: take span<const T> and return "
                "the result, or pass an Array<T> or a Slice of one");
  using type = ViewWire<std::span<Element>>;
};

// Views of what is shared anyway.
template <class Parameter, class Arg>
inline constexpr bool is_shared_view = [] {
  using Element = typename SharedElement<std::remove_cvref_t<Arg>>::type;
  using View = std::remove_cvref_t<Parameter>;
  using SpanOf = typename SpanElement<View>::type;
  if constexpr (std::is_void_v<Element>) {
    return false;
  } else if constexpr (std::is_same_v<View, std::string_view>) {
    return std::is_same_v<std::remove_const_t<Element>, char>;
  } else {
    return std::is_same_v<SpanOf, Element> || std::is_same_v<SpanOf, const Element>;
  }
}();

template <class Parameter, class Arg>
struct WireOf : WireOfParameter<Parameter> {};
template <class Parameter, class Arg>
  requires is_shared_view<Parameter, Arg>
struct WireOf<Parameter, Arg> {
  using type = SharedViewWire<std::remove_cvref_t<Parameter>>;
};

template <class Arg>
struct WireOfArgument {
  using type = ValueWire<std::decay_t<Arg>>;
};
template <class Arg>
  requires(std::is_same_v<std::decay_t<Arg>, const char*> ||
           std::is_same_v<std::decay_t<Arg>, char*>)
struct WireOfArgument<Arg> {
  using type = ValueWire<std::string>;
};

template <class Signature, class... Args>
struct WiresOf {
  static_assert(sizeof...(Args) != sizeof...(Args) || !std::is_same_v<Signature, Signature>,
                "brood: the callable takes another number of arguments");
};
template <class... Args>
struct WiresOf<Generic, Args...> {
  using type = TypeList<typename WireOfArgument<Args>::type...>;
};
template <class... Parameters, class... Args>
  requires(sizeof...(Parameters) == sizeof...(Args))
struct WiresOf<TypeList<Parameters...>, Args...> {
  using type = TypeList<typename WireOf<Parameters, Args>::type...>;
};
template <class F, class... Args>
using WireList = typename WiresOf<typename SignatureOf<F>::type, Args...>::type;

template <class Wire>
consteval void require_wire() {
  if constexpr (std::is_same_v<Wire, ValueWire<typename Wire::Value>>) {
    require_sendable<typename Wire::Value>();
  }
}

// ---- the result

template <class F, class... Wires>
using ResultOf = std::invoke_result_t<F, typename Wires::Decoded...>;

template <class R>
consteval void require_result() {
  if constexpr (!std::is_void_v<R>) require_sendable<std::decay_t<R>>();
}

// ---- all arguments of a call together

template <class List>
struct ArgumentPack;
template <class... Wires>
struct ArgumentPack<TypeList<Wires...>> {
  static constexpr bool carries_handles = (Wires::carries_handles || ...);

  template <class... Prepared>
  static std::size_t end_after(std::size_t begin, const Prepared&... values) {
    ((begin = Wires::end_after(begin, values)), ...);
    return begin;
  }
  template <class... Prepared>
  static void encode(Writer& out, [[maybe_unused]] std::size_t begin, const Prepared&... values) {
    ((Wires::encode(values, out, begin), begin = Wires::end_after(begin, values)), ...);
  }
  // `total` is the size of all bytes, `in` stands at their first argument.
  static std::tuple<typename Wires::Decoded...> decode(Reader& in, std::size_t total) {
    // Braces: the order of evaluation is that of the bytes.
    return std::tuple<typename Wires::Decoded...>{Wires::decode(in, total - in.remaining())...};
  }
};

}  // namespace brood::detail
