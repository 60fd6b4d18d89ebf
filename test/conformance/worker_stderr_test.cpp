// What workers write to stderr: it reaches the pool's stderr, and the last of it WorkerDied.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <future>
#include <map>
#include <ranges>
#include <sstream>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "brood/brood.hpp"
#include "support/capture.hpp"
#include "support/ledger.hpp"
#include "support/pools.hpp"
#include "support/processes.hpp"

namespace brood::test {
namespace {

class WorkerStderrTest : public PoolConformance {
 protected:
  [[nodiscard]] std::string path(const std::string& name) const { return folder_.path(name); }

 private:
  TempFolder folder_;
};
BROOD_FOR_EACH_START_METHOD(WorkerStderrTest);

// ---- tasks

enum class End : int { abort, kill, fault, exit, bad_free };

void write_all(std::string_view text) {
  while (!text.empty()) {
    const ssize_t done = write(2, text.data(), text.size());
    if (done <= 0) return;
    text.remove_prefix(static_cast<std::size_t>(done));
  }
}
int twice(int n) { return 2 * n; }
int say_number(int n) {
  write_all("number " + std::to_string(n) + "\n");
  return n;
}
std::string many_lines(int from, int count) {
  std::string text;
  for (int i = from; i < from + count; ++i) text += "line " + std::to_string(i) + " of the text\n";
  return text;
}
int say_lines(int from, int count) {
  for (int i = from; i < from + count; ++i) write_all(many_lines(i, 1));
  return count;
}
int say_much(int lines) {
  write_all(many_lines(0, lines));
  return lines;
}
void end_by(End end) {
  if (end == End::abort) std::abort();
  if (end == End::kill) kill(getpid(), SIGKILL);
  if (end == End::fault) raise(SIGSEGV);
  if (end == End::exit) _exit(3);
  static std::array<char, 64> no_block;
  char* volatile inside = no_block.data() + 16;
  free(inside);  // NOLINT(clang-analyzer-unix.Malloc)
}
void say_and_end(const std::string& text, End end) {
  write_all(text);
  end_by(end);
}
int say_and_end_at_threes(int n) {
  write_all("element " + std::to_string(n) + "\n");
  if (n % 3 == 0) std::abort();
  return n;
}
int leave_a_child_and_die() {
  if (fork() == 0) {
    sleep(60);
    _exit(0);
  }
  kill(getpid(), SIGKILL);
  return 0;
}
int parent_of_worker() { return getppid(); }
// Of what stderr is there.
std::uint64_t inode_of_stderr() {
  struct stat info{};
  return fstat(2, &info) == 0 ? info.st_ino : 0;
}
bool stderr_is_a_pipe() {
  struct stat info{};
  return fstat(2, &info) == 0 && S_ISFIFO(info.st_mode);
}

// ---- where it goes

// Has `fd` for stderr meanwhile.
class StderrIs {
 public:
  explicit StderrIs(int fd) : saved_(fcntl(2, F_DUPFD_CLOEXEC, 100)) {
    if (fd < 0) {
      close(2);
    } else {
      dup2(fd, 2);
    }
  }
  ~StderrIs() {
    dup2(saved_, 2);
    close(saved_);
  }
  StderrIs(const StderrIs&) = delete;
  StderrIs& operator=(const StderrIs&) = delete;

 private:
  int saved_;
};

struct TwoEnds {
  int reading = -1;
  int writing = -1;
  static TwoEnds of_pipe() {
    std::array<int, 2> ends{};
    EXPECT_EQ(pipe2(ends.data(), O_CLOEXEC), 0);
    return {ends[0], ends[1]};
  }
  static TwoEnds of_socket() {
    std::array<int, 2> ends{};
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
    return {ends[0], ends[1]};
  }
  TwoEnds(int r, int w) : reading(r), writing(w) {}
  ~TwoEnds() {
    close_reading();
    close_writing();
  }
  TwoEnds(const TwoEnds&) = delete;
  TwoEnds& operator=(const TwoEnds&) = delete;

  void close_reading() { drop(reading); }
  void close_writing() { drop(writing); }
  // Until nobody can write any more.
  [[nodiscard]] std::string read_all() const {
    std::string text;
    std::array<char, 4096> part{};
    for (;;) {
      const ssize_t got = read(reading, part.data(), part.size());
      if (got <= 0) return text;
      text.append(part.data(), static_cast<std::size_t>(got));
    }
  }
  // With what nobody reads, until it takes no more.
  [[nodiscard]] std::size_t fill() const {
    const int flags = fcntl(writing, F_GETFL);
    fcntl(writing, F_SETFL, flags | O_NONBLOCK);
    std::size_t filled = 0;
    const std::string part(4096, '.');
    for (ssize_t done = 0; (done = write(writing, part.data(), part.size())) > 0;) {
      filled += static_cast<std::size_t>(done);
    }
    while (write(writing, ".", 1) == 1) ++filled;
    fcntl(writing, F_SETFL, flags);
    return filled;
  }

 private:
  static void drop(int& fd) {
    if (fd >= 0) close(fd);
    fd = -1;
  }
};

void end(Pool& pool) {
  pool.close();
  EXPECT_TRUE(pool.join_for(kHangGuard));
}

// ---- what WorkerDied tells

TEST_P(WorkerStderrTest, TheLastThatItWroteIsInItsDeath) {
  Capture capture(2, path("stderr"));
  std::string all;
  {
    Pool pool(with(1));
    for (const End way : {End::abort, End::kill, End::fault, End::exit}) {
      const std::string text = "it ends by way " + std::to_string(static_cast<int>(way)) + "\n";
      const Death death = death_of([&] { pool.apply(say_and_end, text, way); });
      EXPECT_EQ(death.stderr_tail, text);
      all += text;
    }
    EXPECT_EQ(death_of([&] { pool.apply(end_by, End::kill); }).stderr_tail, "");
    EXPECT_EQ(pool.apply(twice, 2), 4);
    end(pool);
  }
  EXPECT_EQ(capture.stop(), all);
}

TEST_P(WorkerStderrTest, WhatTheMemoryAllocatorSaysIsInIt) {
  if (kSanitized) GTEST_SKIP() << "the tool says something else";
  Capture capture(2, path("stderr"));
  Pool pool(with(1));
  try {
    pool.apply(end_by, End::bad_free);
    FAIL() << "it lives";
  } catch (const WorkerDied& e) {
    EXPECT_EQ(e.signal, SIGABRT);
    EXPECT_NE(e.stderr_tail.find("free(): invalid"), std::string::npos) << e.stderr_tail;
    EXPECT_NE(std::string(e.what()).find("\n    free(): invalid"), std::string::npos) << e.what();
  }
}

TEST_P(WorkerStderrTest, OfMuchItIsTheLast4KiB) {
  Capture capture(2, path("stderr"));
  std::string all;
  {
    Pool pool(with(1));
    for (const int lines : {300, 1000, 5000}) {
      const std::string text = many_lines(0, lines);
      const Death death = death_of([&] { pool.apply(say_and_end, text, End::kill); });
      EXPECT_EQ(death.stderr_tail, text.substr(text.size() - 4096));
      all += text;
    }
    end(pool);
  }
  EXPECT_EQ(capture.stop(), all);
}

TEST_P(WorkerStderrTest, EachElementThatDiesHasThatOfItsWorker) {
  Capture capture(2, path("stderr"));
  Pool pool(with(3));
  const auto results = pool.map_results(say_and_end_at_threes, std::views::iota(0, 24));
  for (std::size_t i = 0; i < 24; ++i) {
    if (i % 3 != 0) {
      EXPECT_EQ(results[i].value(), static_cast<int>(i));
      continue;
    }
    const Death death = death_of([&] { static_cast<void>(results[i].value()); });
    EXPECT_EQ(death.index, i);
    EXPECT_TRUE(death.stderr_tail.ends_with("element " + std::to_string(i) + "\n"))
        << death.stderr_tail;
  }
}

TEST_P(WorkerStderrTest, AnInitializerThatDiesTellsIt) {
  Capture capture(2, path("stderr"));
  PoolOptions options = with(1);
  options.initializer = {say_and_end, std::string("the model is broken\n"), End::abort};
  Pool pool(options);
  try {
    pool.apply(twice, 1);
    FAIL() << "it lives";
  } catch (const InitializerFailed& e) {
    EXPECT_NE(std::string(e.what()).find("\n    the model is broken"), std::string::npos)
        << e.what();
  }
}

TEST_P(WorkerStderrTest, WorkersOfATemplateHaveIt) {
  Capture capture(2, path("stderr"));
  std::string all;
  {
    PoolOptions options = with(2);
    options.preload = {twice, 1};
    Pool pool(options);
    for (int i = 0; i < 4; ++i) {
      const std::string text = "death " + std::to_string(i) + "\n";
      EXPECT_EQ(death_of([&] { pool.apply(say_and_end, text, End::abort); }).stderr_tail, text);
      all += text;
    }
    end(pool);
  }
  EXPECT_EQ(capture.stop(), all);
}

// ---- where it arrives

TEST_P(WorkerStderrTest, AllLinesArriveWhole) {
  constexpr int kTasks = 40;
  constexpr int kLines = 100;
  Capture capture(2, path("stderr"));
  {
    Pool pool(with(4));
    std::vector<Future<int>> futures;
    for (int i = 0; i < kTasks; ++i) futures.push_back(pool.submit(say_lines, i * kLines, kLines));
    for (Future<int>& future : futures) EXPECT_EQ(future.get(), kLines);
    end(pool);
  }
  std::map<std::string, int> seen;
  std::istringstream lines(capture.stop());
  for (std::string line; std::getline(lines, line);) ++seen[line + "\n"];
  EXPECT_EQ(seen.size(), std::size_t{kTasks * kLines});
  for (int i = 0; i < kTasks * kLines; ++i) EXPECT_EQ(seen[many_lines(i, 1)], 1) << i;
}

TEST_P(WorkerStderrTest, StderrMayBeAPipeOrASocket) {
  for (const bool is_socket : {false, true}) {
    TwoEnds ends = is_socket ? TwoEnds::of_socket() : TwoEnds::of_pipe();
    std::string text;
    {
      const StderrIs redirected(ends.writing);
      Pool pool(with(1));
      EXPECT_EQ(pool.apply(say_lines, 0, 100), 100);
      death_of([&] { pool.apply(say_and_end, many_lines(100, 100), End::kill); });
      end(pool);
    }
    ends.close_writing();
    // With no text between: the warden may have it open for longer, but writes nothing.
    const std::string expected = many_lines(0, 200);
    while (text.size() < expected.size()) {
      std::array<char, 4096> part{};
      const ssize_t got = read(ends.reading, part.data(), part.size());
      if (got <= 0) break;
      text.append(part.data(), static_cast<std::size_t>(got));
    }
    EXPECT_EQ(text, expected) << is_socket;
  }
}

TEST_P(WorkerStderrTest, MuchTextArrivesAtASlowReader) {
  constexpr int kLines = 20000;
  const TwoEnds ends = TwoEnds::of_pipe();
  const std::string expected = many_lines(0, kLines);
  const StderrIs redirected(ends.writing);
  Pool pool(with(1));
  Future<int> flood = pool.submit(say_much, kLines);
  std::string text;
  std::array<char, 1000> part{};
  while (text.size() < expected.size()) {
    const ssize_t got = read(ends.reading, part.data(), part.size());
    ASSERT_GT(got, 0);
    text.append(part.data(), static_cast<std::size_t>(got));
  }
  EXPECT_EQ(flood.get(), kLines);
  EXPECT_TRUE(text == expected);
  end(pool);
}

TEST_P(WorkerStderrTest, WhereNobodyReadsOnlyTheOneThatFloodsWaits) {
  const TwoEnds ends = TwoEnds::of_pipe();
  EXPECT_GT(ends.fill(), 0U);
  const StderrIs redirected(ends.writing);
  Pool pool(with(3));
  Future<int> flood = pool.submit(say_much, 100'000);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(pool.apply(twice, i), 2 * i);
  for (int i = 0; i < 20; ++i) {
    const std::string text = many_lines(i, 100);
    const Death death = death_of([&] { pool.apply(say_and_end, text, End::kill); });
    EXPECT_TRUE(text.ends_with(death.stderr_tail)) << death.stderr_tail;
    EXPECT_EQ(death.stderr_tail.size(), std::min<std::size_t>(text.size(), 4096));
  }
  EXPECT_FALSE(flood.ready());
  const Deadline deadline(kPromisedSecond);
  pool.terminate();
  EXPECT_TRUE(pool.join_for(kHangGuard));
  EXPECT_FALSE(deadline.passed());
}

TEST_P(WorkerStderrTest, WhatTheDeadLeftArrivesWhenSomebodyReads) {
  const TwoEnds ends = TwoEnds::of_pipe();
  const std::size_t filled = ends.fill();
  const StderrIs redirected(ends.writing);
  Pool pool(with(2));
  std::string expected;
  for (int i = 0; i < 8; ++i) {
    const std::string text = many_lines(1000 * i, 1000);
    death_of([&] { pool.apply(say_and_end, text, End::kill); });
    expected += text;
  }
  std::string text;
  std::array<char, 4096> part{};
  while (text.size() < filled + expected.size()) {
    const ssize_t got = read(ends.reading, part.data(), part.size());
    ASSERT_GT(got, 0);
    text.append(part.data(), static_cast<std::size_t>(got));
  }
  // Of one longer than its pipe the last waits in the worker, which is killed there.
  EXPECT_TRUE(text.substr(filled) == expected);
  end(pool);
}

TEST_P(WorkerStderrTest, WithoutStderrItIsInTheDeathAllTheSame) {
  TwoEnds ends = TwoEnds::of_pipe();
  ends.close_reading();
  for (const int fd : {-1, ends.writing}) {
    const StderrIs redirected(fd);
    Pool pool(with(1));
    EXPECT_EQ(pool.apply(say_lines, 0, 100), 100);
    for (int i = 0; i < 3; ++i) {
      const Death death = death_of([&] { pool.apply(say_and_end, "last\n", End::abort); });
      EXPECT_TRUE(death.stderr_tail.ends_with("last\n")) << death.stderr_tail;
    }
    EXPECT_EQ(pool.apply(say_much, 10'000), 10'000);
    end(pool);
  }
}

// ---- options

TEST_P(WorkerStderrTest, ErrIsWhereItGoes) {
  Capture capture(2, path("stderr"));
  const int file = open(path("err").c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  for (const Output& output : {Output(file), Output::null}) {
    PoolOptions options = with(1);  // for what two write there is no order
    options.worker.err = output;
    Pool pool(options);
    EXPECT_EQ(pool.apply(say_number, 1), 1);
    const Death death = death_of([&] { pool.apply(say_and_end, "two\n", End::kill); });
    EXPECT_TRUE(death.stderr_tail.ends_with("two\n")) << death.stderr_tail;
    EXPECT_TRUE(pool.apply(stderr_is_a_pipe));
    end(pool);
  }
  close(file);
  EXPECT_EQ(read_file(path("err")), "number 1\ntwo\n");
  EXPECT_EQ(capture.stop(), "");
}

TEST_P(WorkerStderrTest, TheirStdoutMayBeTheStderrOfThePool) {
  Capture capture(2, path("stderr"));
  {
    PoolOptions options = with(1);
    options.worker.out = 2;
    options.worker.err = Output::null;
    Pool pool(options);
    const Death death = death_of([&] {
      pool.apply([] {
        std::printf("to out\n");
        std::fflush(stdout);
        write_all("to err\n");
        end_by(End::kill);
      });
    });
    EXPECT_EQ(death.stderr_tail, "to err\n");
    end(pool);
  }
  EXPECT_EQ(capture.stop(), "to out\n");
}

TEST_P(WorkerStderrTest, InheritedItIsThatOfThePool) {
  Capture capture(2, path("stderr"));
  {
    PoolOptions options = with(1);
    options.worker_stderr = WorkerStderr::inherit;
    Pool pool(options);
    EXPECT_EQ(pool.apply(inode_of_stderr), inode_of_stderr());
    EXPECT_EQ(death_of([&] { pool.apply(say_and_end, "last\n", End::kill); }).stderr_tail, "");
    EXPECT_EQ(read_file(path("stderr")), "last\n");
    end(pool);
  }
  EXPECT_EQ(capture.stop(), "last\n");
}

// ---- what it costs

TEST_P(WorkerStderrTest, WorkersThatGoLeaveNoDescriptors) {
  Capture capture(2, path("stderr"));
  PoolOptions options = with(4);
  options.max_tasks_per_worker = 5;
  options.idle_timeout = 50ms;
  Pool pool(options);
  const int supervisor = pool.apply(parent_of_worker);
  const auto count = [&] { return open_files(supervisor).size(); };
  // All have left but one, and the spare is there.
  std::size_t before = 0;
  EXPECT_TRUE(wait_until([&] { return children_of(supervisor).size() == 2; }));
  before = count();
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(outcome_of([&] { pool.apply(leave_a_child_and_die); }), "WorkerDied");
    EXPECT_EQ(pool.map(say_number, std::views::iota(0, 20)).size(), 20U);
    pool.resize(static_cast<std::size_t>(i) % 4 + 1);
  }
  pool.resize(4);
  EXPECT_TRUE(wait_until([&] { return children_of(supervisor).size() == 2 && count() <= before; }))
      << count() << " now, " << before << " before";
  end(pool);
}

TEST_P(WorkerStderrTest, APoolThatRestsIsNotWoken) {
  Capture capture(2, path("stderr"));
  Pool pool(with(2));
  const int supervisor = pool.apply(parent_of_worker);
  EXPECT_EQ(pool.apply(say_lines, 0, 100), 100);
  death_of([&] { pool.apply(say_and_end, "last\n", End::kill); });
  // After a while in which it gives back what it does not need.
  EXPECT_TRUE(wait_until([&] {
    const std::string before = field_of_status(supervisor, "voluntary_ctxt_switches");
    std::this_thread::sleep_for(300ms);
    return field_of_status(supervisor, "voluntary_ctxt_switches") == before;
  }));
  end(pool);
}

}  // namespace
}  // namespace brood::test
