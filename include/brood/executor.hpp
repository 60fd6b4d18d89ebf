// Where callbacks, continuations and coroutines run.
#pragma once

#include "brood/detail/cpp20.hpp"

#include <chrono>
#include <concepts>
#include <cstddef>
#include <memory>
#include <type_traits>
#include <utility>

#include "brood/detail/pool_core.hpp"

namespace brood {

// Something to be called once, that need not be copyable.
class Posted {
 public:
  Posted() noexcept = default;
  template <class F>
    requires(!std::is_same_v<std::decay_t<F>, Posted>) && std::invocable<std::decay_t<F>&>
  Posted(F&& f)  // NOLINT(google-explicit-constructor): post() takes any function
      : call_(std::make_unique<Of<std::decay_t<F>>>(std::forward<F>(f))) {}

  explicit operator bool() const noexcept { return call_ != nullptr; }
  void operator()() { std::exchange(call_, nullptr)->run(); }

 private:
  struct Call {
    virtual ~Call() = default;
    virtual void run() = 0;
  };
  template <class F>
  struct Of final : Call {
    template <class From>
    explicit Of(From&& from) : f(std::forward<From>(from)) {}
    void run() override { static_cast<void>(f()); }
    F f;
  };
  std::unique_ptr<Call> call_;
};

// An object that has functions called: in whatever thread, soon or late, each once. Whoever names
// one to brood keeps it alive until what was posted to it has run. What a posted function of
// brood's calls of yours, never throws into it.
template <class E>
concept Executor = requires(E& executor, Posted job) { executor.post(std::move(job)); };

// Runs what is posted at once, in the thread that posts: for then() and notify() the thread that
// waits for their result, and never if none does; for co_await the completion thread. For callbacks
// that come by themselves take a Loop, or an executor of yours, which the completion thread calls.
struct InlineExecutor {
  void post(Posted job) const { job(); }
};
inline constexpr InlineExecutor inline_executor{};

// The completion thread: there is one in the process while any continuation, callback or co_await
// waits for a task that is to go on anywhere but in a waiting thread or on a Loop. It waits for
// those tasks and posts to their executors; it takes none of the process's signals, and an exit
// ends it. While it is there the process has more than one thread: call init() before, or make your
// pools before.

namespace detail {

// Has jobs called when tasks have ended.
//
// Threads: when_ended() and post() any. Blocking: run_until(). Ownership: of jobs not run yet.
// Errors: when_ended() throws what watching throws; what a job throws goes to the log. Death: of a
// pool is the end of its tasks.
class LoopCore {
 public:
  static std::unique_ptr<LoopCore> make();
  virtual ~LoopCore() = default;
  LoopCore() = default;
  LoopCore(const LoopCore&) = delete;
  LoopCore& operator=(const LoopCore&) = delete;

  virtual void when_ended(std::shared_ptr<PoolCore> core, TaskTicket task, Posted job) = 0;
  virtual void post(Posted job) = 0;
  // Runs what is due, and what becomes due until the deadline (0: without waiting), stop(), or
  // nothing is left to wait for. How many jobs ran.
  virtual std::size_t run_until(DeadlineNs deadline, bool idle) = 0;
  virtual void stop() noexcept = 0;
  virtual int fileno() = 0;
};

// The loop of the completion thread.
LoopCore& completion_thread();
// To the log, as a warning.
void log_exception(const char* where) noexcept;

}  // namespace detail

// An executor, and what waits for tasks, that is driven by a thread of yours: with it
// continuations, callbacks and coroutines need no other thread.
//
//   Loop loop;
//   pool.submit(f).then(loop, [](int n) { ... });
//   loop.run();
//
//   Threads:   any may post and stop, one at a time runs.
//   Blocking:  run() and run_for().
//   Ownership: immovable; must outlive what was bound to it. The destructor drops what has not run.
//   Errors:    what a posted function throws goes to the log (log.hpp), as a warning; Interrupted
//              (signals.hpp) leaves run(), run_for() and poll(), which can be called again.
//   Death:     a task's end by the death of its worker or pool is an end as any other.
class Loop {
 public:
  Loop() : core_(detail::LoopCore::make()) {}
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;

  void post(Posted job) { core_->post(std::move(job)); }

  // Until nothing is left to run or to wait for, or stop(). How many functions ran.
  std::size_t run() { return core_->run_until(detail::kNoDeadline, false); }
  // The same for at most so long.
  std::size_t run_for(std::chrono::nanoseconds limit) {
    return core_->run_until(detail::deadline_after(limit), false);
  }
  // What is due, without waiting.
  std::size_t poll() { return core_->run_until(0, false); }
  // Ends the run in progress after the function that it is at, or else the next.
  void stop() noexcept { core_->stop(); }
  // Readable while poll() would have something to do; as CompletionQueue::fileno().
  [[nodiscard]] int fileno() { return core_->fileno(); }

  [[nodiscard]] detail::LoopCore& watcher() noexcept { return *core_; }

 private:
  std::unique_ptr<detail::LoopCore> core_;
};

namespace detail {

// Who waits for a task whose continuation is to run on `executor`.
template <Executor E>
LoopCore& watcher_for(E& executor) {
  if constexpr (requires { executor.watcher(); }) {
    return executor.watcher();
  } else {
    return completion_thread();
  }
}

template <class E>
inline constexpr bool is_inline = std::is_same_v<std::remove_cv_t<E>, InlineExecutor>;

}  // namespace detail

}  // namespace brood
