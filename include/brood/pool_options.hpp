// How a pool and its tasks are to be, and what a pool tells of itself.
#pragma once

#include "brood/detail/cpp20.hpp"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "brood/initializer.hpp"
#include "brood/latency.hpp"
#include "brood/process_options.hpp"
#include "brood/progress.hpp"
#include "brood/start_method.hpp"

namespace brood {

namespace detail {
// cpu_count(), or this worker's share of it.
std::size_t default_workers();
}  // namespace detail

// Where what workers write to stderr goes.
enum class WorkerStderr : std::uint8_t {
  // Through a pipe of each worker's to the process that keeps them, which writes it on, and knows
  // the last 4 KiB when a worker has died: WorkerDied::stderr_tail. So it comes a moment later, on
  // its way waits only for who reads the pool's stderr (a worker then waits in write() once its
  // pipe is full), and in workers stderr is no terminal. What that reader has not taken 0.1 s after
  // the pool's end is lost, and of what dead workers left all beyond 1 MiB.
  tail,
  // Straight there. stderr_tail is empty.
  inherit,
};

// What is copied into the workers, and shared with them until they write, is what this process has
// when the Pool is made, and what preload adds.
struct PoolOptions {
  // 1 ... 480. In a worker of another pool the default is that worker's share of the processors:
  // cpu_count() divided by the workers of its pool, at least 1.
  std::size_t workers = detail::default_workers();
  // How the workers start. Empty: fork, refused in a process that has other threads.
  std::optional<StartMethod> start = std::nullopt;
  // Run in each worker, spares too, before its first task. See InitializerFailed. While it does not
  // return, tasks wait for that worker: TaskOptions::deadline limits that, and nothing else.
  Initializer initializer = {};
  // Run once, in a process of its own, of which the workers are then copies: what it loads they
  // share. It may use the heap and must leave no thread behind (of libraries that start some, see
  // inner_threads). Run once more only if that process is killed. See InitializerFailed.
  Initializer preload = {};
  // A worker that has run so many tasks, of map so many elements, is replaced. 0: never. Its
  // replacement is ready before it leaves.
  std::size_t max_tasks_per_worker = 0;
  // A worker whose own memory (resident, not shared with files or Arrays) has grown by more than
  // this since its start is replaced after the task. Looked at about once a millisecond at work,
  // and before it rests. 0: never.
  std::uint64_t recycle_above_bytes = 0;
  // A worker whose own memory has grown by more than this is killed: its task ends with
  // WorkerDied, out_of_memory. Looked at every 10 ms. 0: never.
  std::uint64_t memory_limit_bytes = 0;
  // How long a task, or an element of map, may run each time it is tried; > 0. Then its worker is
  // asked to stop it (stop_requested() in task.hpp), and killed after `grace`.
  std::optional<std::chrono::nanoseconds> task_timeout = std::nullopt;
  std::chrono::nanoseconds grace = std::chrono::seconds(1);
  // How often a task is tried again after its worker died or it ran for too long; 65535 and more
  // are without end.
  unsigned retries = 0;
  // Whether what a task throws counts as well.
  bool retry_exceptions = false;
  // The most tasks that wait for a worker; then submit() waits for one of them to be taken. Tasks
  // that are tried again and the chunks of map and its kin are not counted. Empty: no limit.
  std::optional<std::size_t> max_pending = std::nullopt;
  // The pool breaks when so many workers in a row die before they are ready to work; each is
  // replaced after a longer pause than the last.
  unsigned restart_limit = 16;
  // How many threads OpenMP, OpenBLAS, MKL, BLIS and NumExpr use in each worker, by their variables
  // in its environment and, if they are loaded already, their functions. Empty: cpu_count() /
  // workers, at least 1, where the environment says nothing; 0: as they like.
  std::optional<unsigned> inner_threads = std::nullopt;
  // What the workers have otherwise than this process: nice, affinity, rlimits, cwd, env, and out
  // and err unless captured. The rest has no meaning for them: StartError.
  ProcessOptions worker = {};
  // Where that is, worker.err says: with Output::null it is not shown, but in stderr_tail. Where
  // the system refuses a worker its pipe, it has `inherit`. A ThreadPool has no workers of this
  // kind.
  WorkerStderr worker_stderr = WorkerStderr::tail;
  // Run in each worker when it has its place (see worker_index()), as the last before its first
  // task: to give up rights, say. See InitializerFailed.
  Initializer prepare = {};
  // Shown by ps: "brood:NAME/i".
  std::string name = "pool";
  // What task_seed() follows from. Empty: a random number.
  std::optional<std::uint64_t> seed = std::nullopt;
  // Workers without a task for so long leave, down to min_workers (at least 1), and come back when
  // there is work. Empty: they stay.
  std::optional<std::chrono::nanoseconds> idle_timeout = std::nullopt;
  std::size_t min_workers = 1;
  // A directory, made if it is not there: what a task that ended with WorkerDied was called with is
  // kept in a file in it, which runs that one task again (replay.hpp). Not kept are tasks whose
  // arguments have handles; closures that point to constants are refused as under spawn. A
  // directory that can't be written to is a StartError, a file later that can't a warning in the
  // log. Files are written by whoever asks for the outcome; of tasks that nobody asks for by a
  // later submit(), or by the destructor of a future or the pool. Empty: nowhere.
  std::string keep_failed = {};
  // Each task, of map each element, runs in a process in which none has run before, so that what
  // one leaves behind (globals, memory, files) no other meets: max_tasks_per_worker = 1, and
  // StartError if that says otherwise. Tried again after an exception or a time limit that it has
  // obeyed, it runs where it ran before.
  bool isolated = false;
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
  // When it has to have ended, waiting (for room, too) and retries included. Then TaskTimeout.
  std::optional<std::chrono::steady_clock::time_point> deadline = std::nullopt;
  // Asking it to stop is Future::cancel(), also of a task that submit() still finds no room for.
  std::stop_token stop = {};
  std::optional<unsigned> retries = std::nullopt;
  Priority priority = Priority::normal;
  // For errors and statistics; empty: that of the callable's type.
  std::string name = {};
  std::optional<bool> retry_exceptions = std::nullopt;
};

struct MapOptions {
  // Elements that go to a worker at once. 0: so many that they take it about 1.5 ms, which is tried
  // first with small chunks, for up to 2 ms; long ones go one by one.
  std::size_t chunk_size = 0;
  // Of map(), starmap() and their _results(), which wait for all; the others ignore it.
  Progress progress = {};
  // For all of it: TimeoutError. The elements without an outcome are cancelled, but for those of
  // map_async() and starmap_async(), which have MapFuture::cancel(). Of imap() and its kin it is
  // for each result, cancels nothing, and one may ask again.
  std::optional<std::chrono::nanoseconds> timeout = std::nullopt;
};

// A snapshot of what a pool is doing.
struct PoolStats {
  struct Worker {
    int pid = 0;
    std::string state;       // starting, idle, claimed, running, replying
    std::string task;        // name of what it runs; empty if nothing
    std::uint64_t done = 0;  // tasks and elements ended by this process
    std::chrono::nanoseconds cpu{};
    std::uint64_t rss_bytes = 0;
    std::uint32_t restarts = 0;  // processes that held its place before
  };
  std::vector<Worker> workers;
  std::size_t pending = 0;      // submitted, not taken yet
  std::size_t running = 0;      // taken by a worker
  std::uint64_t done = 0;       // tasks and elements that ended, in whatever way
  std::uint64_t died = 0;       // workers that died, but for those killed to stop a task
  std::uint64_t timed_out = 0;  // tasks and elements that ended with TaskTimeout
  std::uint64_t retried = 0;    // tasks started again by another worker
  std::uint64_t cancelled = 0;  // tasks that ended with Cancelled
  // From submit() to being taken, and from there to the end. Of map: of its chunks. Of the first
  // thousand tasks each is timed, then one in sixteen.
  LatencyHistogram waiting_time;
  LatencyHistogram running_time;
};

}  // namespace brood
