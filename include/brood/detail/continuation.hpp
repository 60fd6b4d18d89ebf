// The parts that continued futures are made of.
#pragma once

#include <concepts>
#include <coroutine>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <type_traits>
#include <utility>

#include "brood/detail/completion.hpp"
#include "brood/error.hpp"
#include "brood/executor.hpp"
#include "brood/result.hpp"

namespace brood::detail {

// The private halves of futures, for those who continue them.
struct FutureAccess {
  template <class F>
  static const std::shared_ptr<PoolCore>& core(const F& future) noexcept {
    return future.core_;
  }
  template <class F>
  static TaskTicket task(const F& future) noexcept {
    return future.task_;
  }
  // Has `job` called once, when the future is ready, by who waits in `loop` or at once. The future
  // may be gone by then, and when this returns.
  template <class F>
  static void on_end(F& future, LoopCore& loop, Posted job) {
    future.on_end(loop, std::move(job));
  }
  // False: the deadline came first.
  template <class F>
  static bool wait_before(F& future, DeadlineNs deadline) {
    return future.wait_before(deadline);
  }
  // The outcome of one that is ready, whatever signals arrive.
  template <class F>
  static auto outcome(F& future) {
    for (;;) {
      try {
        return future.result();
      } catch (const Interrupted&) {
        // For whoever waits, and here nobody does.
      }
    }
  }
};

// Callable with the value, else with the Result.
template <class F, class R>
inline constexpr bool takes_value = [] {
  if constexpr (std::is_void_v<R>) {
    return std::is_invocable_v<F&>;
  } else {
    return std::is_invocable_v<F&, R>;
  }
}();

template <class F, class R>
auto continue_with(F& f, Result<R> outcome) {
  if constexpr (!takes_value<F, R>) {
    static_assert(std::is_invocable_v<F&, Result<R>>,
                  "brood: then() takes a function of the future's value, or of its Result");
    return std::invoke(f, std::move(outcome));
  } else if constexpr (std::is_void_v<R>) {
    outcome.value();
    return std::invoke(f);
  } else {
    return std::invoke(f, std::move(outcome).value());
  }
}
template <class F, class R>
using ContinuedBy =
    std::decay_t<decltype(continue_with(std::declval<F&>(), std::declval<Result<R>>()))>;

// What is to make the outcome of a Continued, in the thread that waits for it.
template <class R>
struct Deferred {
  virtual ~Deferred() = default;
  [[nodiscard]] virtual bool ready() const = 0;
  // False: the deadline came first.
  virtual bool wait(DeadlineNs deadline) = 0;
  virtual Result<R> run() = 0;
  virtual void on_end(LoopCore& loop, Posted job) = 0;
};

template <class R>
struct ContinuedState {
  std::uint32_t done = 0;  // waiters sleep on it
  std::mutex mutex;        // guards what follows until it is done
  std::optional<Result<R>> outcome;
  Posted next;
  std::unique_ptr<Deferred<R>> deferred;

  void finish(Result<R> result) {
    Posted then;
    {
      const std::lock_guard lock(mutex);
      outcome.emplace(std::move(result));
      raise_flag(done);
      then = std::move(next);
    }
    if (then) then();
  }
  void when_done(Posted job) {
    {
      const std::lock_guard lock(mutex);
      if (!outcome) {
        next = std::move(job);
        return;
      }
    }
    job();
  }
};

template <class Base, class F, class R>
struct DeferredStep final : Deferred<R> {
  template <class G>
  DeferredStep(Base from, G&& g) : base(std::move(from)), f(std::forward<G>(g)) {}

  [[nodiscard]] bool ready() const override { return base.ready(); }
  bool wait(DeadlineNs deadline) override { return FutureAccess::wait_before(base, deadline); }
  Result<R> run() override {
    return Result<R>::of(0, [this] { return continue_with(f, FutureAccess::outcome(base)); });
  }
  void on_end(LoopCore& loop, Posted job) override {
    FutureAccess::on_end(base, loop, std::move(job));
  }

  Base base;
  F f;
};

// Resumes a coroutine on an executor once a future is ready.
template <class Base, Executor E>
class [[nodiscard]] Awaiter {
 public:
  Awaiter(Base base, E& executor) : base_(std::move(base)), executor_(&executor) {}

  [[nodiscard]] bool await_ready() const { return base_.ready(); }
  void await_suspend(std::coroutine_handle<> waiting) {
    // The coroutine, and this with it, may be gone before the call has returned.
    FutureAccess::on_end(base_, watcher_for(*executor_), [waiting, executor = executor_] {
      executor->post([waiting] { waiting.resume(); });
    });
  }
  auto await_resume() { return FutureAccess::outcome(base_).value(); }

 private:
  Base base_;
  E* executor_;
};

}  // namespace brood::detail
