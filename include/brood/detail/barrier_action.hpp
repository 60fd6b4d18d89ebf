// What a barrier's last party calls: code by its number, and the few bytes that it captured.
#pragma once

#include <array>
#include <cstddef>
#include <functional>
#include <span>
#include <type_traits>

#include "brood/detail/callable.hpp"

namespace brood::detail {

inline constexpr std::size_t kBarrierActionBytes = 64;

struct BarrierAction {
  ThunkId thunk = 0;  // 0: there is none
  std::array<std::byte, kBarrierActionBytes> captured{};
};

// A private table of callables has it (thunk.hpp): any party's process can run it.
template <class F>
struct BarrierJob {
  static constexpr std::string_view name() { return type_name<F>(); }
  static void run(TaskFrame& frame) {
    Reader in(frame.arguments());
    auto action = CallableCodec<F>::decode(in, frame);
    std::invoke(action);
  }
};

template <class F>
BarrierAction make_barrier_action(const F& f) {
  require_callable<F>();
  static_assert(!is_bound_front<F>, "brood: a barrier's action can't have bound values");
  static_assert(std::is_invocable_v<const F&>, "brood: a barrier's action has no arguments");
  static_assert(CallableCodec<F>::size <= kBarrierActionBytes,
                "brood: a barrier's action captures more than 64 bytes");
  CallableCodec<F>::check(f, Addresses::of_its_own);
  BarrierAction action;
  action.thunk = thunk_of<BarrierJob<F>>();
  Writer out(std::span(action.captured).first(CallableCodec<F>::size));
  CallableCodec<F>::encode(f, out, [](const BoundPtr&) { return std::uint64_t{0}; });
  return action;
}

}  // namespace brood::detail
