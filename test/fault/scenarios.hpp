// What the processes of brood do while their calls fail.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <new>
#include <optional>
#include <span>
#include <sstream>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "brood/detail/mapped_range.hpp"
#include "brood/fd.hpp"
#include "brood/hooks.hpp"
#include "brood/locks.hpp"
#include "brood/log.hpp"
#include "brood/pipe.hpp"
#include "brood/pool.hpp"
#include "brood/process.hpp"
#include "brood/queue.hpp"
#include "brood/shareable_list.hpp"
#include "brood/shared.hpp"
#include "brood/shared_memory.hpp"
#include "brood/signals.hpp"
#include "brood/wait.hpp"
#include "pool/caller/kept_file.hpp"
#include "support/fault_sweep.hpp"
#include "support/kernel_faults.hpp"
#include "support/named_memory.hpp"
#include "support/pool_spy.hpp"
#include "support/pools.hpp"
#include "support/time.hpp"

namespace brood::test {

// ---- tasks

inline int twice(int n) { return 2 * n; }
inline std::size_t length(const std::string& text) { return text.size(); }
inline std::string longer(std::string text) { return text + std::string(1000, '+'); }
inline std::string echo(std::string text) { return text; }
inline int add(const std::string& text, int n) { return static_cast<int>(text.size()) + n; }
inline ExitCode return_code(int code) { return {code}; }
inline void die_by_kill() { kill(getpid(), SIGKILL); }
inline int add_and_die(const std::string& text, int n) {
  die_by_kill();
  return add(text, n);
}
inline int sleep_long(int n) {
  sleep(60);
  return n;
}

// What a dead task's children leave is the supervisor's.
inline void leave_an_orphan() {
  if (fork() == 0) {
    sleep(60);
    _exit(0);
  }
  die_by_kill();
}

// Attempts are counted where the dead can't take the count along.
inline std::atomic<int>& attempts() {
  static auto* const shared =
      new (mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0))
          std::atomic<int>(0);
  return *shared;
}
inline int die_at_first(int n) {
  if (attempts().fetch_add(1) == 0) die_by_kill();
  return n;
}
inline int die_of_three(int n) {
  if (n == 3) die_by_kill();
  return n;
}

// ---- a pool

inline PoolOptions forked_pool(std::size_t workers) {
  PoolOptions options;
  options.workers = workers;
  options.start = StartMethod::fork;
  options.restart_limit = 4;  // where no worker can start, that is soon known
  return options;
}

// A pool that failed a task goes on, or says from then on that it can't.
inline bool goes_on(Pool& pool) {
  try {
    REQUIRE_RIGHT(pool.apply(twice, 21) == 42);
    REQUIRE_RIGHT(pool.apply(echo, std::string(100'000, 'x')).size() == 100'000);
    return true;
  } catch (const PoolClosed&) {
    return false;
  } catch (const FamilyBroken&) {
    return false;
  } catch (const BrokenPool&) {
    return false;
  }
}

// Nothing of its tasks is left: no record, no block, and both arenas are sound.
inline void check_accounts(std::size_t workers) {
  const int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;  // without a descriptor nobody can look
  close(fd);
  const PoolSpy spy(workers);
  PoolSpy::Accounts accounts;
  const bool settled = wait_until(
      [&] {
        accounts = spy.accounts();
        return accounts.records_in_use == 0 && accounts.inbox.live_blocks == 0 &&
               accounts.outbox.live_blocks == 0;
      },
      2s * kSlowness);
  if (!settled) {
    throw WrongResult("left in the pool: " + std::to_string(accounts.records_in_use) +
                      " records, " + std::to_string(accounts.inbox.live_blocks) +
                      " inbox blocks, " + std::to_string(accounts.outbox.live_blocks) +
                      " outbox blocks");
  }
  const std::string broken = spy.broken_invariant();
  if (!broken.empty()) throw WrongResult(broken);
}

// Runs `body` on a pool of its own. If a call that failed cost it a result, the pool does its work
// all the same, or says that it can't.
template <class Body>
void with_pool(const PoolOptions& options, Body&& body) {
  FaultyKernel::next_child_is(Role::supervisor);
  Pool pool(options);
  const std::size_t workers = options.workers;
  std::exception_ptr error;
  try {
    body(pool);
  } catch (const Error&) {
    error = std::current_exception();
  }
  if (goes_on(pool)) {
    check_accounts(workers);
    pool.close();
    REQUIRE_RIGHT(pool.join_for(kHangGuard / 2));
  }
  if (error != nullptr) std::rethrow_exception(error);
}

template <class Body>
void with_pool(std::size_t workers, Body&& body) {
  with_pool(forked_pool(workers), body);
}

// ---- scenarios of pools

inline void work() {
  with_pool(2, [](Pool& pool) {
    std::vector<Future<int>> futures;
    for (int i = 0; i < 10; ++i) futures.push_back(pool.submit(twice, i));
    for (int i = 0; i < 10; ++i) {
      REQUIRE_RIGHT(futures[static_cast<std::size_t>(i)].get() == 2 * i);
    }
    const int n = 3;
    const char* text = "read-only";
    REQUIRE_RIGHT(pool.apply([n, text] { return n + text[0]; }) == 3 + 'r');
    REQUIRE_RIGHT(pool.apply(brood::bind_front(add, std::string(5000, 'x')), 1) == 5001);
    REQUIRE_RIGHT(pool.stats().workers.size() == 2);
  });
}

inline void map_strings() {
  with_pool(2, [](Pool& pool) {
    const std::vector<std::string> texts(300, std::string(2000, 'x'));
    for (const std::string& result : pool.map(longer, texts)) {
      REQUIRE_RIGHT(result.size() == 3000);
    }
  });
}

// With all that goes before the first task, and workers that leave after a few.
inline void set_up_and_recycle() {
  PoolOptions options = forked_pool(2);
  options.initializer = {longer, std::string("text")};
  options.prepare = {twice, 2};
  options.max_tasks_per_worker = 3;
  options.recycle_above_bytes = std::uint64_t{1} << 40U;
  options.memory_limit_bytes = std::uint64_t{1} << 40U;
  options.worker.nice = 1;
  with_pool(options, [](Pool& pool) {
    const std::vector<int> numbers(12, 4);
    for (const int n : pool.map(twice, numbers, {.chunk_size = 6})) REQUIRE_RIGHT(n == 8);
    for (int i = 0; i < 8; ++i) REQUIRE_RIGHT(pool.apply(twice, i) == 2 * i);
  });
}

// The template counts as a worker, and those that it makes as nobody.
inline void preload_a_pool() {
  PoolOptions options = forked_pool(2);
  options.preload = {longer, std::string("text")};
  options.max_tasks_per_worker = 3;
  with_pool(options, [](Pool& pool) {
    for (int i = 0; i < 8; ++i) REQUIRE_RIGHT(pool.apply(twice, i) == 2 * i);
  });
}

inline void resize_and_shrink() {
  PoolOptions options = forked_pool(2);
  options.idle_timeout = 1ms;
  with_pool(options, [](Pool& pool) {
    for (int i = 0; i < 6; ++i) {
      pool.resize(1 + static_cast<std::size_t>(i) % 3);
      REQUIRE_RIGHT(pool.apply(twice, i) == 2 * i);
    }
    pool.resize(2);
  });
}

inline void send_much() {
  with_pool(1, [](Pool& pool) {
    for (int round = 0; round < 3; ++round) {
      const std::string text(std::size_t{1} << (19 + round), 'x');
      REQUIRE_RIGHT(pool.apply(echo, text) == text);
    }
  });
}

inline void die_and_go_on() {
  attempts().store(0);  // before the pool, so that its workers have the same
  with_pool(2, [](Pool& pool) {
    REQUIRE_RIGHT(pool.apply(twice, 1) == 2);
    int signal = 0;
    try {
      pool.apply(die_by_kill);
    } catch (const WorkerDied& e) {
      signal = e.signal;
    }
    REQUIRE_RIGHT(signal == SIGKILL || signal == 0);
    TaskOptions options;
    options.retries = 3;
    REQUIRE_RIGHT(pool.submit(options, die_at_first, 7).get() == 7);
    int index = -1;
    try {
      pool.map(die_of_three, std::vector<int>{0, 1, 2, 3, 4, 5});
    } catch (const WorkerDied& e) {
      index = static_cast<int>(e.index);
    }
    REQUIRE_RIGHT(index >= 0);
    static_cast<void>(outcome_of([&] { pool.apply(leave_an_orphan); }));
    REQUIRE_RIGHT(pool.apply(twice, 2) == 4);
  });
}

// What workers write to stderr; it goes nowhere, on the way of what goes to a terminal.
inline void say_last_words() {
  PoolOptions options = forked_pool(2);
  options.worker.err = Output::null;
  with_pool(options, [](Pool& pool) {
    for (int i = 0; i < 3; ++i) {
      std::string tail = "last words";
      try {
        pool.apply([] {
          std::fputs("last words", stderr);
          std::fputs(std::string(20'000, '.').c_str(), stderr);
          std::fputs("last words", stderr);
          die_by_kill();
        });
      } catch (const WorkerDied& e) {
        // Without its pipe nothing is known of it.
        if (e.signal == SIGKILL && !e.stderr_tail.empty()) tail = e.stderr_tail;
      }
      REQUIRE_RIGHT(tail.ends_with("last words"));
      REQUIRE_RIGHT(pool.apply(twice, i) == 2 * i);
    }
  });
}

// Whatever fails: the death is told as it was, and what lies in the directory is whole.
inline void keep_what_dies() {
  namespace fs = std::filesystem;
  set_log_level(LogLevel::error);
  const fs::path directory = fs::temp_directory_path() / ("brood-kept-" + std::to_string(getpid()));
  fs::remove_all(directory);
  PoolOptions options = forked_pool(1);
  options.keep_failed = directory / "a" / "b";
  std::vector<std::string> told;
  std::exception_ptr error;
  try {
    with_pool(options, [&](Pool& pool) {
      try {
        pool.apply(brood::bind_front(add_and_die, std::string(100'000, 'x')), 1);
      } catch (const WorkerDied& e) {
        REQUIRE_RIGHT(e.signal == SIGKILL || e.signal == 0);
        if (!e.kept.empty()) told.push_back(e.kept);
      }
      static_cast<void>(pool.submit(die_by_kill));
    });
  } catch (...) {
    error = std::current_exception();
  }
  std::size_t files = 0;
  if (fs::exists(directory)) {
    for (const auto& entry : fs::recursive_directory_iterator(directory)) {
      if (!entry.is_regular_file()) continue;
      ++files;
      std::ostringstream text;
      text << std::ifstream(entry.path()).rdbuf();
      const std::string all = text.str();
      const auto bytes = std::as_bytes(std::span(all));
      try {
        static_cast<void>(pool::KeptFile::parse({bytes.begin(), bytes.end()}, "a file"));
      } catch (const DecodeError& e) {
        throw WrongResult(entry.path().string() + ": " + e.what());
      }
    }
  }
  for (const std::string& path : told) REQUIRE_RIGHT(fs::exists(path));
  fs::remove_all(directory);
  if (error != nullptr) std::rethrow_exception(error);
  REQUIRE_RIGHT(files <= 2);
}

inline void terminate_at_work() {
  FaultyKernel::next_child_is(Role::supervisor);
  Pool pool(forked_pool(2));
  REQUIRE_RIGHT(pool.apply(twice, 1) == 2);
  std::vector<Future<int>> futures;
  for (int i = 0; i < 4; ++i) futures.push_back(pool.submit(sleep_long, i));
  pool.terminate();
  REQUIRE_RIGHT(pool.join_for(kHangGuard / 2));
  for (Future<int>& future : futures) {
    const std::string outcome = outcome_of([&] { future.get(); });
    if (outcome != "PoolClosed" && outcome != "BrokenPool" && outcome != "WorkerDied") {
      throw WrongResult("after terminate(): " + outcome);
    }
  }
}

inline void shut_down() {
  FaultyKernel::next_child_is(Role::supervisor);
  Pool pool(forked_pool(2));
  REQUIRE_RIGHT(pool.apply(twice, 1) == 2);
  Future<int> future = pool.submit(sleep_long, 1);
  pool.shutdown(5ms, 50ms);
  REQUIRE_RIGHT(outcome_of([&] { future.get(); }) != "value");
}

inline void drop_everything() {
  FaultyKernel::next_child_is(Role::supervisor);
  std::vector<Future<int>> futures;
  Pool pool(forked_pool(2));
  for (int i = 0; i < 20; ++i) futures.push_back(pool.submit(twice, i));
}

// ---- scenarios of processes

inline Process forked_process(bool daemon, int seconds) {
  FaultyKernel::next_child_is(Role::process);
  return Process({.daemon = daemon, .start = StartMethod::fork}, [seconds] {
    if (seconds > 0) sleep(static_cast<unsigned>(seconds));
    return ExitCode{7};
  });
}

inline void use_a_process() {
  Process p = forked_process(false, 0);
  p.start();
  p.join();
  REQUIRE_RIGHT(!p.is_alive());
  REQUIRE_RIGHT(p.exit_code() == 7);
}

// As a copy of the warden, or afresh. The warden is told its children's role by its own copy.
template <StartMethod method>
void use_a_born_process() {
  FaultyKernel::next_child_is(Role::process);
  init();
  Process p({.start = method}, [](int code) { return ExitCode{code}; }, 7);
  p.start();
  p.join();
  REQUIRE_RIGHT(!p.is_alive());
  // The warden may be refused the status.
  if (const int code = p.exit_code().value_or(7); code != 7) {
    throw WrongResult("the status is " + std::to_string(code));
  }
}

inline void use_a_born_pool() {
  FaultyKernel::next_child_is(Role::supervisor);
  init();
  PoolOptions options;
  options.workers = 2;
  options.start = StartMethod::forkserver;
  Pool pool(options);
  REQUIRE_RIGHT(pool.apply(twice, 1) == 2);
}

inline void end_processes() {
  Process terminated = forked_process(false, 60);
  Process killed = forked_process(true, 60);
  terminated.start();
  killed.start();
  // An order that is lost, or that a process could not unblock, is given once more.
  for (int i = 0; i < 3 && terminated.is_alive(); ++i) {
    terminated.terminate();
    static_cast<void>(terminated.join_for(200ms * kSlowness));
  }
  while (terminated.is_alive() || killed.is_alive()) {
    terminated.kill();
    killed.kill();
    static_cast<void>(killed.join_for(200ms * kSlowness));
  }
}

inline void drop_a_daemon() {
  Process p = forked_process(true, 60);
  p.start();
}

// ---- scenarios of keepers

inline ExitCode fail_at_first() {
  if (attempts().fetch_add(1) == 0) die_by_kill();
  heartbeat();
  return {7};
}
// Restarts enough that some may fail for want of a call.
inline ProcessOptions kept_process(StartMethod method) {
  FaultyKernel::next_child_is(Role::process);
  ProcessOptions options{.start = method, .err = Output::null};
  options.restart = {.max = 4, .backoff = std::chrono::nanoseconds(1000)};
  options.hang_timeout = kHangGuard;
  return options;
}

// By its keeper, after its first failure; 7 is one as well.
inline void restart_a_process(StartMethod method) {
  attempts().store(0);
  Process p(kept_process(method), fail_at_first);
  p.start();
  p.join();
  REQUIRE_RIGHT(p.exit_code().value_or(7) == 7);
  REQUIRE_RIGHT(p.restarts() >= 1 || !p.exit_code());
}
inline void restart_a_forked_process() { restart_a_process(StartMethod::fork); }
inline void restart_a_born_process() {
  attempts().store(0);  // before there are copies
  FaultyKernel::next_child_is(Role::process);
  init();
  restart_a_process(StartMethod::forkserver);
}

inline void end_a_kept_process() {
  Process p(kept_process(StartMethod::fork), sleep_long, 1);
  Process hangs({.start = StartMethod::fork, .hang_timeout = std::chrono::milliseconds(50)},
                sleep_long, 1);
  p.start();
  hangs.start();
  static_cast<void>(p.usage());
  hangs.join();
  REQUIRE_RIGHT(hangs.exit_code() == -SIGKILL);
  for (int i = 0; i < 3 && p.is_alive(); ++i) {
    p.terminate();
    static_cast<void>(p.join_for(200ms * kSlowness));
  }
  p.kill();
  p.join();
}

// ---- scenarios of locks

// All of them between two processes, of which one may be given up.
inline void share_locks() {
  const Lock lock;
  const Condition condition;
  const BoundedSemaphore semaphore(1);
  const Event event;
  const Barrier barrier(2, Barrier::Limit(1s * kSlowness));
  FaultyKernel::next_child_is(Role::process);
  Process p(
      {.daemon = true, .start = StartMethod::fork},
      [](const Lock& its_lock, const Condition& its_condition, const Barrier& its_barrier) {
        {
          const std::lock_guard guard(its_lock);
        }
        {
          const std::lock_guard guard(its_condition);
          its_condition.notify();
        }
        its_barrier.wait();
      },
      lock, condition, barrier);
  {
    const std::lock_guard guard(condition);
    p.start();
    // The notification may be lost with who would give it.
    static_cast<void>(condition.wait_for(200ms * kSlowness));
  }
  event.set();
  REQUIRE_RIGHT(event.wait_for(0s));
  REQUIRE_RIGHT(semaphore.try_acquire() && !semaphore.try_acquire_for(1ms));
  semaphore.release();
  try {
    barrier.wait();
  } catch (const BrokenBarrier&) {
    barrier.reset();
  }
  try {
    REQUIRE_RIGHT(lock.try_lock_for(kHangGuard / 2));
    lock.unlock();
  } catch (const OwnerDied&) {
    REQUIRE_RIGHT(lock.recover());
  }
  p.kill();
  p.join();
}

// ---- scenarios of names

// What an error leaves to its user.
class Unlinking {
 public:
  explicit Unlinking(SharedMemory memory) : memory_(std::move(memory)) {}
  ~Unlinking() {
    for (int i = 0; i < 2; ++i) {
      try {
        memory_.unlink();
      } catch (const SystemError&) {
        continue;
      }
    }
  }
  Unlinking(const Unlinking&) = delete;
  Unlinking& operator=(const Unlinking&) = delete;
  [[nodiscard]] const SharedMemory& get() const { return memory_; }

 private:
  SharedMemory memory_;
};

inline void use_names() {
  const std::string name = unique_name();
  {
    const Unlinking chosen(SharedMemory::create(name, 10'000));
    const Unlinking automatic(SharedMemory::create("", 10'000));
    automatic.get().span()[9999] = std::byte{7};
    REQUIRE_RIGHT(SharedMemory::attach(automatic.get().name()).span()[9999] == std::byte{7});
    const Unlinking list(ShareableList::create({1, "two", 3.0}).memory());
    REQUIRE_RIGHT(ShareableList(list.get()).get<std::string>(1) == "two");
    bool taken = false;
    try {
      SharedMemory::create(name, 10);
    } catch (const SystemError&) {
      taken = true;
    }
    REQUIRE_RIGHT(taken);
    FaultyKernel::next_child_is(Role::process);
    Process p(
        {.start = StartMethod::fork},
        [](const SharedMemory& memory) {
          const Unlinking own(SharedMemory::create("", 100));
          return ExitCode{std::to_integer<int>(memory.span()[9999])};
        },
        automatic.get());
    p.start();
    p.join();
    REQUIRE_RIGHT(p.exit_code() == 7 || p.exit_code() == 1);
  }
  REQUIRE_RIGHT(!has_name(name));
}

inline void map_a_file() {
  const detail::MappedRange range = detail::map_file_range("/proc/self/exe", 5000, 10'000, false);
  REQUIRE_RIGHT(range.size() == 10'000);
}

// ---- scenarios of values and arrays

using Octet = std::array<std::uint64_t, 8>;

inline ExitCode change_what_is_shared(Value<int> count, Value<Octet> wide, std::span<int> part) {
  ++count;
  wide.update([](Octet& v) { v.fill(5); });
  part.back() = 7;
  return {7};
}

inline void share_values() {
  Value<int> count(0);
  Value<Octet> wide(Octet{});
  const Array<int> array(100'000);
  FaultyKernel::next_child_is(Role::process);
  Process p({.start = StartMethod::fork}, change_what_is_shared, count, wide,
            array.slice(50'000, 50'000));
  p.start();
  p.join();
  REQUIRE_RIGHT(p.exit_code() == 7 || p.exit_code() == 1);
  if (p.exit_code() == 7) {
    REQUIRE_RIGHT(count.get() == 1 && wide.get()[7] == 5 && array[99'999] == 7);
  }
  wide.set(Octet{});
  REQUIRE_RIGHT(wide.get() == Octet{});
}

inline void map_an_array() {
  const auto bytes = Array<char>::map_file("/proc/self/exe", {.offset = 1, .count = 3});
  REQUIRE_RIGHT(std::string_view(bytes.data(), 3) == "ELF");
}

// ---- scenarios of signals

// A descriptor that wakes waits: it stays.
inline void ask_for_signals() { static_cast<void>(signals::wait_for({SIGUSR2}, 0s)); }

inline void serve_signals() {
  // What is still under way when an error leaves must not end the host.
  struct Calm {
    ~Calm() {
      for (const int signal : {SIGUSR1, SIGUSR2, SIGALRM}) signals::ignore(signal);
    }
  } const calm;
  // An earlier fork may not have been able to unblock them.
  sigset_t all;
  sigfillset(&all);
  sigprocmask(SIG_UNBLOCK, &all, nullptr);
  int served = 0;
  signals::on(SIGUSR1, [&](int) { ++served; });
  signals::on(SIGALRM, [&](int) { ++served; });
  signals::kill(getpid(), SIGUSR1);
  REQUIRE_RIGHT(signals::dispatch() && served >= 1);
  signals::alarm(1ms);
  signals::pause();
  REQUIRE_RIGHT(signals::wait_for({SIGUSR2}, 1ms) == std::nullopt);
  signals::kill(getpid(), SIGUSR2);
  REQUIRE_RIGHT(signals::wait({SIGUSR2}) == SIGUSR2);
  Process p = forked_process(false, 0);
  p.start();
  signals::kill(getpid(), SIGUSR1);
  REQUIRE_RIGHT(wait({p}) == std::vector<std::size_t>{0});
  p.join();
  REQUIRE_RIGHT(p.exit_code() == 7);
  with_pool(1, [](Pool& pool) {
    Future<int> future = pool.submit([] {
      std::this_thread::sleep_for(5ms);
      return 3;
    });
    signals::kill(getpid(), SIGUSR1);
    REQUIRE_RIGHT(future.get() == 3);
  });
}

// What is told goes nowhere; that it could not be told costs nothing.
inline void tell_things() {
  struct ErrorsToNowhere {
    int saved = fcntl(2, F_DUPFD_CLOEXEC, 100);
    ErrorsToNowhere() {
      const int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
      if (nowhere >= 0) dup2(nowhere, 2);
      if (nowhere >= 0) close(nowhere);
    }
    ~ErrorsToNowhere() {
      dup2(saved, 2);
      close(saved);
    }
  } const errors;
  brood::log(LogLevel::warning, "to nobody");
  REQUIRE_RIGHT(cpu_count() >= 1);
  FaultyKernel::next_child_is(Role::process);
  Process p({.start = StartMethod::fork}, [] {
    at_exit([] { throw 1; });
    brood::log(LogLevel::warning, "to nobody");
    return ExitCode{7};
  });
  p.start();
  p.join();
  REQUIRE_RIGHT(p.exit_code() == 7);
}

inline void use_queues() {
  Queue<std::string> queue(2);
  Queue<int> numbers;
  FaultyKernel::next_child_is(Role::process);
  Process p(
      {.start = StartMethod::fork},
      [](Queue<std::string> mine, Queue<int> told) {
        for (std::string text : mine) told.put(static_cast<int>(text.size()));
        return ExitCode{7};
      },
      queue, numbers);
  p.start();
  static_cast<void>(numbers.fileno());
  for (int i = 0; i < 100 && p.is_alive(); ++i) queue.put_for(std::string(1000, 'x'), 100ms);
  queue.close();
  // A child that a refusal has ended leaves some out.
  for (int i = 0; i < 100; ++i) {
    wait({numbers, p});
    const std::optional<int> size = numbers.try_get();
    REQUIRE_RIGHT(!size || *size == 1000);
    if (!size && !p.is_alive()) break;
    if (!size) --i;
  }
  p.join();
}

// Messages small and large to a child and back.
inline void talk_to_a_child() {
  auto [ours, theirs] = Pipe();
  FaultyKernel::next_child_is(Role::process);
  Process p(
      {.start = StartMethod::fork},
      [](Connection end) {
        try {
          for (;;) end.send(end.recv<std::string>() + "!");
        } catch (const Closed&) {
        }
      },
      std::move(theirs));
  p.start();
  try {
    for (const std::size_t size : {std::size_t{3}, std::size_t{1000}, std::size_t{300'000}}) {
      ours.send(std::string(size, 'x'));
      REQUIRE_RIGHT(ours.recv<std::string>() == std::string(size, 'x') + "!");
    }
    REQUIRE_RIGHT(!ours.poll(5ms));
  } catch (const Closed&) {
    // The call that failed was the child's, and so is the error.
    p.join();
    REQUIRE_RIGHT(p.exit_code() == 1);
    throw ArenaFull("in the child");
  }
  ours.close();
  p.join();
}

// A message that is waited for by a descriptor. (A sender without a descriptor to spare can't ring
// it; then the next message does.)
inline void wait_for_a_message() {
  auto [a, b] = Pipe();
  static_cast<void>(wait({a}, 1ms));
  for (int i = 0; i < 3; ++i) b.send(i);
  REQUIRE_RIGHT(a.poll());
  if (wait({a}, 1s).empty()) throw SystemError(EMFILE, "nobody rang");
  for (int i = 0; i < 3; ++i) REQUIRE_RIGHT(a.recv<int>() == i);
}

// A descriptor, and the end of a pipe, in messages.
inline void send_a_descriptor() {
  auto [a, b] = Pipe();
  int ends[2] = {-1, -1};
  if (pipe2(ends, O_CLOEXEC) != 0) throw SystemError(errno, "pipe");
  const Fd reader(ends[0]);
  Fd writer(ends[1]);
  a.send(writer);
  writer.close();
  Fd got = b.recv<Fd>();
  REQUIRE_RIGHT(write(got.get(), "x", 1) == 1);
  got.close();
  char byte = 0;
  REQUIRE_RIGHT(read(reader.get(), &byte, 1) == 1 && byte == 'x');
  auto [c, d] = Pipe();
  a.send(d);
  d.close();
  b.recv<Connection>().send(5);
  REQUIRE_RIGHT(c.recv<int>() == 5);
}

// The same in a process whose standard streams are closed.
template <void (*Run)()>
void without_streams() {
  struct Streams {
    int saved[3];
    Streams() {
      for (int fd = 0; fd < 3; ++fd) {
        saved[fd] = fcntl(fd, F_DUPFD_CLOEXEC, 100);
        close(fd);
      }
    }
    ~Streams() {
      for (int fd = 0; fd < 3; ++fd) {
        dup2(saved[fd], fd);
        close(saved[fd]);
      }
    }
  } const streams;
  Run();
}

// The same in a process that has another thread.
template <class Run>
void beside_a_thread(Run&& run) {
  std::atomic<bool> over{false};
  std::thread other([&] {
    while (!over.load()) std::this_thread::yield();
  });
  struct End {
    std::atomic<bool>& over;
    std::thread& thread;
    ~End() {
      over.store(true);
      thread.join();
    }
  } const end{over, other};
  run();
}
template <void (*Run)()>
void beside_a_thread() {
  beside_a_thread(Run);
}

}  // namespace brood::test
