// File descriptors that go from process to process.
#include "brood/fd.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "brood/brood.hpp"
#include "support/pools.hpp"
#include "warden/object_space.hpp"

namespace brood::test {
namespace {

class FdTest : public StartMethodTest {
 protected:
  static ProcessOptions options() { return {.start = GetParam()}; }
};
BROOD_FOR_EACH_START_METHOD(FdTest);

struct KernelPipe {
  KernelPipe() {
    std::array<int, 2> fds{};
    EXPECT_EQ(pipe2(fds.data(), O_CLOEXEC), 0);
    reader = Fd(fds[0]);
    writer = Fd(fds[1]);
  }
  // All that is written until the last writer is gone; "...": somebody still has it.
  std::string read_to_end() {
    std::string text;
    for (;;) {
      pollfd entry{reader.get(), POLLIN, 0};
      if (::poll(&entry, 1, 10'000) != 1) return text + "...";
      std::array<char, 100> part{};
      const ssize_t got = read(reader.get(), part.data(), part.size());
      if (got <= 0) return text;
      text.append(part.data(), static_cast<std::size_t>(got));
    }
  }
  Fd reader;
  Fd writer;
};

void write_text(const Fd& fd, const std::string& text) {
  if (write(fd.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) _exit(7);
}
void receive_and_write(Connection end, const std::string& text) {
  write_text(end.recv<Fd>(), text);
}
int error_number_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const SystemError& e) {
    return e.code().value();
  }
  return 0;
}

TEST_P(FdTest, ItOwnsItsDescriptor) {
  KernelPipe pipe;
  const int number = pipe.writer.get();
  Fd moved = std::move(pipe.writer);
  EXPECT_FALSE(pipe.writer);  // NOLINT(bugprone-use-after-move): says so
  EXPECT_EQ(moved.get(), number);
  {
    const Fd copy = moved.dup();
    EXPECT_NE(copy.get(), number);
    EXPECT_NE(fcntl(copy.get(), F_GETFD) & FD_CLOEXEC, 0);
  }
  const int released = moved.release();
  EXPECT_EQ(released, number);
  EXPECT_FALSE(moved);
  moved = Fd(released);
  moved.close();
  moved.close();
  EXPECT_EQ(fcntl(number, F_GETFD), -1);
  EXPECT_EQ(error_number_of([&] { (void)Fd(number).dup(); }), EBADF);
  EXPECT_EQ(pipe.read_to_end(), "");
}

// test_fd_transfer
TEST_P(FdTest, AChildReceivesOneInAMessage) {
  KernelPipe pipe;
  auto [ours, theirs] = Pipe();
  Process child(options(), receive_and_write, std::move(theirs), std::string("from the child"));
  child.start();
  ours.send(pipe.writer);
  pipe.writer.close();
  child.join();
  EXPECT_EQ(child.exit_code(), 0);
  EXPECT_EQ(pipe.read_to_end(), "from the child");
}

// test_large_fd_transfer
TEST_P(FdTest, NumbersAreNobodysBusiness) {
  KernelPipe pipe;
  auto [ours, theirs] = Pipe();
  const int large = fcntl(pipe.writer.get(), F_DUPFD_CLOEXEC, 700);
  ASSERT_GE(large, 700);
  pipe.writer = Fd(large);
  Process child(
      options(),
      [](Connection end) {
        std::vector<Fd> fds;
        for (int i = 0; i < 300; ++i) fds.emplace_back(open("/dev/null", O_RDONLY | O_CLOEXEC));
        const Fd got = end.recv<Fd>();
        if (got.get() < 256) _exit(5);
        write_text(got, "bar");
      },
      std::move(theirs));
  child.start();
  ours.send(pipe.writer);
  pipe.writer.close();
  child.join();
  EXPECT_EQ(child.exit_code(), 0);
  EXPECT_EQ(pipe.read_to_end(), "bar");
}

// test_missing_fd_transfer
TEST_P(FdTest, WhatIsNotOpenIsRefusedBeforeAnythingIsSent) {
  KernelPipe pipe;
  auto [a, b] = Pipe();
  const int number = pipe.writer.get();
  pipe.writer.close();
  Fd stale(number);
  EXPECT_EQ(error_number_of([&] { a.send(stale); }), EBADF);
  EXPECT_EQ(error_number_of([&] { a.send(Fd(100'000)); }), EBADF);
  stale.release();
  EXPECT_FALSE(b.poll());
  a.send(Fd());
  EXPECT_FALSE(b.recv<Fd>()) << "none is sent as none";
}

TEST_P(FdTest, ItIsAnArgument) {
  KernelPipe pipe;
  Process child(options(), write_text, pipe.writer.dup(), std::string("argument"));
  child.start();
  pipe.writer.close();
  child.join();
  EXPECT_EQ(child.exit_code(), 0);
  EXPECT_EQ(pipe.read_to_end(), "argument");
}

TEST_P(FdTest, TasksTakeAndReturnThem) {
  KernelPipe pipe;
  Pool pool({.workers = 1, .start = GetParam()});
  pool.submit(write_text, pipe.writer.dup(), std::string("task")).get();
  pipe.writer.close();
  EXPECT_EQ(pipe.read_to_end(), "task");
  KernelPipe other;
  Fd back = pool.submit([](Fd fd) { return fd; }, other.writer.dup()).get();
  other.writer.close();
  write_text(back, "and back");
  back.close();
  EXPECT_EQ(other.read_to_end(), "and back");
}

struct Parcel {
  std::string label;
  std::vector<Fd> fds;
};

TEST_P(FdTest, SeveralGoInOneMessageWithOtherThings) {
  KernelPipe pipe;
  auto [a, b] = Pipe();
  Parcel parcel{"five", {}};
  for (int i = 0; i < 5; ++i) parcel.fds.push_back(pipe.writer.dup());
  a.send(parcel);
  parcel.fds.clear();
  pipe.writer.close();
  const auto got = b.recv<Parcel>();
  EXPECT_EQ(got.label, "five");
  for (const Fd& fd : got.fds) write_text(fd, "x");
  EXPECT_EQ(got.fds.size(), 5U);
  pollfd entry{pipe.reader.get(), POLLIN, 0};
  EXPECT_EQ(::poll(&entry, 1, 0), 1);
}

TEST_P(FdTest, OneThatNobodyReceivesIsClosedWithItsMessage) {
  KernelPipe pipe;
  {
    auto [a, b] = Pipe();
    a.send(pipe.writer);
    pipe.writer.close();
    pollfd entry{pipe.reader.get(), POLLIN, 0};
    EXPECT_EQ(::poll(&entry, 1, 20), 0) << "it is open on its way";
  }
  EXPECT_EQ(pipe.read_to_end(), "");
}

TEST_P(FdTest, TheSendersDeathIsNothingToIt) {
  KernelPipe pipe;
  auto [ours, theirs] = Pipe();
  Process child(
      options(),
      [](Connection end, const Fd& fd) {
        end.send(fd);
        raise(SIGKILL);
      },
      std::move(theirs), std::move(pipe.writer));
  child.start();
  child.join();
  EXPECT_EQ(child.exit_code(), -SIGKILL);
  write_text(ours.recv<Fd>(), "late");
  EXPECT_EQ(pipe.read_to_end(), "late");
}

TEST_P(FdTest, TheReceiversDeathClosesIt) {
  KernelPipe pipe;
  auto [ours, theirs] = Pipe();
  Process child(
      options(),
      [](Connection end) {
        const Fd got = end.recv<Fd>();
        end.send(1);
        for (;;) pause();
      },
      std::move(theirs));
  child.start();
  ours.send(pipe.writer);
  pipe.writer.close();
  EXPECT_EQ(ours.recv<int>(), 1);
  child.kill();
  EXPECT_EQ(pipe.read_to_end(), "");
}

TEST_P(FdTest, AReceiverWithoutRoomForItIsTold) {
  const HostRun run = run_host([] {
    auto [a, b] = Pipe();
    KernelPipe pipe;
    a.send(pipe.writer);
    // Room for the question, but not for the answer.
    std::vector<Fd> all;
    rlimit limit{};
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = 200;
    setrlimit(RLIMIT_NOFILE, &limit);
    for (;;) {
      const int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
      if (fd < 0) break;
      all.emplace_back(fd);
    }
    HOST_CHECK(error_number_of([&] { (void)b.recv<Fd>(); }) == EMFILE);
    HOST_CHECK(error_number_of([&] { a.send(pipe.writer); }) == EMFILE);
    all.clear();
    a.send(pipe.writer);
    write_text(b.recv<Fd>(), "x");
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
}

TEST_P(FdTest, ItTakesPartInWait) {
  KernelPipe pipe;
  EXPECT_EQ(wait({pipe.reader}, 0s), std::vector<std::size_t>{});
  write_text(pipe.writer, "x");
  EXPECT_EQ(wait({pipe.reader}), std::vector<std::size_t>{0});
}

TEST_P(FdTest, BytesAreNoPlaceForThem) {
  const KernelPipe pipe;
  EXPECT_THROW((void)encode(pipe.writer), NotSendable);
}

}  // namespace
}  // namespace brood::test
