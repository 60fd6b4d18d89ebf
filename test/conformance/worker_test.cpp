// What a worker inherits from its host, and what it leaves alone.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

#include "brood/pool.hpp"
#include "support/host.hpp"
#include "support/ledger.hpp"
#include "support/pools.hpp"
#include "support/processes.hpp"

namespace brood::test {
namespace {

class WorkerTest : public PoolConformance {};
BROOD_FOR_EACH_START_METHOD(WorkerTest);

int twice(int n) { return 2 * n; }
std::vector<std::string> my_files() { return open_files(getpid()); }

TEST_P(WorkerTest, ItHasNoDescriptorsButTheStreamsAndItsOwn) {
  // Those without close-on-exec too, and a socket pair, a file, a pipe.
  int pipe_ends[2];
  ASSERT_EQ(pipe(pipe_ends), 0);
  const int high = fcntl(pipe_ends[0], F_DUPFD, 500);
  {
    Pool pool(with(2));
    int sockets = 0;
    int pidfds = 0;
    for (const std::string& file : pool.apply(my_files)) {
      const int fd = std::atoi(file.c_str());
      // The three segments, the way to the warden, and what tells of the warden's end.
      const bool its_own = file.find("memfd:brood:") != std::string::npos;
      sockets += file.find("socket:") != std::string::npos && fd > 2 ? 1 : 0;
      pidfds += file.find("[pidfd]") != std::string::npos ? 1 : 0;
      const bool the_wardens =
          file.find("socket:") != std::string::npos || file.find("[pidfd]") != std::string::npos;
      EXPECT_TRUE(fd <= 2 || its_own || the_wardens) << file;
      if (fd == 0) {
        EXPECT_NE(file.find("/dev/null"), std::string::npos) << file;
      }
    }
    EXPECT_EQ(sockets, 1);
    EXPECT_EQ(pidfds, 1);
  }
  for (const int fd : {pipe_ends[0], pipe_ends[1], high}) close(fd);
}

TEST_P(WorkerTest, AWorkerThatLivesDoesNotHoldTheHostsPipeOpen) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  Pool pool(with(1));
  pool.apply(twice, 1);
  close(ends[1]);
  char byte = 0;
  EXPECT_EQ(read(ends[0], &byte, 1), 0);
  close(ends[0]);
}

TEST_P(WorkerTest, ItsNameTellsWhatItIs) {
  PoolOptions options = with(1);
  options.name = "names";
  Pool pool(options);
  EXPECT_EQ(pool.apply([] { return look_at(getpid())->name; }), "brood:names/0");
}

TEST_P(WorkerTest, SignalsAreAsAtTheStartOfAProgram) {
  Pool pool(with(1));
  EXPECT_EQ(pool.apply([] { return field_of_status(getpid(), "SigBlk"); }), "0000000000000000");
  const bool sound = pool.apply([] {
    for (const int signal : {SIGTERM, SIGCHLD, SIGUSR1, SIGUSR2, SIGPIPE, SIGALRM}) {
      struct sigaction action{};
      sigaction(signal, nullptr, &action);
      if (action.sa_handler != SIG_DFL) return false;
    }
    return true;
  });
  EXPECT_TRUE(sound);
}

TEST_P(WorkerTest, ATaskMayStartAndReapProcesses) {
  Pool pool(with(1));
  EXPECT_EQ(pool.apply([] { return std::system("exit 7"); }), 7 << 8);
  EXPECT_EQ(pool.apply([] {
    const pid_t child = fork();
    if (child == 0) _exit(5);
    int status = 0;
    return ::wait(&status) == child ? WEXITSTATUS(status) : -1;
  }),
            5);
}

TEST_P(WorkerTest, AForkInATaskThatReturnsDoesNotDoubleTheTask) {
  // The child of a task that forgets to _exit is a stranger to the pool.
  Pool pool(with(1));
  TempFolder folder;
  const std::string list = folder.path("list");
  const auto forks = [](std::string path) {
    const pid_t child = fork();
    if (child == 0) std::exit(0);
    int status = 0;
    waitpid(child, &status, 0);
    record(path, status);
    return 1;
  };
  EXPECT_EQ(pool.apply(forks, list), 1);
  EXPECT_EQ(pool.apply(twice, 2), 4);
  EXPECT_EQ(recorded(list), (std::vector<std::int64_t>{0}));
  EXPECT_EQ(pool.stats().died, 0U);
}

std::string ends_path;
struct TellsItsEnd {
  ~TellsItsEnd() {
    if (!ends_path.empty()) record(ends_path, 1);
  }
};

TEST(WorkerHostTest, TheHostsExitHandlersNeverRunInWorkers) {
  TempFolder folder;
  const HostRun run = run_host([&] {
    static TellsItsEnd of_the_host;
    ends_path = folder.path("ends");
    std::atexit([] { record(ends_path, 2); });
    {
      Pool pool(std::size_t{2});
      pool.apply(twice, 1);
      HOST_CHECK(death_of([&] { pool.apply([] { std::exit(3); }); }).exit_code == 3);
      HOST_CHECK(death_of([&] { pool.apply([] { std::abort(); }); }).signal == SIGABRT);
      pool.close();
      pool.join();
    }
    HOST_CHECK(!gate_is_open(ends_path));
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
  const auto counts = counted(folder.path("ends"));
  EXPECT_EQ(counts.size(), 2U);
  for (const auto& [what, times] : counts) EXPECT_EQ(times, 1) << what;
}

TEST(WorkerHostTest, HandlersRegisteredInATaskRunAtItsExit) {
  TempFolder folder;
  const HostRun run = run_host([&] {
    ends_path.clear();
    Pool pool(std::size_t{1});
    HOST_CHECK(death_of([&] {
                 pool.apply(
                     [](std::string path) {
                       ends_path = path;
                       std::atexit([] { record(ends_path, 7); });
                       std::exit(3);
                     },
                     folder.path("ends"));
               }).exit_code == 3);
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
  EXPECT_EQ(recorded(folder.path("ends")), (std::vector<std::int64_t>{7}));
}

TEST(WorkerHostTest, UnflushedOutputOfTheHostComesOnce) {
  const HostRun run = run_host([] {
    std::printf("host-c ");
    std::cout << "host-cpp ";
    Pool pool(std::size_t{3});
    pool.map(twice, std::vector<int>(100));
    HOST_CHECK(death_of([&] { pool.apply([] { std::exit(0); }); }).exit_code == 0);
    pool.close();
    pool.join();
    std::printf("end\n");
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
  EXPECT_EQ(std::count(run.out.begin(), run.out.end(), ' '), 2) << run.out;
  EXPECT_NE(run.out.find("host-c "), std::string::npos);
  EXPECT_NE(run.out.find("host-cpp "), std::string::npos);
}

TEST(WorkerHostTest, WhatATaskPrintsComesOutWhenItsWorkerEnds) {
  const HostRun run = run_host([] {
    Pool pool(std::size_t{1});
    pool.apply([] {
      std::printf("printed ");
      std::cout << "streamed ";
    });
    HOST_CHECK(death_of([&] {
                 pool.apply([] {
                   std::printf("before-exit ");
                   std::exit(0);
                 });
               }).exit_code == 0);
    pool.apply([] { std::printf("last "); });
    pool.close();
    pool.join();
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
  for (const char* word : {"printed ", "streamed ", "before-exit ", "last "}) {
    const std::size_t at = run.out.find(word);
    EXPECT_NE(at, std::string::npos) << word << "in " << run.out;
    if (at != std::string::npos) {
      EXPECT_EQ(run.out.find(word, at + 1), std::string::npos) << run.out;
    }
  }
}

}  // namespace
}  // namespace brood::test
