// The names of shared memory that a family has made: known to its warden, which removes those that
// are left when the family ends.
//
// It is the warden that gives a file its name, so there is no moment at which the name exists and
// the warden does not know of it:
//
//   maker   makes a file without a name, takes all its memory, sends it with the name it is to have
//   warden  notes file and name, links them, answers
//   maker   maps the file
//
// Whoever dies: before the link there is no name, and the file goes with its last descriptor; after
// it the warden removes the name, or, if it is the warden that died, a name that was chosen
// persists and an automatic one is swept.
//
// A name is removed only while it is that of the very file that was made here: a name that was
// removed and taken by somebody else meanwhile is a stranger's.
//
// An automatic name is one whose file is marked as leased (sys/named_memory.hpp). Leases are held
// by the warden and by everybody who has it mapped; when all are gone, the family is, and the next
// program that makes shared memory sweeps the name.
#pragma once

#include <cstddef>
#include <string_view>

#include "sys/fd.hpp"
#include "sys/named_memory.hpp"
#include "warden/protocol.hpp"

namespace brood::warden {

// As many as a family can have at a time.
inline constexpr std::size_t kMaxNames = 16384;

// The warden's table. Uses no heap. Threads: one. Errors: as errno values in answers.
class NameTable {
 public:
  // Takes address space; memory as names come. False if refused.
  [[nodiscard]] bool prepare() noexcept;

  // A member's wish; `line` is what came with it.
  void hear(const NameMessage& message, const sys::Fd& line) noexcept;

  // Removes all names that are still those of their files.
  void remove_all() noexcept;

 private:
  struct Entry {
    sys::FileIdentity file;  // inode 0: free
    sys::Fd lease;           // of an automatic name
    std::array<char, sys::kMaxMemoryName + 1> name;
    [[nodiscard]] bool used() const noexcept { return file.inode != 0; }
  };

  int give(std::string_view name, const sys::Fd& line) noexcept;
  Entry* free_entry() noexcept;
  void look_after_some(std::size_t count) noexcept;
  [[nodiscard]] static bool is_still_its_name(const Entry& entry) noexcept;
  void forget(Entry& entry) noexcept;

  Entry* entries_ = nullptr;
  std::size_t used_ = 0;        // entries_[used_...] were never written
  std::size_t first_free_ = 0;  // those before it are used
  std::size_t next_ = 0;        // to be looked after
  bool swept_ = false;
};

// Has the warden of the calling process's family, which is founded if there is none, give the file
// a name; also in the workers of pools. 0 or -errno: EEXIST; EDQUOT: the family has kMaxNames;
// EMFILE: the warden has no descriptor to spare.
// Throws FamilyBroken if the warden died before it answered; the name does not exist then.
int give_name(const sys::Fd& file, std::string_view name);

// Tells the warden, if there is one, that the name of this file was removed.
void forget_name(const sys::FileIdentity& file) noexcept;

}  // namespace brood::warden
