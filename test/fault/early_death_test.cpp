// Children that are killed before anyone but their parent knows of them.
#include <gtest/gtest.h>

#include <csignal>
#include <utility>

#include "brood/pipe.hpp"
#include "brood/process.hpp"
#include "brood/wait.hpp"
#include "support/time.hpp"
#include "sys/process.hpp"
#include "sys/syscall.hpp"
#include "warden/family.hpp"

namespace brood::test {
namespace {

int the_host = 0;

// A child dies where it would tell the warden of itself.
long die_unannounced(long nr, long a, long b, long c, long d, long e, long f) noexcept {
  if (nr == SYS_sendmsg && sys::kernel(SYS_getpid, 0, 0, 0, 0, 0, 0) != the_host) {
    sys::kernel(SYS_kill, sys::process_id(), SIGKILL, 0, 0, 0, 0);
  }
  return sys::kernel(nr, a, b, c, d, e, f);
}

TEST(EarlyDeathTest, AChildThatDiesBeforeTheWardenKnowsOfItLeavesItsSlotFree) {
  shm::OwnerTable& owners = warden::Family::join().owners();
  const std::size_t live = owners.count(shm::OwnerState::live);
  the_host = sys::process_id();
  const sys::KernelFn before = sys::replace_kernel(die_unannounced);
  for (int i = 0; i < 3; ++i) {
    Process child([] {});
    child.start();
    child.join();
    EXPECT_EQ(child.exit_code(), -SIGKILL);
  }
  sys::replace_kernel(before);
  EXPECT_TRUE(wait_until([&] { return owners.count(shm::OwnerState::live) == live; },
                         std::chrono::seconds(2)));
  EXPECT_EQ(owners.count(shm::OwnerState::claimed), 0U);
  EXPECT_EQ(owners.count(shm::OwnerState::dead), 0U);
}

// Nobody but we can tell that the other end is gone, and we only wait.
TEST(EarlyDeathTest, WhatSuchAChildHadIsGoneForThoseWhoWait) {
  warden::Family::join();
  the_host = sys::process_id();
  const sys::KernelFn before = sys::replace_kernel(die_unannounced);
  for (const bool by_poll : {false, true}) {
    auto [ours, theirs] = Pipe();
    Process child([](Connection end) { end.send(1); }, std::move(theirs));
    child.start();
    EXPECT_EQ(by_poll ? wait({ours}, kHangGuard).size() : 1U, 1U);
    EXPECT_THROW(static_cast<void>(ours.recv<int>()), Closed);
  }
  sys::replace_kernel(before);
}

}  // namespace
}  // namespace brood::test
