// How a process is started.
#pragma once

#include "brood/detail/cpp20.hpp"

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "brood/start_method.hpp"

namespace brood {

// Where what a process writes to a standard stream goes.
class Output {
 public:
  static const Output inherit;  // where the caller's goes at the start
  static const Output null;     // nowhere
  // Into memory, unbounded, readable by captured_out() and captured_err(). Nobody has to read
  // meanwhile: a process that writes much does not wait.
  static const Output capture;
  // To a descriptor of the caller, who keeps it open until start() has returned.
  constexpr Output(int fd) noexcept : fd_(fd) {}  // NOLINT(google-explicit-constructor)

  friend constexpr bool operator==(const Output&, const Output&) = default;
  [[nodiscard]] constexpr int fd() const noexcept { return fd_; }  // < 0: none of the caller's

 private:
  int fd_;
};
inline constexpr Output Output::inherit{-1};
inline constexpr Output Output::null{-2};
inline constexpr Output Output::capture{-3};

// What the system limits for each process; see getrlimit(2).
enum class Resource : std::uint32_t {
  cpu_seconds = 0,
  file_bytes = 1,
  data_bytes = 2,
  stack_bytes = 3,
  core_bytes = 4,
  processes = 6,
  open_files = 7,
  locked_bytes = 8,
  address_space_bytes = 9,
};
struct ResourceLimit {
  Resource resource = Resource::core_bytes;
  std::uint64_t soft = 0;
  std::optional<std::uint64_t> hard = std::nullopt;  // empty: as the soft one
};

// When a process is started again: when its function has failed, that is after death by a signal
// (not SIGTERM, SIGINT or SIGHUP, which ask it to end), an uncaught exception, an exit status other
// than 0, and after a hang. Each time it begins as at start(): same function, arguments, name and
// options, memory as it was then; captured output goes on. Each restart
// is said as a warning, and so is the failure after which there is none: by the process that keeps
// it, not by this one, so under fork a copy of your sink hears of it and otherwise stderr (see
// log.hpp).
//
// Without the process that started it, it runs to its end (a daemon is killed) and is not started
// again.
struct Restart {
  unsigned max = 0;                                            // at most so often; 0: never
  std::optional<std::chrono::nanoseconds> per = std::nullopt;  // in any such time; empty: in all
  // The delay before it. Doubles (to 64 times this) with each restart in a row: until a run lasts
  // longer than ten times the delay before it.
  std::chrono::nanoseconds backoff = std::chrono::milliseconds(100);
};

struct ProcessOptions {
  std::string name = {};  // empty: "Process-1", "Process-2"... in the order of construction
  bool daemon = false;    // ends with the process that started it, and is not waited for at the end
  // How it starts. Empty: start_method(); fork is then refused in a process that has other threads.
  std::optional<StartMethod> start = std::nullopt;

  // What it has otherwise than the caller at the start. What the system refuses is a StartError
  // that names it, and the function is not run.
  std::optional<int> nice = std::nullopt;  // -20 ... 19
  std::vector<int> affinity = {};          // processors; empty: all
  std::vector<ResourceLimit> rlimits = {};
  std::string cwd = {};                                                  // empty: the caller's
  std::optional<std::map<std::string, std::string>> env = std::nullopt;  // all of it
  Output out = Output::inherit;
  Output err = Output::inherit;
  // Under fork: descriptors above 2 are closed but for keep_fds. Otherwise they always are, and
  // those of keep_fds are passed on; either way they have the same numbers in the child.
  bool close_fds = false;
  std::vector<int> keep_fds = {};

  // Either of these makes start() start a keeper, a process that starts, watches and ends the
  // process proper. It holds the descriptors that the process begins with, while it may start it
  // again, and the memory that its copies begin with, shared until they write.
  Restart restart = {};
  // It has to call heartbeat() at least so often, the first time after its start; else it hangs: it
  // is killed, with all that comes from it. One that is stopped (SIGSTOP, a debugger) hangs, too.
  std::optional<std::chrono::nanoseconds> hang_timeout = std::nullopt;
};

}  // namespace brood
