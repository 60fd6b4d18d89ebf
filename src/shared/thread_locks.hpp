// The calling thread as locks name it, and which locks it holds.
//
// A thread that ends while it holds a lock must not leave it locked for ever. Nobody is asked
// whether it still runs, since another may have got its number meanwhile: it says so itself, by the
// destructor of what it remembers here.
#pragma once

#include <cstdint>
#include <vector>

#include "shm/sync_layout.hpp"
#include "sys/identity.hpp"

namespace brood::shared {

// Threads: each has its own. Blocking: never. Ownership: of nothing: it names objects. Errors:
// name() throws what ObjectSpace::join() throws, reserve() std::bad_alloc. Death: see above; of the
// process, the warden tells.
class ThreadLocks {
 public:
  static ThreadLocks& here();
  ~ThreadLocks();
  ThreadLocks(const ThreadLocks&) = delete;
  ThreadLocks& operator=(const ThreadLocks&) = delete;

  // Also in a child, which has it from its parent's thread: it begins anew.
  const shm::ThreadName& name() {
    if (token_ != sys::process_token()) [[unlikely]]
      begin();
    return name_;
  }
  // The word of a lock that it has, once. After name().
  [[nodiscard]] std::uint64_t held_word() const noexcept { return held_word_; }

  // Before a lock is taken: so that add() needs no memory.
  void reserve() {
    if (held_.size() == held_.capacity()) held_.reserve(held_.size() * 2 + 8);
  }
  void add(shm::BlockRef lock) noexcept { held_.push_back(lock); }
  void remove(shm::BlockRef lock) noexcept {
    if (!held_.empty() && held_.back() == lock) {
      held_.pop_back();
    } else {
      remove_earlier(lock);
    }
  }

 private:
  ThreadLocks() noexcept = default;
  void begin();
  void remove_earlier(shm::BlockRef lock) noexcept;

  shm::ThreadName name_;
  std::uint64_t held_word_ = 0;
  std::uint64_t token_ = 0;  // of the process that name_ and held_ are about
  std::vector<shm::BlockRef> held_;
};

}  // namespace brood::shared
