// What brood, and whoever likes, has to say beside results and errors.
#pragma once

#include "brood/detail/cpp20.hpp"

#include <chrono>
#include <functional>
#include <string>
#include <string_view>

namespace brood {

enum class LogLevel { debug, info, warning, error };

struct LogRecord {
  LogLevel level = LogLevel::info;
  int pid = 0;
  std::string process = {};  // name of the process: "MainProcess" in the host, "Process-1"...
  std::string text = {};
  std::chrono::system_clock::time_point time = {};
  const char* file = "";  // where log() was called
  int line = 0;
};

using LogSink = std::function<void(const LogRecord&)>;

// Where records go, and which: those of the level and worse. At first, and with an empty sink:
// warnings and worse, each as one write of one line to stderr, "[WARNING/Process-1] text".
//
// Children that are copies of a process (start method fork, pool workers) begin with its sink and
// level; what the sink refers to is then the child's copy. Service processes tell nothing.
//
//   Threads:   any, also while others log: the sink is called by the threads that log, several at
//              once, and the former sink may still be at its last record when these return.
//   Blocking:  no longer than the sink.
//   Ownership: the sink is kept until another is set and its last call has returned. Both
//              return what was set before, an empty sink for that of the beginning.
//   Errors:    setting: std::bad_alloc. log(): none. A record whose sink throws goes to stderr, as
//              does what a sink itself logs; without memory a record is lost.
//   Death:     a process that is forked or killed at any moment leaves nothing locked in others.
LogSink set_log_sink(LogSink sink);
LogLevel set_log_level(LogLevel level);
[[nodiscard]] LogLevel log_level();

// Not for signal handlers. `file` and `line` are the caller's own.
void log(LogLevel level, std::string_view text, const char* file = __builtin_FILE(),
         int line = __builtin_LINE()) noexcept;

}  // namespace brood
