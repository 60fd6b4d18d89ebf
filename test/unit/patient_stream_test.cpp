// Writing to what others use as well, and never waiting for who reads.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <string>
#include <vector>

#include "support/ledger.hpp"
#include "support/processes.hpp"
#include "sys/clock.hpp"
#include "sys/patient_stream.hpp"
#include "sys/syscall.hpp"

namespace brood::sys {
namespace {

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}

// Until it takes no more.
std::size_t flood(PatientStream& stream) {
  const std::string text(10'000, 'x');
  std::size_t written = 0;
  for (long done = 0; (done = stream.write(bytes_of(text))) > 0;) {
    EXPECT_LE(static_cast<std::size_t>(done), kUntornBytes);
    written += static_cast<std::size_t>(done);
  }
  EXPECT_EQ(stream.write(bytes_of(text)), -EAGAIN);
  return written;
}

std::size_t read_some(int fd) {
  std::array<char, 32'768> bytes{};
  const ssize_t got = read(fd, bytes.data(), bytes.size());
  return got > 0 ? static_cast<std::size_t>(got) : 0;
}

// The kernel of a system where nothing can be opened again.
long without_openat(long nr, long a, long b, long c, long d, long e, long f) noexcept {
  return nr == SYS_openat ? -EACCES : kernel(nr, a, b, c, d, e, f);
}

class PatientStreamTest : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    if (GetParam()) replace_kernel(without_openat);
  }
  void TearDown() override { replace_kernel(kernel); }
};
INSTANTIATE_TEST_SUITE_P(, PatientStreamTest, testing::Bool(), [](const auto& which) {
  return std::string(which.param ? "Asked" : "OpenedAgain");
});

TEST_P(PatientStreamTest, AFullPipeIsNotWaitedFor) {
  std::array<int, 2> ends{};
  ASSERT_EQ(pipe2(ends.data(), O_CLOEXEC), 0);
  {
    PatientStream stream(ends[1]);
    EXPECT_GE(flood(stream), kUntornBytes);
    // Others who have it wait as before.
    EXPECT_EQ(fcntl(ends[1], F_GETFL) & O_NONBLOCK, 0);
    EXPECT_GT(read_some(ends[0]), kUntornBytes);
    stream.wait(now_ns() + 1'000'000'000);
    EXPECT_GT(stream.write(bytes_of("more")), 0);
    close(ends[0]);
    const auto before = std::signal(SIGPIPE, SIG_IGN);
    EXPECT_EQ(stream.write(bytes_of("more")), -EPIPE);
    std::signal(SIGPIPE, before);
  }
  close(ends[1]);
}

TEST_P(PatientStreamTest, NorIsASocket) {
  std::array<int, 2> ends{};
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
  PatientStream stream(ends[1]);
  EXPECT_GE(flood(stream), kUntornBytes);
  EXPECT_EQ(fcntl(ends[1], F_GETFL) & O_NONBLOCK, 0);
  close(ends[0]);
  EXPECT_EQ(stream.write(bytes_of("more")), -EPIPE);
  close(ends[1]);
}

TEST_P(PatientStreamTest, NorATerminalThatIsStopped) {
  const int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
  ASSERT_GE(master, 0);
  ASSERT_EQ(unlockpt(master), 0);
  std::array<char, 64> name{};
  ASSERT_EQ(ptsname_r(master, name.data(), name.size()), 0);
  const int terminal = open(name.data(), O_RDWR | O_NOCTTY | O_CLOEXEC);
  ASSERT_GE(terminal, 0);
  {
    PatientStream stream(terminal);
    EXPECT_EQ(stream.write(bytes_of("one\n")), 4);
    EXPECT_GT(read_some(master), 0U);
    ASSERT_EQ(tcflow(terminal, TCOOFF), 0);
    EXPECT_EQ(flood(stream), 0U);
    ASSERT_EQ(tcflow(terminal, TCOON), 0);
    // One that isn't patient may wait in the midst of a page, with nobody here who reads.
    EXPECT_EQ(stream.is_patient(), !GetParam());
    if (stream.is_patient()) {
      EXPECT_GT(flood(stream), 0U);
    } else {
      EXPECT_EQ(stream.write(bytes_of("two\n")), 4);
    }
    EXPECT_EQ(fcntl(terminal, F_GETFL) & O_NONBLOCK, 0);
  }
  // The terminal's other side is not opened again: that would be another terminal.
  {
    PatientStream stream(master);
    EXPECT_EQ(stream.write(bytes_of("two\n")), 4);
    EXPECT_EQ(read_some(terminal), 4U);
  }
  close(terminal);
  close(master);
}

TEST_P(PatientStreamTest, AFileIsWrittenWhereOthersHaveLeftOff) {
  const test::TempFolder folder;
  const std::string path = folder.path("file");
  const int file = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  ASSERT_EQ(write(file, "one", 3), 3);
  PatientStream stream(file);
  EXPECT_EQ(stream.write(bytes_of("two")), 3);
  ASSERT_EQ(write(file, "three", 5), 5);
  EXPECT_EQ(test::read_file(path), "onetwothree");
  close(file);
}

TEST_P(PatientStreamTest, WhatIsClosedRefuses) {
  for (const int fd : {-1, 1000}) {
    PatientStream stream(fd);
    EXPECT_EQ(stream.write(bytes_of("text")), -EBADF);
  }
}

}  // namespace
}  // namespace brood::sys
