// Codecs of the standard vocabulary types: pair, tuple, optional, variant, unique_ptr, chrono,
// complex, path. Containers are in codec_containers.hpp.
#pragma once

#include <chrono>
#include <complex>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>

#include "brood/detail/codec_containers.hpp"
#include "brood/detail/codec_core.hpp"

namespace brood::detail {

template <class A, class B>
struct Codec<std::pair<A, B>> {
  using Parts = TypeList<A, B>;
  static constexpr std::optional<std::size_t> fixed_size = sum_of_fixed_sizes<A, B>;
  static constexpr std::size_t min_size = detail::min_size<A> + detail::min_size<B>;

  template <class Out>
  static void encode(const std::pair<A, B>& value, Out& out) {
    encode_part(value.first, out);
    encode_part(value.second, out);
  }
  static std::pair<A, B> decode(Reader& reader) {
    return std::pair<A, B>{decode_part<A>(reader), decode_part<B>(reader)};
  }
};

template <class... Ts>
struct Codec<std::tuple<Ts...>> {
  using Parts = TypeList<Ts...>;
  static constexpr std::optional<std::size_t> fixed_size = sum_of_fixed_sizes<Ts...>;
  static constexpr std::size_t min_size = (std::size_t{0} + ... + detail::min_size<Ts>);

  template <class Out>
  static void encode(const std::tuple<Ts...>& value, [[maybe_unused]] Out& out) {
    std::apply([&](const Ts&... part) { (encode_part(part, out), ...); }, value);
  }
  static std::tuple<Ts...> decode([[maybe_unused]] Reader& reader) {
    return std::tuple<Ts...>{decode_part<Ts>(reader)...};
  }
};

template <>
struct Codec<std::monostate> {
  using Parts = TypeList<>;
  static constexpr std::optional<std::size_t> fixed_size = 0;

  template <class Out>
  static void encode(const std::monostate& /*value*/, Out& /*out*/) {}
  static std::monostate decode(Reader& /*reader*/) { return {}; }
};

template <class T>
struct Codec<std::optional<T>> {
  using Parts = TypeList<T>;

  template <class Out>
  static void encode(const std::optional<T>& value, Out& out) {
    out.write_scalar(static_cast<std::uint8_t>(value.has_value()));
    if (value) encode_part(*value, out);
  }
  static std::optional<T> decode(Reader& reader) {
    if (reader.read_tag<std::uint8_t>(2) == 0) return std::nullopt;
    return std::optional<T>(std::in_place, decode_part<T>(reader));
  }
};

template <class... Ts>
struct Codec<std::variant<Ts...>> {
  using Parts = TypeList<Ts...>;
  using Variant = std::variant<Ts...>;
  using Tag = std::conditional_t<sizeof...(Ts) <= 256, std::uint8_t, std::uint32_t>;

  template <class Out>
  static void encode(const Variant& value, Out& out) {
    if (value.valueless_by_exception()) {
      throw_not_sendable("a variant that lost its value to an exception cannot be sent");
    }
    out.write_scalar(static_cast<Tag>(value.index()));
    std::visit([&](const auto& held) { encode_part(held, out); }, value);
  }
  static Variant decode(Reader& reader) {
    return decode_alternative<0>(reader.read_tag<Tag>(sizeof...(Ts)), reader);
  }

 private:
  template <std::size_t i>
  static Variant decode_alternative(std::size_t index, Reader& reader) {
    if constexpr (i + 1 < sizeof...(Ts)) {
      if (index != i) return decode_alternative<i + 1>(index, reader);
    }
    return Variant(std::in_place_index<i>,
                   decode_part<std::variant_alternative_t<i, Variant>>(reader));
  }
};

template <class T, class Deleter>
struct Codec<std::unique_ptr<T, Deleter>> {
  using Parts = TypeList<T>;
  static constexpr Refusal refusal = [] {
    if (std::is_array_v<T>) return Refusal::unique_ptr_array;
    if (!std::is_same_v<Deleter, std::default_delete<T>>) return Refusal::unique_ptr_deleter;
    if (std::is_polymorphic_v<T> && !std::is_final_v<T>) return Refusal::unique_ptr_polymorphic;
    return Refusal::none;
  }();

  template <class Out>
  static void encode(const std::unique_ptr<T, Deleter>& value, Out& out) {
    out.write_scalar(static_cast<std::uint8_t>(value != nullptr));
    if (value == nullptr) return;
    [[maybe_unused]] const DescentInto<Out, T> level(out);
    encode_part(*value, out);
  }
  static std::unique_ptr<T, Deleter> decode(Reader& reader) {
    if (reader.read_tag<std::uint8_t>(2) == 0) return nullptr;
    [[maybe_unused]] const DescentInto<Reader, T> level(reader);
    return std::unique_ptr<T, Deleter>(new T(decode_part<T>(reader)));
  }
};

template <class Rep, class Period>
struct Codec<std::chrono::duration<Rep, Period>> {
  using Duration = std::chrono::duration<Rep, Period>;
  using Parts = TypeList<Rep>;
  static constexpr std::optional<std::size_t> fixed_size = detail::fixed_size<Rep>;
  static constexpr std::size_t min_size = detail::min_size<Rep>;
  static constexpr bool bulk = is_bulk<Rep> && sizeof(Duration) == sizeof(Rep);

  template <class Out>
  static void encode(const Duration& value, Out& out) {
    encode_part(value.count(), out);
  }
  static Duration decode(Reader& reader) { return Duration(decode_part<Rep>(reader)); }
};

template <class Clock, class Duration>
struct Codec<std::chrono::time_point<Clock, Duration>> {
  using TimePoint = std::chrono::time_point<Clock, Duration>;
  using Parts = TypeList<Duration>;
  static constexpr std::optional<std::size_t> fixed_size = detail::fixed_size<Duration>;
  static constexpr std::size_t min_size = detail::min_size<Duration>;
  static constexpr bool bulk = is_bulk<Duration> && sizeof(TimePoint) == sizeof(Duration);

  template <class Out>
  static void encode(const TimePoint& value, Out& out) {
    encode_part(value.time_since_epoch(), out);
  }
  static TimePoint decode(Reader& reader) { return TimePoint(decode_part<Duration>(reader)); }
};

template <class T>
struct Codec<std::complex<T>> {
  using Parts = TypeList<T>;
  static constexpr std::optional<std::size_t> fixed_size = sum_of_fixed_sizes<T, T>;
  static constexpr bool bulk = std::is_floating_point_v<T>;  // the standard promises T[2]

  template <class Out>
  static void encode(const std::complex<T>& value, Out& out) {
    encode_part(value.real(), out);
    encode_part(value.imag(), out);
  }
  static std::complex<T> decode(Reader& reader) {
    return std::complex<T>{decode_part<T>(reader), decode_part<T>(reader)};
  }
};

template <>
struct Codec<std::filesystem::path> {
  using Parts = TypeList<std::filesystem::path::string_type>;
  static constexpr std::size_t min_size = detail::min_size<std::filesystem::path::string_type>;

  template <class Out>
  static void encode(const std::filesystem::path& value, Out& out) {
    encode_part(value.native(), out);
  }
  static std::filesystem::path decode(Reader& reader) {
    return std::filesystem::path(decode_part<std::filesystem::path::string_type>(reader),
                                 std::filesystem::path::native_format);
  }
};

}  // namespace brood::detail
