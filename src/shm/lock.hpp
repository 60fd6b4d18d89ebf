// What is done to a lock's word (sync_layout.hpp), without waiting.
//
// Threads: any, of any process. Blocking: never. Ownership: of a lock by a thread. Errors: as
// values; the word is input, and one that nobody wrote names an owner who is nowhere to be found.
// Death: at any instruction leaves a word that names the dead, or one that it has left. orphan()
// may be repeated.
//
// Memory ordering: what a lock protects is handed on from the swap that frees the word to the one
// that takes it. All are seq_cst, since bells (shm/bell.hpp) ask that of what sleepers look at.
#pragma once

#include <cstdint>
#include <optional>

#include "shm/object_layout.hpp"
#include "shm/sync_layout.hpp"

namespace brood::shm {

// Whether the body of such an object begins with a LockBody.
constexpr bool has_lock(ObjectKind kind) noexcept {
  return kind == ObjectKind::lock || kind == ObjectKind::value || kind == ObjectKind::array;
}

enum class Take : std::uint8_t {
  taken,
  deeper,      // once more, by the thread that has it
  busy,        // another thread has it
  mine,        // this thread has it already, and can't have it twice
  too_deep,    // nor more often than it has it
  owner_died,  // it is orphaned, or damaged and another's
};

struct TakeRules {
  bool recursive = false;
  bool polite = false;  // leave it to the hungry
};

Take take(LockBody& lock, ThreadName me, TakeRules rules) noexcept;
// The two most frequent cases of take() and drop(), without a look before: it is free, and nobody
// is hungry; it was taken once, is not damaged, and nobody is hungry. `mine` is held_by(me).pack().
// False: it is otherwise.
inline bool take_free(LockBody& lock, std::uint64_t mine) noexcept {
  std::uint64_t free = 0;
  return lock.word.compare_exchange_strong(free, mine, std::memory_order_seq_cst);
}
inline bool drop_only(LockBody& lock, std::uint64_t mine) noexcept {
  return lock.word.compare_exchange_strong(mine, 0, std::memory_order_seq_cst);
}
// Also what is orphaned, which is damaged then. Never `owner_died`, `deeper` or `mine`.
Take retake(LockBody& lock, ThreadName me, std::uint32_t depth) noexcept;

enum class Drop : std::uint8_t { dropped, kept, not_mine };
// `kept`: it has to be dropped again, as often as it was taken.
Drop drop(LockBody& lock, ThreadName me) noexcept;
// All at once: how often it was taken; nullopt: it is not this thread's.
std::optional<std::uint32_t> drop_all(LockBody& lock, ThreadName me) noexcept;

// Makes an orphaned lock free, and what this thread holds no longer damaged. False: it is neither.
bool recover(LockBody& lock, ThreadName me) noexcept;
// Takes it only if it is orphaned.
bool take_orphaned(LockBody& lock, ThreadName me) noexcept;

// Whoever comes from now on, while it is held, lets others go first.
void mark_hungry(LockBody& lock) noexcept;

// The owner has ended: a whole process, or a thread. False: it did not own it.
bool orphan(LockBody& lock, OwnerId dead) noexcept;
bool orphan(LockBody& lock, ThreadName ended) noexcept;

[[nodiscard]] inline LockWord look(const LockBody& lock) noexcept {
  return LockWord::unpack(lock.word.load(std::memory_order_seq_cst));
}
[[nodiscard]] inline bool is_held_by(const LockBody& lock, ThreadName me) noexcept {
  const LockWord word = look(lock);
  return word.state == LockState::held && word.owner == me;
}

}  // namespace brood::shm
