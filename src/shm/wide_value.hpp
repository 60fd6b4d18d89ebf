// A value of more than a word, in two buffers (value_layout.hpp).
//
// Threads:   any, of any process; a claim is one thread's.
// Blocking:  never; who waits for a claim is the caller.
// Ownership: a view; the object's body must outlive it.
// Errors:    as values; whatever is read from shared memory is bounded before use.
// Death:     of a claimer leaves the old value; bury() gives its claim back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "shm/value_layout.hpp"

namespace brood::shm {

class WideValue {
 public:
  // `body` holds at least value_body_bytes(bytes); see fits().
  WideValue(std::span<std::byte> body, std::size_t bytes) noexcept
      : body_(*reinterpret_cast<ValueBody*>(body.data() + kValueOffset)), bytes_(bytes) {}
  static bool fits(std::span<const std::byte> body, std::size_t bytes) noexcept {
    return body.size() >= value_body_bytes(bytes);
  }

  // The first value, of an object that nobody else sees yet.
  void begin(const std::byte* from) noexcept { write(0, from); }

  // Copies the value out. False: it has changed meanwhile, try again.
  bool try_read(std::byte* to) const noexcept;

  // The claim, as `me`. False: somebody has it (who, tells state()).
  bool try_claim(OwnerId me) noexcept;
  [[nodiscard]] std::uint64_t state() const noexcept;  // a ValueState
  // Takes the claim away from a process that is dead, or that never was.
  bool unclaim(std::uint64_t seen) noexcept;

  // Of the claimer: the value as it is; makes it another; leaves it as it is. False: the claim is
  // not ours (any more): somebody has overwritten it.
  void read_claimed(std::byte* to) const noexcept;
  bool publish(const std::byte* from, OwnerId me) noexcept;
  bool give_up(OwnerId me) noexcept;

  // After the proven death of `dead`, for any value's body, atomic ones' too.
  static void bury(std::span<std::byte> body, OwnerId dead) noexcept;

 private:
  [[nodiscard]] sys::Atomic<std::uint64_t>* buffer(std::uint32_t version) const noexcept {
    return body_.words + (version & 1U) * words_for(bytes_);
  }
  void read(std::uint32_t version, std::byte* to) const noexcept;
  void write(std::uint32_t version, const std::byte* from) noexcept;

  ValueBody& body_;
  std::size_t bytes_;
};

}  // namespace brood::shm
