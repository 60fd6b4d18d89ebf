// Processes that use the arena are killed at any instruction; the survivor cleans up after them.
#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <random>
#include <set>
#include <vector>

#include "shm/arena.hpp"
#include "sys/clock.hpp"
#include "sys/fd.hpp"
#include "sys/memory.hpp"

namespace brood::shm {
namespace {

constexpr std::size_t kPage = arena::kPageBytes;
constexpr OwnerId kSurvivor{100, 1};

// A region, and beside it a page where processes hand references to one another.
class ArenaCrashTest : public testing::Test {
 protected:
  static constexpr std::size_t kMailboxes = 16;

  void make(std::size_t payload_bytes, std::size_t limit_bytes) {
    const std::size_t metadata = Arena::metadata_bytes(payload_bytes);
    const std::size_t bytes = sys::kPageBytes + metadata + payload_bytes;
    file_.reset(sys::create_memory_file("arena-crash", bytes));
    ASSERT_GE(file_.get(), 0);
    ASSERT_EQ(mapping_.map(file_.get(), bytes), 0);
    region_ = {mapping_.data(), file_.get(), sys::kPageBytes, sys::kPageBytes + metadata,
               payload_bytes,   limit_bytes};
    survivor_.attach(region_, kSurvivor);
    ASSERT_EQ(survivor_.format(), 0);
  }

  std::atomic<std::uint64_t>& mailbox(std::size_t i) {
    return reinterpret_cast<std::atomic<std::uint64_t>*>(mapping_.data())[i];
  }

  // No child outlives its test, however that ends.
  ~ArenaCrashTest() override {
    const std::set<pid_t> left = children_;
    for (const pid_t pid : left) kill_and_reap(pid);
  }

  template <class F>
  pid_t start(F body) {
    const pid_t parent = getpid();
    const pid_t pid = fork();
    if (pid == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (getppid() == parent) body();
      _exit(0);
    }
    children_.insert(pid);
    return pid;
  }

  int kill_and_reap(pid_t pid) {
    kill(pid, SIGKILL);
    int status = -1;
    waitpid(pid, &status, 0);
    children_.erase(pid);
    return status;
  }

  void expect_valid() {
    std::string why;
    ASSERT_TRUE(survivor_.is_valid(&why)) << why;
  }

  // No block and no claim is left, and all the memory goes back; but for slot words at which each
  // of the processes may have looked while another retired their slab: they go with the next life
  // there.
  void expect_empty() {
    expect_valid();
    Arena::Stats stats = survivor_.stats();
    ASSERT_EQ(stats.live_blocks, 0u);
    ASSERT_EQ(stats.live_bytes, 0u);
    ASSERT_EQ(stats.claims_in_progress, 0u);
    ASSERT_EQ(survivor_.give_back(sys::now_ns(), 0), 0u);
    stats = survivor_.stats();
    ASSERT_EQ(stats, Arena::Stats{});
    const std::size_t records = (region_.payload_bytes / kPage * 16 + 4095) / 4096 * 4096;
    constexpr std::size_t kLateLookers = 4;
    ASSERT_LE(static_cast<std::size_t>(sys::memory_in_use(file_.get())),
              (1 + kLateLookers) * 4096 + records);
  }

  sys::Fd file_;
  sys::Mapping mapping_;
  ArenaRegion region_;
  Arena survivor_;
  std::set<pid_t> children_;
};

// What a process does that allocates, frees, passes on and gives back without end.
void use_without_end(const ArenaRegion& region, OwnerId me, OwnerId other,
                     std::atomic<std::uint64_t>* mailboxes, std::size_t count, unsigned seed) {
  Arena arena;
  arena.attach(region, me);
  std::minstd_rand random{seed};
  BlockRef held[32];
  for (;;) {
    BlockRef& mine = held[random() % 32];
    switch (random() % 16) {
      case 0:
        arena.give_back(sys::now_ns(), 0);
        break;
      case 1:
      case 2:
        if (mine && arena.transfer(mine, me, other)) {
          // The mailbox's former content is freed by whoever takes it out.
          const BlockRef old{mailboxes[random() % count].exchange(mine.bits)};
          if (old) arena.free(old);
          mine = {};
        }
        break;
      default:
        if (mine && !arena.free(mine)) _exit(3);  // nobody else frees it
        const Arena::Allocation block = arena.allocate(1 + random() % (32u << (random() % 14)));
        if (block.error == 0) block.bytes[0] = std::byte{1};
        mine = block.ref;
    }
  }
}

TEST_F(ArenaCrashTest, KilledAtRandomMomentsHundredsOfTimes) {
  make(512 * kPage, 200 * kPage);
  std::minstd_rand random{1};
  std::uint16_t epoch = 0;
  constexpr int kProcesses = 3;
  pid_t pids[kProcesses] = {};
  OwnerId ids[kProcesses];
  const auto spawn = [&](int i) {
    ids[i] = {static_cast<std::uint16_t>(10 + i), ++epoch};
    const auto seed = static_cast<unsigned>(random());
    pids[i] =
        start([&] { use_without_end(region_, ids[i], kSurvivor, &mailbox(0), kMailboxes, seed); });
  };
  for (int i = 0; i < kProcesses; ++i) spawn(i);
  const std::int64_t end = sys::now_ns() + 5'000'000'000;
  int kills = 0;
  while (sys::now_ns() < end && kills < 1000) {
    sys::sleep_ns(static_cast<std::int64_t>(random() % 4'000'000));
    const int i = static_cast<int>(random() % kProcesses);
    const int status = kill_and_reap(pids[i]);
    ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << status;
    survivor_.sweep(ids[i]);
    ASSERT_EQ(survivor_.sweep(ids[i]), 0u);
    if (kills % 10 == 0) {  // all the others as well, for an exact account
      for (int j = 0; j < kProcesses; ++j) {
        if (j == i) continue;
        kill_and_reap(pids[j]);
        ++kills;
        survivor_.sweep(ids[j]);
      }
      expect_valid();
      ASSERT_EQ(survivor_.stats().claims_in_progress, 0u);
      survivor_.sweep(kSurvivor);  // what it was given
      for (std::size_t m = 0; m < kMailboxes; ++m) mailbox(m) = 0;
      expect_empty();
      for (int j = 0; j < kProcesses; ++j) {
        if (j != i) spawn(j);
      }
    }
    ++kills;
    spawn(i);
  }
  for (int i = 0; i < kProcesses; ++i) {
    kill_and_reap(pids[i]);
    survivor_.sweep(ids[i]);
  }
  survivor_.sweep(kSurvivor);
  expect_empty();
  std::printf("%d kills\n", kills);
  EXPECT_GT(kills, 100);
}

TEST_F(ArenaCrashTest, BlocksOfTheLivingSurviveTheDeathsOfOthers) {
  make(512 * kPage, 400 * kPage);
  std::minstd_rand random{2};
  struct Block {
    BlockRef ref;
    std::byte fill;
  };
  std::vector<Block> mine;
  const std::int64_t end = sys::now_ns() + 2'000'000'000;
  for (std::uint16_t epoch = 0; sys::now_ns() < end; ++epoch) {
    const OwnerId id{7, epoch};
    const auto seed = static_cast<unsigned>(random());
    const pid_t pid =
        start([&] { use_without_end(region_, id, id, &mailbox(0), kMailboxes, seed); });
    const std::int64_t until = sys::now_ns() + static_cast<std::int64_t>(random() % 5'000'000);
    while (sys::now_ns() < until) {
      const Arena::Allocation block = survivor_.allocate(1 + random() % (64u << (random() % 12)));
      if (block.error == 0) {
        const auto fill = static_cast<std::byte>(random());
        std::memset(block.bytes.data(), static_cast<int>(fill), block.bytes.size());
        mine.push_back({block.ref, fill});
      }
      if (mine.size() > 100 || block.error != 0) {
        ASSERT_FALSE(mine.empty());
        std::swap(mine[random() % mine.size()], mine.back());
        for (const std::byte b : survivor_.resolve(mine.back().ref)) {
          ASSERT_EQ(b, mine.back().fill);
        }
        ASSERT_TRUE(survivor_.free(mine.back().ref));
        mine.pop_back();
      }
    }
    kill_and_reap(pid);
    survivor_.sweep(id);
    for (std::size_t m = 0; m < kMailboxes; ++m) mailbox(m) = 0;
    expect_valid();
    ASSERT_EQ(survivor_.stats().live_blocks, mine.size());
    ASSERT_EQ(survivor_.stats().claims_in_progress, 0u);
  }
  for (const Block& block : mine) ASSERT_TRUE(survivor_.free(block.ref));
  expect_empty();
}

TEST_F(ArenaCrashTest, SweepersAreKilledToo) {
  make(512 * kPage, 400 * kPage);
  std::minstd_rand random{3};
  const std::int64_t end = sys::now_ns() + 3'000'000'000;
  for (std::uint16_t epoch = 0; sys::now_ns() < end; ++epoch) {
    const OwnerId id{7, epoch};
    const auto seed = static_cast<unsigned>(random());
    const pid_t user =
        start([&] { use_without_end(region_, id, id, &mailbox(0), kMailboxes, seed); });
    sys::sleep_ns(static_cast<std::int64_t>(2'000'000 + random() % 3'000'000));
    kill_and_reap(user);
    const OwnerId sweepers[2] = {{20, epoch}, {21, epoch}};
    for (const OwnerId sweeper : sweepers) {
      const pid_t pid = start([&] {
        Arena arena;
        arena.attach(region_, sweeper);
        arena.sweep(id);
        arena.give_back(sys::now_ns(), 0);
        pause();
      });
      sys::sleep_ns(static_cast<std::int64_t>(random() % 300'000));
      kill_and_reap(pid);
    }
    survivor_.sweep(id);
    for (const OwnerId sweeper : sweepers) survivor_.sweep(sweeper);
    for (std::size_t m = 0; m < kMailboxes; ++m) mailbox(m) = 0;
    expect_empty();
  }
}

}  // namespace
}  // namespace brood::shm
