// StartMethod::forkserver and StartMethod::spawn, from the side of who asks.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "brood/detail/process_handle.hpp"
#include "brood/start_method.hpp"
#include "shm/arena.hpp"
#include "start/keeper.hpp"
#include "start/surroundings.hpp"
#include "sys/fd.hpp"
#include "sys/procfs.hpp"
#include "warden/protocol.hpp"

namespace brood::start {

struct BirthOrder {
  StartMethod method = StartMethod::forkserver;
  std::string name;
  warden::MemberKind kind = warden::MemberKind::process;
  bool daemon = false;
  std::optional<shm::OwnerId> owner = std::nullopt;  // its slot in the family's table
  std::span<const int> descriptors = {};             // for its code: passed_descriptors()
  Preparation preparation;                           // what it is to have
  Keeping keeping = {};  // its keeper's line is the first of `descriptors`
};

struct Born {
  int pid = 0;
  sys::Fd pidfd;
  sys::Fd line;  // tells of its end: read_end()
  // How many numbers of code mean the same there as here.
  std::uint32_t thunks = 0;
};

// Starts a process that runs `call`. Throws StartError (with the reason, also if it died before it
// was ready), NotSendable, FamilyBroken, SystemError; then there is no process.
Born bear(BirthOrder order, detail::SentCall call);

// In a forked child: it has become what it was to be, or could not.
void tell_ready(const sys::Fd& line) noexcept;
[[noreturn]] void tell_refused(const sys::Fd& line, const char* why) noexcept;
// In its parent, which waits for either. What it said; nothing: it died before. Throws StartError
// if it could not.
std::optional<warden::LineMessage> await_ready(const sys::Fd& line, const sys::Fd& pidfd,
                                               const std::string& name);
// What was said on a line and not been read yet, without waiting.
std::optional<warden::LineMessage> read_said(const sys::Fd& line) noexcept;

// How a process that was born has ended, from its line; waits for that until `deadline`. nullopt:
// nobody knows (the warden was killed), or it has not ended.
std::optional<warden::LineMessage> read_end(const sys::Fd& line, std::int64_t deadline_ns);

// Throws NotSendable if the code was loaded after init(): such processes don't have it.
void require_known_code(detail::ThunkId thunk, const void* function);
// How many thunks there were at init().
detail::ThunkId thunks_at_init() noexcept;
// The memory that held code then; nullopt: the system hides it.
const std::optional<std::vector<sys::MemoryRange>>& code_at_init() noexcept;

}  // namespace brood::start
