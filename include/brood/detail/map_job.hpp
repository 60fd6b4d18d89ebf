// map(f, range) as tasks of several elements: each chunk is one record, each element has a cell
// for its result, so that a dead worker costs one element and not the chunk.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <ranges>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "brood/detail/call_job.hpp"
#include "brood/progress.hpp"
#include "brood/result.hpp"

namespace brood::detail {

// The arguments that a call gets from an element of the range: for map() the element, for starmap()
// its parts.
struct AsOne {
  template <class F, class Element>
  using Wires = WireList<F, Element>;

  template <class Element, class Use>
  static decltype(auto) pass(Element&& element, Use&& use) {
    return use(std::forward<Element>(element));
  }
};
struct Spread {
  template <class F, class Element, class Indices>
  struct WiresOfParts;
  template <class F, class Element, std::size_t... i>
  struct WiresOfParts<F, Element, std::index_sequence<i...>> {
    using type = WireList<F, decltype(std::get<i>(std::declval<Element>()))...>;
  };
  template <class F, class Element>
  using Wires = typename WiresOfParts<
      F, Element, std::make_index_sequence<std::tuple_size_v<std::remove_cvref_t<Element>>>>::type;

  template <class Element, class Use>
  static decltype(auto) pass(Element&& element, Use&& use) {
    return std::apply(std::forward<Use>(use), std::forward<Element>(element));
  }
};

template <class F, class Reference, class How = AsOne,
          class List = typename How::template Wires<F, Reference>>
struct MapJob;

template <class F, class Reference, class How, class... Wires>
struct MapJob<F, Reference, How, TypeList<Wires...>> {
  static constexpr ThunkKind kind = ThunkKind::map;
  using Function = F;
  static constexpr bool callable = (require_callable<F>(), true);
  static_assert(callable);
  using Pack = ArgumentPack<TypeList<Wires...>>;
  using Callable = CallableCodec<F>;
  using Raw = ResultOf<F&, Wires...>;
  using Result = std::conditional_t<std::is_void_v<Raw>, void, std::decay_t<Raw>>;
  static constexpr bool sendable = ((require_wire<Wires>(), ...), require_result<Raw>(), true);
  static_assert(sendable);

  static constexpr std::string_view name() { return type_name<F>(); }

  // Results of up to this size that all take the same room lie in the cell itself; of others the
  // cell names a block.
  static constexpr std::size_t kMaxCellBytes = 64;
  static constexpr std::size_t value_bytes = [] {
    if constexpr (std::is_void_v<Result>) {
      return std::size_t{0};
    } else {
      return fixed_size<Result>.value_or(kMaxCellBytes + 1);
    }
  }();
  static constexpr bool has_handles = [] {
    if constexpr (std::is_void_v<Result>) {
      return false;
    } else {
      return may_carry_handles<Result>();
    }
  }();
  static constexpr bool in_cell = value_bytes <= kMaxCellBytes && !has_handles;
  static constexpr std::uint32_t cell_bytes =
      in_cell ? std::max<std::uint32_t>((value_bytes + 7) / 8 * 8, 8) : 8;

  // One chunk: the elements [first, last) of a forward range.
  template <class Iterator>
  static TaskTicket submit(PoolCore& core, const F& f, Iterator first, Iterator last) {
    TaskSpec spec = core.defaults();
    spec.thunk = thunk_of<MapJob>();
    spec.function = Callable::function(f);
    spec.cell_bytes = cell_bytes;
    spec.argument_bytes = Callable::size;
    for (Iterator i = first; i != last; ++i, ++spec.elements) {
      spec.argument_bytes = How::pass(*i, [&](auto&&... parts) {
        return Pack::end_after(spec.argument_bytes,
                               Wires::prepare(std::forward<decltype(parts)>(parts))...);
      });
    }
    const TaskDraft draft = core.draft(spec);
    DraftGuard guard(core, draft);
    Writer out(draft.arguments);
    Callable::encode(f, out, [&](const BoundPtr& blob) { return core.place(blob); });
    auto handles = collecting_handles<Pack::carries_handles>([&] {
      std::size_t begin = Callable::size;
      const auto encode = [&](const auto&... values) {
        Pack::encode(out, begin, values...);
        begin = Pack::end_after(begin, values...);
      };
      for (Iterator i = first; i != last; ++i) {
        // A view may make its elements as it goes, and prepare() refers to them.
        How::pass(*i, [&](auto&&... parts) {
          encode(Wires::prepare(std::forward<decltype(parts)>(parts))...);
        });
      }
    });
    return guard.commit({Callable::blob(f), std::move(handles), {}, nullptr});
  }

  // What became of an element of a task that has ended; its position is for the error.
  static Result take(PoolCore& core, TaskTicket task, std::uint32_t element, std::size_t index) {
    const TaskReply reply = core.reply_of_element(task, element);
    if (reply.kind != TaskReply::Kind::value) core.throw_reply(task, reply, index);
    return decode(in_cell ? reply.bytes.first(value_bytes) : reply.bytes);
  }
  static Result decode([[maybe_unused]] std::span<const std::byte> bytes) {
    if constexpr (!std::is_void_v<Result>) {
      Reader reader(bytes);
      Result result = decode_part<Result>(reader);
      reader.expect_end();
      return result;
    }
  }

  static void run(TaskFrame& frame) {
    Reader in(frame.arguments());
    const std::size_t total = in.remaining();
    auto f = Callable::decode(in, frame);
    // Elements below first() were finished by a worker that died since.
    for (std::uint32_t index = 0; index < frame.first(); ++index) {
      static_cast<void>(Pack::decode(in, total));
    }
    Elements<decltype(f)> elements{frame, f, total, in, in, frame.first(), frame.count()};
    if (elements.index >= elements.count) return;
    do {
      frame.attempt_elements(elements.index, &Elements<decltype(f)>::run, &elements);
    } while (!elements.over && elements.end_one());
  }

 private:
  // The elements that are left, one after the other; a throw leaves the others.
  template <class Decoded>
  struct Elements {
    TaskFrame& frame;
    Decoded& f;
    std::size_t total;
    Reader in;
    Reader begin;  // of the element
    std::uint32_t index;
    std::uint32_t count;
    bool over = false;

    static void run(void* context) {
      auto& self = *static_cast<Elements*>(context);
      do {
        run_element(self.frame, self.f, Pack::decode(self.in, self.total), self.index);
      } while (self.end_one());
      self.over = true;
    }
    // After an attempt; false: there are no more.
    bool end_one() noexcept {
      const ElementEnd end = frame.finish_element(index);
      if (end == ElementEnd::again) {
        in = begin;
        return true;
      }
      begin = in;
      return end == ElementEnd::next && ++index < count;
    }
  };

  template <class Decoded>
  static void run_element(TaskFrame& frame, Decoded& f,
                          std::tuple<typename Wires::Decoded...> arguments, std::uint32_t index) {
    const auto call = [&](auto&... values) -> Raw { return std::invoke(f, std::move(values)...); };
    UserCode code(frame);
    if constexpr (std::is_void_v<Result>) {
      std::apply(call, arguments);
      code.leave();
      static_cast<void>(frame.reply_element(index, 0, true));
    } else {
      const Result result = std::apply(call, arguments);
      code.leave();
      const auto handles = collecting_handles<has_handles>([&] {
        encode_result(
            result, [&](std::size_t bytes) { return frame.reply_element(index, bytes, in_cell); });
      });
      if constexpr (has_handles) frame.keep_for_caller(handles);
    }
  }
};

// The results of a chunk that has ended, for taking one after the other.
template <class Job>
class ChunkResults {
 public:
  ChunkResults(PoolCore& core, TaskTicket task) : core_(core), task_(task) {
    if constexpr (Job::in_cell) cells_ = core.values_in_cells(task);
  }

  // Throws as Job::take() does; `index` is the element's position in all of the call.
  typename Job::Result take(std::uint32_t element, std::size_t index) const {
    if (cells_.empty()) return Job::take(core_, task_, element, index);
    return Job::decode(cells_.subspan(std::size_t{element} * Job::cell_bytes, Job::value_bytes));
  }

 private:
  PoolCore& core_;
  TaskTicket task_;
  std::span<const std::byte> cells_;  // if all is well
};

// The i-th elements of all, as a tuple. Refers to the ranges.
template <class First, class... Others>
auto side_by_side(First& first, Others&... others) {
  const std::size_t count = std::ranges::size(first);
  if (((std::ranges::size(others) != count) || ...)) {
    throw Error("brood: for_each() takes ranges of one length");
  }
  using Parts =
      std::tuple<std::ranges::range_reference_t<First>, std::ranges::range_reference_t<Others>...>;
  return std::views::iota(std::size_t{0}, count) | std::views::transform([&](std::size_t i) {
           const auto at = static_cast<std::ptrdiff_t>(i);
           return Parts(std::ranges::begin(first)[at], std::ranges::begin(others)[at]...);
         });
}

// How many elements make a chunk: so many that it takes a worker some 1.5 ms, which is measured
// with chunks that begin small and grow. Bounded by what evens out elements of unequal length, and
// by how many tasks there can be.
class ChunkSize {
 public:
  static constexpr std::int64_t kWantedUs = 1500;

  // `fixed`: the user's choice; 0: none.
  ChunkSize(PoolCore& core, std::size_t elements, std::size_t fixed)
      : core_(core), deadline_(deadline_after(kTrial)) {
    const auto share = [elements](std::size_t parts) {
      return std::clamp<std::size_t>((elements + parts - 1) / parts, 1, kMostElements);
    };
    if (fixed != 0) {
      size_ = least_ = most_ = std::min(fixed, kMostElements);
    } else {
      least_ = share(kMostChunks);
      most_ = std::max(share(core.workers() * kChunksPerWorker), least_);
      size_ = least_;
    }
    is_tried_ = least_ < most_;
    is_fixed_ = fixed != 0;
  }

  [[nodiscard]] std::size_t now() const noexcept { return size_; }
  // Whether a chunk of now() elements is to be submitted, then waited for by learn().
  [[nodiscard]] bool is_tried() const noexcept { return is_tried_; }

  void learn(TaskTicket task) {
    if (!core_.wait(task, deadline_)) {
      // Its elements take long; or the workers have other things to do, and nothing can be said.
      is_tried_ = false;
      size_ = core_.is_pending(task) ? most_ : least_;
      return;
    }
    const auto took = std::max<std::int64_t>(core_.busy_time(task).count(), 1);
    const auto wanted =
        static_cast<std::size_t>(kWantedUs) * size_ / static_cast<std::size_t>(took);
    is_tried_ = took < kTellingUs && size_ < most_;
    size_ = std::clamp(is_tried_ ? std::min(size_ * kGrowth, wanted) : wanted, least_, most_);
  }

  // The last ones are smaller, so that all workers end together.
  [[nodiscard]] std::size_t near_the_end(std::size_t left) const noexcept {
    if (is_fixed_) return size_;
    return std::clamp<std::size_t>(left / (2 * core_.workers()), least_, std::max(size_, least_));
  }

 private:
  static constexpr std::size_t kChunksPerWorker = 8;
  static constexpr std::size_t kMostChunks = std::size_t{1} << 16;
  static constexpr std::size_t kMostElements = std::size_t{1} << 24;
  static constexpr std::size_t kGrowth = 16;
  static constexpr std::int64_t kTellingUs = 200;  // what takes less tells little
  static constexpr std::chrono::milliseconds kTrial{2};

  PoolCore& core_;
  DeadlineNs deadline_;
  std::size_t size_ = 1;
  std::size_t least_ = 1;
  std::size_t most_ = 1;
  bool is_tried_ = false;
  bool is_fixed_ = false;
};

// What map() of a function with result R gives.
template <class R>
using MapValues = std::conditional_t<std::is_void_v<R>, void,
                                     std::vector<std::conditional_t<std::is_void_v<R>, char, R>>>;

// A call of map whose function is forgotten: see MapFuture.
template <class R>
class MapHandle {
 public:
  virtual ~MapHandle() = default;
  // Whether there was anything to cancel.
  virtual bool cancel() noexcept = 0;
  // False: the deadline came first.
  virtual bool wait(DeadlineNs deadline) = 0;
  [[nodiscard]] virtual bool ready() const noexcept = 0;
  // All values, in order; after all have ended, throws the first error by position.
  virtual MapValues<R> collect(DeadlineNs deadline) = 0;
  virtual std::vector<Result<R>> collect_results(DeadlineNs deadline) = 0;
  [[nodiscard]] virtual std::size_t total() const noexcept = 0;
  [[nodiscard]] virtual std::size_t done() const noexcept = 0;
  // Of the elements of chunks that have ended.
  [[nodiscard]] virtual std::size_t failed() = 0;
  // Of the chunks.
  [[nodiscard]] virtual std::vector<TaskTicket> tasks() const = 0;
  [[nodiscard]] virtual const std::shared_ptr<PoolCore>& core() const noexcept = 0;
};

// One call of map: its chunks, and the gathering of their results.
template <class Job>
class MapCall final : public MapHandle<typename Job::Result> {
 public:
  using R = typename Job::Result;

  // Submits all chunks.
  template <class F, class Range>
  MapCall(std::shared_ptr<PoolCore> core, const F& f, std::size_t chunk_size, Range& range,
          const Progress& progress = {})
      : core_(std::move(core)), function_(f), chunk_size_(chunk_size) {
    Job::Callable::check(function_, core_->addresses());
    try {
      submit(range, progress);
    } catch (...) {
      // Nobody gets to know what they give.
      cancel();
      release();
      throw;
    }
  }
  ~MapCall() override { release(); }
  MapCall(const MapCall&) = delete;
  MapCall& operator=(const MapCall&) = delete;

  MapValues<R> collect(DeadlineNs deadline) override {
    std::exception_ptr first_error;
    std::vector<std::conditional_t<std::is_void_v<R>, char, R>> values;
    if constexpr (!std::is_void_v<R>) values.reserve(elements_);
    gather(deadline, [&](const ChunkResults<Job>& chunk, std::uint32_t element, std::size_t index) {
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

  std::vector<Result<R>> collect_results(DeadlineNs deadline) override {
    std::vector<Result<R>> results;
    results.reserve(elements_);
    gather(deadline, [&](const ChunkResults<Job>& chunk, std::uint32_t element, std::size_t index) {
      results.push_back(Result<R>::of(index, [&] { return chunk.take(element, index); }));
    });
    return results;
  }

  bool cancel() noexcept override {
    bool any = false;
    // The last first: no worker is to take up one that is cancelled a moment later.
    for (const Chunk& chunk : chunks_ | std::views::reverse) {
      const bool cancelled = core_->cancel(chunk.task);
      any = any || (cancelled && core_->elements_done(chunk.task) < chunk.elements);
    }
    return any;
  }
  bool wait(DeadlineNs deadline) override {
    for (const Chunk& chunk : chunks_) {
      if (!core_->wait(chunk.task, deadline)) return false;
    }
    return true;
  }
  [[nodiscard]] bool ready() const noexcept override {
    while (ended_ < chunks_.size() && core_->ready(chunks_[ended_].task)) ++ended_;
    return ended_ == chunks_.size();
  }
  [[nodiscard]] std::size_t total() const noexcept override { return elements_; }
  [[nodiscard]] std::size_t done() const noexcept override {
    std::size_t count = 0;
    for (const Chunk& chunk : chunks_) {
      count += std::min(core_->elements_done(chunk.task), chunk.elements);
    }
    return count;
  }
  [[nodiscard]] std::size_t failed() override {
    std::size_t count = 0;
    for (Chunk& chunk : chunks_) {
      if (!chunk.failed && core_->ready(chunk.task)) chunk.failed = count_failed(chunk);
      count += chunk.failed.value_or(0);
    }
    return count;
  }
  [[nodiscard]] std::vector<TaskTicket> tasks() const override {
    std::vector<TaskTicket> tasks;
    for (const Chunk& chunk : chunks_) tasks.push_back(chunk.task);
    return tasks;
  }
  [[nodiscard]] const std::shared_ptr<PoolCore>& core() const noexcept override { return core_; }

 private:
  struct Chunk {
    TaskTicket task;
    std::uint32_t elements;
    std::optional<std::uint32_t> failed = {};  // once it was counted
  };

  std::uint32_t count_failed(const Chunk& chunk) const {
    std::uint32_t count = 0;
    for (std::uint32_t i = 0; i < chunk.elements; ++i) {
      try {
        const TaskReply reply = core_->reply_of_element(chunk.task, i);
        count += reply.kind != TaskReply::Kind::value ? 1U : 0U;
      } catch (const Error&) {
        return chunk.elements;  // the pool ended before the chunk did
      }
    }
    return count;
  }

  template <class Range>
  void submit(Range& range, const Progress& progress) {
    if constexpr (std::ranges::forward_range<Range>) {
      submit_forward(range, static_cast<std::size_t>(std::ranges::distance(range)), progress);
    } else {
      // Read once, sized and encoded in two passes.
      std::vector<std::ranges::range_value_t<Range>> elements;
      for (auto&& element : range) elements.push_back(std::forward<decltype(element)>(element));
      submit_forward(elements, elements.size(), progress);
    }
  }

  void release() noexcept {
    for (const Chunk& chunk : chunks_) core_->release(chunk.task);
  }

  template <class Range>
  void submit_forward(Range& range, std::size_t count, const Progress& progress) {
    elements_ = count;
    if (progress.wanted()) meter_.emplace(progress, elements_, core_->deaths());
    auto first = std::ranges::begin(range);
    std::size_t left = count;
    const auto submit_chunk = [&](std::size_t size) {
      const std::size_t take = std::min(size, left);
      auto last = std::ranges::next(first, static_cast<std::ptrdiff_t>(take));
      chunks_.push_back(
          {Job::submit(*core_, function_, first, last), static_cast<std::uint32_t>(take)});
      first = last;
      left -= take;
      report_if_due();  // making and sending the elements may take long
    };
    ChunkSize size(*core_, count, chunk_size_);
    while (left > 0 && size.is_tried()) {
      const std::size_t number = chunks_.size();
      for (std::size_t i = 0; i < core_->workers() && left > 0; ++i) submit_chunk(size.now());
      size.learn(chunks_[number].task);
    }
    while (left > 0) submit_chunk(size.near_the_end(left));
  }

  template <class Accept>
  void gather(DeadlineNs deadline, Accept&& accept) {
    try {
      accept_all(deadline, accept);
    } catch (...) {
      // Nobody else could: the caller has no handle.
      cancel();
      throw;
    }
  }

  template <class Accept>
  void accept_all(DeadlineNs deadline, Accept& accept) {
    std::size_t position = 0;
    for (const Chunk& chunk : chunks_) {
      if (!await(chunk, deadline)) throw TimeoutError("brood: map did not end in time");
      const ChunkResults<Job> results(*core_, chunk.task);
      for (std::uint32_t i = 0; i < chunk.elements; ++i) accept(results, i, position + i);
      position += chunk.elements;
    }
    if (meter_) meter_->report(elements_, core_->deaths());
  }

  bool await(const Chunk& chunk, DeadlineNs deadline) {
    while (meter_) {
      const DeadlineNs next = meter_->next_ns();
      const bool ended = core_->wait(chunk.task, std::min(deadline, next));
      report_if_due();
      if (ended || next > deadline) return ended;
    }
    return core_->wait(chunk.task, deadline);
  }

  void report_if_due() {
    if (meter_ && deadline_after({}) >= meter_->next_ns()) meter_->report(done(), core_->deaths());
  }

  std::shared_ptr<PoolCore> core_;
  std::optional<ProgressMeter> meter_;
  typename Job::Function function_;
  std::size_t chunk_size_;
  std::size_t elements_ = 0;
  std::vector<Chunk> chunks_;
  mutable std::size_t ended_ = 0;  // chunks below it have
};

}  // namespace brood::detail
