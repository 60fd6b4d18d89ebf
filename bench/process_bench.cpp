// Starting processes: brood's start methods and init(), beside raw fork + waitpid and posix_spawn.
#include <brood/brood.hpp>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <vector>

#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.hpp"

namespace {

using bench::Clock;
using bench::seconds_since;

constexpr std::size_t kGibibyte = std::size_t{1} << 30;

double per_start_us(int starts, const std::function<void()>& start_one) {
  const auto start = Clock::now();
  for (int i = 0; i < starts; ++i) start_one();
  return seconds_since(start) / starts * 1e6;
}

void brood_process(brood::StartMethod method) {
  brood::Process process({.start = method}, [] {});
  process.start();
  process.join();
  if (process.exit_code() != 0) throw std::runtime_error("a process failed");
}

void raw_fork() {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  ::waitpid(child, nullptr, 0);
}

void spawn_true() {
  char program[] = "/bin/true";
  char* arguments[] = {program, nullptr};
  pid_t child = 0;
  if (::posix_spawn(&child, program, nullptr, nullptr, arguments, environ) == 0) {
    ::waitpid(child, nullptr, 0);
  }
}

// In a process of its own, since init() happens once: what `measure` returns.
double in_a_fresh_process(double (*measure)()) {
  int ends[2];
  if (::pipe(ends) != 0) throw std::runtime_error("no pipe");
  const pid_t child = ::fork();
  if (child == 0) {
    const double value = measure();
    const bool written = ::write(ends[1], &value, sizeof value) == sizeof value;
    ::_exit(written ? 0 : 1);
  }
  ::close(ends[1]);
  double value = 0;
  const bool got = ::read(ends[0], &value, sizeof value) == sizeof value;
  ::close(ends[0]);
  ::waitpid(child, nullptr, 0);
  if (!got) throw std::runtime_error("a measurement failed");
  return value;
}

double init_us() {
  return in_a_fresh_process([] {
    const auto start = Clock::now();
    brood::init();
    return seconds_since(start) * 1e6;
  });
}

// Touched page by page, in small pages: what a program has loaded after init().
std::vector<char*>& ballast() {
  static std::vector<char*> blocks;
  return blocks;
}
void load_a_gibibyte() {
  void* memory =
      ::mmap(nullptr, kGibibyte, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::runtime_error("no memory");
  ::madvise(memory, kGibibyte, MADV_NOHUGEPAGE);
  std::memset(memory, 1, kGibibyte);
  ballast().push_back(static_cast<char*>(memory));
}

void compare_init() {
  bench::Comparison before("init() of a small program", "us", false);
  before.add("brood::init()", init_us);
  before.add("fork + waitpid", [] { return per_start_us(200, raw_fork); });
  before.run(15);
}

}  // namespace

int main(int argc, char** argv) {
  // Once, before init(); spawned children come here too, and have to go on to init() at once.
  constexpr const char* kBegun = "BROOD_PROCESS_BENCH_BEGUN";
  if (std::getenv(kBegun) == nullptr) {
    ::setenv(kBegun, "1", 1);
    compare_init();
  }
  brood::init(argc, argv);
  bench::Comparison small("start and join a process", "us", false);
  small.add("brood::Process (fork)",
            [] { return per_start_us(500, [] { brood_process(brood::StartMethod::fork); }); });
  small.add("brood::Process (forkserver)", [] {
    return per_start_us(500, [] { brood_process(brood::StartMethod::forkserver); });
  });
  small.add("brood::Process (spawn)",
            [] { return per_start_us(100, [] { brood_process(brood::StartMethod::spawn); }); });
  small.add("fork + waitpid", [] { return per_start_us(500, raw_fork); });
  small.add("posix_spawn /bin/true + waitpid", [] { return per_start_us(200, spawn_true); });
  small.run(7);

  load_a_gibibyte();
  bench::Comparison large("the same with 1 GiB made resident after init()", "us", false);
  large.add("brood::Process (forkserver)", [] {
    return per_start_us(200, [] { brood_process(brood::StartMethod::forkserver); });
  });
  large.add("brood::Process (fork)",
            [] { return per_start_us(10, [] { brood_process(brood::StartMethod::fork); }); });
  large.add("fork + waitpid", [] { return per_start_us(10, raw_fork); });
  large.add("posix_spawn /bin/true + waitpid", [] { return per_start_us(100, spawn_true); });
  large.run(7);
}
