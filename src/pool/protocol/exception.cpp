#include "pool/protocol/exception.hpp"

#include <cxxabi.h>

#include <algorithm>
#include <any>
#include <array>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <system_error>
#include <typeinfo>
#include <utility>
#include <variant>

#include "brood/codec.hpp"
#include "start/demangle.hpp"
#include "start/thrown_trace.hpp"
#include "sys/process.hpp"

namespace brood::pool {

namespace {

constexpr std::uint8_t kRemote = 0;  // a type that is not in the table

// What `catch (const E&)` finds in the caller, with the whereabouts of the original.
template <class E>
class Rethrown final : public E, public RemoteInfo {
 public:
  Rethrown(const E& e, RemoteInfo info) : E(e), RemoteInfo(std::move(info)) {}
};

// For types that can't be given a text: what() answers with the original's.
template <class E>
class RethrownWithText final : public E, public RemoteInfo {
 public:
  RethrownWithText(std::string what, RemoteInfo info)
      : RemoteInfo(std::move(info)), what_(std::move(what)) {}
  [[nodiscard]] const char* what() const noexcept override { return what_.c_str(); }

 private:
  std::string what_;
};

struct Known {
  const std::type_info* type;
  bool ours;  // an error of brood, thrown as such only when brood itself threw it
  void (*rethrow)(const EncodedException& e, RemoteInfo info);  // never returns
};

template <class E>
Known by_text(bool ours = false) {
  return {&typeid(E), ours, [](const EncodedException& e, RemoteInfo info) {
            throw Rethrown<E>(E(e.what), std::move(info));
          }};
}

template <class E>
Known by_default() {
  return {&typeid(E), false, [](const EncodedException& e, RemoteInfo info) {
            throw RethrownWithText<E>(e.what, std::move(info));
          }};
}

Known system_error_entry() {
  return {&typeid(std::system_error), false, [](const EncodedException& e, RemoteInfo info) {
            const std::error_category& category =
                e.generic_code ? std::generic_category() : std::system_category();
            // The text already ends with the code's message, which the constructor adds again.
            const std::string message = ": " + category.message(e.code);
            std::string text = e.what;
            if (text.ends_with(message)) text.resize(text.size() - message.size());
            throw Rethrown<std::system_error>({e.code, category, text}, std::move(info));
          }};
}

// The kind of an encoded exception is 1 + its place here.
const auto& known_types() {
  static const auto all = std::to_array<Known>({
      by_text<std::logic_error>(),
      by_text<std::invalid_argument>(),
      by_text<std::domain_error>(),
      by_text<std::length_error>(),
      by_text<std::out_of_range>(),
      by_text<std::runtime_error>(),
      by_text<std::range_error>(),
      by_text<std::overflow_error>(),
      by_text<std::underflow_error>(),
      system_error_entry(),
      by_default<std::exception>(),
      by_default<std::bad_alloc>(),
      by_default<std::bad_array_new_length>(),
      by_default<std::bad_cast>(),
      by_default<std::bad_any_cast>(),
      by_default<std::bad_typeid>(),
      by_default<std::bad_exception>(),
      by_default<std::bad_function_call>(),
      by_default<std::bad_optional_access>(),
      by_default<std::bad_variant_access>(),
      by_default<std::bad_weak_ptr>(),
      by_text<DecodeError>(true),
      by_text<TypeMismatch>(true),
      by_text<NotSendable>(true),
      by_text<ArenaFull>(true),
      by_text<StaleHandle>(true),
  });
  return all;
}

std::uint8_t kind_of(const std::type_info& type, bool from_user) {
  const auto& all = known_types();
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (*all[i].type == type && !(all[i].ours && from_user)) {
      return static_cast<std::uint8_t>(i + 1);
    }
  }
  return kRemote;
}

// what() of a type of the user's may be anything.
std::string text_of(const std::exception& e) {
  const char* text = e.what();
  return text != nullptr ? text : "";
}

EncodedException describe_current(bool from_user) {
  EncodedException encoded;
  encoded.trace = start::ThrownTrace::take();
  encoded.worker_pid = sys::process_id();
  encoded.type_name = current_exception_type();
  if (const std::type_info* type = abi::__cxa_current_exception_type()) {
    encoded.kind = kind_of(*type, from_user);
  }
  try {
    throw;
  } catch (const std::system_error& e) {
    encoded.what = text_of(e);
    encoded.code = e.code().value();
    encoded.generic_code = e.code().category() == std::generic_category();
    const bool portable = encoded.generic_code || e.code().category() == std::system_category();
    if (!portable) encoded.kind = kRemote;
  } catch (const std::exception& e) {
    encoded.what = text_of(e);
  } catch (const std::string& text) {
    encoded.what = text;
  } catch (const char* text) {
    encoded.what = text != nullptr ? text : "";
  } catch (...) {
    encoded.what = "an exception of type " + encoded.type_name;
  }
  return encoded;
}

std::vector<std::byte> to_bytes(const EncodedException& encoded) {
  detail::Sizer sizer;
  detail::encode_part(encoded, sizer);
  std::vector<std::byte> bytes(sizer.size());
  detail::Writer writer(bytes);
  detail::encode_part(encoded, writer);
  return bytes;
}

}  // namespace

std::vector<std::byte> encode_current_exception(bool from_user, std::uint32_t attempts,
                                                std::size_t most) noexcept {
  try {
    EncodedException encoded = describe_current(from_user);
    encoded.attempts = attempts;
    std::vector<std::byte> bytes = to_bytes(encoded);
    const auto shorten = [&](auto& part) {
      if (bytes.size() <= most) return;
      part.resize(part.size() - std::min(part.size(), bytes.size() - most));
      bytes = to_bytes(encoded);
    };
    shorten(encoded.trace);
    shorten(encoded.what);
    shorten(encoded.type_name);
    return bytes;
  } catch (...) {
    try {
      EncodedException bare;
      bare.kind = kind_of(typeid(std::bad_alloc), false);
      return to_bytes(bare);
    } catch (...) {
      return {};
    }
  }
}

void throw_encoded(std::span<const std::byte> bytes, RemoteInfo info) {
  detail::Reader reader(bytes);
  auto encoded = detail::decode_part<EncodedException>(reader);
  reader.expect_end();
  info.type_name = encoded.type_name;
  info.worker_pid = encoded.worker_pid;
  info.attempts = static_cast<int>(encoded.attempts);
  info.backtrace = Backtrace(std::move(encoded.trace));
  const auto& all = known_types();
  if (encoded.kind > all.size()) throw DecodeError("a task ended with an unknown kind of error");
  if (encoded.kind == kRemote) throw RemoteError(encoded.what, std::move(info));
  all[encoded.kind - 1U].rethrow(encoded, std::move(info));
  __builtin_unreachable();
}

}  // namespace brood::pool
