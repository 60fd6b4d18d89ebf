// One call of map: its chunks, and the gathering of their results. What depends neither on the
// function nor on the range is compiled once, in the library.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <iterator>
#include <memory>
#include <optional>
#include <ranges>
#include <type_traits>
#include <utility>
#include <vector>

#include "brood/detail/map_cell.hpp"
#include "brood/detail/pool_core.hpp"
#include "brood/progress.hpp"
#include "brood/result.hpp"

namespace brood::detail {

// Waits as PoolCore::wait() does: whether the task has ended, and if it never will, by what error.
struct TaskEnd {
  bool has_ended = false;
  std::exception_ptr never;
};
TaskEnd await_end(PoolCore& core, TaskTicket task, DeadlineNs deadline);

// So long should a worker take for a chunk.
inline constexpr std::chrono::microseconds kWantedChunkTime{1500};

// How many elements make a chunk: so many that it takes kWantedChunkTime, which is measured with
// chunks that begin small and grow. Bounded by what evens out elements of unequal length, and by
// how many tasks there can be.
class ChunkPlan {
 public:
  // `fixed`: the user's choice; 0: none.
  ChunkPlan(PoolCore& core, std::size_t elements, std::size_t fixed);

  // How many elements the next chunk takes; 0: there are no more. Waits for chunks that were
  // submitted, for up to 2 ms in all.
  std::uint32_t next();
  // The chunk that next() asked for was submitted, with so many elements.
  void submitted(TaskTicket task, std::uint32_t elements) noexcept;

 private:
  void learn();
  [[nodiscard]] std::size_t size_near_the_end() const noexcept;

  PoolCore& core_;
  DeadlineNs trial_end_;
  std::size_t left_;
  std::size_t size_ = 1;
  std::size_t least_ = 1;
  std::size_t most_ = 1;
  std::size_t round_ = 0;  // chunks submitted since learn()
  TaskTicket first_;       // of them
  bool is_tried_ = false;  // sizes are still being found
  bool is_fixed_ = false;
};

// What MapFuture<R>::get() gives.
template <class R>
using MapValues = std::conditional_t<std::is_void_v<R>, void,
                                     std::vector<std::conditional_t<std::is_void_v<R>, char, R>>>;

// The chunks of a call, whatever they compute.
//
// Threads: one at a time. Blocking: wait() and await(). Ownership: of the tasks, which it gives up
// when it goes; they are run all the same. Errors: of the pool, where PoolCore::wait() has them.
// Death: of a worker ends one element; wait() goes on.
class MapChunks {
 public:
  explicit MapChunks(std::shared_ptr<PoolCore> core) noexcept;
  ~MapChunks();
  MapChunks(const MapChunks&) = delete;
  MapChunks& operator=(const MapChunks&) = delete;

  // Whether there was anything to cancel.
  bool cancel() noexcept;
  // False: the deadline came first. A pool that is over ends all of them.
  bool wait(DeadlineNs deadline);
  [[nodiscard]] bool ready() noexcept;
  // Elements: of the call, those that have ended, and those with an error of chunks that have.
  [[nodiscard]] std::size_t total() const noexcept { return elements_; }
  [[nodiscard]] std::size_t done() const noexcept;
  [[nodiscard]] std::size_t failed();
  // Of the chunks.
  [[nodiscard]] std::vector<TaskTicket> tasks() const;
  [[nodiscard]] const std::shared_ptr<PoolCore>& core() const noexcept { return core_; }

 protected:
  struct Chunk {
    TaskTicket task;
    std::uint32_t elements;
    std::optional<std::uint32_t> failed = {};  // once it was counted
  };

  [[nodiscard]] const std::vector<Chunk>& chunks() const noexcept { return chunks_; }
  // Before the first chunk.
  void expect(std::size_t elements, const Progress& progress);
  void add(TaskTicket task, std::uint32_t elements);
  // Until the chunk has ended, while progress is told; gives the error by which it never will.
  // Throws TimeoutError, Interrupted, and what a progress function throws.
  [[nodiscard]] std::exception_ptr await(const Chunk& chunk, DeadlineNs deadline);
  // All have been awaited.
  void tell_the_end();

 private:
  void report_if_due();
  [[nodiscard]] std::uint32_t count_failed(const Chunk& chunk) const;

  std::shared_ptr<PoolCore> core_;
  std::optional<ProgressMeter> meter_;
  std::size_t elements_ = 0;
  std::vector<Chunk> chunks_;
  std::size_t ended_ = 0;  // chunks below it have
};

// A call of map whose function, with result R, is forgotten.
template <class R>
class MapCall final : public MapChunks {
 public:
  // Submits all chunks.
  template <class Job, class Range>
  MapCall(Job /*job*/, std::shared_ptr<PoolCore> core, const typename Job::Function& f,
          Range& range, std::size_t chunk_size, const Progress& progress = {})
      : MapChunks(std::move(core)) {
    Job::Callable::check(f, this->core()->addresses());
    try {
      if constexpr (std::ranges::forward_range<Range>) {
        submit<Job>(f, range, chunk_size, progress);
      } else {
        // Read once, sized and encoded in two passes.
        std::vector<std::ranges::range_value_t<Range>> elements;
        for (auto&& element : range) elements.push_back(std::forward<decltype(element)>(element));
        submit<Job>(f, elements, chunk_size, progress);
      }
    } catch (...) {
      // Nobody gets to know what they give.
      cancel();
      throw;
    }
  }

  // All values, in order; after all have ended, throws the first error by position.
  MapValues<R> collect(DeadlineNs deadline) {
    std::exception_ptr first_error;
    std::vector<std::conditional_t<std::is_void_v<R>, char, R>> values;
    if constexpr (!std::is_void_v<R>) values.reserve(total());
    gather(deadline, [&](const ChunkResults<R>& chunk, std::uint32_t element, std::size_t index) {
      if (first_error != nullptr) return;
      try {
        if constexpr (std::is_void_v<R>) {
          chunk.take(element, index);
        } else {
          values.push_back(chunk.take(element, index));
        }
      } catch (...) {
        first_error = std::current_exception();
      }
    });
    if (first_error != nullptr) std::rethrow_exception(first_error);
    if constexpr (!std::is_void_v<R>) return values;
  }

  std::vector<Result<R>> collect_results(DeadlineNs deadline) {
    std::vector<Result<R>> results;
    results.reserve(total());
    gather(deadline, [&](const ChunkResults<R>& chunk, std::uint32_t element, std::size_t index) {
      results.push_back(Result<R>::of(index, [&] { return chunk.take(element, index); }));
    });
    return results;
  }

 private:
  template <class Job, class Range>
  void submit(const typename Job::Function& f, Range& range, std::size_t chunk_size,
              const Progress& progress) {
    const auto count = static_cast<std::size_t>(std::ranges::distance(range));
    expect(count, progress);
    ChunkPlan plan(*core(), count, chunk_size);
    auto first = std::ranges::begin(range);
    while (const std::uint32_t size = plan.next()) {
      auto last = std::ranges::next(first, static_cast<std::ptrdiff_t>(size));
      const TaskTicket task = Job::submit(*core(), f, first, last);
      add(task, size);
      plan.submitted(task, size);
      first = last;
    }
  }

  template <class Accept>
  void gather(DeadlineNs deadline, Accept&& accept) {
    try {
      std::size_t position = 0;
      for (const Chunk& chunk : chunks()) {
        const ChunkResults<R> results(*core(), chunk.task, await(chunk, deadline));
        for (std::uint32_t i = 0; i < chunk.elements; ++i) accept(results, i, position + i);
        position += chunk.elements;
      }
      tell_the_end();
    } catch (...) {
      // Nobody else could: the caller has no handle.
      cancel();
      throw;
    }
  }
};
template <class Job, class... Args>
MapCall(Job, Args&&...) -> MapCall<typename Job::Result>;

}  // namespace brood::detail
