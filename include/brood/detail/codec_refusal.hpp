// What can be sent and what can't: the classes of types, and one text of advice for each refusal.
#pragma once

#include <any>
#include <atomic>
#include <condition_variable>
#include <functional>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <span>
#include <string_view>
#include <thread>
#include <type_traits>
#include <utility>

#include "brood/detail/codec_aggregate.hpp"
#include "brood/detail/codec_core.hpp"
#include "brood/detail/codec_user.hpp"

namespace brood::detail {

// Standard types that deserve better advice than "a class with private data".
template <class T>
inline constexpr Refusal known_refusal = Refusal::none;
template <class Char, class Traits>
inline constexpr Refusal known_refusal<std::basic_string_view<Char, Traits>> = Refusal::view;
template <class T, std::size_t extent>
inline constexpr Refusal known_refusal<std::span<T, extent>> = Refusal::view;
template <class T>
inline constexpr Refusal known_refusal<std::initializer_list<T>> = Refusal::view;
template <class T>
inline constexpr Refusal known_refusal<std::reference_wrapper<T>> = Refusal::reference_wrapper;
template <class T>
inline constexpr Refusal known_refusal<std::shared_ptr<T>> = Refusal::shared_ownership;
template <class T>
inline constexpr Refusal known_refusal<std::weak_ptr<T>> = Refusal::shared_ownership;
template <class Signature>
inline constexpr Refusal known_refusal<std::function<Signature>> = Refusal::type_erased;
template <>
inline constexpr Refusal known_refusal<std::any> = Refusal::type_erased;
template <class T>
inline constexpr Refusal known_refusal<std::atomic<T>> = Refusal::synchronisation;
template <>
inline constexpr Refusal known_refusal<std::mutex> = Refusal::synchronisation;
template <>
inline constexpr Refusal known_refusal<std::timed_mutex> = Refusal::synchronisation;
template <>
inline constexpr Refusal known_refusal<std::recursive_mutex> = Refusal::synchronisation;
template <>
inline constexpr Refusal known_refusal<std::recursive_timed_mutex> = Refusal::synchronisation;
template <>
inline constexpr Refusal known_refusal<std::shared_mutex> = Refusal::synchronisation;
template <>
inline constexpr Refusal known_refusal<std::shared_timed_mutex> = Refusal::synchronisation;
template <>
inline constexpr Refusal known_refusal<std::condition_variable> = Refusal::synchronisation;
template <>
inline constexpr Refusal known_refusal<std::thread> = Refusal::synchronisation;

enum class Kind { refused, boolean, bytes, user, aggregate };

struct Verdict {
  Kind kind;
  Refusal refusal = Refusal::none;
};

constexpr Verdict refused(Refusal why) { return {Kind::refused, why}; }

template <class T>
constexpr Verdict classify_scalar() {
  if constexpr (std::is_same_v<T, bool>) {
    return {Kind::boolean};
  } else if constexpr (std::is_enum_v<T>) {
    return {std::is_same_v<std::underlying_type_t<T>, bool> ? Kind::boolean : Kind::bytes};
  } else if constexpr (std::is_arithmetic_v<T>) {
    return {Kind::bytes};
  } else if constexpr (std::is_pointer_v<T>) {
    return refused(std::is_function_v<std::remove_pointer_t<T>> ? Refusal::function_pointer
                                                                : Refusal::raw_pointer);
  } else if constexpr (std::is_member_pointer_v<T>) {
    return refused(Refusal::member_pointer);
  } else if constexpr (std::is_null_pointer_v<T>) {
    return refused(Refusal::raw_pointer);
  } else {
    return refused(Refusal::opaque_class);
  }
}

template <class T>
constexpr Verdict classify_user() {
  if constexpr (!has_serialize<T> && !(has_save<T> && has_load<T>)) {
    return refused(Refusal::save_without_load);
  } else if constexpr (inherits_hook<T>) {
    return refused(Refusal::inherited_hook);
  } else if constexpr (!std::is_default_constructible_v<T>) {
    return refused(Refusal::hook_without_default);
  } else {
    return {Kind::user};
  }
}

// tuple_size changes what a structured binding means, so such a class must say how it is sent.
template <class T>
concept TupleLike = requires { std::tuple_size<T>::value; };

template <class T>
constexpr Verdict classify_class() {
  if constexpr (known_refusal<T> != Refusal::none) {
    return refused(known_refusal<T>);
  } else if constexpr (std::is_union_v<T>) {
    return refused(Refusal::union_type);
  } else if constexpr (has_serialize<T> || has_save<T> || has_load<T>) {
    return classify_user<T>();
  } else if constexpr (enable_sendable<T>) {
    return std::is_trivially_copyable_v<T> ? Verdict{Kind::bytes}
                                           : refused(Refusal::not_trivially_copyable);
  } else if constexpr (std::is_polymorphic_v<T>) {
    return refused(Refusal::polymorphic);
  } else if constexpr (std::is_aggregate_v<T> && !TupleLike<T>) {
    constexpr Refusal why = aggregate_refusal<T>();
    return why == Refusal::none ? Verdict{Kind::aggregate} : refused(why);
  } else if constexpr (!std::is_move_constructible_v<T>) {
    return refused(Refusal::immovable);
  } else {
    return refused(Refusal::opaque_class);
  }
}

template <class T>
constexpr Verdict classify() {
  if constexpr (std::is_reference_v<T>) {
    return refused(Refusal::reference);
  } else if constexpr (std::is_array_v<T>) {
    return refused(Refusal::c_array);
  } else if constexpr (std::is_function_v<T>) {
    return refused(Refusal::function_pointer);
  } else if constexpr (std::is_void_v<T> || std::is_volatile_v<T>) {
    return refused(Refusal::opaque_class);
  } else if constexpr (std::is_class_v<T> || std::is_union_v<T>) {
    return classify_class<T>();
  } else {
    return classify_scalar<T>();
  }
}

template <class T, Kind kind>
struct CodecOfKind;
template <class T>
struct CodecOfKind<T, Kind::boolean> : BoolCodec<T> {};
template <class T>
struct CodecOfKind<T, Kind::bytes> : BytesCodec<T> {};
template <class T>
struct CodecOfKind<T, Kind::user> : UserCodec<T> {};
template <class T>
struct CodecOfKind<T, Kind::aggregate> : AggregateCodec<T> {};
template <class T>
struct CodecOfKind<T, Kind::refused> {
  static constexpr Refusal refusal = classify<T>().refusal;
};

template <class T>
struct Codec : CodecOfKind<T, classify<T>().kind> {};

// Walks a type and everything it contains, each type once: types may contain themselves through
// unique_ptr or a container.
template <Refusal why, class CulpritType, class... Seen>
struct Search {
  static constexpr Refusal refusal = why;
  using Culprit = CulpritType;
};

struct Searcher {
  template <class T, Refusal why, class Culprit, class... Seen>
  static constexpr auto type(Search<why, Culprit, Seen...> so_far) {
    if constexpr (why != Refusal::none || (std::is_same_v<T, Seen> || ...)) {
      return so_far;
    } else if constexpr (codec_refusal<T> != Refusal::none) {
      return Search<codec_refusal<T>, T, Seen..., T>{};
    } else if constexpr (requires { typename CodecOf<T>::Parts; }) {
      return parts(Search<why, Culprit, Seen..., T>{}, typename CodecOf<T>::Parts{});
    } else {
      return so_far;
    }
  }

  template <class State>
  static constexpr auto parts(State so_far, TypeList<>) {
    return so_far;
  }
  template <class State, class First, class... Rest>
  static constexpr auto parts(State so_far, TypeList<First, Rest...>) {
    return parts(type<std::remove_const_t<First>>(so_far), TypeList<Rest...>{});
  }
};

template <class T>
using Found = decltype(Searcher::type<std::remove_const_t<T>>(Search<Refusal::none, void>{}));

// The texts of advice. Culprit is the part of T that can't be sent; compilers print both.
template <class T, class Culprit, Refusal why>
constexpr void require_own_values() {
  static_assert(why != Refusal::raw_pointer,
                "brood: a raw pointer cannot be sent to another process: send the value, a "
                "unique_ptr, or a handle such as Array<T>");
  static_assert(why != Refusal::reference,
                "brood: a reference cannot be sent to another process: send the value, or a "
                "handle such as Value<T>");
  static_assert(why != Refusal::function_pointer,
                "brood: a function pointer cannot be sent as a value: pass the function itself as "
                "the callable, or send an enum and switch on it");
  static_assert(why != Refusal::member_pointer,
                "brood: a pointer to a member cannot be sent as a value: send an enum, or pass a "
                "lambda as the callable");
  static_assert(why != Refusal::c_array,
                "brood: a C array cannot be sent by itself: use std::array, std::vector or "
                "std::string");
  static_assert(why != Refusal::union_type,
                "brood: a union does not say which member it holds: use std::variant");
  static_assert(why != Refusal::view,
                "brood: a view (string_view, span, initializer_list) points into this process: "
                "send std::string or std::vector, or a handle such as Array<T>");
  static_assert(why != Refusal::reference_wrapper,
                "brood: a reference_wrapper points into this process: send the value, or a handle "
                "such as Value<T>");
  static_assert(why != Refusal::shared_ownership,
                "brood: shared_ptr and weak_ptr cannot share across processes: send a unique_ptr "
                "or the value, or a handle such as Value<T>");
  static_assert(why != Refusal::type_erased,
                "brood: std::function and std::any hide what they hold: pass the callable itself "
                "or brood::bind_front, and send a std::variant instead of an any");
  static_assert(why != Refusal::synchronisation,
                "brood: std mutexes, atomics and threads work inside one process only: use "
                "brood::Lock, Condition, Event or Value<T>");
}
template <class T, class Culprit, Refusal why>
constexpr void require_known_contents() {
  static_assert(why != Refusal::unique_ptr_array,
                "brood: a unique_ptr<T[]> does not know its length: use std::vector");
  static_assert(why != Refusal::unique_ptr_deleter,
                "brood: a unique_ptr with its own deleter cannot be sent: use the default deleter, "
                "or send the value");
  static_assert(why != Refusal::unique_ptr_polymorphic,
                "brood: a unique_ptr to a class with virtual functions would lose the derived "
                "part: send a std::variant of the concrete classes, or make the class final");
  static_assert(why != Refusal::stateful_functor,
                "brood: a container whose comparator or hash has state cannot be sent: use a "
                "comparator or hash without data members");
  static_assert(why != Refusal::polymorphic,
                "brood: a class with virtual functions cannot be sent by copying its fields: give "
                "it serialize(ar), or save(ar) and load(ar)");
  static_assert(why != Refusal::immovable,
                "brood: a class that can be neither copied nor moved cannot be sent: send the data "
                "it is made from");
  static_assert(why != Refusal::not_trivially_copyable,
                "brood: enable_sendable is for trivially copyable classes: give this one "
                "serialize(ar), or save(ar) and load(ar)");
  static_assert(why != Refusal::save_without_load,
                "brood: save(ar) const and load(ar) are needed together (or serialize(ar) alone), "
                "accessible and taking any archive type");
  static_assert(why != Refusal::inherited_hook,
                "brood: this class inherits serialize or load from its base, which would drop its "
                "own fields: declare them in the class itself and call the base's there");
  static_assert(why != Refusal::hook_without_default,
                "brood: a class with serialize or load needs a public default constructor: it is "
                "made first and loaded then");
  static_assert(why != Refusal::aggregate_with_base,
                "brood: the fields of an aggregate with a base class cannot be taken apart: make "
                "the base a member, or give it serialize(ar)");
  static_assert(why != Refusal::too_many_fields,
                "brood: an aggregate may have at most 32 fields: group some in a nested struct, or "
                "give it serialize(ar)");
  static_assert(why != Refusal::uncountable_fields,
                "brood: the fields of this aggregate cannot be counted (a reference member?): give "
                "it serialize(ar)");
  static_assert(why != Refusal::array_without_default,
                "brood: an aggregate with a C array among fields that need initialisers cannot be "
                "made: use std::array, or give it serialize(ar)");
  static_assert(why != Refusal::opaque_class,
                "brood: this type does not say how it is sent: give it serialize(ar), or save(ar) "
                "and load(ar), or, if it is trivially copyable and keeps no pointer, specialise "
                "brood::enable_sendable");
}

// The one place that refuses.
template <class T>
constexpr void require_sendable() {
  using Finding = Found<T>;
  require_own_values<T, typename Finding::Culprit, Finding::refusal>();
  require_known_contents<T, typename Finding::Culprit, Finding::refusal>();
}

template <class T>
inline constexpr bool is_sendable = Found<T>::refusal == Refusal::none;

// For the archive, whose fields may also be C arrays.
template <class T>
constexpr void require_archivable() {
  require_sendable<std::remove_const_t<std::remove_all_extents_t<T>>>();
}
template <class T>
constexpr bool is_archivable() {
  return is_sendable<std::remove_const_t<std::remove_all_extents_t<T>>>;
}

}  // namespace brood::detail
