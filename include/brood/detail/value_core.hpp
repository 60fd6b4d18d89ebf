// What Value and RawValue do that does not depend on their type.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <type_traits>

#include "brood/detail/held_memory.hpp"

namespace brood::detail {

inline constexpr std::uint32_t kValueKind = 3;  // an shm::ObjectKind

// A new value; HeldMemory::data() is where its words lie. Throw ArenaFull, FamilyBroken,
// StartError.
HeldMemory make_value(std::uint64_t type, const void* initial, std::size_t bytes);
HeldMemory make_raw_value(std::uint64_t type, const void* initial, std::size_t bytes);
// One that has arrived. Throw DecodeError: it is too small for such a value.
HeldMemory receive_value(ObjectHandle handle, std::size_t bytes);
HeldMemory receive_raw_value(ObjectHandle handle, std::size_t bytes);

// Copies a value of more than a word out.
void read_wide(const HeldMemory& value, std::byte* to, std::size_t bytes);
bool compare_exchange_wide(const HeldMemory& value, void* expected, const void* desired,
                           std::size_t bytes);

// One change of a value of more than a word: the constructor waits until nobody else is changing
// it. Without publish(), the value stays as it was.
class WideUpdate {
 public:
  // Throws Error if the calling thread is changing this value already; StaleHandle, FamilyBroken,
  // Interrupted.
  WideUpdate(const HeldMemory& value, std::size_t bytes);
  ~WideUpdate();
  WideUpdate(const WideUpdate&) = delete;
  WideUpdate& operator=(const WideUpdate&) = delete;

  void read(std::byte* to) const;
  // Once. Throws Error if somebody has overwritten the value's memory.
  void publish(const void* from);

 private:
  void finish() noexcept;
  [[nodiscard]] bool is_open() const noexcept;

  std::shared_ptr<ObjectHold> hold_;
  std::size_t bytes_;
  std::uint64_t token_ = 0;  // of the process that has the claim; 0: none has
  WideUpdate* outer_;
};

// f changes its argument, or returns what it is to become.
template <class F, class T>
T call_update(F& f, const T& old) {
  static_assert(std::invocable<F&, T&>, "brood: update() takes a function of a T& or a const T&");
  T value = old;
  if constexpr (std::is_void_v<std::invoke_result_t<F&, T&>>) {
    std::invoke(f, value);
    return value;
  } else {
    return std::invoke(f, value);
  }
}

}  // namespace brood::detail
