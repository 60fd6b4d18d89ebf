// Processes of one's own.
#pragma once

#include "brood/detail/cpp20.hpp"

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <ostream>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "brood/cpu_count.hpp"
#include "brood/detail/arguments.hpp"
#include "brood/detail/process_handle.hpp"
#include "brood/error.hpp"
#include "brood/process_options.hpp"
#include "brood/start_method.hpp"

namespace brood {

namespace detail {
struct KnownProcess;
}

// A process of this program, by whoever started it: current_process(), parent_process(),
// active_children().
//
//   Threads:   any; a value.
//   Blocking:  join().
//   Ownership: copies share one descriptor. Ending it is the business of whoever started it: no
//              destructor here does. In a process that you fork yourself, copies are of no use.
//   Errors:    Error from join() of the calling process; SystemError if the system refuses to wait.
//   Death:     is seen by is_alive(), join() and sentinel(). Signals to a process that has ended do
//              nothing: its number may be a stranger's by then.
class ProcessRef {
 public:
  [[nodiscard]] int pid() const noexcept;
  [[nodiscard]] const std::string& name() const noexcept;
  [[nodiscard]] bool daemon() const noexcept;
  [[nodiscard]] bool is_alive() const;
  void join() const;
  [[nodiscard]] bool join_for(std::chrono::nanoseconds limit) const;  // false: it goes on
  void terminate() const;
  void kill() const;  // of a child, with all that comes from it
  void send_signal(int signal) const;
  // A pidfd, readable once the process has ended.
  [[nodiscard]] int sentinel() const noexcept;

 private:
  friend ProcessRef current_process();
  friend std::optional<ProcessRef> parent_process();
  friend std::vector<ProcessRef> active_children();
  explicit ProcessRef(std::shared_ptr<const detail::KnownProcess> process)
      : process_(std::move(process)) {}
  std::shared_ptr<const detail::KnownProcess> process_;
};

// The calling process; "MainProcess" is one that brood has not started. Throws SystemError.
[[nodiscard]] ProcessRef current_process();
// Who started the calling process, whatever the start method; empty if brood has not.
[[nodiscard]] std::optional<ProcessRef> parent_process();
// Processes started by this one that have not ended, in the order of their numbers; workers of
// pools are not among them. Those that have ended are no zombies after this.
[[nodiscard]] std::vector<ProcessRef> active_children();

// The calling process is not hung (ProcessOptions::hang_timeout). Elsewhere it does nothing; nor in
// a process that the watched one forked. Costs a look at the clock, no system call.
//
//   Threads:   any, and signal handlers. Blocking: never. Errors: none.
void heartbeat() noexcept;

// Asks for a child that is a copy of the caller: any callable and any arguments then do.
struct ForkedTag {};
inline constexpr ForkedTag forked{};

// Returned by a process's function, becomes its exit status: 0 to 255.
struct ExitCode {
  int value = 0;
};

// What can be done with a process, however it came to its function. See Process and ProcessBase.
class ProcessControl {
 public:
  // Starts it: once. Throws StartError, SystemError, FamilyBroken, and NotSendable if the callable
  // points into this process's memory.
  void start() {
    handle_.require_unstarted();
    handle_.start(target());
    started();
  }

  // Until it has ended. Throws Error if it was not started.
  void join() { handle_.join_until(detail::kNoDeadline); }
  // False if it has not ended by then.
  [[nodiscard]] bool join_for(std::chrono::nanoseconds limit) {
    return handle_.join_until(detail::deadline_after(limit));
  }

  [[nodiscard]] bool is_alive() { return handle_.is_alive(); }

  // 0: returned, whatever it returned; 1: an exception left its function; the value of an ExitCode
  // or of exit(); -N: killed by signal N. Empty: not started, still running, or unknown because
  // this program reaped the child itself (wait(-1) after a fork from several threads).
  [[nodiscard]] std::optional<int> exit_code() { return handle_.exit_code(); }

  // How it died, if a signal killed it; `hung` if that was for want of a heartbeat(), `attempts`
  // with restarts. Of one that was started again, the last time.
  [[nodiscard]] std::optional<WorkerDied> death() { return handle_.death(); }

  // 0 before start(). Of one that is started again: of the one that runs, or ran last.
  [[nodiscard]] int pid() const noexcept { return handle_.pid(); }
  // How often it was started again (ProcessOptions::restart).
  [[nodiscard]] unsigned restarts() const noexcept { return handle_.restarts(); }
  [[nodiscard]] const std::string& name() const { return handle_.name(); }
  [[nodiscard]] bool daemon() const { return handle_.daemon(); }
  // Before start(); Error after it.
  void set_daemon(bool daemon) { handle_.set_daemon(daemon); }

  // SIGTERM, SIGINT; kill(): SIGKILL to it and to all that it has started. A process that has ended
  // is not disturbed, nor is a stranger that got its number. Error if it was not started.
  // After terminate(), interrupt() and kill() it is not started again; what waits to be started
  // again has then ended. After send_signal() it may be.
  void terminate() { handle_.terminate(); }
  void interrupt() { handle_.interrupt(); }
  void kill() { handle_.kill(); }
  void send_signal(int signal) { handle_.send_signal(signal); }

  // A pidfd for poll or epoll, readable once the process has ended; ours to close.
  [[nodiscard]] int sentinel() const { return handle_.sentinel(); }

  // What it has used so far; of one that has ended, what it had used. Empty: not started, or
  // nobody knows (see exit_code()).
  [[nodiscard]] std::optional<ProcessUsage> usage() { return handle_.usage(); }

  // What it has written to its output and to its errors so far, if that was asked for (Output);
  // else empty. Throws SystemError.
  [[nodiscard]] std::string captured_out() const { return handle_.captured(1); }
  [[nodiscard]] std::string captured_err() const { return handle_.captured(2); }

  // Gives up what is kept of it; from then on it is as if moved from. Error if it still runs.
  // Again, it does nothing.
  void close() { handle_.close(); }

  // <Process name='Process-1' pid=12 parent=10 started>, with "initial", "stopped
  // exitcode=-SIGTERM", "unknown" or "closed" as the state.
  friend std::ostream& operator<<(std::ostream& out, ProcessControl& process) {
    return out << process.handle_.describe();
  }

 protected:
  explicit ProcessControl(ProcessOptions options) : handle_(std::move(options)) {}
  static ProcessOptions forking(ProcessOptions options) {
    options.start = StartMethod::fork;
    return options;
  }
  ProcessControl(ProcessControl&&) noexcept = default;
  ProcessControl& operator=(ProcessControl&&) noexcept = default;
  virtual ~ProcessControl() = default;

  // What the child calls; its exit status.
  virtual detail::ProcessTarget& target() = 0;
  // The child has what it needs.
  virtual void started() {}

 private:
  detail::ProcessHandle handle_;
};

// A function that runs in a process of its own.
//
//   Process p(simulate, 42);
//   p.start();
//   p.join();
//
// Process(f, args...) takes what every start method can send; Process(forked, f, args...) takes
// anything and always forks.
//
//   Threads:   one at a time per object.
//   Blocking:  join(), and the destructor of one that runs.
//   Ownership: movable. Function and arguments are given up once it has started, so that the end of
//              a Pipe that was passed to the child is the child's alone; what `forked` takes is
//              kept as long as this object. The destructor joins; it terminates (SIGTERM, after a
//              second SIGKILL) a daemon, and any process while an exception unwinds. In a process
//              that you fork yourself, copies are inert.
//   Errors:    see the members. An exception that leaves the function is printed to stderr by the
//              child, with its backtrace, and ends it with status 1.
//   Death:     of the child is seen by join(), is_alive(), exit_code() and sentinel(). If this
//              process dies, daemons are gone within a second, others go on. One that is started
//              again (ProcessOptions::restart) has died when it is not, any more.
class Process final : public ProcessControl {
 public:
  template <class F, class... Args>
    requires(!std::is_same_v<std::decay_t<F>, ProcessOptions> &&
             !std::is_same_v<std::decay_t<F>, ForkedTag> &&
             !std::is_base_of_v<ProcessControl, std::decay_t<F>>)
  explicit Process(F&& f, Args&&... args)
      : Process(ProcessOptions{}, std::forward<F>(f), std::forward<Args>(args)...) {}

  template <class F, class... Args>
  explicit Process(const ProcessOptions& options, F&& f, Args&&... args)
      : ProcessControl(options),
        target_(detail::make_sendable_target(std::forward<F>(f), std::forward<Args>(args)...)) {}

  template <class F, class... Args>
    requires(!std::is_same_v<std::decay_t<F>, ProcessOptions>)
  explicit Process(ForkedTag /*tag*/, F&& f, Args&&... args)
      : Process(forked, ProcessOptions{}, std::forward<F>(f), std::forward<Args>(args)...) {}

  template <class F, class... Args>
  explicit Process(ForkedTag /*tag*/, const ProcessOptions& options, F&& f, Args&&... args)
      : ProcessControl(forking(options)),
        target_(detail::make_copied_target(std::forward<F>(f), std::forward<Args>(args)...)) {}

 private:
  detail::ProcessTarget& target() override { return *target_; }
  void started() override {
    if (target_->may_go()) target_.reset();
  }

  std::unique_ptr<detail::ProcessTarget> target_;
};

// A process class of one's own: derive and write run(). Always forks; immovable.
//
//   Threads, Blocking, Ownership, Errors, Death: as Process. The destructor of the derived class
//   runs before it joins, so join() first if run() is not to outlive the members here.
class ProcessBase : public ProcessControl {
 public:
  explicit ProcessBase(const ProcessOptions& options = {})
      : ProcessControl(forking(options)), target_(*this) {}
  ProcessBase(const ProcessBase&) = delete;
  ProcessBase& operator=(const ProcessBase&) = delete;

 protected:
  // In the child, on its copy of this object.
  virtual void run() = 0;

 private:
  struct RunTarget final : detail::ProcessTarget {
    explicit RunTarget(ProcessBase& base) : process(base) {}
    int run() override {
      process.run();
      return 0;
    }
    ProcessBase& process;
  };
  detail::ProcessTarget& target() override { return target_; }

  RunTarget target_;
};

}  // namespace brood
