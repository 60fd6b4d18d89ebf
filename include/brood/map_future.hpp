// The results of a map, when there are all of them.
#pragma once

#include "brood/detail/cpp20.hpp"

#include <atomic>
#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include "brood/continuation.hpp"
#include "brood/detail/map_call.hpp"
#include "brood/result.hpp"

namespace brood {

// What became of the elements of Pool::map_async() and starmap_async(). Its value is a
// std::vector<R>, or nothing if the function returns none.
//
//   Threads:   one at a time.
//   Blocking:  get(), results(), wait() until all elements have ended; get_for() and wait_for() at
//              most that long. The rest never.
//   Ownership: move-only. The destructor neither waits nor cancels: the elements are run all the
//              same and their results dropped.
//   Errors:    get() throws the first error by position, as map() does, and TimeoutError once
//              MapOptions::timeout, counted from map_async(), is over (the elements go on: ask
//              again, or cancel()); Error if there is nothing to get; Cancelled for elements
//              without an outcome when cancel() was called; Interrupted (signals.hpp).
//   Death:     of a worker costs the element that it was at: WorkerDied with its index.
template <class R>
class [[nodiscard]] MapFuture : public detail::Continuable<MapFuture<R>, detail::MapValues<R>> {
  using Values = detail::MapValues<R>;

 public:
  MapFuture() noexcept = default;
  MapFuture(MapFuture&&) noexcept = default;
  MapFuture& operator=(MapFuture&&) noexcept = default;
  ~MapFuture() = default;

  [[nodiscard]] bool valid() const noexcept { return call_ != nullptr; }
  // Whether all have ended.
  [[nodiscard]] bool ready() const noexcept { return call_ != nullptr && call_->ready(); }

  // How many elements there are, and how many of them have ended.
  [[nodiscard]] std::size_t total() const { return call().total(); }
  [[nodiscard]] std::size_t done() const { return call().done(); }
  // How many ended with an error; of those that workers are still at in one chunk, none.
  [[nodiscard]] std::size_t failed() const { return call().failed(); }

  // The elements without an outcome need none. True: there were some; each of those ends as
  // Cancelled, at once, while what ended before keeps its outcome, and done() counts it alone.
  // Elements that wait are never run; those that run are asked to stop (stop_requested() in
  // task.hpp), and their workers killed after PoolOptions::grace if they do not. Never blocks.
  bool cancel() noexcept { return call_ != nullptr && call_->cancel(); }

  // All values, in order: once.
  Values get() {
    wait_all();
    return std::exchange(call_, nullptr)->collect(detail::kNoDeadline);
  }
  // nullopt (for void: false) if not all have ended by then.
  auto get_for(std::chrono::nanoseconds limit) {
    using Optional =
        std::conditional_t<std::is_void_v<R>, bool,
                           std::optional<std::conditional_t<std::is_void_v<R>, char, Values>>>;
    if (!wait_for(limit)) return Optional{};
    if constexpr (std::is_void_v<R>) {
      get();
      return true;
    } else {
      return Optional(get());
    }
  }
  // Each element's outcome by itself: once, instead of get().
  std::vector<Result<R>> results() {
    wait_all();
    return std::exchange(call_, nullptr)->collect_results(detail::kNoDeadline);
  }
  // As get(), but what that would throw for the elements is in the outcome.
  Result<Values> result() {
    wait();
    const auto call = std::exchange(call_, nullptr);
    return Result<Values>::of(0, [&] { return call->collect(detail::kNoDeadline); });
  }

  void wait() const { static_cast<void>(wait_before(detail::kNoDeadline)); }
  // False if not all have ended by then.
  [[nodiscard]] bool wait_for(std::chrono::nanoseconds limit) const {
    return wait_before(detail::deadline_after(limit));
  }

 private:
  friend class Pool;
  friend struct detail::FutureAccess;

  template <class... Call>
  explicit MapFuture(detail::DeadlineNs limit, Call&&... call)
      : call_(std::make_unique<detail::MapCall<R>>(std::forward<Call>(call)...)), limit_(limit) {}

  [[nodiscard]] detail::MapCall<R>& call() const {
    if (call_ == nullptr) {
      throw Error("brood: get() was already called, or this future is empty or moved from");
    }
    return *call_;
  }

  void wait_all() const {
    if (!wait_before(limit_)) throw TimeoutError("brood: map did not end in time");
  }
  bool wait_before(detail::DeadlineNs deadline) const { return call().wait(deadline); }

  // Once the last of its chunks has ended.
  void on_end(detail::LoopCore& loop, Posted job) const {
    struct Rest {
      std::atomic<std::size_t> chunks;
      Posted job;
    };
    const std::vector<detail::TaskTicket> tasks = call_->tasks();
    const std::shared_ptr<detail::PoolCore> core = call_->core();
    // One more than there are: this itself.
    const auto rest = std::make_shared<Rest>(tasks.size() + 1, std::move(job));
    const auto one_less = [rest] {
      if (rest->chunks.fetch_sub(1) == 1) rest->job();
    };
    for (const detail::TaskTicket task : tasks) loop.when_ended(core, task, one_less);
    one_less();
  }

  std::unique_ptr<detail::MapCall<R>> call_;
  detail::DeadlineNs limit_ = detail::kNoDeadline;
};

}  // namespace brood
