// One call f(args...) as a task: the caller's half encodes, the worker's half runs.
#pragma once

#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "brood/detail/arguments.hpp"
#include "brood/detail/pool_core.hpp"

namespace brood::detail {

// Drops a draft that was not committed because encoding it threw.
class DraftGuard {
 public:
  DraftGuard(PoolCore& core, const TaskDraft& draft) noexcept : core_(&core), draft_(draft) {}
  ~DraftGuard() {
    if (core_ != nullptr) core_->drop(draft_);
  }
  DraftGuard(const DraftGuard&) = delete;
  DraftGuard& operator=(const DraftGuard&) = delete;

  TaskTicket commit(TaskBaggage baggage) {
    const TaskTicket task = core_->commit(draft_, std::move(baggage));
    core_ = nullptr;
    return task;
  }

 private:
  PoolCore* core_;
  TaskDraft draft_;
};

// Runs `encode`, and returns the handles that it has sent. Costs nothing where there can be none.
template <bool may_have_handles, class Encode>
std::vector<ObjectHandle> collecting_handles(Encode&& encode) {
  if constexpr (may_have_handles) {
    HandleCollector collector;
    encode();
    return std::move(collector.handles());
  } else {
    encode();
    return {};
  }
}

// Encodes `value` into the room that `make_room(bytes)` gives.
template <class R, class MakeRoom>
void encode_result(const R& value, MakeRoom&& make_room) {
  std::size_t bytes = 0;
  if constexpr (has_fixed_size<R>) {
    bytes = *fixed_size<R>;
  } else {
    Sizer sizer;
    encode_part(value, sizer);
    bytes = sizer.size();
  }
  Writer out(make_room(bytes));
  encode_part(value, out);
}

// Leaves the user's function in whatever way.
class UserCode {
 public:
  explicit UserCode(TaskFrame& frame) noexcept : frame_(frame) { frame_.enter_user_code(); }
  // While unwinding the stage stays: the exception is the user's.
  void leave() noexcept { frame_.leave_user_code(); }

 private:
  TaskFrame& frame_;
};

template <class F, class List>
struct CallJob;

template <class F, class... Wires>
struct CallJob<F, TypeList<Wires...>> {
  static constexpr ThunkKind kind = ThunkKind::call;
  using Pack = ArgumentPack<TypeList<Wires...>>;
  using Callable = CallableCodec<F>;
  using Raw = ResultOf<F&, Wires...>;
  using Result = std::conditional_t<std::is_void_v<Raw>, void, std::decay_t<Raw>>;

  static constexpr std::string_view name() { return type_name<F>(); }

  template <class... Prepared>
  static TaskTicket submit(PoolCore& core, TaskSpec& spec, const F& f, const Prepared&... values) {
    Callable::check(f, core.addresses());
    spec.thunk = thunk_of<CallJob>();
    spec.function = Callable::function(f);
    spec.argument_bytes = Pack::end_after(Callable::size, values...);
    const TaskDraft draft = core.draft(spec);
    DraftGuard guard(core, draft);
    Writer out(draft.arguments);
    Callable::encode(f, out, [&](const BoundPtr& blob) { return core.place(blob); });
    auto handles = collecting_handles<Pack::carries_handles>(
        [&] { Pack::encode(out, Callable::size, values...); });
    return guard.commit({Callable::blob(f), std::move(handles), std::move(spec.name), nullptr});
  }

  static void run(TaskFrame& frame) {
    Reader in(frame.arguments());
    const std::size_t total = in.remaining();
    auto f = Callable::decode(in, frame);
    auto arguments = Pack::decode(in, total);
    in.expect_end();
    UserCode code(frame);
    if constexpr (std::is_void_v<Result>) {
      std::apply([&](auto&... values) { std::invoke(f, std::move(values)...); }, arguments);
      code.leave();
      static_cast<void>(frame.reply(0, false));
    } else {
      const Result result = std::apply(
          [&](auto&... values) -> Raw { return std::invoke(f, std::move(values)...); }, arguments);
      code.leave();
      constexpr bool has_handles = may_carry_handles<Result>();
      const auto handles = collecting_handles<has_handles>([&] {
        encode_result(result, [&](std::size_t bytes) { return frame.reply(bytes, has_handles); });
      });
      if constexpr (has_handles) frame.keep_for_caller(handles);
    }
  }
};

// A handle that is moved into a call is the call's: the end of a pipe must not stay open for a
// variable that nobody will use again.
template <bool has_handles, class Arg>
void give_up(Arg&& arg) {
  if constexpr (has_handles && !std::is_lvalue_reference_v<Arg> && !std::is_const_v<Arg>) {
    [[maybe_unused]] const std::decay_t<Arg> taken(std::forward<Arg>(arg));
  }
}

// The job of a call with these arguments, with the conversions to f's parameters.
template <class F, class... Args>
struct Call {
  static constexpr bool callable = (require_callable<F>(), true);

  template <class List>
  struct With;
  template <class... Wires>
  struct With<TypeList<Wires...>> {
    static constexpr bool sendable =
        ((require_wire<Wires>(), ...), require_result<ResultOf<F&, Wires...>>(), true);
    static_assert(sendable);

    static TaskTicket submit(PoolCore& core, TaskSpec& spec, const F& f, Args&&... args) {
      const TaskTicket task =
          Job::submit(core, spec, f, Wires::prepare(std::forward<Args>(args))...);
      (give_up<Wires::carries_handles>(std::forward<Args>(args)), ...);
      return task;
    }
  };
  static_assert(callable);
  using Wires = WireList<F, Args...>;
  using Job = CallJob<F, Wires>;
  using Result = typename Job::Result;

  static TaskTicket submit(PoolCore& core, TaskSpec& spec, const F& f, Args&&... args) {
    return With<Wires>::submit(core, spec, f, std::forward<Args>(args)...);
  }
};

}  // namespace brood::detail
