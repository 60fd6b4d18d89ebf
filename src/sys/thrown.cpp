#include "sys/thrown.hpp"

#include <unwind.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <exception>
#include <span>
#include <utility>

namespace brood::sys {

void tell_of_throw() noexcept;

namespace {

constinit thread_local ThrowHook hook_of_thread;

// Where the functions begin that lie between a throw and the question to NoException: those of the
// runtime, and of tools that have put themselves before them.
struct Machinery {
  std::array<std::uintptr_t, 64> starts{};
  std::size_t count = 0;

  [[nodiscard]] bool has(std::uintptr_t start) const noexcept {
    const auto known = std::span(starts).first(count);
    return std::ranges::find(known, start) != known.end();
  }
};

// Found out by throwing: no table says what they are.
struct Probe {
  Machinery found;
  std::uintptr_t end = 0;

  static void on_throw(void* self) noexcept { ::_Unwind_Backtrace(visit, self); }
  static _Unwind_Reason_Code visit(_Unwind_Context* frame, void* self) {
    auto& probe = *static_cast<Probe*>(self);
    if (::_Unwind_GetCFA(frame) > probe.end) return _URC_END_OF_STACK;
    const std::uintptr_t start = ::_Unwind_GetRegionStart(frame);
    if (start != 0 && probe.found.count < probe.found.starts.size() && !probe.found.has(start)) {
      probe.found.starts[probe.found.count++] = start;
    }
    return _URC_NO_REASON;
  }
};

struct ProbeException {};

[[gnu::noinline]] void probe_throw() { throw ProbeException{}; }
[[gnu::noinline]] void probe_rethrow() {
  try {
    probe_throw();
  } catch (...) {
    throw;
  }
}
[[gnu::noinline]] void probe_rethrow_kept() {
  std::exception_ptr kept;
  try {
    probe_throw();
  } catch (...) {
    kept = std::current_exception();
  }
  std::rethrow_exception(kept);
}

[[gnu::noinline]] Machinery find_machinery() noexcept {
  Probe probe;
  probe.end = reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0));
  const ThrowHook others = std::exchange(hook_of_thread, {Probe::on_throw, &probe});
  for (void (*const run)() : {probe_throw, probe_rethrow, probe_rethrow_kept}) {
    try_watched(run, [] {});
  }
  hook_of_thread = others;
  return probe.found;
}

struct ThrownWalk {
  VisitFrame visit;
  void* context;
  std::uintptr_t end;
  const Machinery& machinery;
  enum { before, within, after } place = before;
  std::uintptr_t last = 0;  // not visited yet: it may be that of `end`
};

_Unwind_Reason_Code visit_thrown(_Unwind_Context* frame, void* context) {
  auto& walk = *static_cast<ThrownWalk*>(context);
  int is_exact = 0;
  const std::uintptr_t address = ::_Unwind_GetIPInfo(frame, &is_exact);
  if (address == 0) return _URC_END_OF_STACK;
  if (walk.place != ThrownWalk::after) {
    if (walk.machinery.has(::_Unwind_GetRegionStart(frame))) {
      walk.place = ThrownWalk::within;
      return _URC_NO_REASON;
    }
    if (walk.place == ThrownWalk::before) return _URC_NO_REASON;
    walk.place = ThrownWalk::after;
  }
  if (walk.end != 0 && ::_Unwind_GetCFA(frame) > walk.end) {
    walk.last = 0;
    return _URC_END_OF_STACK;
  }
  if (walk.last != 0 && !walk.visit(walk.last, walk.context)) {
    walk.last = 0;
    return _URC_END_OF_STACK;
  }
  walk.last = is_exact == 0 ? address - 1 : address;
  return _URC_NO_REASON;
}

}  // namespace

ThrowHook& throw_hook() noexcept { return hook_of_thread; }

void tell_of_throw() noexcept {
  const ThrowHook& hook = hook_of_thread;
  if (hook.on_throw != nullptr) hook.on_throw(hook.context);
}

void walk_thrown_stack(VisitFrame visit, void* context, std::uintptr_t end) noexcept {
  if (!can_walk_stack()) return;
  static const Machinery machinery = find_machinery();
  ThrownWalk walk{visit, context, end, machinery};
  ::_Unwind_Backtrace(visit_thrown, &walk);
  if (walk.last != 0) visit(walk.last, context);
}

}  // namespace brood::sys
