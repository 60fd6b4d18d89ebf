// The warden leaves when nobody is left; who announces itself at that moment is either heard or
// told that nobody listens any more.
#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <memory>

#include "sys/fd.hpp"
#include "threads/participants.hpp"
#include "warden/protocol.hpp"

namespace brood::warden {
namespace {

constexpr std::uint32_t kRounds = 2'000;

// How many announcements wait in the socket.
std::uint32_t hear(int socket) {
  for (std::uint32_t heard = 0;; ++heard) {
    Announcement said;
    sys::Fd pidfd;
    const long length =
        sys::receive_packet(socket, std::as_writable_bytes(std::span(&said, 1)), pidfd);
    if (length != sizeof said) return heard;
    EXPECT_TRUE(pidfd);
  }
}

// The warden takes the steps of Warden::nobody_is_coming; members come one at a time.
TEST(WardenThreadsTest, WhoIsNotHeardByAWardenThatLeavesIsToldSo) {
  const auto family = std::make_unique<shm::FamilyLayout>();
  sys::FutexWord& watching = family->header.warden_watches;
  sys::Fd ends[2];
  ASSERT_EQ(sys::packet_socket_pair(ends), 0);
  std::atomic<std::uint32_t> round{0};
  std::atomic<std::uint32_t> finished{0};
  std::uint32_t believed = 0;  // members that go on
  std::uint32_t heard = 0;     // before the warden left
  test::run_together(2, [&](unsigned i) {
    for (std::uint32_t n = 1; n <= kRounds; ++n) {
      if (i == 0) {
        watching.store(shm::kWardenWatches, std::memory_order_seq_cst);
        round.store(n, std::memory_order_release);
        // Neither of them is to be the first every time.
        for (std::uint32_t pause = n % 16; pause > 0; --pause) sys::yield();
        watching.store(shm::kWardenLeaves, std::memory_order_seq_cst);
        heard += hear(ends[1].get());
        while (finished.load(std::memory_order_acquire) < n) sys::yield();
        EXPECT_LE(believed, heard) << "a member goes on that no warden knows of";
        hear(ends[1].get());
      } else {
        while (round.load(std::memory_order_acquire) < n) sys::yield();
        Announcement said;
        said.pid = static_cast<std::int32_t>(n);
        believed += announce_self(said, ends[0].get(), *family) ? 1U : 0U;
        finished.store(n, std::memory_order_release);
      }
    }
  });
}

}  // namespace
}  // namespace brood::warden
