// What a task may ask about itself and the worker that runs it.
#pragma once

#include "brood/detail/cpp20.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>

#include "brood/error.hpp"

namespace brood {

//   Threads:   those of a worker's own. worker_state() only the one that runs the tasks, or under a
//              lock of the user's.
//   Blocking:  never.
//   Ownership: states belong to the worker process.
//   Errors:    Error in a process that is no worker; see each.
//   Death:     a state dies with its process, and only an orderly end destroys it.

// Which of its pool's workers this is: 0 ... workers - 1. A replacement has the number of the one
// that it replaces. Throws Error before the worker has a place: in PoolOptions::initializer, which
// spare workers run as well (see PoolOptions::prepare).
[[nodiscard]] std::size_t worker_index();

// A number for the random generators of the task or element that runs: the same however many
// workers there are, however the elements are chunked, and each time that it is started again; as
// good as certainly no other task of the pool has it. It follows from PoolOptions::seed and the
// order in which the pool was given its tasks and elements. Throws Error outside of tasks.
[[nodiscard]] std::uint64_t task_seed();

namespace detail {
// A number of the calling worker process. Throws Error if it is none.
std::uint64_t require_worker();
// Has `state` destroyed at the orderly end of this worker, last kept first.
void keep_worker_state(void* state, void (*destroy)(void* state));
[[noreturn]] void throw_no_worker_state();

template <class T>
struct WorkerState {
  static inline T* held = nullptr;
  static inline std::uint64_t worker = 0;  // whose it is: a copy of that process has its own
};
}  // namespace detail

// The T of this worker process: made from `args` by the first call, in the initializer or in a
// task, kept from task to task, and destroyed at the worker's orderly end (when its pool is closed
// or shrinks, or the worker is recycled; not when it is terminated). Throws what making it throws,
// and Error if there is none and a T can't be made from these arguments.
template <class T, class... Args>
T& worker_state(Args&&... args) {
  static_assert(std::is_same_v<T, std::decay_t<T>>, "brood: a state is an object");
  using State = detail::WorkerState<T>;
  const std::uint64_t worker = detail::require_worker();
  if (State::held == nullptr || State::worker != worker) {
    if constexpr (std::is_constructible_v<T, Args...>) {
      auto made = std::make_unique<T>(std::forward<Args>(args)...);
      detail::keep_worker_state(made.get(), [](void* state) {
        State::held = nullptr;
        delete static_cast<T*>(state);
      });
      State::held = made.release();
      State::worker = worker;
    } else {
      detail::throw_no_worker_state();
    }
  }
  return *State::held;
}

}  // namespace brood
