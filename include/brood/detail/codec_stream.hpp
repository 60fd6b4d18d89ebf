// The byte streams of the codec: Sizer counts, Writer stores, Reader distrusts.
//
// A Reader's bytes may lie in memory that another, possibly malicious, process is writing at this
// very moment. So every scalar, length and tag is copied out once and then hidden behind an empty
// asm statement: without it the compiler may legally load the same bytes twice, and a length that
// was checked would not be the length that is used.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <type_traits>

#include "brood/error.hpp"

namespace brood::detail {

// Bounds the stack that hostile or cyclic-looking data can make the codec use.
inline constexpr unsigned kMaxDepth = 1000;

// Outlined and without access to a stream, so that streams stay in registers on the hot path.
[[noreturn, gnu::cold, gnu::noinline]] inline void throw_decode_error(const char* what) {
  throw DecodeError(std::string("brood: ") + what);
}

[[noreturn, gnu::cold, gnu::noinline]] inline void throw_truncated(std::size_t wanted,
                                                                   std::size_t left) {
  throw DecodeError("brood: the bytes end too early: " + std::to_string(wanted) +
                    " more are needed, " + std::to_string(left) + " are left");
}

[[noreturn, gnu::cold, gnu::noinline]] inline void throw_not_sendable(const char* what) {
  throw NotSendable(std::string("brood: ") + what);
}

[[noreturn, gnu::cold, gnu::noinline]] inline void throw_size_changed() {
  throw_not_sendable(
      "the value did not fit the size computed for it: was it changed while being sent?");
}

// Makes the compiler forget that `bytes` was copied from somewhere it could load again.
inline void forget_source(const void* bytes) noexcept {
  asm volatile("" : : "r"(bytes) : "memory");
}

// One level of nesting for as long as it lives.
template <class Stream>
class [[nodiscard]] Descent {
 public:
  explicit Descent(Stream& stream) : stream_(stream) {
    if (stream_.depth_ >= kMaxDepth) Stream::throw_too_deep();
    ++stream_.depth_;
  }
  ~Descent() { --stream_.depth_; }
  Descent(const Descent&) = delete;
  Descent& operator=(const Descent&) = delete;

 private:
  Stream& stream_;
};

// First pass: has the interface of Writer and adds up what Writer would store.
class Sizer {
 public:
  static constexpr bool counts_only = true;

  template <class U>
  void write_scalar(const U& /*value*/) noexcept {
    size_ += sizeof(U);
  }
  void write_length(std::size_t /*count*/) noexcept { size_ += sizeof(std::uint64_t); }
  void write_bytes(const void* /*from*/, std::size_t size) noexcept { size_ += size; }

  void add(std::size_t size) noexcept { size_ += size; }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }

  [[noreturn]] static void throw_too_deep() {
    throw_not_sendable("the value nests deeper than 1000 levels: flatten it before sending");
  }

 private:
  friend class Descent<Sizer>;
  std::size_t size_ = 0;
  unsigned depth_ = 0;
};

// Second pass: stores into the caller's buffer, never allocates.
//
// The room is kept as a number and not as an end pointer because compilers then prove the checks
// of a fixed-size value away after one require().
class Writer {
 public:
  static constexpr bool counts_only = false;

  explicit Writer(std::span<std::byte> buffer) noexcept
      : to_(buffer.data()), room_(buffer.size()) {}

  // Only a value that changed between the two passes, or a save() that writes different amounts
  // each time, gets here without room.
  void require(std::size_t size) const {
    if (room_ < size) throw_size_changed();
  }
  void expect_full() const {
    if (room_ != 0) throw_size_changed();
  }

  template <class U>
  void write_scalar(const U& value) {
    static_assert(std::is_trivially_copyable_v<U>);
    require(sizeof(U));
    std::memcpy(to_, &value, sizeof(U));
    to_ += sizeof(U);
    room_ -= sizeof(U);
  }
  void write_length(std::size_t count) { write_scalar(std::uint64_t{count}); }
  void write_bytes(const void* from, std::size_t size) {
    require(size);
    if (size == 0) return;
    std::memcpy(to_, from, size);
    to_ += size;
    room_ -= size;
  }

  [[nodiscard]] std::size_t room() const noexcept { return room_; }

  [[noreturn]] static void throw_too_deep() { Sizer::throw_too_deep(); }

 private:
  friend class Descent<Writer>;
  std::byte* to_;
  std::size_t room_;
  unsigned depth_ = 0;
};

template <std::size_t size>
struct UnsignedOfSize;
template <>
struct UnsignedOfSize<1> {
  using type = std::uint8_t;
};
template <>
struct UnsignedOfSize<2> {
  using type = std::uint16_t;
};
template <>
struct UnsignedOfSize<4> {
  using type = std::uint32_t;
};
template <>
struct UnsignedOfSize<8> {
  using type = std::uint64_t;
};

// Takes values out of bytes that nobody vouches for. Every failure is a DecodeError; no reference
// into the buffer survives a decode.
class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) noexcept
      : from_(bytes.data()), left_(bytes.size()) {}

  [[nodiscard]] std::size_t remaining() const noexcept { return left_; }

  void require(std::size_t size) const {
    if (left_ < size) throw_truncated(size, left_);
  }

  // Any bit pattern must be a value of U: not for bool.
  template <class U>
  [[nodiscard]] U read_scalar() {
    static_assert(std::is_trivially_copyable_v<U> && !std::is_same_v<U, bool>);
    const std::byte* from = take(sizeof(U));
    if constexpr (std::has_single_bit(sizeof(U)) && sizeof(U) <= 8) {
      typename UnsignedOfSize<sizeof(U)>::type bits;
      std::memcpy(&bits, from, sizeof(bits));
      asm volatile("" : "+r"(bits));
      return std::bit_cast<U>(bits);
    } else {
      std::array<std::byte, sizeof(U)> bits;
      std::memcpy(bits.data(), from, sizeof(bits));
      forget_source(bits.data());
      return std::bit_cast<U>(bits);
    }
  }

  // A tag below `limit`, stored as `Tag`.
  template <class Tag>
  [[nodiscard]] std::size_t read_tag(std::size_t limit) {
    const std::size_t tag = read_scalar<Tag>();
    if (tag >= limit) throw_decode_error("a tag is out of range");
    return tag;
  }

  // A count of things that take at least `least_each` bytes: checked against what is left, so that
  // a forged count can make nobody allocate.
  [[nodiscard]] std::size_t read_length(std::size_t least_each) {
    const auto count = read_scalar<std::uint64_t>();
    if (count > left_ / least_each) throw_decode_error("a length exceeds the bytes that are left");
    return static_cast<std::size_t>(count);
  }

  void read_bytes(void* to, std::size_t size) {
    const std::byte* from = take(size);
    if (size != 0) std::memcpy(to, from, size);
    forget_source(to);
  }

  // The caller copies `size` bytes from here at once, and calls forget_source() on the copy.
  [[nodiscard]] const std::byte* take(std::size_t size) {
    require(size);
    const std::byte* at = from_;
    from_ += size;
    left_ -= size;
    return at;
  }

  void expect_end() const {
    if (left_ != 0) throw_decode_error("bytes are left over after the value");
  }

  [[noreturn]] static void throw_too_deep() {
    throw_decode_error("the value nests deeper than 1000 levels");
  }

 private:
  friend class Descent<Reader>;
  const std::byte* from_;
  std::size_t left_;
  unsigned depth_ = 0;
};

}  // namespace brood::detail
