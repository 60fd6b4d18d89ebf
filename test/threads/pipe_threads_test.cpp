// A pipe's cells hand plain memory from senders to receivers: small messages in the cells, large
// ones in frames; who dies amid it is buried beside the others.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "support/pipe_bed.hpp"
#include "support/time.hpp"
#include "threads/participants.hpp"

namespace brood::channel {
namespace {

using test::PipeBed;
using test::PipeUser;

constexpr std::uint64_t kMessages = test::kSanitized ? 3'000 : 30'000;  // of each sender
constexpr std::uint32_t kCellsLog = 2;
constexpr shm::OwnerId kMaker{1, 1};

constexpr shm::OwnerId id_of(unsigned thread) {
  return {static_cast<std::uint16_t>(10 + thread), 1};
}

class PipeThreadsTest : public testing::Test {
 protected:
  PipeThreadsTest() { bed_.make(kMaker, kCellsLog); }

  // What its sender did before a message is seen by its receiver: plain.
  struct Notes {
    explicit Notes(std::uint64_t senders)
        : of_sender(senders, std::vector<std::uint64_t>(kMessages)) {}
    std::vector<std::vector<std::uint64_t>> of_sender;
  };

  // Two send, two receive; of each sender the messages come in their order at each receiver, once.
  void pass_through(std::size_t bytes) {
    Notes notes(2);
    std::atomic<std::uint64_t> received{0};
    test::run_together(4, [&](unsigned i) {
      const auto user = bed_.enter(id_of(i));
      if (i < 2) {
        for (std::uint64_t n = 0; n < kMessages; ++n) {
          notes.of_sender[i][n] = n + 1;
          while (!user->send(2 * n + i, bytes)) sys::yield();
        }
        return;
      }
      std::vector<std::uint64_t> next(2);
      while (received.load(std::memory_order_relaxed) < 2 * kMessages) {
        const auto number = user->receive();
        if (!number) {
          sys::yield();
          continue;
        }
        received.fetch_add(1, std::memory_order_relaxed);
        const std::uint64_t n = *number / 2;
        ASSERT_LT(n, kMessages);
        ASSERT_GE(n, next[*number % 2]);
        next[*number % 2] = n + 1;
        ASSERT_EQ(notes.of_sender[*number % 2][n], n + 1);
      }
    });
    EXPECT_EQ(received.load(), 2 * kMessages);
    EXPECT_EQ(bed_.enter(kMaker)->objects.arena().stats().live_blocks, 1U) << "only the pipe";
  }

  PipeBed bed_;
};

TEST_F(PipeThreadsTest, SmallMessages) { pass_through(8); }
TEST_F(PipeThreadsTest, LargeMessagesInFrames) { pass_through(200); }

// One is a member after the other, each of which dies with a cell claimed; a warden that has proof
// of that buries it in the pipe. The others' messages come all the same. (The warden's walk through
// all blocks looks at bytes that may be anybody's again: no thread can be that for TSan.)
TEST_F(PipeThreadsTest, TheDeadAreBuriedBesideTheOthers) {
  constexpr unsigned kLives = test::kSanitized ? 300 : 3'000;
  constexpr unsigned kNoMore = UINT32_MAX;
  std::vector<std::uint64_t> notes(kMessages);
  std::atomic<unsigned> died{0};
  std::atomic<unsigned> buried{0};
  std::atomic<bool> over{false};
  test::run_together(4, [&](unsigned i) {
    if (i == 0) {
      const auto user = bed_.enter(id_of(0));
      for (std::uint64_t n = 0; n < kMessages; ++n) {
        notes[n] = n + 1;
        while (!user->send(n, n % 2 == 0 ? 8 : 100)) sys::yield();
      }
    } else if (i == 1) {
      const auto user = bed_.enter(id_of(1));
      for (std::uint64_t n = 0; n < kMessages;) {
        const auto number = user->receive();
        if (!number) {
          sys::yield();
          continue;
        }
        ASSERT_EQ(*number, n);
        ASSERT_EQ(notes[n], n + 1);
        ++n;
      }
      over.store(true, std::memory_order_relaxed);
    } else if (i == 2) {
      for (unsigned life = 1; life <= kLives && !over.load(std::memory_order_relaxed); ++life) {
        const auto victim = bed_.enter(id_of(100 + life % 1000), false);
        static_cast<void>(victim->stream().claim(victim->objects.me()));
        died.store(life, std::memory_order_release);
        while (buried.load(std::memory_order_relaxed) < life) sys::yield();
      }
      died.store(kNoMore, std::memory_order_release);
    } else {
      const auto warden = bed_.enter(kMaker, false);
      for (unsigned life = 1;; ++life) {
        unsigned last = 0;
        while ((last = died.load(std::memory_order_acquire)) != life) {
          if (last == kNoMore) return;
          sys::yield();
        }
        bury_in(warden->pipe, id_of(100 + life % 1000), warden->objects);
        buried.store(life, std::memory_order_relaxed);
      }
    }
  });
}

}  // namespace
}  // namespace brood::channel
