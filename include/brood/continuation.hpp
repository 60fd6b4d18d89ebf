// What is to happen after a task: then(), callbacks, co_await.
#pragma once

#include "brood/detail/cpp20.hpp"

#include <atomic>
#include <chrono>
#include <concepts>
#include <coroutine>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <type_traits>
#include <utility>

#include "brood/detail/continuation.hpp"
#include "brood/error.hpp"
#include "brood/executor.hpp"
#include "brood/result.hpp"

namespace brood {

template <class R>
class Continued;

namespace detail {

// What all futures can be continued by. Derived has ready(), result(), wait_before(), on_end().
template <class Derived, class R>
class Continuable {
 public:
  // Has f called with the value once it is there, or with the Result if that is what it takes;
  // gives a future of what f returns. An error of the task passes by an f of the value and is that
  // future's; so is what f throws. This future has nothing to get afterwards.
  //
  // Without an executor, or with inline_executor: f runs in the thread that waits for the new
  // future (get(), wait(), ...), and never if none does; no thread is made. With another: it
  // is posted there as soon as the task has ended, by the thread that runs the Loop if it is one,
  // else by the completion thread (executor.hpp).
  template <class F>
  [[nodiscard]] auto then(F&& f) {
    return then(inline_executor, std::forward<F>(f));
  }
  template <Executor E, class F>
  auto then(E& executor, F&& f) {
    using Step = DeferredStep<Derived, std::decay_t<F>, ContinuedBy<std::decay_t<F>, R>>;
    auto step = std::make_unique<Step>(take(), std::forward<F>(f));
    return Continued<ContinuedBy<std::decay_t<F>, R>>::of(executor, std::move(step));
  }

  // Python's callbacks: has `callback` called with the value, by reference, or `error_callback`
  // with the std::exception_ptr, as then(executor, ...) would; either may be nullptr. What they
  // throw goes to the log. As then(): with inline_executor only if somebody waits for the new
  // future. The future that is returned has the same value or error, once the callback has
  // returned.
  template <Executor E, class OnValue, class OnError = std::nullptr_t>
  auto notify(E& executor, OnValue callback, OnError error_callback = nullptr) {
    return then(executor, [callback = std::move(callback),
                           error_callback = std::move(error_callback)](Result<R> outcome) mutable {
      try {
        if (!outcome) {
          if constexpr (!std::is_same_v<OnError, std::nullptr_t>) error_callback(outcome.error());
        } else if constexpr (std::is_same_v<OnValue, std::nullptr_t>) {
        } else if constexpr (std::is_void_v<R>) {
          callback();
        } else {
          callback(std::as_const(*outcome));
        }
      } catch (...) {
        log_exception("a callback");
      }
      return std::move(outcome).value();
    });
  }

  // In a coroutine: `co_await future.on(executor)` waits for it and takes the value out, or throws
  // the error; goes on where the executor runs it, or without a pause if it was ready. Plain
  // `co_await future` goes on in the completion thread (executor.hpp). A coroutine that is
  // destroyed while it waits must not be resumed: let its executor run dry before.
  template <Executor E>
  auto on(E& executor) {
    return Awaiter<Derived, E>(take(), executor);
  }
  auto operator co_await() { return on(inline_executor); }

 private:
  Derived take() {
    auto& self = static_cast<Derived&>(*this);
    if (!self.valid()) {
      throw Error("brood: a future without a result to get can't be continued");
    }
    return std::move(self);
  }
};

}  // namespace detail

// What then() gives: a future of what a function makes of another future's outcome.
//
//   Threads:   one at a time; the function runs where then() was told.
//   Blocking:  get(), result(), wait(): until the function has returned, in this thread if it is to
//              run where somebody waits; get_for(), wait_for() so long at most, and as long as the
//              function takes if it is run here. ready() never.
//   Ownership: move-only. The destructor neither waits nor cancels: a function bound to an executor
//              runs all the same, one that is to run in a waiting thread never does.
//   Errors:    get() throws what the function, or the task before it, threw; waits Interrupted.
//   Death:     as for Future.
template <class R>
class Continued : public detail::Continuable<Continued<R>, R> {
 public:
  Continued() noexcept = default;
  Continued(Continued&&) noexcept = default;
  Continued& operator=(Continued&&) noexcept = default;
  ~Continued() = default;

  [[nodiscard]] bool valid() const noexcept { return state_ != nullptr; }
  // Whether get() would end at once but for the time that the function takes.
  [[nodiscard]] bool ready() const {
    if (state_ == nullptr) return false;
    return is_deferred() ? state_->deferred->ready()
                         : std::atomic_ref(state_->done).load(std::memory_order_acquire) != 0;
  }

  R get() { return result().value(); }
  // nullopt (for void: false) if it has not ended by then.
  auto get_for(std::chrono::nanoseconds limit) {
    using Optional =
        std::conditional_t<std::is_void_v<R>, bool,
                           std::optional<std::conditional_t<std::is_void_v<R>, char, R>>>;
    if (!wait_for(limit)) return Optional{};
    if constexpr (std::is_void_v<R>) {
      get();
      return true;
    } else {
      return Optional(get());
    }
  }
  Result<R> result() {
    wait();
    const auto state = std::move(state_);
    return std::move(*state->outcome);
  }

  void wait() { static_cast<void>(wait_before(detail::kNoDeadline)); }
  [[nodiscard]] bool wait_for(std::chrono::nanoseconds limit) {
    return wait_before(detail::deadline_after(limit));
  }

 private:
  template <class, class>
  friend class detail::Continuable;
  friend struct detail::FutureAccess;
  using State = detail::ContinuedState<R>;

  // `step` runs where the executor says.
  template <class E>
  static Continued of(E& executor, std::unique_ptr<detail::Deferred<R>> step) {
    Continued made;
    made.state_ = std::make_shared<State>();
    if constexpr (detail::is_inline<E>) {
      made.state_->deferred = std::move(step);
    } else {
      auto* const at = step.get();
      std::shared_ptr<detail::Deferred<R>> kept = std::move(step);
      at->on_end(detail::watcher_for(executor), [kept, state = made.state_, to = &executor] {
        to->post([kept, state] { state->finish(kept->run()); });
      });
    }
    return made;
  }

  [[nodiscard]] bool is_deferred() const noexcept { return state_->deferred != nullptr; }

  bool wait_before(detail::DeadlineNs deadline) {
    if (state_ == nullptr) {
      throw Error("brood: get() was already called, or this future is empty or moved from");
    }
    if (!is_deferred()) return detail::wait_for_flag(state_->done, deadline);
    if (!state_->deferred->wait(deadline)) return false;
    run_deferred(*state_);
    return true;
  }

  static void run_deferred(State& state) {
    const auto step = std::move(state.deferred);
    state.finish(step->run());
  }

  void on_end(detail::LoopCore& loop, Posted job) {
    if (!is_deferred()) {
      state_->when_done(std::move(job));
      return;
    }
    auto& step = *state_->deferred;
    step.on_end(loop, [state = state_, after = std::make_shared<Posted>(std::move(job))] {
      run_deferred(*state);
      (*after)();
    });
  }

  std::shared_ptr<State> state_;
};

}  // namespace brood
