// Waiting for several futures at once.
#pragma once

#include "brood/detail/cpp20.hpp"

#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <iterator>
#include <memory>
#include <optional>
#include <ranges>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "brood/detail/completion.hpp"
#include "brood/error.hpp"
#include "brood/future.hpp"

namespace brood {

// Any Future, to wait for. Refers to it.
class AnyFuture {
 public:
  template <class R>
  AnyFuture(const Future<R>& future) noexcept  // NOLINT(google-explicit-constructor): lists mix
      : core_(detail::FutureAccess::core(future)), task_(detail::FutureAccess::task(future)) {}

 private:
  friend struct detail::FutureAccess;
  std::shared_ptr<detail::PoolCore> core_;
  detail::TaskTicket task_;
};

// When wait() returns: with the first that has ended, with the first that ended with an error (or
// all), with all.
enum class ReturnWhen { first_completed, first_exception, all_completed };
inline constexpr ReturnWhen first_completed = ReturnWhen::first_completed;
inline constexpr ReturnWhen first_exception = ReturnWhen::first_exception;
inline constexpr ReturnWhen all_completed = ReturnWhen::all_completed;

// Places in what was waited for, each in one of both, in their order.
struct WaitedFor {
  std::vector<std::size_t> done;  // get() would return or throw at once
  std::vector<std::size_t> not_done;
};

// Waits until as many of `futures` have ended as `when` says, or `timeout` (negative: zero) is
// over; nothing is taken out of them. They may be of several pools and result types, and one may be
// there several times. `wait({a, b}, first_completed)` or any range of Future.
//
//   Threads:   any; each future is used by one thread at a time, this one.
//   Blocking:  yes, without polling; wakes once for each that ends. Nothing stays behind.
//   Errors:    Error if a future has nothing to get (its place is named); ArenaFull; Interrupted
//              (signals.hpp).
//   Death:     of a worker ends its task, with an error; of a pool all of its tasks.
WaitedFor wait(std::span<const AnyFuture> futures, ReturnWhen when,
               std::optional<std::chrono::nanoseconds> timeout = std::nullopt);
WaitedFor wait(std::initializer_list<AnyFuture> futures, ReturnWhen when,
               std::optional<std::chrono::nanoseconds> timeout = std::nullopt);

template <class Range>
concept FutureRange =
    std::ranges::input_range<Range> &&
    std::constructible_from<AnyFuture, std::ranges::range_reference_t<Range>> &&
    !std::same_as<std::remove_cvref_t<std::ranges::range_reference_t<Range>>, AnyFuture>;

template <FutureRange Range>
WaitedFor wait(Range&& futures, ReturnWhen when = all_completed,
               std::optional<std::chrono::nanoseconds> timeout = std::nullopt) {
  std::vector<AnyFuture> all;
  for (const auto& future : futures) all.emplace_back(future);
  return wait(std::span<const AnyFuture>(all), when, timeout);
}

// The tasks that a program waits for, given out as they end: a million of them as easily as one.
//
//   CompletionQueue queue;
//   for (const auto& future : futures) queue.add(future);
//   while (auto tag = queue.next()) use(futures[*tag].get());
//
//   Threads:   all members from any thread at once. Each tag is given to one of them.
//   Blocking:  next() and next_for(); add() and try_next() never.
//   Ownership: move-only. Refers to the tasks; the futures stay yours, and may be moved about. One
//              whose result is taken, or that is dropped, before its tag came: the tag comes at
//              once. In a process that you fork, copies are inert. The destructor waits for
//              nothing.
//   Errors:    Error from add() if the future has nothing to get; ArenaFull; SystemError from
//              fileno(), after which also from add(); Interrupted (signals.hpp) from waits.
//   Death:     of a worker, or of a pool, ends tasks like any other end.
//
// The order is that in which tasks ended, as long as no more than 65,536 ends in a pool wait to be
// seen, and no worker dies amid them.
class CompletionQueue {
 public:
  CompletionQueue() : core_(detail::CompletionCore::make()) {}

  // Has `tag` given out once, when the future's task has ended (or never will). The same future may
  // be added several times, and to several queues.
  template <class R>
  void add(const Future<R>& future, std::uint64_t tag) {
    if (!future.valid()) throw Error("brood: a future without a result to get can't be waited for");
    core_->add(detail::FutureAccess::core(future), detail::FutureAccess::task(future), tag);
  }

  // The same with the tags 0, 1, 2... of those that are added so, in their order; returns it.
  template <class R>
  std::uint64_t add(const Future<R>& future) {
    if (!future.valid()) throw Error("brood: a future without a result to get can't be waited for");
    const std::uint64_t tag = core_->number_next();
    add(future, tag);
    return tag;
  }

  // Whether no tag is to come any more.
  [[nodiscard]] bool empty() const noexcept { return core_->empty(); }

  // The tag of the next that has ended; nullopt if none has.
  std::optional<std::uint64_t> try_next() { return core_->next_until(0); }
  // Waits for it; nullopt if nothing is left to wait for.
  std::optional<std::uint64_t> next() { return core_->next_until(detail::kNoDeadline); }
  // The same; nullopt also if the time is over (empty() tells which).
  std::optional<std::uint64_t> next_for(std::chrono::nanoseconds limit) {
    return core_->next_until(detail::deadline_after(limit));
  }

  // For poll() and epoll: readable while try_next() would give a tag. Another queue's tasks may
  // make it readable for a moment too: try_next() until it gives nothing.
  [[nodiscard]] int fileno() { return core_->fileno(); }

 private:
  std::unique_ptr<detail::CompletionCore> core_;
};

namespace detail {

// Which of several futures has ended next.
class CompletionOrder {
 public:
  explicit CompletionOrder(std::optional<std::chrono::nanoseconds> timeout)
      : core_(CompletionCore::make()),
        deadline_(timeout ? deadline_after(*timeout) : kNoDeadline) {}
  void add(const AnyFuture& future, std::size_t place);
  // Throws TimeoutError.
  std::optional<std::size_t> next();

 private:
  std::unique_ptr<CompletionCore> core_;
  DeadlineNs deadline_;
};

}  // namespace detail

// What as_completed() returns: an input range, read once, of the futures as they end.
template <class View>
class [[nodiscard]] AsCompleted {
 public:
  class iterator {
   public:
    using value_type = std::ranges::range_value_t<View>;
    using difference_type = std::ptrdiff_t;
    using iterator_concept = std::input_iterator_tag;

    iterator() noexcept = default;
    decltype(auto) operator*() const {
      return std::ranges::begin(of_->view_)[static_cast<std::ptrdiff_t>(*of_->place_)];
    }
    auto* operator->() const
      requires std::is_lvalue_reference_v<std::ranges::range_reference_t<View>>
    {
      return std::addressof(**this);
    }
    // Its place in the range.
    [[nodiscard]] std::size_t index() const noexcept { return *of_->place_; }
    iterator& operator++() {
      of_->place_ = of_->order_.next();
      return *this;
    }
    void operator++(int) { ++*this; }
    friend bool operator==(const iterator& i, std::default_sentinel_t /*end*/) noexcept {
      return i.is_at_end();
    }

   private:
    friend class AsCompleted;
    [[nodiscard]] bool is_at_end() const noexcept { return !of_->place_.has_value(); }
    explicit iterator(AsCompleted* of) noexcept : of_(of) {}
    AsCompleted* of_ = nullptr;
  };

  AsCompleted(View view, std::optional<std::chrono::nanoseconds> timeout)
      : view_(std::move(view)), order_(timeout) {
    std::size_t place = 0;
    for (const auto& future : view_) order_.add(future, place++);
  }

  iterator begin() {
    place_ = order_.next();
    return iterator(this);
  }
  [[nodiscard]] std::default_sentinel_t end() const noexcept { return {}; }

 private:
  View view_;
  detail::CompletionOrder order_;
  std::optional<std::size_t> place_;
};

// `for (auto& future : as_completed(futures)) use(future.get());` in the order in which they end
// (see CompletionQueue). Moving out of them is fine; a range given as an rvalue is kept.
//
//   Threads:   one at a time.
//   Blocking:  begin() and ++, until the next has ended; TimeoutError from them once `timeout`,
//              counted from the call, is over and none is there.
//   Ownership: of a range given as an rvalue; it refers to others.
//   Errors:    Error if a future has nothing to get; TimeoutError; Interrupted; ArenaFull.
//   Death:     as for CompletionQueue.
template <class Range>
  requires FutureRange<Range> && std::ranges::random_access_range<Range>
auto as_completed(Range&& futures, std::optional<std::chrono::nanoseconds> timeout = std::nullopt) {
  return AsCompleted<std::views::all_t<Range>>(std::views::all(std::forward<Range>(futures)),
                                               timeout);
}

}  // namespace brood
