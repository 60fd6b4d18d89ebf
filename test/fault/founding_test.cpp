// A family that can't be founded, and a birth for which nobody is left to ask.
#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <optional>
#include <span>
#include <string>

#include "brood/brood.hpp"
#include "support/fault_sweep.hpp"
#include "support/host.hpp"
#include "support/kernel_faults.hpp"
#include "sys/fd.hpp"
#include "warden/family.hpp"
#include "warden/protocol.hpp"

namespace brood::test {
namespace {

using warden::Family;

TEST(FoundingTest, WithoutAWardenNothingIsPublishedAndALaterFirstUseWorks) {
  prepare_faults();
  const HostRun run = run_host([] {
    const std::string before = take_stock();
    {
      const FaultyKernel kernel;
      FaultyKernel::plan({Role::host, kind_named("clone3"), EAGAIN, 1, true});
      for (int i = 0; i < 3; ++i) {
        bool refused = false;
        try {
          const Lock lock;
        } catch (const StartError&) {
          refused = true;
        }
        HOST_CHECK(refused);
        HOST_CHECK(Family::current() == nullptr && Family::inherited() == nullptr);
      }
    }
    const std::string left = left_since(before);
    if (!left.empty()) say("left behind: " + left);
    auto [ours, theirs] = Pipe();
    ours.send(1);
    HOST_CHECK(theirs.recv<int>() == 1);
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
  EXPECT_EQ(run.out, "");
}

// Asks the warden as start::bear() does.
warden::LineMessage ask_for_a_birth(Family& family, shm::OwnerId owner) {
  sys::Fd ends[2];
  HOST_CHECK(sys::packet_socket_pair(ends) == 0);
  warden::Announcement said;
  said.request = warden::Request::birth;
  said.owner = owner;
  said.has_owner = 1;
  HOST_CHECK(sys::send_packet(family.socket(), std::as_bytes(std::span(&said, 1)), ends[1].get(),
                              true) == 0);
  ends[1].reset();
  pollfd readable = {ends[0].get(), POLLIN, 0};
  HOST_CHECK(poll(&readable, 1, static_cast<int>(kHangGuard / std::chrono::milliseconds(1))) == 1);
  warden::LineMessage message;
  sys::Fd passed;
  HOST_CHECK(sys::receive_packet(ends[0].get(), std::as_writable_bytes(std::span(&message, 1)),
                                 passed) == sizeof message);
  return message;
}

TEST(FoundingTest, NobodyIsBornForAClaimThatWasBuried) {
  const HostRun run = run_host([] {
    init();
    Family& family = Family::join();
    // As the burial of an asker leaves it.
    const std::optional<shm::OwnerId> claim = family.owners().claim(getpid());
    HOST_CHECK(claim && family.owners().release(*claim));
    const warden::LineMessage answer = ask_for_a_birth(family, *claim);
    HOST_CHECK(answer.news == warden::LineNews::unborn && answer.error == ESRCH);
    // Nor for the next tenant's, of which the asker knows nothing.
    const std::optional<shm::OwnerId> next = family.owners().claim_slot(claim->slot, getpid());
    HOST_CHECK(next && next->epoch != claim->epoch);
    HOST_CHECK(ask_for_a_birth(family, *claim).error == ESRCH);
    HOST_CHECK(family.owners().look(claim->slot).state == shm::OwnerState::claimed);
    HOST_CHECK(family.owners().release(*next));
    Process child([] {});
    child.start();
    child.join();
    HOST_CHECK(child.exit_code() == 0);
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
}

}  // namespace
}  // namespace brood::test
