// The atomics of the shared protocols as test/schedule sees them (see src/sys/atomic.hpp): of the
// same size and layout as the real ones, but every operation asks the engine first, which decides
// who goes on next and which of the values that C++ allows is read.
#pragma once

#include <atomic>
#include <bit>
#include <cstdint>
#include <cstring>
#include <source_location>
#include <type_traits>

namespace brood::schedule {

using Order = std::memory_order;
using Site = std::source_location;

// What an operation that reads and writes does with the old value.
enum class Change : std::uint8_t { exchange, add, subtract, bit_or, bit_and };

// The engine's side; words are given by address and size, values as their bits.
std::uint64_t load_word(const void* word, std::size_t bytes, Order order, const Site& site);
void store_word(void* word, std::size_t bytes, std::uint64_t bits, Order order, const Site& site);
std::uint64_t change_word(void* word, std::size_t bytes, Change change, std::uint64_t operand,
                          Order order, const Site& site);
bool compare_and_swap(void* word, std::size_t bytes, std::uint64_t& expected, std::uint64_t desired,
                      Order success, Order failure, const Site& site);

}  // namespace brood::schedule

namespace brood::sys {

template <class T>
class Atomic {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8);
  using Site = std::source_location;
  using Order = std::memory_order;

 public:
  static constexpr bool is_always_lock_free = true;

  constexpr Atomic() noexcept = default;
  constexpr Atomic(T value) noexcept : value_(value) {}
  Atomic(const Atomic&) = delete;
  Atomic& operator=(const Atomic&) = delete;

  T load(Order order = Order::seq_cst, Site site = Site::current()) const noexcept {
    return value(schedule::load_word(&value_, sizeof(T), order, site));
  }
  void store(T desired, Order order = Order::seq_cst, Site site = Site::current()) noexcept {
    schedule::store_word(&value_, sizeof(T), bits(desired), order, site);
  }
  T exchange(T desired, Order order = Order::seq_cst, Site site = Site::current()) noexcept {
    return change(schedule::Change::exchange, desired, order, site);
  }
  T fetch_add(T operand, Order order = Order::seq_cst, Site site = Site::current()) noexcept {
    return change(schedule::Change::add, operand, order, site);
  }
  T fetch_sub(T operand, Order order = Order::seq_cst, Site site = Site::current()) noexcept {
    return change(schedule::Change::subtract, operand, order, site);
  }
  T fetch_or(T operand, Order order = Order::seq_cst, Site site = Site::current()) noexcept {
    return change(schedule::Change::bit_or, operand, order, site);
  }
  T fetch_and(T operand, Order order = Order::seq_cst, Site site = Site::current()) noexcept {
    return change(schedule::Change::bit_and, operand, order, site);
  }
  bool compare_exchange_strong(T& expected, T desired, Order success, Order failure,
                               Site site = Site::current()) noexcept {
    std::uint64_t old = bits(expected);
    const bool swapped =
        schedule::compare_and_swap(&value_, sizeof(T), old, bits(desired), success, failure, site);
    if (!swapped) expected = value(old);
    return swapped;
  }
  bool compare_exchange_strong(T& expected, T desired, Order order = Order::seq_cst,
                               Site site = Site::current()) noexcept {
    const Order failure = order == Order::acq_rel   ? Order::acquire
                          : order == Order::release ? Order::relaxed
                                                    : order;
    return compare_exchange_strong(expected, desired, order, failure, site);
  }
  // Never fails for no reason: the loops around it would only turn once more.
  bool compare_exchange_weak(T& expected, T desired, Order success, Order failure,
                             Site site = Site::current()) noexcept {
    return compare_exchange_strong(expected, desired, success, failure, site);
  }
  bool compare_exchange_weak(T& expected, T desired, Order order = Order::seq_cst,
                             Site site = Site::current()) noexcept {
    return compare_exchange_strong(expected, desired, order, site);
  }

 private:
  static std::uint64_t bits(T value) noexcept {
    std::uint64_t result = 0;
    std::memcpy(&result, &value, sizeof value);
    return result;
  }
  static T value(std::uint64_t bits) noexcept {
    T result;
    std::memcpy(&result, &bits, sizeof result);
    return result;
  }
  T change(schedule::Change change, T operand, Order order, const Site& site) noexcept {
    return value(schedule::change_word(&value_, sizeof(T), change, bits(operand), order, site));
  }

  T value_{};
};

}  // namespace brood::sys
