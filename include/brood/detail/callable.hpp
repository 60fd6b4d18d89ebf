// Callables as values: what kinds there are and how each crosses to a worker.
//
//   function            its address, sealed (thunk.hpp)
//   stateless functor   nothing: its type is in the thunk
//   closure             its bytes, if it is trivially copyable and none of its words points into
//                       this process's private memory
//   bind_front(f, ...)  f, and the number of a block that holds the bound values encoded once
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <tuple>
#include <type_traits>
#include <vector>

#include "brood/codec.hpp"
#include "brood/detail/thunk.hpp"

namespace brood::detail {

// Which addresses mean something in the other process: constants and code lie where they do here
// in a copy of this program, and elsewhere in one that was executed afresh.
enum class Addresses : bool { of_a_copy, of_its_own };

// Throws NotSendable if a word of `bytes` points into memory that the other process does not have:
// the stack, the heap, globals. `name` is the closure's type, for the message.
//
// Pointers are looked for where a type of this alignment may have them: in a packed struct
// anywhere.
void refuse_private_pointers(std::span<const std::byte> bytes, std::string_view name,
                             std::size_t alignment = alignof(void*),
                             Addresses there = Addresses::of_a_copy);

// The bound values of a bind_front, shared by all its copies: how to encode them, and where the
// pools keep the encoding.
//
// Threads: any. Blocking: for its lock, while a pool encodes. Ownership: of the pools' blocks,
// which it has freed in the destructor. Errors: what encoding throws. Death: blocks die with their
// pool.
class BoundBlob {
 public:
  using EncodeFn = std::function<void(std::span<std::byte> room)>;
  using FreeFn = std::function<void(std::uint64_t block)>;

  BoundBlob(std::size_t size, EncodeFn encode);
  ~BoundBlob();
  BoundBlob(const BoundBlob&) = delete;
  BoundBlob& operator=(const BoundBlob&) = delete;

  // A number that no other blob of the family has.
  [[nodiscard]] std::uint64_t id() const noexcept { return id_; }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  void encode(std::span<std::byte> room) const { encode_(room); }

  // Whether what was encoded had handles in it.
  [[nodiscard]] bool has_handles() const noexcept {
    return has_handles_.load(std::memory_order_relaxed);
  }
  void remember_handles() const noexcept { has_handles_.store(true, std::memory_order_relaxed); }

  // The block of the pool with this number, made by `make` the first time, freed by `free`.
  std::uint64_t block_for(std::uint64_t pool, const std::function<std::uint64_t()>& make,
                          FreeFn free) const;

 private:
  struct Placed {
    std::uint64_t pool;
    std::uint64_t block;
    FreeFn free;
  };
  std::uint64_t id_;
  std::size_t size_;
  EncodeFn encode_;
  mutable std::atomic<bool> has_handles_{false};
  mutable std::mutex mutex_;
  mutable std::vector<Placed> placed_;
};

using BoundPtr = std::shared_ptr<const BoundBlob>;

// How bound values are referred to where a callable is encoded.
struct BoundRef {
  std::uint64_t id;     // see BoundBlob::id
  std::uint64_t block;  // of the pool, or whatever else the other side finds them by
};

// What bind_front returns.
template <class F, class... Bound>
class BoundFront {
 public:
  template <class... Values>
  explicit BoundFront(F f, Values&&... values)
      : function_(std::move(f)),
        bound_(std::make_shared<const std::tuple<Bound...>>(std::forward<Values>(values)...)),
        blob_(make_blob(bound_)) {}

  template <class... Args>
  decltype(auto) operator()(Args&&... args) const {
    return std::apply(
        [&](const Bound&... bound) -> decltype(auto) {
          return std::invoke(function_, bound..., std::forward<Args>(args)...);
        },
        *bound_);
  }

  [[nodiscard]] const F& function() const noexcept { return function_; }
  [[nodiscard]] const BoundPtr& blob() const noexcept { return blob_; }

 private:
  static BoundPtr make_blob(const std::shared_ptr<const std::tuple<Bound...>>& bound) {
    Sizer sizer;
    encode_part(*bound, sizer);
    return std::make_shared<const BoundBlob>(sizer.size(), [bound](std::span<std::byte> room) {
      Writer writer(room);
      encode_part(*bound, writer);
    });
  }

  F function_;
  std::shared_ptr<const std::tuple<Bound...>> bound_;
  BoundPtr blob_;
};

template <class T>
inline constexpr bool is_bound_front = false;
template <class F, class... Bound>
inline constexpr bool is_bound_front<BoundFront<F, Bound...>> = true;

template <class F>
inline constexpr bool is_function_pointer =
    std::is_pointer_v<F> && std::is_function_v<std::remove_pointer_t<F>>;

template <class F>
consteval void require_callable() {
  static_assert(!std::is_member_pointer_v<F>,
                "brood: a pointer to a member can't be sent: wrap the call in a lambda");
  if constexpr (!is_bound_front<F> && !is_function_pointer<F> && !std::is_member_pointer_v<F>) {
    static_assert(std::is_class_v<F>, "brood: this is not something that can be called");
    static_assert(
        std::is_trivially_copyable_v<F>,
        "brood: this callable can't be sent, because it captures something that is not plain data "
        "(a string, a vector, a std::function, a smart pointer...): pass that as an argument, or "
        "bind it with brood::bind_front(f, value...)");
    static_assert(!std::is_polymorphic_v<F>,
                  "brood: a callable with virtual functions can't be sent: its address of the "
                  "virtual table means nothing elsewhere");
  }
}

// Whether zeros make an F in a constant expression: then it holds no pointer and no reference.
template <class F>
consteval bool made_of_zeros() {
  static_cast<void>(std::bit_cast<F>(std::array<std::byte, sizeof(F)>{}));
  return true;
}
template <class F>
concept MadeOfNumbers = requires { typename std::bool_constant<made_of_zeros<F>()>; };

// How many bytes a callable takes, how they are written, and how a worker gets it back. Blocks of
// bound values come from `place(blob)`.
template <class F>
struct CallableCodec {
  static constexpr std::uint32_t bound_fronts = 0;  // see Thunk
  static constexpr bool calls_function = false;
  static constexpr std::size_t size = std::is_empty_v<F> ? 0 : (sizeof(F) + 7) / 8 * 8;

  // Throws NotSendable before anything was changed.
  static void check(const F& f, Addresses there) {
    if constexpr (worth_a_look) {
      std::array<std::byte, sizeof(F)> copy = plain_bytes(f);
      refuse_private_pointers(copy, type_name<F>(), alignof(F), there);
    }
  }

  template <class Place>
  static void encode(const F& f, Writer& out, Place&& /*place*/) {
    if constexpr (!std::is_empty_v<F>) {
      std::array<std::byte, size> padded{};
      const std::array<std::byte, sizeof(F)> copy = plain_bytes(f);
      std::memcpy(padded.data(), copy.data(), copy.size());
      out.write_bytes(padded.data(), padded.size());
    }
  }

  static F decode(Reader& in, TaskFrame& /*frame*/) {
    std::array<std::byte, sizeof(F)> copy{};
    if constexpr (!std::is_empty_v<F>) {
      std::array<std::byte, size> padded;
      in.read_bytes(padded.data(), padded.size());
      std::memcpy(copy.data(), padded.data(), copy.size());
    }
    return std::bit_cast<F>(copy);
  }

  static BoundPtr blob(const F& /*f*/) { return nullptr; }
  // The plain function that is called in the end, if it is one.
  static const void* function(const F& /*f*/) { return nullptr; }

 private:
// What a compiler left in the padding of a closure may look like a pointer. One that does not tell
// where that is has only those looked through, padding and all, that can hold a pointer.
#if __has_builtin(__builtin_clear_padding)
  static constexpr bool worth_a_look = !std::is_empty_v<F>;
  static void clear_padding(F* f) { __builtin_clear_padding(f); }
#else
  static constexpr bool worth_a_look = !std::is_empty_v<F> && !MadeOfNumbers<F>;
  static void clear_padding(F* /*f*/) {}
#endif

  static std::array<std::byte, sizeof(F)> plain_bytes(const F& f) {
    alignas(F) std::array<std::byte, sizeof(F)> bytes;
    std::memcpy(bytes.data(), &f, sizeof(F));
    clear_padding(reinterpret_cast<F*>(bytes.data()));
    return bytes;
  }
};

template <class F>
  requires is_function_pointer<F>
struct CallableCodec<F> {
  static constexpr std::uint32_t bound_fronts = 0;
  static constexpr bool calls_function = true;
  static constexpr std::size_t size = sizeof(SealedFunction);

  static void check(F f, Addresses /*there*/) {
    if (f == nullptr) throw NotSendable("brood: the function to call is a null pointer");
  }
  template <class Place>
  static void encode(F f, Writer& out, Place&& /*place*/) {
    out.write_scalar(seal_function(reinterpret_cast<void (*)()>(f)));
  }
  static F decode(Reader& in, TaskFrame& /*frame*/) {
    return reinterpret_cast<F>(open_function(in.read_scalar<SealedFunction>()));
  }
  static BoundPtr blob(F /*f*/) { return nullptr; }
  static const void* function(F f) { return reinterpret_cast<const void*>(f); }
};

template <class F, class... Bound>
struct CallableCodec<BoundFront<F, Bound...>> {
  static constexpr std::uint32_t bound_fronts = 1 + CallableCodec<F>::bound_fronts;
  static constexpr bool calls_function = CallableCodec<F>::calls_function;
  static constexpr std::size_t size = sizeof(BoundRef) + CallableCodec<F>::size;

  static void check(const BoundFront<F, Bound...>& f, Addresses there) {
    CallableCodec<F>::check(f.function(), there);
  }

  template <class Place>
  static void encode(const BoundFront<F, Bound...>& f, Writer& out, Place&& place) {
    out.write_scalar(BoundRef{f.blob()->id(), std::uint64_t{place(f.blob())}});
    CallableCodec<F>::encode(f.function(), out, place);
  }

  // Calls with the values that this worker decoded at the first task that had them.
  struct Decoded {
    std::shared_ptr<const std::tuple<Bound...>> bound;
    F function;
    template <class... Args>
    decltype(auto) operator()(Args&&... args) const {
      return std::apply(
          [&](const Bound&... values) -> decltype(auto) {
            return std::invoke(function, values..., std::forward<Args>(args)...);
          },
          *bound);
    }
  };

  static Decoded decode(Reader& in, TaskFrame& frame) {
    const auto ref = in.read_scalar<BoundRef>();
    std::shared_ptr<const void>& cached = frame.bound_cache(ref.id);
    if (cached == nullptr) {
      Reader bytes(frame.bound_bytes(ref.block));
      cached =
          std::make_shared<const std::tuple<Bound...>>(decode_part<std::tuple<Bound...>>(bytes));
      bytes.expect_end();
    }
    auto bound = std::static_pointer_cast<const std::tuple<Bound...>>(cached);
    return {std::move(bound), CallableCodec<F>::decode(in, frame)};
  }

  static BoundPtr blob(const BoundFront<F, Bound...>& f) { return f.blob(); }
  static const void* function(const BoundFront<F, Bound...>& f) {
    return CallableCodec<F>::function(f.function());
  }
};

}  // namespace brood::detail

namespace brood {

// A callable that calls f(bound..., args...). Unlike a closure it may bind any sendable value. The
// values are encoded once per pool, at its first task that uses them, and decoded at most once per
// worker, however many tasks there are: so there is one copy here, one in the pool, and one in each
// worker. Throws NotSendable, std::bad_alloc.
template <class F, class... Bound>
[[nodiscard]] auto bind_front(F&& f, Bound&&... bound) {
  (detail::require_sendable<std::decay_t<Bound>>(), ...);
  detail::require_callable<std::decay_t<F>>();
  return detail::BoundFront<std::decay_t<F>, std::decay_t<Bound>...>(std::forward<F>(f),
                                                                     std::forward<Bound>(bound)...);
}

}  // namespace brood
