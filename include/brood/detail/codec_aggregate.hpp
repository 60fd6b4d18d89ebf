// Aggregates without boilerplate: count the fields, then take them apart by structured bindings.
//
// C++20 has no way to ask for the number of fields, so it is found by trying how many initialisers
// T{...} accepts. One trap: braces may be left out, so `struct { char name[16]; int n; }` accepts
// 17. A second step therefore finds how many of the initialisers each field swallows.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <type_traits>
#include <utility>

#include "brood/detail/codec_core.hpp"

namespace brood::detail {

inline constexpr std::size_t kMaxFields = 32;

// Converts to any type but the aggregate itself (else T{any} would mean a copy). Not
// copyable, else std::any would hold the probe itself. Never called; the bodies are there because
// compilers object to undefined functions over local types.
template <class T>
struct AnyField {
  AnyField() = default;
  AnyField(const AnyField&) = delete;
  template <class U>
    requires(!std::is_same_v<U, T>)
  operator U() const noexcept {
    __builtin_unreachable();
  }
};
template <class T>
struct AnyReference {
  AnyReference() = default;
  AnyReference(const AnyReference&) = delete;
  template <class U>
    requires(!std::is_same_v<U, T>)
  operator U&() const noexcept {
    __builtin_unreachable();
  }
};
template <class T>
struct AnyBase {
  AnyBase() = default;
  AnyBase(const AnyBase&) = delete;
  template <class U>
    requires(!std::is_same_v<U, T> && std::is_base_of_v<U, T>)
  operator U() const noexcept {
    __builtin_unreachable();
  }
};
template <class T, std::size_t>
using AnyFieldAt = AnyField<T>;

template <class T, std::size_t... i>
constexpr bool accepts(std::index_sequence<i...>) {
  return requires { T{AnyFieldAt<T, i>{}...}; };
}
// With the initialiser in the middle being `{}`: it stands for one whole field.
template <class T, std::size_t... i, std::size_t... j>
constexpr bool accepts_braces(std::index_sequence<i...>, std::index_sequence<j...>) {
  return requires { T{AnyFieldAt<T, i>{}..., {}, AnyFieldAt<T, j>{}...}; };
}
template <class T, std::size_t... i>
constexpr bool accepts_base(std::index_sequence<i...>) {
  return requires { T{AnyBase<T>{}, AnyFieldAt<T, i>{}...}; };
}
template <class T, std::size_t... i>
constexpr bool accepts_reference(std::index_sequence<i...>) {
  return requires { T{AnyFieldAt<T, i>{}..., AnyReference<T>{}}; };
}

// The largest n in [low, high) that passes; `low` passes and passing is monotone. Arrays of
// thousands of elements are why this is no linear search.
template <class Test, std::size_t low, std::size_t high>
constexpr std::size_t largest_passing() {
  if constexpr (high - low <= 1) {
    return low;
  } else {
    constexpr std::size_t middle = low + (high - low) / 2;
    if constexpr (Test::template passes<middle>) {
      return largest_passing<Test, middle, high>();
    } else {
      return largest_passing<Test, low, middle>();
    }
  }
}

template <class T>
struct AcceptsInitializers {
  template <std::size_t n>
  static constexpr bool passes = accepts<T>(std::make_index_sequence<n>{});
};
template <class T, std::size_t before>
struct AcceptsAfterBraces {
  template <std::size_t n>
  static constexpr bool passes =
      accepts_braces<T>(std::make_index_sequence<before>{}, std::make_index_sequence<n>{});
};

template <class T, std::size_t n = 1>
constexpr std::size_t failing_power_of_two() {
  if constexpr (AcceptsInitializers<T>::template passes<n>) {
    return failing_power_of_two<T, 2 * n>();
  } else {
    return n;
  }
}

inline constexpr std::size_t kNotFound = static_cast<std::size_t>(-1);

// Without a default constructor small counts fail too: step over those, then to the last success.
template <class T, std::size_t n = 0, bool found = false>
constexpr std::size_t largest_by_stepping() {
  if constexpr (AcceptsInitializers<T>::template passes<n>) {
    return largest_by_stepping<T, n + 1, true>();
  } else if constexpr (found) {
    return n - 1;
  } else if constexpr (n > 2 * kMaxFields) {
    return kNotFound;
  } else {
    return largest_by_stepping<T, n + 1, false>();
  }
}

template <class T>
inline constexpr bool accepts_no_initializers = AcceptsInitializers<T>::template passes<0>;

template <class T>
constexpr std::size_t count_initializers() {
  if constexpr (accepts_no_initializers<T>) {
    return largest_passing<AcceptsInitializers<T>, 0, failing_power_of_two<T>()>();
  } else {
    return largest_by_stepping<T>();
  }
}

template <class T, std::size_t before, std::size_t after>
constexpr std::size_t largest_after_braces_by_stepping() {
  if constexpr (AcceptsAfterBraces<T, before>::template passes<after>) {
    return after;
  } else if constexpr (after == 0) {
    return kNotFound;
  } else {
    return largest_after_braces_by_stepping<T, before, after - 1>();
  }
}

// How many of the `total` initialisers the field that begins at initialiser `at` swallows.
template <class T, std::size_t total, std::size_t at>
constexpr std::size_t initializers_of_field() {
  constexpr std::size_t after = total - at - 1;
  using Test = AcceptsAfterBraces<T, at>;
  if constexpr (Test::template passes<after>) {
    return 1;
  } else if constexpr (!accepts_no_initializers<T>) {
    constexpr std::size_t rest = largest_after_braces_by_stepping<T, at, after>();
    return rest == kNotFound ? 1 : total - at - rest;
  } else if constexpr (Test::template passes<0>) {
    return total - at - largest_passing<Test, 0, after>();
  } else {
    return 1;
  }
}

struct FieldCount {
  std::size_t fields = 0;
  bool swallows = false;  // some field is a C array of two or more
};

template <class T, std::size_t total, std::size_t at = 0, std::size_t fields = 0,
          bool swallows = false>
constexpr FieldCount count_fields_from() {
  if constexpr (at >= total || fields > kMaxFields) {
    return {fields, swallows};
  } else {
    constexpr std::size_t taken = initializers_of_field<T, total, at>();
    constexpr bool swallows_now = swallows || taken > 1;
    return count_fields_from<T, total, at + taken, fields + 1, swallows_now>();
  }
}

template <class T>
inline constexpr FieldCount field_count = count_fields_from<T, count_initializers<T>()>();

// Decided before any structured binding is formed, since a wrong count there is an error that no
// text of ours could explain.
template <class T>
constexpr Refusal aggregate_refusal() {
  constexpr std::size_t total = count_initializers<T>();
  if constexpr (total == kNotFound) {
    return Refusal::uncountable_fields;
  } else if constexpr (accepts_base<T>(std::make_index_sequence<(total > 0 ? total - 1 : 0)>{})) {
    return Refusal::aggregate_with_base;
  } else if constexpr (accepts_reference<T>(std::make_index_sequence<total>{})) {
    return Refusal::uncountable_fields;
  } else if constexpr (field_count<T>.fields > kMaxFields) {
    return Refusal::too_many_fields;
  } else if constexpr (field_count<T>.swallows && !accepts_no_initializers<T>) {
    return Refusal::array_without_default;
  } else {
    return Refusal::none;
  }
}

template <std::size_t count>
struct Fields;

template <>
struct Fields<0> {
  template <class T, class Visit>
  static constexpr decltype(auto) apply(T& /*object*/, Visit&& visit) {
    return visit();
  }
};

// A structured binding needs its names written out: one line per number of fields.
#define BROOD_DETAIL_FIELDS(count, ...)                               \
  template <>                                                         \
  struct Fields<count> {                                              \
    template <class T, class Visit>                                   \
    static constexpr decltype(auto) apply(T& object, Visit&& visit) { \
      auto& [__VA_ARGS__] = object;                                   \
      return visit(__VA_ARGS__);                                      \
    }                                                                 \
  }
// clang-format off
BROOD_DETAIL_FIELDS(1, a);
BROOD_DETAIL_FIELDS(2, a,b);
BROOD_DETAIL_FIELDS(3, a,b,c);
BROOD_DETAIL_FIELDS(4, a,b,c,d);
BROOD_DETAIL_FIELDS(5, a,b,c,d,e);
BROOD_DETAIL_FIELDS(6, a,b,c,d,e,f);
BROOD_DETAIL_FIELDS(7, a,b,c,d,e,f,g);
BROOD_DETAIL_FIELDS(8, a,b,c,d,e,f,g,h);
BROOD_DETAIL_FIELDS(9, a,b,c,d,e,f,g,h,i);
BROOD_DETAIL_FIELDS(10, a,b,c,d,e,f,g,h,i,j);
BROOD_DETAIL_FIELDS(11, a,b,c,d,e,f,g,h,i,j,k);
BROOD_DETAIL_FIELDS(12, a,b,c,d,e,f,g,h,i,j,k,l);
BROOD_DETAIL_FIELDS(13, a,b,c,d,e,f,g,h,i,j,k,l,m);
BROOD_DETAIL_FIELDS(14, a,b,c,d,e,f,g,h,i,j,k,l,m,n);
BROOD_DETAIL_FIELDS(15, a,b,c,d,e,f,g,h,i,j,k,l,m,n,o);
BROOD_DETAIL_FIELDS(16, a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p);
BROOD_DETAIL_FIELDS(17, a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q);
BROOD_DETAIL_FIELDS(18, a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q,r);
BROOD_DETAIL_FIELDS(19, a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q,r,s);
BROOD_DETAIL_FIELDS(20, a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q,r,s,t);
BROOD_DETAIL_FIELDS(21, a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q,r,s,t,u);
BROOD_DETAIL_FIELDS(22, a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q,r,s,t,u,v);
BROOD_DETAIL_FIELDS(23, a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q,r,s,t,u,v,w);
BROOD_DETAIL_FIELDS(24, a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q,r,s,t,u,v,w,x);
BROOD_DETAIL_FIELDS(25, a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q,r,s,t,u,v,w,x,y);
BROOD_DETAIL_FIELDS(26, a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q,r,s,t,u,v,w,x,y,z);
BROOD_DETAIL_FIELDS(27, a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q,r,s,t,u,v,w,x,y,z,A);
BROOD_DETAIL_FIELDS(28, a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q,r,s,t,u,v,w,x,y,z,A,B);
BROOD_DETAIL_FIELDS(29, a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q,r,s,t,u,v,w,x,y,z,A,B,C);
BROOD_DETAIL_FIELDS(30, a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q,r,s,t,u,v,w,x,y,z,A,B,C,D);
BROOD_DETAIL_FIELDS(31, a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q,r,s,t,u,v,w,x,y,z,A,B,C,D,E);
BROOD_DETAIL_FIELDS(32, a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q,r,s,t,u,v,w,x,y,z,A,B,C,D,E,F);
// clang-format on
#undef BROOD_DETAIL_FIELDS

// Calls visit(field...) on the fields of an aggregate.
template <class T, class Visit>
constexpr decltype(auto) visit_fields(T& object, Visit&& visit) {
  return Fields<field_count<std::remove_const_t<T>>.fields>::apply(object, visit);
}

struct CollectTypes {
  template <class... F>
  constexpr TypeList<F...> operator()(const F&...) const {
    return {};
  }
};
template <class T>
using FieldTypes = decltype(visit_fields(std::declval<T&>(), CollectTypes{}));

template <class Field>
using ElementOf = std::remove_const_t<std::remove_all_extents_t<Field>>;
// Of a field that is no array the two sizes are the same.
template <class Field>
// NOLINTNEXTLINE(bugprone-sizeof-expression)
inline constexpr std::size_t elements_of = sizeof(Field) / sizeof(ElementOf<Field>);

// A field may be a C array, which nothing but a field can be.
template <class T, class Out>
void encode_field(const T& field, Out& out) {
  using Element = ElementOf<T>;
  if constexpr (!std::is_array_v<T>) {
    encode_part(field, out);
  } else if constexpr (is_bulk<Element>) {
    out.write_bytes(&field, sizeof(field));
  } else {
    for (const auto& element : field) encode_field(element, out);
  }
}

template <class T>
void decode_into(T& field, Reader& reader) {
  using Element = ElementOf<T>;
  if constexpr (!std::is_array_v<T>) {
    field = decode_part<T>(reader);
  } else if constexpr (is_bulk<Element>) {
    reader.read_bytes(&field, sizeof(field));
  } else {
    for (auto& element : field) decode_into(element, reader);
  }
}

template <class Field>
inline constexpr std::optional<std::size_t> fixed_size_of_field =
    has_fixed_size<ElementOf<Field>>
        ? std::optional<std::size_t>(fixed_size<ElementOf<Field>>.value_or(0) * elements_of<Field>)
        : std::nullopt;

// A bit-field is initialised from its declared type, which compilers call lossy.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"

template <class T, class Types>
struct AggregateCodecOver;

template <class T, class... Field>
struct AggregateCodecOver<T, TypeList<Field...>> {
  using Parts = TypeList<ElementOf<Field>...>;

  static constexpr std::optional<std::size_t> fixed_size =
      (fixed_size_of_field<Field>.has_value() && ...)
          ? std::optional<std::size_t>(
                (std::size_t{0} + ... + fixed_size_of_field<Field>.value_or(0)))
          : std::nullopt;
  static constexpr std::size_t min_size =
      (std::size_t{0} + ... + (detail::min_size<ElementOf<Field>> * elements_of<Field>));

  // Equal sizes mean no padding, so one copy gives the same bytes as field by field.
  static constexpr bool bulk = sizeof...(Field) > 0 &&
                               (is_bulk<ElementOf<Field>> && ...) && fixed_size == sizeof(T) &&
                               std::is_trivially_copyable_v<T>&& std::is_copy_constructible_v<T>;

  template <class Out>
  static void encode(const T& value, Out& out) {
    if constexpr (bulk) {
      out.write_scalar(value);
    } else {
      visit_fields(value, [&](const auto&... field) { (encode_field(field, out), ...); });
    }
  }

  static T decode([[maybe_unused]] Reader& reader) {
    if constexpr (bulk) {
      return reader.read_scalar<T>();
    } else if constexpr ((std::is_array_v<Field> || ...)) {
      T value{};
      visit_fields(value, [&](auto&... field) { (decode_into(field, reader), ...); });
      return value;
    } else {
      return T{decode_part<Field>(reader)...};  // braces: evaluated from left to right
    }
  }
};

#pragma GCC diagnostic pop

template <class T>
struct AggregateCodec : AggregateCodecOver<T, FieldTypes<T>> {};

}  // namespace brood::detail
