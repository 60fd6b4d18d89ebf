// What the processes of a pool run before they run tasks.
#pragma once

#include "brood/detail/cpp20.hpp"

#include <memory>
#include <type_traits>
#include <utility>

#include "brood/detail/process_handle.hpp"

namespace brood {

// A function with its arguments, for PoolOptions: `.initializer = {load, "model.bin"}`. It may be
// whatever a task may be, and its arguments what those of a task may be; what it returns is
// dropped.
//
//   Threads:   a value; distinct ones may be used from distinct threads, also copies of one.
//   Blocking:  never.
//   Ownership: of copies of the callable and its arguments, shared by its own copies.
//   Errors:    compile-time errors name what can't be sent; std::bad_alloc. What is found out only
//              when a pool is made is thrown then: NotSendable.
//   Death:     see PoolOptions.
class Initializer {
 public:
  Initializer() noexcept = default;  // nothing to run

  template <class F, class... Args>
    requires(!std::is_same_v<std::decay_t<F>, Initializer>)
  Initializer(F&& f, Args&&... args)  // NOLINT(google-explicit-constructor)
      : target_(detail::make_sendable_target(std::forward<F>(f), std::forward<Args>(args)...)) {}

  explicit operator bool() const noexcept { return target_ != nullptr; }
  // For the pool.
  [[nodiscard]] const detail::ProcessTarget* target() const noexcept { return target_.get(); }

 private:
  std::shared_ptr<const detail::ProcessTarget> target_;
};

}  // namespace brood
