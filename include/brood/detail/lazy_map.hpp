// imap(): elements are read from the range as results are taken, a bounded number ahead.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <optional>
#include <ranges>
#include <utility>
#include <vector>

#include "brood/detail/map_job.hpp"

namespace brood::detail {

// Results in the order of the elements, each as it was asked for.
//
// Threads: one at a time. Blocking: next(). Ownership: of the range's view and the tasks ahead,
// which it drops when it goes. Errors: those of the elements, and of reading the range, come at
// their positions; the latter is the last. Death: of a worker is the error of one element.
template <class Job, std::ranges::view View>
class LazyMap {
  using R = typename Job::Result;
  using Element = std::ranges::range_value_t<View>;

 public:
  LazyMap(std::shared_ptr<PoolCore> core, const typename Job::Function& f, View view,
          std::size_t chunk_size, std::optional<std::chrono::nanoseconds> limit)
      : core_(std::move(core)),
        function_(f),
        view_(std::make_unique<View>(std::move(view))),
        chunk_size_(std::max<std::size_t>(chunk_size, 1)),
        limit_(limit) {
    if (core_ == nullptr) throw PoolClosed("brood: this pool was moved from");
    Job::Callable::check(function_, core_->addresses());
    read_ahead();
  }
  LazyMap(LazyMap&& other) noexcept = default;
  LazyMap& operator=(LazyMap&&) = delete;
  ~LazyMap() {
    for (const Chunk& chunk : ahead_) core_->release(chunk.task);
  }

  // The next element's outcome; nullopt after the last. Throws TimeoutError: ask again.
  std::optional<Result<R>> next() {
    read_ahead();
    if (ahead_.empty()) {
      if (input_error_ == nullptr) return std::nullopt;
      return Result<R>::of(position_++, [&]() -> R {
        std::rethrow_exception(std::exchange(input_error_, nullptr));
      });
    }
    const Chunk& chunk = ahead_.front();
    const bool comes = chunk.error == nullptr && taken_ == 0;
    if (comes && !core_->wait(chunk.task, limit_ ? deadline_after(*limit_) : kNoDeadline)) {
      throw TimeoutError("brood: the next result of imap did not come in time");
    }
    auto result = Result<R>::of(position_, [&]() -> R {
      if (chunk.error != nullptr) std::rethrow_exception(chunk.error);
      return Job::take(*core_, chunk.task, taken_, position_);
    });
    ++position_;
    if (++taken_ == chunk.elements) {
      core_->release(chunk.task);
      ahead_.pop_front();
      taken_ = 0;
    }
    return result;
  }

 private:
  struct Chunk {
    TaskTicket task;
    std::uint32_t elements = 1;
    std::exception_ptr error;  // there is no task, because of this
  };

  // Each worker has one to run, one to take up next, and two while the caller is busy.
  static constexpr std::size_t kChunksPerWorker = 4;

  void read_ahead() {
    while (!input_ended_ && ahead_.size() < core_->workers() * kChunksPerWorker) {
      std::vector<Element> elements = read_some();
      if (elements.empty()) return;
      submit(elements.begin(), elements.end());
    }
  }

  // What can't be sent costs the element that it is, and no other. False: the pool has ended, and
  // with it the input.
  template <class Iterator>
  bool submit(Iterator first, Iterator last) {
    Chunk& chunk = ahead_.emplace_back();
    chunk.elements = static_cast<std::uint32_t>(last - first);
    try {
      chunk.task = Job::submit(*core_, function_, first, last);
      return true;
    } catch (const Error& e) {
      chunk.error = std::current_exception();
      if (tells_of_the_end(e)) {
        end_with(chunk.error);
        ahead_.pop_back();
        return false;
      }
    } catch (...) {
      chunk.error = std::current_exception();
    }
    if (chunk.elements == 1) return true;
    ahead_.pop_back();
    while (first != last && submit(first, first + 1)) ++first;
    return first == last;
  }

  static bool tells_of_the_end(const Error& e) {
    return dynamic_cast<const PoolClosed*>(&e) != nullptr ||
           dynamic_cast<const BrokenPool*>(&e) != nullptr ||
           dynamic_cast<const FamilyBroken*>(&e) != nullptr;
  }

  void end_with(std::exception_ptr error) {
    input_error_ = std::move(error);
    input_ended_ = true;
  }

  std::vector<Element> read_some() {
    std::vector<Element> elements;
    try {
      if (!at_) at_.emplace(std::ranges::begin(*view_));
      while (elements.size() < chunk_size_ && *at_ != std::ranges::end(*view_)) {
        elements.push_back(**at_);
        ++*at_;
      }
      if (elements.size() < chunk_size_) input_ended_ = true;
    } catch (...) {
      end_with(std::current_exception());
    }
    return elements;
  }

  std::shared_ptr<PoolCore> core_;
  typename Job::Function function_;
  std::unique_ptr<View> view_;  // where its iterators find it
  std::size_t chunk_size_;
  std::optional<std::chrono::nanoseconds> limit_;
  std::optional<std::ranges::iterator_t<View>> at_;
  std::deque<Chunk> ahead_;
  std::uint32_t taken_ = 0;   // of the first chunk
  std::size_t position_ = 0;  // of the next result
  bool input_ended_ = false;
  std::exception_ptr input_error_;
};

}  // namespace brood::detail
