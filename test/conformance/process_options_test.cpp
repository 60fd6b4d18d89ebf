// What a process is started with otherwise than its caller has it.
#include <fcntl.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <iostream>
#include <map>
#include <string>
#include <vector>

#include "brood/brood.hpp"
#include "support/host.hpp"
#include "support/ledger.hpp"
#include "support/pools.hpp"
#include "support/processes.hpp"

namespace brood::test {
namespace {

class ProcessOptionsTest : public StartMethodTest {
 protected:
  [[nodiscard]] static ProcessOptions options() { return {.start = GetParam()}; }
  [[nodiscard]] std::string path(const std::string& name) const { return folder_.path(name); }

  // The status of a process with these options; -1000 if it has none.
  template <class F, class... Args>
  static int status_with(const ProcessOptions& with, F f, const Args&... args) {
    Process p(with, f, args...);
    p.start();
    p.join();
    return p.exit_code().value_or(-1000);
  }

  // What start() says of options that can't be; then nothing was started.
  static std::string refusal_of(const ProcessOptions& with) {
    Process p(with, [] {});
    try {
      p.start();
    } catch (const StartError& e) {
      EXPECT_EQ(p.pid(), 0);
      EXPECT_TRUE(active_children().empty());
      return e.what();
    }
    p.join();
    return "it was started";
  }
  static bool is_refused(const ProcessOptions& with, const std::string& reason) {
    const std::string said = refusal_of(with);
    if (said.find(reason) != std::string::npos) return true;
    ADD_FAILURE() << said;
    return false;
  }

 private:
  TempFolder folder_;
};
BROOD_FOR_EACH_START_METHOD(ProcessOptionsTest);

// ---- the system's own

TEST_P(ProcessOptionsTest, Nice) {
  ProcessOptions with = options();
  with.nice = 11;
  EXPECT_EQ(status_with(with, [] { return ExitCode{getpriority(PRIO_PROCESS, 0)}; }), 11);
  EXPECT_NE(getpriority(PRIO_PROCESS, 0), 11);
  with.nice = 20;
  EXPECT_TRUE(is_refused(with, "nice 20"));
  with.nice = -21;
  EXPECT_TRUE(is_refused(with, "nice -21"));
}

TEST_P(ProcessOptionsTest, Affinity) {
  cpu_set_t mine;
  ASSERT_EQ(sched_getaffinity(0, sizeof mine, &mine), 0);
  int last = 0;
  for (int i = 0; i < CPU_SETSIZE; ++i)
    last = CPU_ISSET(static_cast<std::size_t>(i), &mine) ? i : last;
  ProcessOptions with = options();
  with.affinity = {last};
  const auto only = [](int processor) {
    cpu_set_t set;
    sched_getaffinity(0, sizeof set, &set);
    return ExitCode{CPU_COUNT(&set) == 1 && CPU_ISSET(static_cast<std::size_t>(processor), &set) &&
                            cpu_count() == 1
                        ? 0
                        : 1};
  };
  EXPECT_EQ(status_with(with, only, last), 0);
  with.affinity = {-1};
  EXPECT_TRUE(is_refused(with, "affinity"));
  with.affinity = {1 << 20};
  EXPECT_TRUE(is_refused(with, "affinity"));
  with.affinity = {1000};
  EXPECT_TRUE(is_refused(with, "affinity")) << "the machine has no such processor";
}

TEST_P(ProcessOptionsTest, Limits) {
  ProcessOptions with = options();
  with.rlimits = {{Resource::open_files, 77, 99}, {Resource::core_bytes, 0}};
  const auto has_them = [] {
    rlimit files{};
    rlimit core{};
    getrlimit(RLIMIT_NOFILE, &files);
    getrlimit(RLIMIT_CORE, &core);
    return ExitCode{files.rlim_cur == 77 && files.rlim_max == 99 && core.rlim_max == 0 ? 0 : 1};
  };
  EXPECT_EQ(status_with(with, has_them), 0);
  with.rlimits = {{Resource::cpu_seconds, 1, 2}};
  const auto spin = [] {
    for (volatile unsigned i = 0;;) i = i + 1;
  };
  EXPECT_EQ(status_with(with, spin), -SIGXCPU);
  with.rlimits = {{Resource::open_files, 100, 50}};
  EXPECT_TRUE(is_refused(with, "rlimits"));
  with.rlimits = {{static_cast<Resource>(99), 1}};
  EXPECT_TRUE(is_refused(with, "rlimits"));
}

TEST_P(ProcessOptionsTest, Directory) {
  ProcessOptions with = options();
  with.cwd = std::filesystem::path(path("x")).parent_path();
  const auto is_there = [](const std::string& wanted) {
    return ExitCode{std::filesystem::current_path() == wanted ? 0 : 1};
  };
  EXPECT_EQ(status_with(with, is_there, with.cwd), 0);
  with.cwd = path("nowhere");
  EXPECT_TRUE(is_refused(with, "cwd " + with.cwd + ": No such file or directory"));
}

TEST_P(ProcessOptionsTest, Environment) {
  ProcessOptions with = options();
  with.env = {{{"ONLY", "this one"}, {"EMPTY", ""}}};
  const auto has_it = [] {
    const char* only = std::getenv("ONLY");
    return ExitCode{only != nullptr && std::string(only) == "this one" &&
                            std::getenv("EMPTY") != nullptr && std::getenv("PATH") == nullptr
                        ? 0
                        : 1};
  };
  EXPECT_EQ(status_with(with, has_it), 0);
  EXPECT_NE(std::getenv("PATH"), nullptr);
  with.env = std::map<std::string, std::string>{};
  EXPECT_EQ(status_with(with, [] { return ExitCode{environ[0] == nullptr ? 0 : 1}; }), 0);
  with.env = {{{"A=B", "c"}}};
  EXPECT_TRUE(is_refused(with, "env"));
  with.env = {{{"", "c"}}};
  EXPECT_TRUE(is_refused(with, "env"));
}

// ---- output

void write_both() {
  std::printf("to out\n");
  std::fprintf(stderr, "to err\n");
  std::cout << "and more to out\n";
}

TEST_P(ProcessOptionsTest, CapturedOutputIsThereMeanwhileAndAfterwards) {
  ProcessOptions with = options();
  with.out = Output::capture;
  with.err = Output::capture;
  Process p(
      with,
      [](const std::string& gate) {
        write_both();
        std::cout.flush();
        std::fflush(nullptr);
        wait_at_gate(gate);
        std::printf("at last\n");
        if (std::system("echo from a program; echo its error >&2") != 0) std::exit(1);
      },
      path("gate"));
  EXPECT_EQ(p.captured_out(), "");
  p.start();
  EXPECT_TRUE(wait_until([&] { return p.captured_out().size() == 23; })) << p.captured_out();
  EXPECT_TRUE(p.is_alive());
  open_gate(path("gate"));
  p.join();
  EXPECT_EQ(p.exit_code(), 0);
  EXPECT_NE(p.captured_out().find("from a program\n"), std::string::npos);
  EXPECT_NE(p.captured_out().find("at last\n"), std::string::npos);
  EXPECT_EQ(p.captured_err(), "to err\nits error\n");
  EXPECT_EQ(p.captured_out().find("to err"), std::string::npos);
}

TEST_P(ProcessOptionsTest, WhoeverWritesMuchDoesNotWaitForAReader) {
  ProcessOptions with = options();
  with.out = Output::capture;
  constexpr std::size_t kBytes = std::size_t{16} << 20;
  Process p(
      with,
      [](std::size_t bytes) {
        const std::string line(1023, 'x');
        for (std::size_t i = 0; i < bytes / 1024; ++i) std::puts(line.c_str());
      },
      kBytes);
  p.start();
  ASSERT_TRUE(p.join_for(kHangGuard));
  EXPECT_EQ(p.captured_out().size(), kBytes);
}

TEST_P(ProcessOptionsTest, TheEndOfItsErrorsIsPartOfItsDeath) {
  ProcessOptions with = options();
  with.err = Output::capture;
  Process p(with, [] {
    for (int i = 0; i < 2000; ++i) std::fprintf(stderr, "line %d\n", i);
    raise(SIGKILL);
  });
  p.start();
  p.join();
  ASSERT_TRUE(p.death().has_value());
  const std::string tail = p.death()->stderr_tail;
  EXPECT_EQ(tail.size(), 4096U);
  EXPECT_TRUE(tail.ends_with("line 1999\n")) << tail;
}

TEST_P(ProcessOptionsTest, NullIsNowhereAndADescriptorIsWhereItLeads) {
  const HostRun run = run_host([] {
    int ends[2];
    HOST_CHECK(pipe(ends) == 0);
    ProcessOptions with = options();
    with.out = ends[1];
    with.err = Output::null;
    HOST_CHECK(status_with(with, write_both) == 0);
    close(ends[1]);
    char text[100];
    const ssize_t length = read(ends[0], text, sizeof text);
    HOST_CHECK(std::string(text, static_cast<std::size_t>(length)) == "to out\nand more to out\n");
    close(ends[0]);
    // Errors to where the output goes, and the output to nowhere.
    with.out = Output::null;
    with.err = 1;
    HOST_CHECK(status_with(with, write_both) == 0);
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
  EXPECT_EQ(run.out, "to err\n");
  ProcessOptions with = options();
  with.out = 999;
  EXPECT_TRUE(is_refused(with, "out: descriptor 999 is not open"));
}

// ---- descriptors

// A number that is free may be used again.
ExitCode has_only(int kept, int other) {
  struct stat first{};
  struct stat second{};
  const bool other_is_it = fstat(other, &second) == 0 && S_ISFIFO(second.st_mode);
  return {fstat(kept, &first) == 0 && S_ISFIFO(first.st_mode) && !other_is_it ? 0 : 1};
}

TEST_P(ProcessOptionsTest, KeptDescriptorsHaveTheirNumbersAndOthersAreClosed) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  for (const int number : {ends[1], 3, 4, 5, 6, 7, 8, 100, 700}) {
    // Also where brood's own would be.
    const bool taken = fcntl(number, F_GETFD) != -1;
    if (taken && number != ends[1]) continue;
    if (!taken) dup2(ends[1], number);
    ProcessOptions with = options();
    with.close_fds = true;
    with.keep_fds = {number};
    EXPECT_EQ(status_with(
                  with, [](int fd) { return ExitCode{write(fd, "k", 1) == 1 ? 0 : 1}; }, number),
              0)
        << number;
    char byte = 0;
    EXPECT_EQ(read(ends[0], &byte, 1), 1);
    EXPECT_EQ(status_with(with, has_only, number, ends[0]), 0) << number;
    if (!taken) close(number);
  }
  close(ends[0]);
  close(ends[1]);
}

TEST_P(ProcessOptionsTest, AChildWithClosedDescriptorsCanStillStartOthers) {
  ProcessOptions with = options();
  with.close_fds = true;
  const auto start_more = [](StartMethod method) {
    Process inner({.start = method}, [] { return ExitCode{8}; });
    inner.start();
    inner.join();
    Pool pool(1);
    return ExitCode{inner.exit_code() == 8 && pool.apply([](int n) { return n + 1; }, 1) == 2 ? 0
                                                                                              : 1};
  };
  EXPECT_EQ(status_with(with, start_more, GetParam()), 0);
}

TEST_P(ProcessOptionsTest, KeptDescriptorsHaveToBeOpen) {
  ProcessOptions with = options();
  with.keep_fds = {900};
  EXPECT_TRUE(is_refused(with, "keep_fds: 900"));
  with.keep_fds = {1};
  EXPECT_TRUE(is_refused(with, "keep_fds: 1"));
  with.keep_fds = {-1};
  EXPECT_TRUE(is_refused(with, "keep_fds: -1"));
}

// ---- rights

TEST_P(ProcessOptionsTest, WhatTheSystemDoesNotAllowIsRefusedByItsName) {
  if (getuid() != 0) GTEST_SKIP() << "needs to give up being root";
  const StartMethod method = GetParam();
  if (method == StartMethod::spawn) GTEST_SKIP() << "the new user may not execute this program";
  const HostRun run = run_host([] {
    const rlimit files{100, 100};
    HOST_CHECK(setrlimit(RLIMIT_NOFILE, &files) == 0);
    HOST_CHECK(setresgid(65534, 65534, 65534) == 0 && setresuid(65534, 65534, 65534) == 0);
    ProcessOptions more = options();
    more.rlimits = {{Resource::open_files, 200, 200}};
    // A nursery that is root could do it, but then the child would have what its parent has not.
    say(refusal_of(more).find("rlimits") != std::string::npos ? "refused" : "started");
    ProcessOptions faster = options();
    faster.nice = -5;
    say(refusal_of(faster).find("nice -5") != std::string::npos ? "refused" : "started");
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
  EXPECT_EQ(run.out, "refused\nrefused\n");
}

}  // namespace
}  // namespace brood::test
