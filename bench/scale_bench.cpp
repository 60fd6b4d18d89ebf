// What much of it costs: many workers, many futures, and a pool that has nothing to do.
#include <brood/brood.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include <unistd.h>

#include "harness.hpp"

namespace {

using bench::Clock;
using bench::seconds_since;

constexpr std::size_t kMany = 256;
constexpr int kFutures = 1'000'000;

int answer() { return 42; }
void wait_for_ever() {
  for (;;) ::pause();
}

brood::PoolOptions with(std::size_t workers, brood::StartMethod start) {
  return {.workers = workers, .start = start};
}

// The numbers of bytes after `label` in a file of the kernel's, in sum; 0 if there are none.
std::size_t bytes_in(const std::string& file, const char* label) {
  std::ifstream lines(file);
  std::size_t kib = 0;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with(label))
      kib += std::strtoul(line.c_str() + std::strlen(label), nullptr, 10);
  }
  return kib * 1024;
}

// What a process has for itself alone. A page that it wrote and shares with nobody is dirty.
std::size_t private_bytes(int pid) {
  return bytes_in("/proc/" + std::to_string(pid) + "/smaps_rollup", "Private_Dirty:");
}

// Processor time that a process has had, in seconds.
double cpu_seconds(int pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string text((std::istreambuf_iterator<char>(file)), {});
  const std::size_t end_of_name = text.rfind(')');
  if (end_of_name == std::string::npos) return 0;
  unsigned long user = 0;
  unsigned long system = 0;
  std::sscanf(text.c_str() + end_of_name + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu",
              &user, &system);
  return static_cast<double>(user + system) / static_cast<double>(::sysconf(_SC_CLK_TCK));
}

std::vector<int> pids_of(const brood::Pool& pool) {
  std::vector<int> pids;
  for (const auto& worker : pool.stats().workers) pids.push_back(worker.pid);
  return pids;
}

void warm_up(brood::Pool& pool, std::size_t workers) {
  std::vector<brood::Future<int>> futures;
  for (std::size_t i = 0; i < 8 * workers; ++i) futures.push_back(pool.submit(answer));
  for (auto& future : futures) future.get();
}

double throughput(brood::Pool& pool, int window) {
  std::vector<brood::Future<int>> ring(static_cast<std::size_t>(window));
  const auto start = Clock::now();
  for (int i = 0; i < kFutures; ++i) {
    brood::Future<int>& slot = ring[static_cast<std::size_t>(i % window)];
    if (slot.valid() && slot.get() != 42) std::abort();
    slot = pool.submit(answer);
  }
  for (auto& slot : ring) {
    if (slot.valid() && slot.get() != 42) std::abort();
  }
  return kFutures / seconds_since(start);
}

void memory_of_workers(const char* name, brood::StartMethod start) {
  constexpr std::size_t kWorkers = 8;
  brood::Pool pool(with(kWorkers, start));
  warm_up(pool, kWorkers);
  ::sleep(1);
  std::vector<double> kib;
  for (const int pid : pids_of(pool)) {
    kib.push_back(static_cast<double>(private_bytes(pid)) / 1024);
  }
  std::printf("  an idle worker, %-10s  median %6.0f  most %6.0f KiB of its own\n", name,
              bench::median(kib), bench::percentile(kib, 1));
}

void memory_of_tasks() {
  brood::Pool pool(with(1, brood::StartMethod::fork));
  auto busy = pool.submit(wait_for_ever);
  std::vector<brood::Future<int>> futures;
  futures.reserve(kFutures);
  const auto total = [] {
    return bytes_in("/proc/meminfo", "Shmem:") + bytes_in("/proc/self/smaps_rollup", "Anonymous:");
  };
  const std::size_t before = total();
  const auto start = Clock::now();
  for (int i = 0; i < kFutures; ++i) futures.push_back(pool.submit(answer));
  const double seconds = seconds_since(start);
  const std::size_t after = total();
  std::printf("  %d pending tasks: %.0f bytes each with their futures, submitted in %.2f s\n",
              kFutures, static_cast<double>(after - before) / kFutures, seconds);
  busy.cancel();
  const auto then = Clock::now();
  for (auto& future : futures) {
    if (future.get() != 42) std::abort();
  }
  std::printf("  all done and taken %.2f s after the worker is free again\n", seconds_since(then));
}

void processor_of_an_idle_pool() {
  brood::Pool pool(with(kMany, brood::StartMethod::fork));
  warm_up(pool, kMany);
  ::sleep(3);
  const std::vector<int> pids = pids_of(pool);
  const auto all = [&] {
    double sum = cpu_seconds(static_cast<int>(::getpid()));
    for (const int pid : pids) sum += cpu_seconds(pid);
    return sum;
  };
  const double before = all();
  constexpr unsigned kSeconds = 10;
  ::sleep(kSeconds);
  std::printf("  %zu idle workers and their caller: %.2f %% of a processor\n", kMany,
              (all() - before) / kSeconds * 100);
}

void many_workers(int window) {
  brood::Pool few(with(2, brood::StartMethod::fork));
  brood::Pool many(with(kMany, brood::StartMethod::fork));
  warm_up(many, kMany);
  bench::Comparison table("1 M tasks, window " + std::to_string(window), "tasks/s", true);
  table.add("256 workers", [&] { return throughput(many, window); });
  table.add("2 workers", [&] { return throughput(few, window); });
  table.run(5);
}

}  // namespace

int main() {
  std::printf("\nmemory and processor\n");
  memory_of_workers("fork", brood::StartMethod::fork);
  memory_of_tasks();
  processor_of_an_idle_pool();
  many_workers(1024);
  many_workers(kFutures);
}
