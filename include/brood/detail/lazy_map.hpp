// imap(): elements are read from the range as results are taken, a bounded number ahead.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <map>
#include <memory>
#include <optional>
#include <ranges>
#include <utility>
#include <vector>

#include "brood/detail/completion.hpp"
#include "brood/detail/map_job.hpp"

namespace brood::detail {

// How many elements of an endless range make a chunk: one at first, then so many that it takes a
// worker some 1.5 ms, but no more than can lie around unread.
class LazyChunkSize {
 public:
  explicit LazyChunkSize(std::size_t fixed) noexcept
      : size_(fixed != 0 ? fixed : 1), is_fixed_(fixed != 0) {}

  [[nodiscard]] std::size_t now() const noexcept { return size_; }
  [[nodiscard]] bool is_fixed() const noexcept { return is_fixed_; }

  void learn(std::chrono::microseconds took, std::size_t elements) noexcept {
    if (is_fixed_ || took.count() == 0) return;
    const auto wanted = static_cast<std::size_t>(ChunkSize::kWantedUs) * elements /
                        static_cast<std::size_t>(took.count());
    size_ = std::clamp<std::size_t>(std::min(wanted, size_ * 2), 1, kMostElements);
  }

 private:
  static constexpr std::size_t kMostElements = 1024;
  std::size_t size_;
  bool is_fixed_;
};

// Results in the order of the elements or, unless `ordered`, as chunks end; each as it was asked
// for.
//
// Threads: one at a time. Blocking: next(). Ownership: of the range's view and the tasks ahead,
// which it drops when it goes. Errors: those of the elements, and of reading the range, come at
// their positions; the latter is the last. Death: of a worker is the error of one element.
template <class Job, std::ranges::view View, bool ordered = true>
class LazyMap {
  using R = typename Job::Result;
  using Element = std::ranges::range_value_t<View>;

 public:
  LazyMap(std::shared_ptr<PoolCore> core, const typename Job::Function& f, View view,
          std::size_t chunk_size, std::optional<std::chrono::nanoseconds> limit)
      : core_(std::move(core)),
        function_(f),
        view_(std::make_unique<View>(std::move(view))),
        chunk_size_(chunk_size),
        limit_(limit) {
    Job::Callable::check(function_, core_->addresses());
    if constexpr (!ordered) ended_ = CompletionCore::make();
    read_ahead();
  }
  LazyMap(LazyMap&& other) noexcept = default;
  LazyMap& operator=(LazyMap&&) = delete;
  ~LazyMap() {
    for (const auto& [first, chunk] : ahead_) release(chunk);
  }

  // The next outcome; nullopt after the last. Throws TimeoutError: ask again.
  std::optional<Result<R>> next() {
    read_ahead();
    if (ahead_.empty()) {
      if (input_error_ == nullptr) return std::nullopt;
      return Result<R>::of(
          read_++, [&]() -> R { std::rethrow_exception(std::exchange(input_error_, nullptr)); });
    }
    if (!current_) current_ = await_chunk();
    const auto at = ahead_.find(*current_);
    const Chunk& chunk = at->second;
    const std::size_t position = at->first + taken_;
    auto result = Result<R>::of(position, [&]() -> R {
      if (chunk.error != nullptr) std::rethrow_exception(chunk.error);
      return Job::take(*core_, chunk.task, taken_, position);
    });
    if (++taken_ == chunk.elements) {
      release(chunk);
      ahead_.erase(at);
      current_.reset();
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

  // The position of the chunk whose results come next.
  std::size_t await_chunk() {
    const DeadlineNs deadline = limit_ ? deadline_after(*limit_) : kNoDeadline;
    std::optional<std::size_t> first = ahead_.begin()->first;
    if constexpr (ordered) {
      const Chunk& chunk = ahead_.begin()->second;
      if (chunk.error == nullptr && !core_->wait(chunk.task, deadline)) first.reset();
    } else if (!refused_.empty()) {
      first = refused_.back();
      refused_.pop_back();
    } else {
      first = ended_->next_until(deadline);
    }
    if (!first) throw TimeoutError("brood: the next result of imap did not come in time");
    const Chunk& chunk = ahead_.at(*first);
    if (chunk.error == nullptr) chunk_size_.learn(core_->busy_time(chunk.task), chunk.elements);
    return *first;
  }

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
    Chunk chunk;
    chunk.elements = static_cast<std::uint32_t>(last - first);
    try {
      chunk.task = Job::submit(*core_, function_, first, last);
    } catch (const Error& e) {
      chunk.error = std::current_exception();
      if (tells_of_the_end(e)) {
        end_with(chunk.error);
        return false;
      }
    } catch (...) {
      chunk.error = std::current_exception();
    }
    if (chunk.error == nullptr || chunk.elements == 1) {
      keep(chunk);
      return true;
    }
    while (first != last && submit(first, first + 1)) ++first;
    return first == last;
  }

  void keep(const Chunk& chunk) {
    const std::size_t first = std::exchange(read_, read_ + chunk.elements);
    Chunk& kept = ahead_.emplace(first, chunk).first->second;
    if constexpr (!ordered) {
      try {
        if (kept.error == nullptr) ended_->add(core_, kept.task, first);
      } catch (...) {
        kept.error = std::current_exception();
      }
      if (kept.error != nullptr) refused_.push_back(first);
    }
  }

  void release(const Chunk& chunk) noexcept {
    if (chunk.task.generation != 0) core_->release(chunk.task);
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
      const std::size_t size = chunk_size_.now();
      const DeadlineNs patience = size > 1 && !chunk_size_.is_fixed()
                                      ? deadline_after(std::chrono::milliseconds(1))
                                      : kNoDeadline;
      while (elements.size() < size) {
        if (*at_ == std::ranges::end(*view_)) {
          input_ended_ = true;
          break;
        }
        elements.push_back(**at_);
        ++*at_;
        // A slow source: its elements are not to wait for one another.
        if (elements.size() % 8 == 0 && patience != kNoDeadline &&
            patience <= deadline_after(std::chrono::nanoseconds(0))) {
          break;
        }
      }
    } catch (...) {
      end_with(std::current_exception());
    }
    return elements;
  }

  std::shared_ptr<PoolCore> core_;
  typename Job::Function function_;
  std::unique_ptr<View> view_;  // where its iterators find it
  LazyChunkSize chunk_size_;
  std::optional<std::chrono::nanoseconds> limit_;
  std::optional<std::ranges::iterator_t<View>> at_;
  std::unique_ptr<CompletionCore> ended_;
  std::map<std::size_t, Chunk> ahead_;  // by the position of their first element
  std::vector<std::size_t> refused_;    // unordered: those that have no task
  std::optional<std::size_t> current_;  // the chunk whose results are being taken
  std::uint32_t taken_ = 0;             // of it
  std::size_t read_ = 0;                // elements read from the range
  bool input_ended_ = false;
  std::exception_ptr input_error_;
};

}  // namespace brood::detail
