// What members tell their warden, what it tells those who asked it for a child, and what a keeper
// and who started it tell each other.
//
// A birth (start/birth.hpp), between who asks, the warden, and the child:
//
//   asker   makes a line (a pair of sockets), writes what the child has to know into one end,
//           sends the other end to the warden
//   warden  copies itself; it and the copy, the child, both have that end
//   child   reads from the line, becomes what it was asked to be, announces itself on the line with
//           a pidfd, closes its end, and runs the caller's function
//   warden  reaps the child when it ends, and says on the line how
//
// Whoever dies at any point of this: the line has no writer any more, so the asker reads its end.
//
// A process that is to be restarted or watched has a keeper (start/keeper.hpp), with a line of its
// own to who started it: that tells what becomes of the process, and takes orders.
#pragma once

#include <array>
#include <cstdint>

#include "shm/arena.hpp"
#include "shm/family_layout.hpp"
#include "sys/named_memory.hpp"

namespace brood::warden {

enum class MemberKind : std::uint32_t {
  host = 0,        // founded the family: its end is the end of the family
  process = 1,     // started by the user; if no daemon, it outlives its parent
  supervisor = 2,  // of a pool; ends with its parent
  worker = 3,      // of a pool; ends with its supervisor
};

enum class Request : std::uint32_t {
  none = 0,
  birth = 1,         // a child is asked for; the line is passed along (see above)
  end_children = 2,  // those of `parent_pid`, which is about to be killed, and theirs
  collect = 3,       // nobody holds some object any more that a frame may still name
  deposit = 4,       // of a descriptor for `object`; the line is passed along (see above)
  claim = 5,         // of the descriptor of `object`; likewise
};

// A descriptor on its way from one process to others (custody.hpp) lies with the warden:
//
//   sender    makes a line, puts the descriptor into one end, sends the other end to the warden
//             with Request::deposit and the name of the object that stands for it
//   warden    takes it out, and answers on the line by a CustodyAnswer
//   receiver  sends the end of a line with Request::claim and the object's name; the answer comes
//             with a copy of the descriptor
//
// It stays there until the object ends. If the warden dies, the line has no other end any more.

// One datagram. Without a request it announces a member, with a pidfd of it passed along. One-way:
// the warden never answers, so a member may die at any point of it.
struct Announcement {
  MemberKind kind = MemberKind::process;
  std::uint32_t daemon = 0;  // ends with its parent although it is a process
  std::int32_t pid = 0;
  std::int32_t parent_pid = 0;  // whose end ends it
  shm::OwnerId owner{};         // its slot in the family's owner table, if has_owner
  std::uint32_t has_owner = 0;
  Request request = Request::none;
  shm::BlockRef object{};  // deposit, claim
};

struct CustodyAnswer {
  std::int32_t error = 0;  // an errno value
};

enum class LineNews : std::uint32_t {
  born = 1,  // with a pidfd; from here on the user's code runs
  refused,   // the child could not become what it was asked to be: `text` says why
  unborn,    // the warden could not make a child: `error`
  ended,     // `status`, and what it used
  resting,   // from a keeper: what it kept has ended, and may be started again
};

// One packet on the line.
struct LineMessage {
  LineNews news = LineNews::born;
  std::int32_t pid = 0;
  std::int32_t error = 0;      // an errno value
  std::int32_t status = 0;     // as wait() tells it
  std::uint32_t thunks = 0;    // born: how many numbers of code mean the same there as in the asker
  std::uint32_t restarts = 0;  // from a keeper: how many there have been
  // ended: processor time, and the most memory it had; from a keeper: of all that have ended.
  std::uint64_t user_ns = 0;
  std::uint64_t system_ns = 0;
  std::uint64_t peak_rss_bytes = 0;
  std::uint32_t hung = 0;  // from a keeper: it was ended because it gave no sign of life
  std::uint32_t reserved = 0;
  std::array<char, 512> text{};
};

// To a keeper, one packet on its line.
struct KeeperOrder {
  std::int32_t signal = 0;   // for what it keeps
  std::uint32_t to_end = 0;  // not to be started again; SIGKILL then is for all that came from it
};

// Names of shared memory (names.hpp). A datagram of another length than an announcement's.
enum class NameRequest : std::uint32_t {
  give = 1,  // a name to a file; a line is passed along, on which the file lies ready
  forget,    // a file: its name was removed
};
struct NameMessage {
  NameRequest request = NameRequest::give;
  std::uint32_t length = 0;  // of the name
  sys::FileIdentity file{};  // forget: which
  std::array<char, sys::kMaxMemoryName + 1> name{};
};
static_assert(sizeof(NameMessage) != sizeof(Announcement));

// The answer to `give`, on the line.
struct NameAnswer {
  std::int32_t error = 0;  // an errno value; 0: the file has the name
  std::uint32_t reserved = 0;
};

// Announces the calling process, which must not go on if that fails: nobody would end it when its
// parent dies. For use also where there is no heap.
bool announce_self(const Announcement& said, int socket, const shm::FamilyLayout& family) noexcept;

}  // namespace brood::warden
