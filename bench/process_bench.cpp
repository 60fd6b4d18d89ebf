// Starting and joining a process, beside raw fork + waitpid and posix_spawn.
#include <brood/brood.hpp>

#include <cstdio>

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.hpp"

namespace {

using bench::Clock;
using bench::seconds_since;

constexpr int kStarts = 500;

double per_start_us(Clock::time_point start) { return seconds_since(start) / kStarts * 1e6; }

double brood_process() {
  const auto start = Clock::now();
  for (int i = 0; i < kStarts; ++i) {
    brood::Process process([] {});
    process.start();
    process.join();
  }
  return per_start_us(start);
}

double raw_fork() {
  const auto start = Clock::now();
  for (int i = 0; i < kStarts; ++i) {
    const pid_t child = ::fork();
    if (child == 0) ::_exit(0);
    ::waitpid(child, nullptr, 0);
  }
  return per_start_us(start);
}

double spawn_true() {
  char program[] = "/bin/true";
  char* arguments[] = {program, nullptr};
  const auto start = Clock::now();
  for (int i = 0; i < kStarts; ++i) {
    pid_t child = 0;
    if (::posix_spawn(&child, program, nullptr, nullptr, arguments, environ) == 0) {
      ::waitpid(child, nullptr, 0);
    }
  }
  return per_start_us(start);
}

}  // namespace

int main() {
  bench::Comparison table("start and join a process", "us", false);
  table.add("brood::Process (fork)", brood_process);
  table.add("fork + waitpid", raw_fork);
  table.add("posix_spawn /bin/true + waitpid", spawn_true);
  table.run(5);
}
