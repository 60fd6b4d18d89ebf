// How soon a death is an error: a worker with 512 MiB is killed or crashes while it runs a task.
#include <brood/brood.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.hpp"

namespace {

using bench::Clock;

constexpr std::size_t kVictimBytes = std::size_t{512} << 20;

// Where the victim writes when it dies; shared with the workers, which are forked after it exists.
double* died_at_ms = nullptr;

double now_ms() {
  return std::chrono::duration<double, std::milli>(Clock::now().time_since_epoch()).count();
}

// Touches every small page, as a program that has really used its memory.
void fill_memory(std::size_t size) {
  void* memory = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ::madvise(memory, size, MADV_NOHUGEPAGE);
  auto* bytes = static_cast<volatile char*>(memory);
  for (std::size_t at = 0; at < size; at += 4096) bytes[at] = 1;
}

void die_by(int signal) {
  fill_memory(kVictimBytes);
  *died_at_ms = now_ms();
  static volatile std::uintptr_t nowhere = 16;
  if (signal == SIGSEGV) *reinterpret_cast<volatile int*>(nowhere) = 1;
  ::raise(signal);
}

void measure(int signal) {
  brood::Pool pool(1);
  std::vector<double> to_error;
  std::vector<double> to_next;
  constexpr int kDeaths = 100;
  for (int i = 0; i < kDeaths; ++i) {
    pool.apply([] { return 0; });
    auto doomed = pool.submit(die_by, signal);
    try {
      doomed.get();
    } catch (const brood::WorkerDied&) {
      to_error.push_back(now_ms() - *died_at_ms);
    }
    const double next = now_ms();
    pool.apply([] { return 0; });
    to_next.push_back(now_ms() - next);
  }
  std::printf("  signal %2d: to WorkerDied median %.3f p99 %.3f   next task median %.3f p99 %.3f\n",
              signal, bench::median(to_error), bench::percentile(to_error, 0.99),
              bench::median(to_next), bench::percentile(to_next, 0.99));
}

// In a process of its own, since init() comes before everything else.
void measure_loaded(std::size_t bytes) {
  std::fflush(stdout);
  const pid_t child = ::fork();
  if (child == 0) {
    fill_memory(bytes);
    brood::init();
    measure(SIGKILL);
    measure(SIGSEGV);
    std::exit(0);
  }
  ::waitpid(child, nullptr, 0);
}

}  // namespace

int main() {
  died_at_ms = static_cast<double*>(
      ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  std::printf(
      "\ndeath of a worker with 512 MiB (ms: from the death to get() throwing; from there "
      "to the result of the next task; 100 deaths)\n");
  measure(SIGKILL);
  measure(SIGSEGV);
  std::printf(" the same with 1 GiB loaded before init()\n");
  measure_loaded(std::size_t{1} << 30);
}
