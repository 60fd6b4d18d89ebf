// imap(): elements are read from the range as results are taken, a bounded number ahead.
#pragma once

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
#include "brood/detail/map_cell.hpp"
#include "brood/detail/pool_core.hpp"
#include "brood/result.hpp"

namespace brood::detail {

struct LazyOptions {
  bool ordered = true;
  std::size_t chunk_size = 0;  // 0: found by the time that chunks take
  std::optional<std::chrono::nanoseconds> timeout = std::nullopt;  // of the wait for each result
};

// The chunks that were read ahead, whatever they compute.
//
// Threads: one at a time. Blocking: next(). Ownership: of the tasks, which it gives up when it
// goes; they are run all the same. Errors: TimeoutError, and those of the pool. Death: of a worker
// ends one element.
class LazyChunks {
 public:
  LazyChunks(std::shared_ptr<PoolCore> core, const LazyOptions& options);
  ~LazyChunks();
  LazyChunks(LazyChunks&&) noexcept = default;
  LazyChunks& operator=(LazyChunks&&) = delete;

  [[nodiscard]] PoolCore& core() const noexcept { return *core_; }

  // How many elements the next chunk should have; 0: enough was read.
  [[nodiscard]] std::size_t wanted() const noexcept;
  // How long the source may take for them; then they are fewer.
  [[nodiscard]] DeadlineNs patience() const noexcept;

  void keep(TaskTicket task, std::uint32_t elements);
  // So many elements could not be submitted. If it is one, the error is its outcome. False: the
  // error tells that the pool has ended, and with it the input.
  [[nodiscard]] bool refuse(std::exception_ptr error, std::uint32_t elements);
  // There is no more to read; the error, if any, is the last outcome.
  void end_with(std::exception_ptr error) noexcept;

  // Whose result comes next. Waits for it.
  struct Place {
    TaskTicket task;
    std::uint32_t element = 0;  // of the task
    std::size_t position = 0;   // in the range
    std::exception_ptr error;   // instead of a task's outcome
  };
  // nullopt: there are no more. Throws TimeoutError: ask again.
  std::optional<Place> next();
  // The result of what next() gave was taken.
  void leave();

 private:
  struct Chunk {
    TaskTicket task;
    std::uint32_t elements = 1;
    std::exception_ptr error;  // by which there is no task, or it never ends
  };

  std::size_t insert(Chunk chunk);
  std::size_t await_chunk();
  std::optional<std::size_t> first_told(DeadlineNs deadline);
  [[nodiscard]] bool has_ended(Chunk& chunk, DeadlineNs deadline);
  void learn(std::chrono::microseconds took, std::size_t elements) noexcept;
  void release(const Chunk& chunk) noexcept;

  std::shared_ptr<PoolCore> core_;
  std::optional<std::chrono::nanoseconds> timeout_;
  std::size_t size_;
  bool is_fixed_;
  std::unique_ptr<CompletionCore> ended_;  // unless ordered
  std::map<std::size_t, Chunk> ahead_;     // by the position of their first element
  std::vector<std::size_t> refused_;       // unordered: those that have no task
  std::optional<std::size_t> told_;        // the chunk that has been told of
  std::optional<std::size_t> current_;     // the chunk whose results are being taken
  std::uint32_t taken_ = 0;                // of it
  std::size_t read_ = 0;                   // elements read from the range
  bool input_ended_ = false;
  std::exception_ptr input_error_;
};

// The outcome of a place.
template <class R>
Result<R> outcome_at(PoolCore& core, const LazyChunks::Place& place) {
  return Result<R>::of(place.position, [&]() -> R {
    if (place.error != nullptr) std::rethrow_exception(place.error);
    return MapCell<R>::take(core, place.task, place.element, place.position);
  });
}

// Results in the order of the elements or, unless ordered, as chunks end; each as it was asked for.
//
// Threads: one at a time. Blocking: next(). Ownership: of the range's view and the tasks ahead,
// which it drops when it goes. Errors: those of the elements, and of reading the range, come at
// their positions; the latter is the last. Death: of a worker is the error of one element.
template <class Job, std::ranges::view View>
class LazyMap {
  using Element = std::ranges::range_value_t<View>;

 public:
  using Result = typename Job::Result;

  LazyMap(std::shared_ptr<PoolCore> core, const typename Job::Function& f, View view,
          const LazyOptions& options)
      : chunks_(std::move(core), options),
        function_(f),
        view_(std::make_unique<View>(std::move(view))) {
    Job::Callable::check(function_, chunks_.core().addresses());
    read_ahead();
  }
  LazyMap(LazyMap&& other) noexcept = default;
  LazyMap& operator=(LazyMap&&) = delete;
  ~LazyMap() = default;

  // The next outcome; nullopt after the last. Throws TimeoutError: ask again.
  std::optional<brood::Result<Result>> next() {
    read_ahead();
    const std::optional<LazyChunks::Place> place = chunks_.next();
    if (!place) return std::nullopt;
    std::optional result = outcome_at<Result>(chunks_.core(), *place);
    chunks_.leave();
    return result;
  }

 private:
  void read_ahead() {
    while (const std::size_t size = chunks_.wanted()) {
      const std::vector<Element> elements = read_some(size);
      if (!elements.empty()) submit(elements.begin(), elements.end());
    }
  }

  // What can't be sent costs the element that it is, and no other. False: the pool has ended, and
  // with it the input.
  template <class Iterator>
  bool submit(Iterator first, Iterator last) {
    const auto elements = static_cast<std::uint32_t>(last - first);
    std::optional<TaskTicket> task;
    try {
      task = Job::submit(chunks_.core(), function_, first, last);
    } catch (...) {
      if (!chunks_.refuse(std::current_exception(), elements)) return false;
    }
    if (task) chunks_.keep(*task, elements);
    if (task || elements == 1) return true;
    while (first != last && submit(first, first + 1)) ++first;
    return first == last;
  }

  std::vector<Element> read_some(std::size_t size) {
    std::vector<Element> elements;
    try {
      if (!at_) at_.emplace(std::ranges::begin(*view_));
      const DeadlineNs patience = chunks_.patience();
      while (elements.size() < size) {
        if (*at_ == std::ranges::end(*view_)) {
          chunks_.end_with(nullptr);
          break;
        }
        elements.push_back(**at_);
        ++*at_;
        // A slow source: its elements are not to wait for one another.
        if (elements.size() % 8 == 0 && patience <= deadline_after({})) break;
      }
    } catch (...) {
      chunks_.end_with(std::current_exception());
    }
    return elements;
  }

  LazyChunks chunks_;
  typename Job::Function function_;
  std::unique_ptr<View> view_;  // where its iterators find it
  std::optional<std::ranges::iterator_t<View>> at_;
};

}  // namespace brood::detail
