// map(f, range) as tasks of several elements: each chunk is one record, each element has a cell
// for its result, so that a dead worker costs one element and not the chunk.
#pragma once

#include <algorithm>
#include <cstdint>
#include <exception>
#include <memory>
#include <ranges>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "brood/detail/call_job.hpp"
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
    if constexpr (!std::is_void_v<Result>) {
      Reader reader(in_cell ? reply.bytes.first(value_bytes) : reply.bytes);
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
    for (std::uint32_t index = frame.first(); index < frame.count(); ++index) {
      const Reader begin = in;
      ElementEnd end = ElementEnd::again;
      while (end == ElementEnd::again) {
        in = begin;
        try {
          run_element(frame, f, Pack::decode(in, total), index);
        } catch (...) {
          frame.fail_element(index);
        }
        end = frame.finish_element(index);
      }
      if (end == ElementEnd::stop || frame.yields()) return;
    }
  }

 private:
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

// One call of map: its chunks, and the gathering of their results.
template <class Job>
class MapCall {
 public:
  using R = typename Job::Result;

  // Submits all chunks.
  template <class F, class Range>
  MapCall(std::shared_ptr<PoolCore> core, const F& f, std::size_t chunk_size, Range& range)
      : core_(std::move(core)), function_(f), chunk_size_(chunk_size) {
    if (core_ == nullptr) throw PoolClosed("brood: this pool was moved from");
    Job::Callable::check(function_, core_->addresses());
    try {
      submit(range);
    } catch (...) {
      release();
      throw;
    }
  }
  ~MapCall() { release(); }
  MapCall(const MapCall&) = delete;
  MapCall& operator=(const MapCall&) = delete;

  // All values, in order; after all have ended, throws the first error by position.
  auto collect(DeadlineNs deadline) {
    std::exception_ptr first_error;
    std::vector<std::conditional_t<std::is_void_v<R>, char, R>> values;
    if constexpr (!std::is_void_v<R>) values.reserve(elements_);
    gather(deadline, [&](TaskTicket task, std::uint32_t element, std::size_t index) {
      if (first_error != nullptr) return;
      try {
        if constexpr (std::is_void_v<R>) {
          Job::take(*core_, task, element, index);
        } else {
          values.push_back(Job::take(*core_, task, element, index));
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
    results.reserve(elements_);
    gather(deadline, [&](TaskTicket task, std::uint32_t element, std::size_t index) {
      results.push_back(
          Result<R>::of(index, [&] { return Job::take(*core_, task, element, index); }));
    });
    return results;
  }

 private:
  struct Chunk {
    TaskTicket task;
    std::uint32_t elements;
  };

  // Several chunks per worker even out elements of unequal length; the cost of a chunk is small
  // against that of eight elements.
  static constexpr std::size_t kChunksPerWorker = 8;
  static constexpr std::size_t kMostElements = std::size_t{1} << 24;

  template <class Range>
  void submit(Range& range) {
    if constexpr (std::ranges::forward_range<Range>) {
      submit_forward(range, static_cast<std::size_t>(std::ranges::distance(range)));
    } else {
      // Read once, sized and encoded in two passes.
      std::vector<std::ranges::range_value_t<Range>> elements;
      for (auto&& element : range) elements.push_back(std::forward<decltype(element)>(element));
      submit_forward(elements, elements.size());
    }
  }

  void release() noexcept {
    for (const Chunk& chunk : chunks_) core_->release(chunk.task);
  }

  template <class Range>
  void submit_forward(Range& range, std::size_t count) {
    elements_ = count;
    const std::size_t chunks = core_->workers() * kChunksPerWorker;
    const std::size_t automatic = (count + chunks - 1) / chunks;
    const std::size_t size =
        std::clamp<std::size_t>(chunk_size_ != 0 ? chunk_size_ : automatic, 1, kMostElements);
    chunks_.reserve((count + size - 1) / size);
    auto first = std::ranges::begin(range);
    for (std::size_t done = 0; done < count;) {
      const std::size_t take = std::min(size, count - done);
      auto last = std::ranges::next(first, static_cast<std::ptrdiff_t>(take));
      chunks_.push_back(
          {Job::submit(*core_, function_, first, last), static_cast<std::uint32_t>(take)});
      first = last;
      done += take;
    }
  }

  template <class Accept>
  void gather(DeadlineNs deadline, Accept&& accept) {
    std::size_t position = 0;
    for (const Chunk& chunk : chunks_) {
      if (!core_->wait(chunk.task, deadline)) {
        throw TimeoutError("brood: map did not end in time");
      }
      for (std::uint32_t i = 0; i < chunk.elements; ++i) accept(chunk.task, i, position + i);
      position += chunk.elements;
    }
  }

  std::shared_ptr<PoolCore> core_;
  typename Job::Function function_;
  std::size_t chunk_size_;
  std::size_t elements_ = 0;
  std::vector<Chunk> chunks_;
};

}  // namespace brood::detail
