// The outcome of a task or element as a value: what it returned, or what it threw.
#pragma once

#include "brood/detail/cpp20.hpp"

#include <cstddef>
#include <exception>
#include <functional>
#include <optional>
#include <type_traits>
#include <utility>

namespace brood {

// As std::expected<R, std::exception_ptr>, and where the element stood in its range.
//
//   Threads:   as those of R.
//   Blocking:  never.
//   Ownership: of the value or the exception.
//   Errors:    value() throws the exception; * and -> require has_value(), error() the contrary.
//   Death:     of the worker is an error like any other: WorkerDied.
template <class R>
class [[nodiscard]] Result {
  struct Nothing {};
  using Value = std::conditional_t<std::is_void_v<R>, Nothing, R>;

 public:
  // Calls `get` for the value, and keeps what it throws.
  template <std::invocable Get>
  [[nodiscard]] static Result of(std::size_t index, Get&& get) {
    Result result;
    result.index_ = index;
    try {
      if constexpr (std::is_void_v<R>) {
        std::invoke(get);
        result.value_.emplace();
      } else {
        result.value_.emplace(std::invoke(get));
      }
    } catch (...) {
      result.error_ = std::current_exception();
    }
    return result;
  }

  [[nodiscard]] bool has_value() const noexcept { return value_.has_value(); }
  explicit operator bool() const noexcept { return has_value(); }

  // Throws what the task threw, as Future::get() does.
  decltype(auto) value() & {
    rethrow_if_error();
    if constexpr (!std::is_void_v<R>) return (*value_);
  }
  decltype(auto) value() const& {
    rethrow_if_error();
    if constexpr (!std::is_void_v<R>) return (*value_);
  }
  R value() && {
    rethrow_if_error();
    if constexpr (!std::is_void_v<R>) return *std::move(value_);
  }

  const Value& operator*() const& noexcept
    requires(!std::is_void_v<R>)
  {
    return *value_;
  }
  Value& operator*() & noexcept
    requires(!std::is_void_v<R>)
  {
    return *value_;
  }
  Value&& operator*() && noexcept
    requires(!std::is_void_v<R>)
  {
    return *std::move(value_);
  }
  const Value* operator->() const noexcept
    requires(!std::is_void_v<R>)
  {
    return &*value_;
  }
  Value* operator->() noexcept
    requires(!std::is_void_v<R>)
  {
    return &*value_;
  }
  template <class U>
  [[nodiscard]] Value value_or(U&& otherwise) const&
    requires(!std::is_void_v<R>)
  {
    return value_.value_or(std::forward<U>(otherwise));
  }
  template <class U>
      [[nodiscard]] Value value_or(U&& otherwise) &&
      requires(!std::is_void_v<R>) {
        return std::move(value_).value_or(std::forward<U>(otherwise));
      }

      [[nodiscard]] const std::exception_ptr& error() const noexcept {
    return error_;
  }

  // The position of its element in the range; 0 for a single task.
  [[nodiscard]] std::size_t index() const noexcept { return index_; }

 private:
  void rethrow_if_error() const {
    if (error_ != nullptr) std::rethrow_exception(error_);
  }

  std::optional<Value> value_;
  std::exception_ptr error_;
  std::size_t index_ = 0;
};

}  // namespace brood
