#include "support/host.hpp"

#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <stdexcept>

namespace brood::test {

namespace {

StartMethod method_of_hosts = StartMethod::fork;

[[noreturn]] void run_as_host(const std::function<int()>& program, int out) {
  // A test program that is killed for its slowness must not leave its hosts behind.
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  setsid();
  dup2(out, STDOUT_FILENO);
  close(out);
  int status = 99;
  try {
    prepare_for(method_of_hosts);
    status = program();
  } catch (const std::exception& e) {
    std::fprintf(stderr, "host: uncaught exception: %s\n", e.what());
  }
  std::exit(status);
}

}  // namespace

void prepare_for(StartMethod method) {
  if (method != StartMethod::fork) init();
}

void hosts_prepare_for(StartMethod method) { method_of_hosts = method; }

Host::Host(const std::function<int()>& program) {
  std::cout.flush();
  std::fflush(nullptr);
  int ends[2];
  if (pipe(ends) != 0) throw std::runtime_error("no pipe for a host");
  pid_ = fork();
  if (pid_ == 0) {
    close(ends[0]);
    run_as_host(program, ends[1]);
  }
  close(ends[1]);
  out_ = ends[0];
  if (pid_ < 0) throw std::runtime_error("no process for a host");
}

Host::~Host() {
  if (!reaped_) {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  close(out_);
}

bool Host::fill(std::chrono::nanoseconds limit) {
  pollfd entry{out_, POLLIN, 0};
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(limit).count();
  if (poll(&entry, 1, static_cast<int>(ms)) <= 0) return false;
  char bytes[4096];
  const ssize_t got = read(out_, bytes, sizeof bytes);
  if (got <= 0) return false;
  buffer_.append(bytes, static_cast<std::size_t>(got));
  return true;
}

std::string Host::read_line() {
  const Deadline deadline(kHangGuard);
  for (;;) {
    const std::size_t end = buffer_.find('\n');
    if (end != std::string::npos) {
      std::string line = buffer_.substr(0, end);
      buffer_.erase(0, end + 1);
      return line;
    }
    if (deadline.passed() || !fill(deadline.left())) return {};
  }
}

std::string Host::rest_of_output() {
  const Deadline deadline(kHangGuard);
  while (!deadline.passed() && fill(deadline.left())) {
  }
  return buffer_;
}

void Host::send(int signal) const { kill(pid_, signal); }

int Host::wait() {
  if (reaped_) return status_;
  const bool ended = wait_until([&] {
    // A full pipe would block a host that says much.
    pollfd entry{out_, POLLIN, 0};
    if (poll(&entry, 1, 0) == 1 && (entry.revents & POLLIN) != 0) {
      fill(std::chrono::nanoseconds(0));
    }
    return waitpid(pid_, &status_, WNOHANG) == pid_;
  });
  reaped_ = true;
  if (ended) return status_;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
  return status_ = -1;
}

std::string Host::end() {
  const int status = wait();
  if (status == -1) return "hung";
  if (WIFSIGNALED(status)) return "signal " + std::to_string(WTERMSIG(status));
  return "exit " + std::to_string(WEXITSTATUS(status));
}

std::vector<ProcessInfo> Host::family() const {
  std::vector<ProcessInfo> found;
  for (const ProcessInfo& process : processes_in_session(pid_)) {
    // A zombie that init adopted is init's to reap, in its own time.
    if (!process.runs() && process.parent == 1) continue;
    if (process.pid != pid_) found.push_back(process);
  }
  return found;
}

bool Host::is_gone_within(std::chrono::nanoseconds limit) const {
  return wait_until([&] { return family().empty(); }, limit);
}

HostRun run_host(const std::function<int()>& program) {
  Host host(program);
  HostRun run;
  run.end = host.end();
  if (host.is_gone_within(kPromisedSecond)) {
    run.out = host.rest_of_output();
  } else {
    run.end += ", and left " + describe(host.family());
  }
  return run;
}

void say(const std::string& line) {
  const std::string text = line + "\n";
  // One write, past all buffers: lines of several processes must not mix or come twice.
  if (write(STDOUT_FILENO, text.data(), text.size()) < 0) _exit(71);
}

void host_check(bool condition, const char* text, const char* file, int line) {
  if (condition) return;
  std::fprintf(stderr, "%s:%d: in the host: %s is false\n", file, line, text);
  _exit(70);
}

}  // namespace brood::test
