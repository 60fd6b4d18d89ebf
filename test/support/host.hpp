// Programs that use brood, started afresh from a test: a host may be killed, exit, or misbehave
// without the test's process taking part.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "brood/start_method.hpp"
#include "support/processes.hpp"
#include "support/time.hpp"

namespace brood::test {

// What a program does first that uses this start method.
void prepare_for(StartMethod method);

// What hosts do before their program, from now on: the method that a test is about.
void hosts_prepare_for(StartMethod method);

// Runs `program` in a child process that has a session of its own, so that everything it starts
// can be told from everything else. What it writes to stdout is ours to read.
//
// The program returns the exit status (handlers and static destructors run, as in any program); an
// exception that leaves it is status 99 and goes to stderr.
class Host {
 public:
  explicit Host(const std::function<int()>& program);
  ~Host();
  Host(const Host&) = delete;
  Host& operator=(const Host&) = delete;

  [[nodiscard]] int pid() const { return pid_; }

  // The next line of the host's stdout; empty if it ended or said nothing in time.
  std::string read_line();

  void send(int signal) const;

  // Waits for the host's end; what wait() tells, or -1 if it hung (it is killed then).
  int wait();
  // The same as text: "exit 0", "signal 9", "hung".
  std::string end();

  // All that it printed that was not read line by line. Until its stdout is closed by everybody
  // who has it: only after all its processes ended.
  std::string rest_of_output();

  // Everything in its session but itself.
  [[nodiscard]] std::vector<ProcessInfo> family() const;
  // Waits until nothing of it is left, host and zombies included.
  bool is_gone_within(std::chrono::nanoseconds limit) const;

 private:
  bool fill(std::chrono::nanoseconds limit);

  int pid_ = 0;
  int out_ = -1;
  int status_ = -1;
  bool reaped_ = false;
  std::string buffer_;
};

// Runs a program to its end and returns how it ended; when it is gone, so must its family be.
struct HostRun {
  std::string end;
  std::string out;
};
HostRun run_host(const std::function<int()>& program);

// In a host: a line for the test that watches it.
void say(const std::string& line);

// In a host: ends it with status 70 and a message if `condition` is false.
void host_check(bool condition, const char* text, const char* file, int line);
#define HOST_CHECK(condition) \
  ::brood::test::host_check(static_cast<bool>(condition), #condition, __FILE__, __LINE__)

}  // namespace brood::test
