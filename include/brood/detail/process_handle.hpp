// The untyped half of Process.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "brood/detail/arguments.hpp"
#include "brood/detail/pool_core.hpp"
#include "brood/detail/thunk.hpp"
#include "brood/error.hpp"
#include "brood/process_options.hpp"
#include "brood/start_method.hpp"

namespace brood {

struct ExitCode;

// What a process has used.
struct ProcessUsage {
  std::chrono::nanoseconds user_cpu{};    // while it runs, in steps of the system's clock tick
  std::chrono::nanoseconds system_cpu{};  // in the kernel, for it
  std::uint64_t rss_bytes = 0;            // memory it has now; 0 after its end
  std::uint64_t peak_rss_bytes = 0;       // the most it had
};

}  // namespace brood

namespace brood::detail {

// A call in a form that another process can read.
struct SentCall {
  ThunkId thunk = 0;
  const void* function = nullptr;  // the plain function to call, if it is one
  std::vector<std::byte> arguments = {};
  std::vector<std::vector<std::byte>> blobs = {};  // bound values, named by their index
};

// What a child runs.
class ProcessTarget {
 public:
  virtual ~ProcessTarget() = default;
  ProcessTarget() = default;
  ProcessTarget(const ProcessTarget&) = delete;
  ProcessTarget& operator=(const ProcessTarget&) = delete;
  // Throws NotSendable if it can't be run in another process.
  virtual void check(Addresses /*there*/) const {}
  // The exit status.
  virtual int run() = 0;
  // Whether the child needs nothing more of it once it has started.
  [[nodiscard]] virtual bool may_go() const noexcept { return false; }
  // Whether send() may send handles of shared objects.
  [[nodiscard]] virtual bool carries_handles() const noexcept { return false; }
  // Throws NotSendable. Never asked of a target that always forks.
  [[nodiscard]] virtual SentCall send() const { throw NotSendable("brood: this always forks"); }
};

// Threads: one at a time. Blocking: join_until and the destructor. Ownership: of the child's pidfd
// and zombie. Errors: see ProcessControl. Death: the child's is what it reports.
class ProcessHandle {
 public:
  explicit ProcessHandle(ProcessOptions options);
  ProcessHandle(ProcessHandle&&) noexcept;
  ProcessHandle& operator=(ProcessHandle&&) noexcept;
  ~ProcessHandle();

  void require_unstarted() const;  // throws Error if it was started before, or moved from
  void start(ProcessTarget& target);
  bool join_until(DeadlineNs deadline);
  bool is_alive();
  std::optional<int> exit_code();
  std::optional<WorkerDied> death();
  [[nodiscard]] int pid() const noexcept;
  [[nodiscard]] unsigned restarts() const noexcept;
  [[nodiscard]] const std::string& name() const;
  [[nodiscard]] bool daemon() const;
  void set_daemon(bool daemon);
  void terminate();
  void interrupt();
  void kill();
  std::optional<ProcessUsage> usage();
  void close();
  std::string describe();
  [[nodiscard]] std::string captured(int stream) const;
  void send_signal(int signal);
  [[nodiscard]] int sentinel() const;

 private:
  struct State;
  [[nodiscard]] State& state() const;  // throws Error if this was moved from
  std::unique_ptr<State> state_;
};

template <class Result>
int exit_status_of(Result&& call) {
  using R = std::invoke_result_t<Result>;
  if constexpr (std::is_same_v<std::decay_t<R>, ExitCode>) {
    return call().value;
  } else {
    call();
    return 0;
  }
}

// Anything, as the fork copies it.
template <class F, class... Args>
class CopiedTarget final : public ProcessTarget {
 public:
  template <class G, class... Values>
  explicit CopiedTarget(G&& f, Values&&... args)
      : function_(std::forward<G>(f)), arguments_(std::forward<Values>(args)...) {}
  int run() override {
    return exit_status_of([&]() -> decltype(auto) {
      return std::apply(
          [&](auto&... args) -> decltype(auto) {
            return std::invoke(std::move(function_), std::move(args)...);
          },
          arguments_);
    });
  }

 private:
  F function_;
  std::tuple<Args...> arguments_;
};

template <class F, class... Args>
std::unique_ptr<ProcessTarget> make_copied_target(F&& f, Args&&... args) {
  static_assert(std::is_invocable_v<std::decay_t<F>, std::decay_t<Args>...>,
                "brood: the callable can't be called with copies of these arguments");
  return std::make_unique<CopiedTarget<std::decay_t<F>, std::decay_t<Args>...>>(
      std::forward<F>(f), std::forward<Args>(args)...);
}

// Before the compiler says at length that there is no copy constructor.
template <class T, class Arg>
consteval void require_given_away() {
  static_assert(!std::is_same_v<std::remove_cvref_t<Arg>, T> || std::is_copy_constructible_v<T> ||
                    !std::is_lvalue_reference_v<Arg>,
                "brood: this argument can be moved but not copied: give it away by std::move(), or "
                "pass a second handle, as Connection::share() gives one");
}

// How an argument is kept until the start: a view needs something to look at.
template <class Wire>
struct KeptArgument {
  using type = typename Wire::Value;
  static type&& pass(type& value) { return std::move(value); }
  static const type& look(const type& value) { return value; }
};
template <class T>
struct KeptArgument<ViewWire<std::span<T>>> {
  using type = std::vector<std::remove_const_t<T>>;
  static std::span<T> pass(const type& value) { return value; }
  static std::span<T> look(const type& value) { return value; }
};
template <>
struct KeptArgument<ViewWire<std::string_view>> {
  using type = std::string;
  static std::string_view pass(const type& value) { return value; }
  static std::string_view look(const type& value) { return value; }
};

template <class View>
struct KeptArgument<SharedViewWire<View>> {
  using type = typename SharedViewWire<View>::Value;
  static View pass(const type& value) { return SharedViewWire<View>::view(value); }
  static const type& look(const type& value) { return value; }
};

// The call of a process as its child runs it, if the child is no copy of the caller. The reply is
// the exit status.
template <class F, class List>
struct ProcessJob;
template <class F, class... Wires>
struct ProcessJob<F, TypeList<Wires...>> {
  static constexpr ThunkKind kind = ThunkKind::process;
  using Callable = CallableCodec<F>;
  static constexpr std::string_view name() { return type_name<F>(); }
  static void run(TaskFrame& frame) {
    Reader in(frame.arguments());
    const std::size_t total = in.remaining();
    auto f = CallableCodec<F>::decode(in, frame);
    auto arguments = ArgumentPack<TypeList<Wires...>>::decode(in, total);
    in.expect_end();
    frame.enter_user_code();
    const int status = exit_status_of([&]() -> decltype(auto) {
      return std::apply(
          [&](auto&... values) -> decltype(auto) { return std::invoke(f, std::move(values)...); },
          arguments);
    });
    frame.leave_user_code();
    Writer out(frame.reply(sizeof status, false));
    out.write_scalar(status);
  }
};

// Only what every start method could send.
template <class F, class List>
class SendableTarget;
template <class F, class... Wires>
class SendableTarget<F, TypeList<Wires...>> final : public ProcessTarget {
 public:
  template <class G, class... Args>
  explicit SendableTarget(G&& f, Args&&... args)
      : function_(std::forward<G>(f)), arguments_(keep<Wires>(std::forward<Args>(args))...) {}

  void check(Addresses there) const override { CallableCodec<F>::check(function_, there); }
  int run() override {
    return exit_status_of([&]() -> decltype(auto) {
      return std::apply(
          [&](auto&... args) -> decltype(auto) {
            return std::invoke(function_, KeptArgument<Wires>::pass(args)...);
          },
          arguments_);
    });
  }

  [[nodiscard]] bool may_go() const noexcept override { return true; }
  [[nodiscard]] bool carries_handles() const noexcept override {
    return ArgumentPack<TypeList<Wires...>>::carries_handles ||
           CallableCodec<F>::blob(function_) != nullptr;
  }

  [[nodiscard]] SentCall send() const override {
    using Pack = ArgumentPack<TypeList<Wires...>>;
    SentCall sent;
    sent.thunk = thunk_of<ProcessJob<F, TypeList<Wires...>>>();
    sent.function = CallableCodec<F>::function(function_);
    std::apply(
        [&](const auto&... kept) {
          sent.arguments.resize(
              Pack::end_after(CallableCodec<F>::size, KeptArgument<Wires>::look(kept)...));
          Writer out(sent.arguments);
          CallableCodec<F>::encode(function_, out, [&](const BoundPtr& blob) {
            blob->encode(sent.blobs.emplace_back(blob->size()));
            return std::uint64_t{sent.blobs.size() - 1};
          });
          Pack::encode(out, CallableCodec<F>::size, KeptArgument<Wires>::look(kept)...);
        },
        arguments_);
    return sent;
  }

 private:
  template <class Wire, class Arg>
  static typename KeptArgument<Wire>::type keep(Arg&& arg) {
    using Kept = typename KeptArgument<Wire>::type;
    if constexpr (is_shared_view_wire<Wire>) {
      return Wire::prepare(arg);
    } else if constexpr (std::is_same_v<Kept, typename Wire::Value>) {
      require_given_away<Kept, Arg>();
      static_assert(std::is_convertible_v<Arg&&, Kept>,
                    "brood: this argument does not convert to the function's parameter by itself, "
                    "as in an ordinary call: convert it where you make the Process");
      return std::forward<Arg>(arg);
    } else {
      const auto view = Wire::prepare(arg);
      return Kept(view.begin(), view.end());
    }
  }

  F function_;
  std::tuple<typename KeptArgument<Wires>::type...> arguments_;
};

template <class F, class... Args>
std::unique_ptr<ProcessTarget> make_sendable_target(F&& f, Args&&... args) {
  using Function = std::decay_t<F>;
  require_callable<Function>();
  using Wires = WireList<Function, Args...>;
  []<class... W>(TypeList<W...>) { (require_wire<W>(), ...); }(Wires{});
  return std::make_unique<SendableTarget<Function, Wires>>(std::forward<F>(f),
                                                           std::forward<Args>(args)...);
}

}  // namespace brood::detail
