// One value that several processes share: Value and RawValue.
//
//   brood::Value<int> counter(0);
//   brood::Process worker([](brood::Value<int> c) { ++c; }, counter);
//
// T is a type that is its bytes: a number, an enum, a std::array or an aggregate of these, or a
// trivially copyable class with enable_sendable. Others are refused at compile time.
#pragma once

#include "brood/detail/cpp20.hpp"

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <type_traits>
#include <utility>

#include "brood/detail/plain.hpp"
#include "brood/detail/value_core.hpp"
#include "brood/locks.hpp"

namespace brood {

// Numbers of up to eight bytes have the operations of std::atomic, as single instructions where the
// processor has them.
template <class T>
concept AtomicInteger = std::is_integral_v<T> && !std::is_same_v<T, bool> && sizeof(T) <= 8;
template <class T>
concept SharedNumber = std::is_arithmetic_v<T> && !std::is_same_v<T, bool>;

// A value that processes share. Every operation is atomic: nobody sees half of a change, whatever
// the size of T, and whoever is killed or stopped meanwhile.
//
//   Threads:   any, of any process.
//   Blocking:  reading never. Changing never for types of 1, 2, 4 and 8 bytes; for others it waits
//              while somebody else changes the value, as long as an update() may take that is
//              running. Whoever dies in it is waited for no longer.
//   Ownership: a handle: copies name the same value, also in other processes; copy() makes another
//              value. Passed to processes and tasks, put into queues, it goes with the last of
//              them. Assigning a handle makes it name the other's value: to store, use set().
//   Errors:    ArenaFull and what the start of a family throws, from constructors. From the others
//              StaleHandle (moved from, or inherited by a process that you forked yourself); Error
//              (changed by a function that is changing it); FamilyBroken, Interrupted where it
//              waits.
//   Death:     in the middle of a change leaves the old value.
//   Memory ordering: all operations are seq_cst for values of 1, 2, 4 and 8 bytes, as std::atomic's
//              are; whoever reads what others have set sees what they did before, whatever the
//              size.
template <class T>
class Value {
  static_assert((detail::require_plain<T>(), true));

 public:
  Value() : Value(T{}) {}
  explicit Value(const T& initial)
      : memory_(detail::make_value(object_type(), &initial, sizeof(T))) {}

  [[nodiscard]] T get() const {
    if constexpr (detail::is_word_sized<T>) {
      return detail::from_word<T>(word().load(std::memory_order_seq_cst));
    } else {
      detail::BytesOf<T> bytes;
      detail::read_wide(memory_, bytes.bytes, sizeof(T));
      return detail::from_bytes(bytes);
    }
  }
  void set(const T& value) {
    if constexpr (detail::is_word_sized<T>) {
      word().store(detail::to_word(value), std::memory_order_seq_cst);
    } else {
      detail::WideUpdate(memory_, sizeof(T)).publish(&value);
    }
  }

  // Changes it by f, atomically: f gets a T& to change, or a const T& and returns the new value.
  // Returns the new value. If f throws, or the process dies in it, the value is as before.
  // For types of 1, 2, 4 and 8 bytes f is called again if somebody else has changed the value
  // meanwhile; for others they wait. It must not change the value in another way than this.
  template <class F>
  T update(F&& f) {
    return change([&](const T& old) { return detail::call_update(f, old); }).second;
  }

  T exchange(const T& value) {
    if constexpr (detail::is_word_sized<T>) {
      return detail::from_word<T>(
          word().exchange(detail::to_word(value), std::memory_order_seq_cst));
    } else {
      return change([&](const T&) { return value; }).first;
    }
  }
  // Sets it to `desired` if its bytes are those of `expected`; otherwise says in `expected` what it
  // is.
  bool compare_exchange(T& expected, const T& desired) {
    if constexpr (detail::is_word_sized<T>) {
      detail::WordOf<T> bits = detail::to_word(expected);
      if (word().compare_exchange_strong(bits, detail::to_word(desired))) return true;
      expected = detail::from_word<T>(bits);
      return false;
    } else {
      return detail::compare_exchange_wide(memory_, &expected, &desired, sizeof(T));
    }
  }

  // Numbers. The fetch_ ones return the old value, the operators the new one (but v++, v--).
  T fetch_add(T by)
    requires SharedNumber<T>
  {
    if constexpr (AtomicInteger<T>) {
      return detail::from_word<T>(word().fetch_add(detail::to_word(by)));
    } else {
      return change([by](const T& old) { return static_cast<T>(old + by); }).first;
    }
  }
  T fetch_sub(T by)
    requires SharedNumber<T>
  {
    if constexpr (AtomicInteger<T>) {
      return detail::from_word<T>(word().fetch_sub(detail::to_word(by)));
    } else {
      return change([by](const T& old) { return static_cast<T>(old - by); }).first;
    }
  }
  T fetch_and(T bits)
    requires AtomicInteger<T>
  {
    return detail::from_word<T>(word().fetch_and(detail::to_word(bits)));
  }
  T fetch_or(T bits)
    requires AtomicInteger<T>
  {
    return detail::from_word<T>(word().fetch_or(detail::to_word(bits)));
  }
  T fetch_xor(T bits)
    requires AtomicInteger<T>
  {
    return detail::from_word<T>(word().fetch_xor(detail::to_word(bits)));
  }
  T operator+=(T by)
    requires SharedNumber<T>
  {
    if constexpr (AtomicInteger<T>) {
      return detail::from_word<T>(
          static_cast<detail::WordOf<T>>(detail::to_word(fetch_add(by)) + detail::to_word(by)));
    } else {
      return change([by](const T& old) { return static_cast<T>(old + by); }).second;
    }
  }
  T operator-=(T by)
    requires SharedNumber<T>
  {
    if constexpr (AtomicInteger<T>) {
      return detail::from_word<T>(
          static_cast<detail::WordOf<T>>(detail::to_word(fetch_sub(by)) - detail::to_word(by)));
    } else {
      return change([by](const T& old) { return static_cast<T>(old - by); }).second;
    }
  }
  T operator++()
    requires SharedNumber<T>
  {
    return *this += T{1};
  }
  T operator--()
    requires SharedNumber<T>
  {
    return *this -= T{1};
  }
  T operator++(int)
    requires SharedNumber<T>
  {
    return fetch_add(T{1});
  }
  T operator--(int)
    requires SharedNumber<T>
  {
    return fetch_sub(T{1});
  }

  // A lock that goes with the value, for what takes more than one operation. It keeps out whoever
  // takes it too, and nobody else.
  [[nodiscard]] RLock get_lock() const { return detail::lock_of(object_handle()); }

  // Another value, equal to what this one is now.
  [[nodiscard]] Value copy() const { return Value(get()); }

  // Whether both name the same value.
  friend bool operator==(const Value& a, const Value& b) noexcept {
    return a.object_handle().name() == b.object_handle().name();
  }

  static constexpr std::uint32_t kKind = detail::kValueKind;
  static constexpr std::uint64_t object_type() { return detail::type_id<Value<T>>(); }
  [[nodiscard]] const detail::ObjectHandle& object_handle() const noexcept {
    return memory_.handle();
  }

 private:
  friend detail::HandleCodec<Value<T>>;
  explicit Value(detail::ObjectHandle handle)
      : memory_(detail::receive_value(std::move(handle), sizeof(T))) {}

  // Old and new value.
  template <class F>
  std::pair<T, T> change(F&& f) {
    if constexpr (detail::is_word_sized<T>) {
      auto cell = word();
      detail::WordOf<T> old = cell.load(std::memory_order_seq_cst);
      for (;;) {
        const T value = f(detail::from_word<T>(old));
        const detail::WordOf<T> before = old;
        if (cell.compare_exchange_strong(old, detail::to_word(value))) {
          return {detail::from_word<T>(before), value};
        }
      }
    } else {
      detail::WideUpdate update(memory_, sizeof(T));
      detail::BytesOf<T> bytes;
      update.read(bytes.bytes);
      const T old = detail::from_bytes(bytes);
      const T value = f(old);
      update.publish(&value);
      return {old, value};
    }
  }

  [[nodiscard]] std::atomic_ref<detail::WordOf<T>> word() const {
    return std::atomic_ref(*reinterpret_cast<detail::WordOf<T>*>(memory_.data()));
  }

  detail::HeldMemory memory_;
};

// A value that processes share and that nothing guards: ref() is the T itself.
//
//   Threads:   any, of any process; but they have to agree who uses ref() when, as with a variable
//              that threads share. get() and set() are atomic for types of 1, 2, 4 and 8 bytes.
//   Blocking:  never.
//   Ownership: as Value. A reference is good for as long as this handle lives.
//   Errors:    as Value; nothing waits.
//   Death:     while ref() is being changed leaves what was written by then.
//   Memory ordering: none but that of the locks or values by which its users agree.
template <class T>
class RawValue {
  static_assert((detail::require_plain<T>(), true));
  static_assert(alignof(T) <= 64, "brood: shared memory is aligned to 64 bytes at most");

 public:
  RawValue() : RawValue(T{}) {}
  explicit RawValue(const T& initial)
      : memory_(detail::make_raw_value(object_type(), &initial, sizeof(T))) {}

  [[nodiscard]] T& ref() const { return *reinterpret_cast<T*>(memory_.data()); }
  [[nodiscard]] T get() const {
    if constexpr (detail::is_word_sized<T>) {
      return detail::from_word<T>(word().load(std::memory_order_relaxed));
    } else {
      detail::BytesOf<T> bytes;
      std::memcpy(&bytes, memory_.data(), sizeof(T));
      return detail::from_bytes(bytes);
    }
  }
  void set(const T& value) const {
    if constexpr (detail::is_word_sized<T>) {
      word().store(detail::to_word(value), std::memory_order_relaxed);
    } else {
      std::memcpy(memory_.data(), &value, sizeof(T));
    }
  }
  [[nodiscard]] RawValue copy() const { return RawValue(get()); }
  friend bool operator==(const RawValue& a, const RawValue& b) noexcept {
    return a.object_handle().name() == b.object_handle().name();
  }

  static constexpr std::uint32_t kKind = detail::kValueKind;
  static constexpr std::uint64_t object_type() { return detail::type_id<RawValue<T>>(); }
  [[nodiscard]] const detail::ObjectHandle& object_handle() const noexcept {
    return memory_.handle();
  }

 private:
  friend detail::HandleCodec<RawValue<T>>;
  explicit RawValue(detail::ObjectHandle handle)
      : memory_(detail::receive_raw_value(std::move(handle), sizeof(T))) {}
  // Its alignment need not be that of T.
  [[nodiscard]] std::atomic_ref<detail::WordOf<T>> word() const {
    return std::atomic_ref(*reinterpret_cast<detail::WordOf<T>*>(memory_.data()));
  }

  detail::HeldMemory memory_;
};

namespace detail {
template <class T>
struct Codec<Value<T>> : HandleCodec<Value<T>> {};
template <class T>
struct Codec<RawValue<T>> : HandleCodec<RawValue<T>> {};
}  // namespace detail

}  // namespace brood
