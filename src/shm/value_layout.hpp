// The bodies of shared values and arrays (objects of kinds `value` and `array`, object_layout.hpp).
//
//   value   LockPlace | ValueBody: a word, then the words that hold the value
//   array   LockPlace | ArrayBody | elements, or the name of the file that they are in
//
// GLOSSARY
//   atomic value   of 1, 2, 4 or 8 bytes: it lies in the first word and changes by single
//                  instructions, so no state of it is between two values. The word `state` stays 0
//   wide value     of any other size: it lies in two buffers of whole words, one after the other
//   version        of a wide value: counts its changes. Buffer `version & 1` holds the value
//   claim          the right of one process (and of one thread in it) to make the next version
//
// THE WORD OF A WIDE VALUE   bits 63..32 version | 31..16 epoch | 15..2 claimer's slot | 0 claimed
//
//                 claim                     write the other buffer, publish
//     free(v) ------------> claimed(v, me) ---------------------------------> free(v + 1)
//        ^                     |       |
//        +------ give up ------+       |  me is dead, and that is proven
//        +------------- bury ----------+
//
//   Claim and claimer are one word, so there is no instruction at which a death leaves a claim that
//   names nobody. Whatever a dead claimer has written lies in the buffer that holds no value.
//
//   Readers claim nothing: they read the version, copy its buffer, and read the version again. Only
//   the maker of version v + 2 writes into the buffer of version v, and it has seen v + 1 by then.
//   So a copy during which the version has stayed the same is whole; who else is stopped or dead
//   makes no difference. A reader begins anew only when somebody else has finished a change.
//
//   (A reader that is held up for exactly a multiple of 2^32 changes would not see them.)
//
// INVARIANTS (unless somebody scribbled here)
//   free(v) or claimed(v, x)  =>  buffer v & 1 is complete, and nobody writes to it
//   claimed(v, x)             =>  x is in an operation on this value, or dead and not yet buried
//
// Whatever is read here is input. How long a value is, its type says; how many elements an array
// has is bounded by the block it lies in when a handle is made, and kept apart from then on.
#pragma once

#include <cstddef>
#include <cstdint>

#include "shm/object_layout.hpp"
#include "shm/sync_layout.hpp"

namespace brood::shm {

// The lock that get_lock() gives, where a lock has it. Who waits for it sleeps on bell 0, who waits
// for a claim on bell 1.
struct alignas(64) LockPlace {
  LockBody lock;
};
static_assert(sizeof(LockPlace) == 64);

struct ValueBody {
  sys::Atomic<std::uint64_t> state;
  // More words follow.
  sys::Atomic<std::uint64_t> words[1];
};
static_assert(sizeof(ValueBody) == 16);

struct ValueState {
  bool claimed = false;
  OwnerId claimer;  // if claimed
  std::uint32_t version = 0;

  static constexpr ValueState unpack(std::uint64_t bits) noexcept {
    return {
        (bits & 1U) != 0,
        {static_cast<std::uint16_t>(bits >> 2U & 0x3fffU), static_cast<std::uint16_t>(bits >> 16U)},
        static_cast<std::uint32_t>(bits >> 32U)};
  }
  [[nodiscard]] constexpr std::uint64_t pack() const noexcept {
    const std::uint64_t who =
        std::uint64_t{claimer.slot & 0x3fffU} << 2U | std::uint64_t{claimer.epoch} << 16U;
    return std::uint64_t{version} << 32U | (claimed ? who | 1U : 0U);
  }
};
static_assert(ValueState::unpack(ValueState{true, {0x3ffe, 0xfffe}, 7}.pack()).claimer ==
              OwnerId{0x3ffe, 0xfffe});
static_assert(ValueState{false, {5, 6}, 7}.pack() == std::uint64_t{7} << 32U);

constexpr std::size_t words_for(std::size_t bytes) noexcept { return (bytes + 7) / 8; }
constexpr bool is_atomic_size(std::size_t bytes) noexcept {
  return bytes == 1 || bytes == 2 || bytes == 4 || bytes == 8;
}
inline constexpr std::size_t kValueOffset = sizeof(LockPlace);
inline constexpr std::size_t kValueWordsOffset = kValueOffset + sizeof(std::uint64_t);
// Of the body of a value of so many bytes.
constexpr std::size_t value_body_bytes(std::size_t bytes) noexcept {
  const std::size_t buffers = is_atomic_size(bytes) ? 1 : 2;
  return kValueWordsOffset + buffers * words_for(bytes) * 8;
}

enum class ArrayBacking : std::uint32_t { memory = 0, file = 1, last = file };

struct alignas(64) ArrayBody {
  sys::Atomic<std::uint64_t> count;  // of elements
  sys::Atomic<std::uint32_t> backing;
  sys::Atomic<std::uint32_t> writable;  // of files: whether everybody may write there
  // Of files: where the elements begin there; which file it is, whatever is called so by now; how
  // long its name is.
  sys::Atomic<std::uint64_t> offset;
  sys::Atomic<std::uint64_t> device;
  sys::Atomic<std::uint64_t> inode;
  sys::Atomic<std::uint64_t> name_bytes;
  std::uint64_t reserved[2];
};
static_assert(sizeof(ArrayBody) == 64);

inline constexpr std::size_t kArrayOffset = sizeof(LockPlace);
inline constexpr std::size_t kElementsOffset = kArrayOffset + sizeof(ArrayBody);

}  // namespace brood::shm
