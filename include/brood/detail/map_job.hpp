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
#include "brood/detail/map_cell.hpp"

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

  using Cell = MapCell<Result>;

  // One chunk: the elements [first, last) of a forward range.
  template <class Iterator>
  static TaskTicket submit(PoolCore& core, const F& f, Iterator first, Iterator last) {
    TaskSpec spec = core.defaults();
    spec.thunk = thunk_of<MapJob>();
    spec.function = Callable::function(f);
    spec.cell_bytes = Cell::bytes;
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
      const auto handles = collecting_handles<Cell::has_handles>([&] {
        encode_result(result, [&](std::size_t bytes) {
          return frame.reply_element(index, bytes, Cell::in_cell);
        });
      });
      if constexpr (Cell::has_handles) frame.keep_for_caller(handles);
    }
  }
};

// A call of f for the elements of a range.
template <class How, class F, class Range>
using MapJobOf = MapJob<std::decay_t<F>, std::ranges::range_reference_t<Range>, How>;

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

}  // namespace brood::detail
