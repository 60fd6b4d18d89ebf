// map(f, range) as tasks of several elements: each chunk is one record, each element has a cell
// for its result, so that a dead worker costs one element and not the chunk.
#pragma once

#include <algorithm>
#include <cstdint>
#include <exception>
#include <memory>
#include <ranges>
#include <string_view>
#include <utility>
#include <vector>

#include "brood/detail/call_job.hpp"

namespace brood::detail {

template <class F, class Reference>
struct MapJob {
  using Function = F;
  static constexpr bool callable = (require_callable<F>(), true);
  static_assert(callable);
  template <class List>
  struct Only;
  template <class W>
  struct Only<TypeList<W>> {
    using type = W;
  };
  using Wire = typename Only<WireList<F, Reference>>::type;
  using Callable = CallableCodec<F>;
  using Raw = ResultOf<F&, Wire>;
  using Result = std::conditional_t<std::is_void_v<Raw>, void, std::decay_t<Raw>>;
  static constexpr bool sendable = (require_wire<Wire>(), require_result<Raw>(), true);
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
    TaskSpec spec;
    spec.thunk = thunk_of<MapJob>();
    spec.function = Callable::function(f);
    spec.retries = core.default_retries();
    spec.cell_bytes = cell_bytes;
    spec.argument_bytes = Callable::size;
    for (Iterator i = first; i != last; ++i, ++spec.elements) {
      spec.argument_bytes = Wire::end_after(spec.argument_bytes, Wire::prepare(*i));
    }
    const TaskDraft draft = core.draft(spec);
    DraftGuard guard(core, draft);
    Writer out(draft.arguments);
    Callable::encode(f, out, [&](const BoundPtr& blob) { return core.place(blob); });
    auto handles = collecting_handles<Wire::carries_handles>([&] {
      std::size_t begin = Callable::size;
      for (Iterator i = first; i != last; ++i) {
        // Kept alive: a view may make its elements as it goes, and prepare() refers to them.
        auto&& element = *i;
        const auto& value = Wire::prepare(std::forward<decltype(element)>(element));
        Wire::encode(value, out, begin);
        begin = Wire::end_after(begin, value);
      }
    });
    return guard.commit({Callable::blob(f), std::move(handles)});
  }

  static void run(TaskFrame& frame) {
    Reader in(frame.arguments());
    const std::size_t total = in.remaining();
    auto f = Callable::decode(in, frame);
    // Elements below first() were finished by a worker that died since.
    for (std::uint32_t index = 0; index < frame.first(); ++index) {
      static_cast<void>(Wire::decode(in, total - in.remaining()));
    }
    for (std::uint32_t index = frame.first(); index < frame.count(); ++index) {
      try {
        run_element(frame, f, Wire::decode(in, total - in.remaining()), index);
      } catch (...) {
        frame.fail_element(index);
      }
      frame.finish_element(index);
    }
  }

 private:
  template <class Decoded>
  static void run_element(TaskFrame& frame, Decoded& f, typename Wire::Decoded&& value,
                          std::uint32_t index) {
    UserCode code(frame);
    if constexpr (std::is_void_v<Result>) {
      std::invoke(f, std::move(value));
      code.leave();
      static_cast<void>(frame.reply_element(index, 0, true));
    } else {
      const Result result = std::invoke(f, std::move(value));
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
  using Result = typename Job::Result;

  template <class F>
  MapCall(std::shared_ptr<PoolCore> core, const F& f, std::size_t chunk_size)
      : core_(std::move(core)), function_(f), chunk_size_(chunk_size) {
    if (core_ == nullptr) throw PoolClosed("brood: this pool was moved from");
    Job::Callable::check(function_, core_->addresses());
  }
  ~MapCall() {
    for (const Chunk& chunk : chunks_) core_->release(chunk.task);
  }
  MapCall(const MapCall&) = delete;
  MapCall& operator=(const MapCall&) = delete;

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

  auto collect(DeadlineNs deadline) {
    if constexpr (std::is_void_v<Result>) {
      gather(deadline, [](std::span<const std::byte> /*bytes*/) {});
    } else {
      std::vector<Result> results;
      results.reserve(elements_);
      gather(deadline, [&](std::span<const std::byte> bytes) {
        Reader reader(Job::in_cell ? bytes.first(Job::value_bytes) : bytes);
        results.push_back(decode_part<Result>(reader));
        reader.expect_end();
      });
      return results;
    }
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
    std::exception_ptr first_error;
    std::size_t position = 0;
    for (const Chunk& chunk : chunks_) {
      if (!core_->wait(chunk.task, deadline)) {
        throw TimeoutError("brood: map did not end in time");
      }
      for (std::uint32_t i = 0; i < chunk.elements && !first_error; ++i) {
        try {
          const TaskReply reply = core_->reply_of_element(chunk.task, i);
          if (reply.kind != TaskReply::Kind::value) {
            core_->throw_reply(chunk.task, reply, position + i);
          }
          accept(reply.bytes);
        } catch (...) {
          first_error = std::current_exception();
        }
      }
      position += chunk.elements;
    }
    if (first_error) std::rethrow_exception(first_error);
  }

  std::shared_ptr<PoolCore> core_;
  typename Job::Function function_;
  std::size_t chunk_size_;
  std::size_t elements_ = 0;
  std::vector<Chunk> chunks_;
};

}  // namespace brood::detail
