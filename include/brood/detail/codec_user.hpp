// Types that bring their own serialize(), or save() and load(), in the manner of cereal.
#pragma once

#include <exception>
#include <new>
#include <stdexcept>
#include <type_traits>
#include <utility>

#include "brood/detail/codec_core.hpp"

namespace brood::detail {

template <class T>
constexpr void require_archivable();
template <class T>
constexpr bool is_archivable();

template <class T, class Out>
void encode_field(const T& field, Out& out);

template <class T>
void decode_into(T& field, Reader& reader);

// What the user's functions are given. `is_saving` and `is_loading` are spelled as in cereal and
// Boost, so that functions written for those compile unchanged.
template <class Out>
class OutArchive {
 public:
  using is_saving = std::true_type;
  using is_loading = std::false_type;

  explicit OutArchive(Out& out) noexcept : out_(out) {}

  template <class... Fields>
  OutArchive& operator()(const Fields&... fields) {
    (require_archivable<Fields>(), ...);
    if constexpr ((is_archivable<Fields>() && ...)) (encode_field(fields, out_), ...);
    return *this;
  }
  template <class Field>
  OutArchive& operator&(const Field& field) {
    return (*this)(field);
  }

 private:
  Out& out_;
};

class InArchive {
 public:
  using is_saving = std::false_type;
  using is_loading = std::true_type;

  explicit InArchive(Reader& reader) noexcept : reader_(reader) {}

  template <class... Fields>
  InArchive& operator()(Fields&&... fields) {
    (require_archivable<std::remove_reference_t<Fields>>(), ...);
    if constexpr ((is_archivable<std::remove_reference_t<Fields>>() && ...)) {
      (decode_into(fields, reader_), ...);
    }
    return *this;
  }
  template <class Field>
  InArchive& operator&(Field&& field) {
    return (*this)(std::forward<Field>(field));
  }

 private:
  Reader& reader_;
};

template <class T, class Ar>
concept MemberSerialize = requires(T& value, Ar& ar) { value.serialize(ar); };
template <class T, class Ar>
concept FreeSerialize = requires(T& value, Ar& ar) { serialize(ar, value); };
template <class T, class Ar>
concept MemberSave = requires(const T& value, Ar& ar) { value.save(ar); };
template <class T, class Ar>
concept FreeSave = requires(const T& value, Ar& ar) { save(ar, value); };
template <class T, class Ar>
concept MemberLoad = requires(T& value, Ar& ar) { value.load(ar); };
template <class T, class Ar>
concept FreeLoad = requires(T& value, Ar& ar) { load(ar, value); };

template <class T>
inline constexpr bool has_serialize = MemberSerialize<T, InArchive> || FreeSerialize<T, InArchive>;
template <class T>
inline constexpr bool has_save =
    MemberSave<T, OutArchive<Writer>> || FreeSave<T, OutArchive<Writer>>;
template <class T>
inline constexpr bool has_load = MemberLoad<T, InArchive> || FreeLoad<T, InArchive>;

// A derived class that inherits serialize() would be sent without its own fields and arrive sliced.
// A member's pointer names the class that declares it; where none can be formed (overloads,
// non-templates) the class gets the benefit of the doubt.
template <class Class, class Result, class Ar>
Class class_of_member(Result (Class::*)(Ar&));
template <class Class, class Result, class Ar>
Class class_of_member(Result (Class::*)(Ar&) const);

template <class T>
inline constexpr bool inherits_hook = [] {
  if constexpr (requires { class_of_member(&T::template serialize<InArchive>); }) {
    return !std::is_same_v<decltype(class_of_member(&T::template serialize<InArchive>)), T>;
  } else if constexpr (requires { class_of_member(&T::template load<InArchive>); }) {
    return !std::is_same_v<decltype(class_of_member(&T::template load<InArchive>)), T>;
  } else {
    return false;
  }
}();

template <class T>
struct UserCodec {
  using Parts = TypeList<>;  // unknown here: each field is checked where the archive meets it
  static constexpr bool carries_handles = true;
  static constexpr std::size_t min_size = 0;

  template <class Out>
  static void encode(const T& value, Out& out) {
    const Descent<Out> level(out);
    OutArchive<Out> ar(out);
    // serialize() is one non-const function for both directions; an OutArchive only reads.
    if constexpr (MemberSerialize<T, InArchive>) {
      const_cast<T&>(value).serialize(ar);
    } else if constexpr (FreeSerialize<T, InArchive>) {
      serialize(ar, const_cast<T&>(value));
    } else if constexpr (MemberSave<T, OutArchive<Out>>) {
      value.save(ar);
    } else {
      save(ar, value);
    }
  }

  static T decode(Reader& reader) {
    const Descent<Reader> level(reader);
    T value{};
    try {
      load_into(value, reader);
    } catch (const DecodeError&) {
      throw;
    } catch (const std::bad_alloc&) {
      throw;
    } catch (const std::length_error&) {
      throw;
    } catch (const std::exception& e) {
      // Callers must be able to treat "bad bytes" as one kind of error.
      throw DecodeError(std::string("brood: a type's own load function failed: ") + e.what());
    }
    return value;
  }

 private:
  static void load_into(T& value, Reader& reader) {
    InArchive ar(reader);
    if constexpr (MemberSerialize<T, InArchive>) {
      value.serialize(ar);
    } else if constexpr (FreeSerialize<T, InArchive>) {
      serialize(ar, value);
    } else if constexpr (MemberLoad<T, InArchive>) {
      value.load(ar);
    } else {
      load(ar, value);
    }
  }
};

// Scalars, and classes that opted in by enable_sendable.
template <class T>
struct BytesCodec {
  using Parts = TypeList<>;
  static constexpr std::optional<std::size_t> fixed_size = sizeof(T);
  static constexpr bool bulk = true;

  template <class Out>
  static void encode(const T& value, Out& out) {
    out.write_scalar(value);
  }
  static T decode(Reader& reader) { return reader.read_scalar<T>(); }
};

// bool, and enums over bool: two of 256 bit patterns are values, the others undefined behaviour.
template <class T>
struct BoolCodec {
  using Parts = TypeList<>;
  static constexpr std::optional<std::size_t> fixed_size = 1;

  template <class Out>
  static void encode(const T& value, Out& out) {
    out.write_scalar(static_cast<std::uint8_t>(value));
  }
  static T decode(Reader& reader) { return static_cast<T>(reader.read_tag<std::uint8_t>(2) != 0); }
};

}  // namespace brood::detail
