// Hosts that make it hard: signals at every moment, no descriptors, threads that leave, words that
// somebody overwrote. Each in a process of its own.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <climits>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "brood/brood.hpp"
#include "support/host.hpp"
#include "support/pools.hpp"
#include "support/processes.hpp"

namespace brood::test {
namespace {

class HarshHostTest : public StartMethodTest {};
BROOD_FOR_EACH_START_METHOD(HarshHostTest);

// ---- signals

TEST_P(HarshHostTest, AnInterruptedGetOfADescriptorHasLostNothing) {
  const HostRun run = run_host([] {
    signals::interrupt_on(SIGUSR1);
    Process pest(
        ProcessOptions{.start = GetParam()},
        [](int host) {
          while (kill(host, SIGUSR1) == 0) usleep(300);
        },
        getpid());
    pest.start();
    const auto stubborn = [](auto&& action) {
      for (;;) {
        try {
          return action();
        } catch (const Interrupted&) {
        }
      }
    };
    Queue<Fd> queue(10);
    for (int i = 0; i < 300; ++i) {
      stubborn([&] { queue.put(Fd(dup(1))); });
      const bool got = stubborn([&] { return queue.try_get().has_value(); });
      HOST_CHECK(got);
    }
    pest.kill();
    stubborn([&] { pest.join(); });
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0") << run.out;
}

TEST_P(HarshHostTest, AHandlerMayPutAnotherProcessInThePlaceOfTheOneThatIsJoined) {
  const HostRun run = run_host([] {
    const ProcessOptions options{.start = GetParam()};
    std::atomic<int> handled{0};
    Process p(
        options,
        [](int host) {
          kill(host, SIGUSR1);
          usleep(50'000);
        },
        getpid());
    signals::on(SIGUSR1, [&](int) {
      p.join();
      p = Process(options, [] {});
      p.start();
      ++handled;
    });
    p.start();
    p.join();
    HOST_CHECK(handled == 1);
    p.join();
    HOST_CHECK(p.exit_code() == 0);
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0") << run.out;
}

// ---- no descriptors

TEST_P(HarshHostTest, WithoutDescriptorsItStillJoinsAndLooks) {
  const HostRun run = run_host([] {
    Process p(ProcessOptions{.start = GetParam()}, [] { usleep(50'000); });
    Process other(ProcessOptions{.start = GetParam()}, [] { usleep(50'000); });
    p.start();
    other.start();
    rlimit limit{};
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = 0;
    setrlimit(RLIMIT_NOFILE, &limit);
    HOST_CHECK(p.is_alive());
    HOST_CHECK(!p.join_for(1ms));
    p.join();
    HOST_CHECK(!p.is_alive());
    // How a child of the warden ended is a message, which nothing tells the coming of.
    if (GetParam() == StartMethod::fork) HOST_CHECK(p.exit_code() == 0);
    return 0;  // `other` is joined by its destructor
  });
  EXPECT_EQ(run.end, "exit 0") << run.out;
}

// ---- threads that leave, and forks beside their first steps

TEST(HarshForkTest, ThreadsMayForkProcessesWhileTheHostIsInExit) {
  for (int round = 0; round < (kSanitized ? 5 : 60); ++round) {
    const HostRun run = run_host([round] {
      std::atomic<bool> going{false};
      for (int t = 0; t < 3; ++t) {
        std::thread([&going, t] {
          // What registers and runs exit handlers takes their lock.
          for (int i = 0; t == 0 && i < 3000; ++i) std::atexit([] {});
          try {
            for (;;) {
              Process p({.daemon = true, .start = StartMethod::fork}, [] {});
              p.start();
              going = true;
            }
          } catch (...) {
          }
        }).detach();
      }
      while (!going) usleep(100);
      usleep(static_cast<useconds_t>(round * 37 % 3000));
      std::exit(0);
      return 0;
    });
    ASSERT_EQ(run.end, "exit 0");
  }
}

TEST(HarshForkTest, AForkBesideTheFirstUseLeavesNothingLocked) {
  for (int round = 0; round < (kSanitized ? 10 : 200); ++round) {
    const HostRun run = run_host([round] {
      std::atomic<bool> go{false};
      std::thread first([&go] {
        go = true;
        const Lock lock;
      });
      while (!go) {
      }
      for (int k = 0; k < round * 50; ++k) {
        asm volatile("");
      }
      const pid_t child = fork();
      if (child == 0) {
        alarm(20);
        const Process unstarted([] {});
        _exit(0);
      }
      int status = 0;
      waitpid(child, &status, 0);
      first.join();
      HOST_CHECK(status == 0);
      return 0;
    });
    ASSERT_EQ(run.end, "exit 0") << round;
  }
}

// ---- words that somebody overwrote

// Changes each word that lies `back` bytes before `magic` in the family's objects.
void scribble(std::uint64_t magic, std::size_t width, std::size_t back,
              std::uint64_t (*change)(std::uint64_t)) {
  for (const std::string& file : open_files(getpid())) {
    if (file.find("brood:objects") == std::string::npos) continue;
    const int fd = std::atoi(file.c_str());
    const off_t end = lseek(fd, 0, SEEK_END);
    for (off_t at = lseek(fd, 0, SEEK_DATA); at >= 0 && at < end; at = lseek(fd, at, SEEK_DATA)) {
      std::vector<char> part(static_cast<std::size_t>(lseek(fd, at, SEEK_HOLE) - at));
      if (pread(fd, part.data(), part.size(), at) < 0) return;
      for (std::size_t i = back; i + 8 <= part.size(); i += 4) {
        if (std::memcmp(&part[i], &magic, width) != 0) continue;
        std::uint64_t word = 0;
        std::memcpy(&word, &part[i - back], sizeof word);
        word = change(word);
        const auto to = at + static_cast<off_t>(i - back);
        if (pwrite(fd, &word, sizeof word, to) < 0) return;
      }
      at += static_cast<off_t>(part.size());
    }
  }
}

TEST(HarshMemoryTest, AMessageWhoseWordMakesNoSenseEndsTheWait) {
  auto [ours, theirs] = Pipe();
  constexpr long kMagic = 0x5ca1ab1e0f00d;
  ours.send(kMagic);
  scribble(kMagic, 8, 16, [](std::uint64_t word) { return word | 1U << 20U; });
  EXPECT_THROW(static_cast<void>(theirs.recv_for<long>(10ms)), Error);
}

TEST(HarshMemoryTest, AnItemWrittenByNobodyIsGivenUp) {
  Queue<int> queue(8);
  queue.put(0x5ca1ab1e);
  queue.put(1);
  // The first cell: being written, by the 7th tenant of a place that nobody has.
  scribble(0x5ca1ab1e, 4, 8, [](std::uint64_t word) {
    return (word & ~std::uint64_t{0xffffffff}) | 1U | 2000U << 5U | 7U << 16U;
  });
  queue.close();
  EXPECT_EQ(queue.get_for(kHangGuard), 1);
}

// ---- arguments

TEST(HarshArgumentTest, WhatIsLongPastIsNow) {
  constexpr auto kLongPast = std::chrono::steady_clock::time_point::min();
  Queue<int> queue(1);
  EXPECT_EQ(queue.get_until(kLongPast), std::nullopt);
  queue.put(1);
  EXPECT_FALSE(queue.put_until(2, kLongPast));
  Lock lock;
  lock.lock();
  std::thread([&] { EXPECT_FALSE(lock.try_lock_until(kLongPast)); }).join();
  lock.unlock();
}

TEST(HarshArgumentTest, NobodyReleasesMorePermitsThanThereCanBe) {
  Semaphore semaphore(0);
  EXPECT_THROW(semaphore.release(UINT_MAX), Error);
  EXPECT_EQ(semaphore.get_value(), 0U);
}

TEST(HarshArgumentTest, ADirectoryWithAZeroByteIsRefused) {
  Process p({.cwd = std::string("/\0tmp", 5)}, [] {});
  EXPECT_THROW(p.start(), StartError);
}

TEST(HarshArgumentTest, AListThatWasMovedFromIsEmpty) {
  auto list = ShareableList::create({1, 2});
  auto moved = std::move(list);
  EXPECT_EQ(list.size(), 0U);  // NOLINT(bugprone-use-after-move)
  EXPECT_EQ(moved.size(), 2U);
  moved.memory().unlink();
}

}  // namespace
}  // namespace brood::test
