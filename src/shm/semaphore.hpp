// What is done to a semaphore's permits (sync_layout.hpp), without waiting.
//
// Threads: any, of any process. Blocking: never. Ownership: of permits by members. Errors: as
// values; everything in shared memory is input. Death: at any instruction leaves permits that name
// the dead, which bury() sets free, or ones that it no longer has. bury() may be repeated.
//
// Memory ordering: what happened before a release is known to who acquires that permit, by the
// swaps of its word; seq_cst for the sake of bells.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "shm/sync_layout.hpp"

namespace brood::shm {

class Permits {
 public:
  static constexpr std::size_t bytes_for(std::uint32_t permits) noexcept {
    return sizeof(SemaphoreBody) + permits * sizeof(std::uint64_t);
  }

  // A view of an object's body, which has at least bytes_for(0). It may have been overwritten, so
  // what it says of its size is bounded here.
  explicit Permits(std::span<std::byte> body) noexcept;

  // Of a body of zeros, before anybody else sees it.
  static void begin(std::span<std::byte> body, std::uint32_t permits) noexcept;

  // Permits that the semaphore began with.
  [[nodiscard]] std::size_t size() const noexcept { return words_.size(); }

  // False: none was found free. (One may have moved meanwhile behind the looker's back.)
  bool acquire(OwnerId me) noexcept;

  enum class Released : std::uint8_t { yes, too_many };
  // One of mine if I have one, else somebody's. If nobody has any: one more than there were,
  // unless it is `bounded`.
  Released release(OwnerId me, bool bounded) noexcept;

  // Free ones.
  [[nodiscard]] std::uint64_t value() const noexcept;
  [[nodiscard]] std::uint64_t held_by(OwnerId member) const noexcept;

  // What the dead held is free.
  void bury(OwnerId dead) noexcept;
  // The same for all holders of whom `is_dead` says so. Whether anything became free.
  template <class IsDead>
  bool bury_those(IsDead&& is_dead) noexcept {
    bool any = false;
    for (sys::Atomic<std::uint64_t>& word : words_) {
      std::uint64_t bits = word.load(std::memory_order_seq_cst);
      const PermitWord permit = PermitWord::unpack(bits);
      if (!permit.held || !is_dead(permit.holder)) continue;
      any = set_free(word, bits, permit) || any;
    }
    return any;
  }

 private:
  static bool set_free(sys::Atomic<std::uint64_t>& word, std::uint64_t bits,
                       PermitWord permit) noexcept;
  [[nodiscard]] std::size_t start_of(OwnerId me) const noexcept;
  bool release_one(OwnerId me, bool anybodys, bool* moved) noexcept;

  SemaphoreBody& head_;
  std::span<sys::Atomic<std::uint64_t>> words_;
};

}  // namespace brood::shm
