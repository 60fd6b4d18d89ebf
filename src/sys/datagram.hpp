// Datagrams between processes that know each other's names and share no descriptor.
#pragma once

#include <cstddef>
#include <span>

namespace brood::sys {

// A socket that datagrams sent to `name` arrive at: in the abstract namespace, so that nothing is
// left of it once nobody has it open. Close-on-exec; never blocks. -EADDRINUSE: somebody has it.
int open_mailbox(std::span<const char> name) noexcept;

// Sends an empty datagram there, without waiting. 0; -ECONNREFUSED: there is no such mailbox;
// -EAGAIN: it holds several already; or -errno.
int knock(std::span<const char> name) noexcept;

// Takes all datagrams out. How many there were.
std::size_t empty_mailbox(int socket) noexcept;

}  // namespace brood::sys
