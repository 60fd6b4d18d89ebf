// A pool of processes beside pools of threads and CPython's: throughput, round trip, map.
//
// Tasks return getpid(), so that nobody can run them inline or fold them away; the window of
// unfinished tasks is the same for all.
#include <tbb/concurrent_queue.h>
#include <tbb/global_control.h>
#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>
#include <tbb/task_group.h>
#include <brood/brood.hpp>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <future>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.hpp"

namespace {

using bench::Clock;
using bench::seconds_since;

int own_pid() { return static_cast<int>(::syscall(SYS_getpid)); }

// ---- brood

// The thread pools' threads may still be there.
brood::Pool make_pool(int workers) {
  return brood::Pool(brood::PoolOptions{.workers = static_cast<std::size_t>(workers),
                                        .start = brood::StartMethod::fork});
}

double brood_throughput(brood::Pool& pool, int count, int window) {
  std::vector<brood::Future<int>> ring(static_cast<std::size_t>(window));
  long sum = 0;
  const auto start = Clock::now();
  for (int i = 0; i < count; ++i) {
    brood::Future<int>& slot = ring[static_cast<std::size_t>(i % window)];
    if (slot.valid()) sum += slot.get();
    slot = pool.submit([] { return own_pid(); });
  }
  for (auto& slot : ring) {
    if (slot.valid()) sum += slot.get();
  }
  if (sum == 0) std::abort();
  return count / seconds_since(start);
}

std::vector<double> brood_round_trips(brood::Pool& pool, int count, int pause_us) {
  std::vector<double> samples;
  samples.reserve(static_cast<std::size_t>(count));
  for (int i = 0; i < count; ++i) {
    if (pause_us != 0) ::usleep(static_cast<useconds_t>(pause_us));
    const auto start = Clock::now();
    if (pool.submit([] { return own_pid(); }).get() == 0) std::abort();
    samples.push_back(seconds_since(start) * 1e6);
  }
  return samples;
}

// ---- peers

double tbb_throughput(int workers, int count, int window) {
  tbb::task_arena arena(workers);
  std::atomic<long> sum{0};
  double seconds = 0;
  arena.execute([&] {
    tbb::task_group group;
    const auto start = Clock::now();
    // task_group has no futures: the nearest to a window is to wait for everybody now and then.
    for (int done = 0; done < count; done += window) {
      const int now = std::min(window, count - done);
      for (int i = 0; i < now; ++i) group.run([&] { sum.fetch_add(own_pid()); });
      group.wait();
    }
    seconds = seconds_since(start);
  });
  if (sum == 0) std::abort();
  return count / seconds;
}

// The usual thread pool with futures: packaged_task through a concurrent queue.
class ThreadPool {
 public:
  explicit ThreadPool(int workers) {
    for (int i = 0; i < workers; ++i) {
      threads_.emplace_back([this] {
        for (;;) {
          std::packaged_task<int()> task;
          queue_.pop(task);
          if (!task.valid()) return;
          task();
        }
      });
    }
  }
  ~ThreadPool() {
    for (std::size_t i = 0; i < threads_.size(); ++i) queue_.push(std::packaged_task<int()>());
    for (std::thread& thread : threads_) thread.join();
  }
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  std::future<int> submit() {
    std::packaged_task<int()> task(own_pid);
    std::future<int> result = task.get_future();
    queue_.push(std::move(task));
    return result;
  }

 private:
  tbb::concurrent_bounded_queue<std::packaged_task<int()>> queue_;
  std::vector<std::thread> threads_;
};

double threads_throughput(int workers, int count, int window) {
  ThreadPool pool(workers);
  std::vector<std::future<int>> ring(static_cast<std::size_t>(window));
  long sum = 0;
  const auto start = Clock::now();
  for (int i = 0; i < count; ++i) {
    auto& slot = ring[static_cast<std::size_t>(i % window)];
    if (slot.valid()) sum += slot.get();
    slot = pool.submit();
  }
  for (auto& slot : ring) {
    if (slot.valid()) sum += slot.get();
  }
  if (sum == 0) std::abort();
  return count / seconds_since(start);
}

double threads_round_trip(int workers, int count) {
  ThreadPool pool(workers);
  const auto start = Clock::now();
  for (int i = 0; i < count; ++i) {
    if (pool.submit().get() == 0) std::abort();
  }
  return seconds_since(start) / count * 1e6;
}

double cpython(const char* job, int workers, int count) {
  const std::string command = std::string(BROOD_BENCH_PYTHON) + " " + BROOD_BENCH_DIR +
                              "/cpython_pool.py " + job + " " + std::to_string(workers) + " " +
                              std::to_string(count);
  std::FILE* pipe = ::popen(command.c_str(), "r");
  double value = 0;
  if (pipe == nullptr || std::fscanf(pipe, "%lf", &value) != 1) value = std::nan("");
  if (pipe != nullptr) ::pclose(pipe);
  return value;
}

// ---- what the machine can do

// One cache line to and fro between two processes that do nothing else.
double cache_line_round_trip(int count) {
  auto* words = static_cast<std::atomic<int>*>(
      ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  const pid_t child = ::fork();
  if (child == 0) {
    for (int i = 1; i <= count; ++i) {
      while (words[0].load(std::memory_order_acquire) != i) {
      }
      words[0].store(-i, std::memory_order_release);
    }
    ::_exit(0);
  }
  const auto start = Clock::now();
  for (int i = 1; i <= count; ++i) {
    words[0].store(i, std::memory_order_release);
    while (words[0].load(std::memory_order_acquire) != -i) {
    }
  }
  const double result = seconds_since(start) / count * 1e6;
  ::waitpid(child, nullptr, 0);
  ::munmap(words, 4096);
  return result;
}

// The same with both asleep on a futex in between.
double futex_round_trip(int count) {
  auto* words = static_cast<std::atomic<int>*>(
      ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  const auto sleep_until = [](std::atomic<int>& word, int wanted) {
    for (int now = word.load(); now != wanted; now = word.load()) {
      ::syscall(SYS_futex, &word, FUTEX_WAIT, now, nullptr, nullptr, 0);
    }
  };
  const auto set = [](std::atomic<int>& word, int value) {
    word.store(value);
    ::syscall(SYS_futex, &word, FUTEX_WAKE, 1, nullptr, nullptr, 0);
  };
  const pid_t child = ::fork();
  if (child == 0) {
    for (int i = 1; i <= count; ++i) {
      sleep_until(words[0], i);
      set(words[16], i);
    }
    ::_exit(0);
  }
  const auto start = Clock::now();
  for (int i = 1; i <= count; ++i) {
    set(words[0], i);
    sleep_until(words[16], i);
  }
  const double result = seconds_since(start) / count * 1e6;
  ::waitpid(child, nullptr, 0);
  ::munmap(words, 4096);
  return result;
}

// ---- the tables

void throughput_table(int workers, int window, int rounds) {
  brood::Pool pool = make_pool(workers);
  const int count = std::max(300'000, window);
  bench::Comparison table(
      "submit + get, " + std::to_string(workers) + " workers, window " + std::to_string(window),
      "tasks/s", true);
  table.add("brood::Pool (processes)", [&] { return brood_throughput(pool, count, window); });
  table.add("oneTBB task_group (threads, no futures)",
            [&] { return tbb_throughput(workers, count, window); });
  table.add("packaged_task + tbb queue (threads)",
            [&] { return threads_throughput(workers, count, window); });
  if (window == 1024) {
    table.add("CPython multiprocessing.Pool",
              [&] { return cpython("throughput", workers, 20'000); });
  }
  table.run(rounds);
}

void round_trip_table(int workers, int rounds) {
  brood::Pool pool = make_pool(workers);
  bench::Comparison table("one task at a time, mean, " + std::to_string(workers) + " workers", "us",
                          false);
  table.add("brood::Pool", [&] { return bench::mean(brood_round_trips(pool, 20'000, 0)); });
  table.add("packaged_task + tbb queue (threads)",
            [&] { return threads_round_trip(workers, 20'000); });
  table.add("CPython multiprocessing.Pool.apply",
            [&] { return cpython("round_trip", workers, 2'000); });
  table.add("cache line between processes", [] { return cache_line_round_trip(50'000); });
  table.add("futex between processes", [] { return futex_round_trip(5'000); });
  table.run(rounds);

  for (const int pause_us : {0, 1000, 5000}) {
    const std::vector<double> samples =
        brood_round_trips(pool, pause_us == 0 ? 50'000 : 500, pause_us);
    std::printf("  brood::Pool, %4d us apart: median %.2f  mean %.2f  p99 %.2f us\n", pause_us,
                bench::median(samples), bench::mean(samples), bench::percentile(samples, 0.99));
  }
}

void map_table(int workers, int rounds) {
  constexpr int kCount = 10'000'000;
  brood::Pool pool = make_pool(workers);
  std::vector<int> numbers(kCount);
  std::iota(numbers.begin(), numbers.end(), 0);
  bench::Comparison table("map over 10 M ints, " + std::to_string(workers) + " workers", "s",
                          false);
  table.add("brood::Pool::map", [&] {
    const auto start = Clock::now();
    const std::vector<int> doubled = pool.map([](int x) { return 2 * x; }, numbers);
    const double seconds = seconds_since(start);
    if (doubled.back() != 2 * numbers.back()) std::abort();
    return seconds;
  });
  table.add("CPython multiprocessing.Pool.map", [&] { return cpython("map", workers, kCount); });
  table.run(rounds);
}

}  // namespace

int main() {
  for (const int workers : {1, 2}) throughput_table(workers, 1024, 5);
  throughput_table(2, 1'000'000, 3);
  for (const int workers : {1, 2}) round_trip_table(workers, 5);
  map_table(2, 3);
}
