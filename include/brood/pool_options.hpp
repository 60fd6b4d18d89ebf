// How a pool and its tasks are to be, and what a pool tells of itself.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "brood/cpu_count.hpp"
#include "brood/start_method.hpp"

namespace brood {

struct PoolOptions {
  std::size_t workers = cpu_count();  // 1 ... 480
  // How the workers start. Empty: fork, refused in a process that has other threads.
  std::optional<StartMethod> start = std::nullopt;
  // How long a task, or an element of map, may run each time it is tried; > 0. Then its worker is
  // asked to stop it (stop_requested() in task.hpp), and killed after `grace`.
  std::optional<std::chrono::nanoseconds> task_timeout = std::nullopt;
  std::chrono::nanoseconds grace = std::chrono::seconds(1);
  // How often a task is tried again after its worker died or it ran for too long; at most 65535.
  unsigned retries = 0;
  // Whether what a task throws counts as well.
  bool retry_exceptions = false;
  // The most tasks that wait for a worker; then submit() waits for one of them to be taken. Tasks
  // that are tried again and the chunks of map and its kin are not counted. Empty: no limit.
  std::optional<std::size_t> max_pending = std::nullopt;
  // The pool breaks when so many workers in a row die before they are ready to work.
  unsigned restart_limit = 16;
  // Shown by ps: "brood:NAME/i".
  std::string name = "pool";
};

// Of tasks that wait, the most urgent run first, however long the others have waited.
enum class Priority : std::uint8_t { high = 0, normal = 1, low = 2 };

// Where a field is empty, the pool's own holds.
//
// Whatever ends a task, it has one outcome: once a time limit or cancel() has settled it, no value
// comes any more, even if its worker is done a moment later.
struct TaskOptions {
  // How long it may run each time it is tried; > 0. Then TaskTimeout, or the next try.
  std::optional<std::chrono::nanoseconds> timeout = std::nullopt;
  // When it has to have ended, waiting and retries included. Then TaskTimeout.
  std::optional<std::chrono::steady_clock::time_point> deadline = std::nullopt;
  // Asking it to stop is Future::cancel().
  std::stop_token stop = {};
  std::optional<unsigned> retries = std::nullopt;
  Priority priority = Priority::normal;
  // For errors and statistics; empty: that of the callable's type.
  std::string name = {};
  std::optional<bool> retry_exceptions = std::nullopt;
};

struct MapOptions {
  std::size_t chunk_size = 0;  // elements that go to a worker at once; 0: automatic
  std::optional<std::chrono::nanoseconds> timeout = std::nullopt;  // for all of it: TimeoutError
};

// A snapshot of what a pool is doing.
struct PoolStats {
  struct Worker {
    int pid = 0;
    std::string state;       // starting, idle, claimed, running, replying
    std::string task;        // name of what it runs; empty if nothing
    std::uint64_t done = 0;  // tasks finished by this process
    std::chrono::nanoseconds cpu{};
    std::uint64_t rss_bytes = 0;
    std::uint32_t restarts = 0;  // processes that held its place before
  };
  std::vector<Worker> workers;
  std::size_t pending = 0;      // submitted, not taken yet
  std::size_t running = 0;      // taken by a worker
  std::uint64_t done = 0;       // ended, in whatever way
  std::uint64_t died = 0;       // workers that died, but for those killed to stop a task
  std::uint64_t timed_out = 0;  // tasks and elements that ended with TaskTimeout
  std::uint64_t retried = 0;    // tasks started again by another worker
  std::uint64_t cancelled = 0;  // tasks that ended with Cancelled
};

}  // namespace brood
