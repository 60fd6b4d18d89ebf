// What /proc tells of processes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace brood::test {

struct ProcessInfo {
  int pid = 0;
  int parent = 0;
  int session = 0;
  char state = '?';  // as ps shows it
  std::string name;
  std::uint64_t started = 0;    // in ticks since boot: with the pid, unique
  std::uint64_t cpu_ticks = 0;  // user and system
  int threads = 0;

  [[nodiscard]] bool runs() const { return state != 'Z' && state != 'X'; }
};

// Nothing if there is no such process (any more).
std::optional<ProcessInfo> look_at(int pid);
std::vector<ProcessInfo> all_processes();
std::vector<ProcessInfo> processes_in_session(int session);
std::vector<ProcessInfo> children_of(int pid);

// Whether it exists and is no zombie.
bool runs(int pid);

// Those whose name begins with `prefix`.
std::vector<ProcessInfo> named(const std::vector<ProcessInfo>& processes,
                               const std::string& prefix);

// "12 (brood:pool/0) R, child of 7; 13 ...".
std::string describe(const std::vector<ProcessInfo>& processes);

// All of a file; empty if it can't be read.
std::string read_file(const std::string& path);

// A line of /proc/PID/status without its label, e.g. field_of_status(pid, "SigBlk").
std::string field_of_status(int pid, const std::string& label);

// What the descriptors of a process are: "3 -> socket:[42]".
std::vector<std::string> open_files(int pid);

// Kills with SIGSTOP and returns once the kernel shows it as stopped; false if it ended first.
bool stop_and_see(int pid);

}  // namespace brood::test
