// How a process comes into being.
#pragma once

#include "brood/detail/cpp20.hpp"

#include <cstddef>
#include <optional>
#include <string_view>

namespace brood {

// fork        the child is a copy of the calling process as it is now. A process with several
//             threads must be asked for it explicitly (`.start = StartMethod::fork`): whatever its
//             other threads were doing stands still for ever in the copy.
// forkserver  the child is a copy of the program as it was at init(), made by a quiet process that
//             has kept it: cheap, and safe whatever the caller has become. What was loaded before
//             init() is shared, what came later is not there. Credentials, umask, directory,
//             environment, limits, niceness and processors are the caller's of now; where they
//             can't be (another sandbox, root or namespaces than at init()) the start is refused.
// spawn       as forkserver, but the child executes the program afresh and becomes what it is to be
//             in init(), which never returns there. Nothing is shared; code of libraries that only
//             the caller has loaded is refused.
//
// fork needs nothing; the others need init().
enum class StartMethod { fork, forkserver, spawn };

[[nodiscard]] std::string_view name_of(StartMethod method) noexcept;

// What is used where nothing is asked for: forkserver if init() was called, else fork. Applies to
// what is started later, in this process and in the children that it starts from now on. Throws
// StartError, and changes nothing, if the method needs init().
void set_start_method(StartMethod method);
[[nodiscard]] StartMethod start_method() noexcept;

struct InitOptions {
  // The most shared memory that each pool takes for arguments and results, and the most that all
  // queues, arrays and other objects take together. Empty: half the memory; for objects, all of it.
  std::optional<std::size_t> arena_limit_bytes = std::nullopt;
  // Asks for large pages in shared memory, where the system has them for it.
  bool huge_pages = false;
  // Accepts that threads run already. What they were doing at this moment stands still for ever in
  // children by forkserver: call init() first in main() instead, where that is possible.
  bool allow_threads = false;
};

// Makes ready for forkserver and spawn: call it at the start of main(), before threads are made and
// after what children are to share was loaded. In a process that spawn has started it never
// returns, so nothing after it in main() runs there; `argc` and `argv` are what the program was
// called with.
//
// A program that was called as `PROGRAM --brood-replay FILE` (or `--brood-replay=FILE`) runs the
// task that is kept in the file (see replay.hpp), and exits without having returned either; called
// with anything beside that it says so and exits with 1.
//
//   Threads:   none may run yet (see allow_threads).
//   Blocking:  for the copy of this process that is made, a millisecond and the time of one fork.
//   Ownership: the copy ends with this process.
//   Errors:    StartError: threads run, or something was started before; SystemError. A second call
//              does nothing.
//   Death:     of the copy makes waits end with FamilyBroken.
void init(const InitOptions& options = {});
void init(int& argc, char**& argv, const InitOptions& options = {});

}  // namespace brood
