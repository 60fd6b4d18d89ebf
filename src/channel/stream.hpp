// One direction of a pipe: a ring of messages between processes (pipe_layout.hpp).
//
// Threads:   any, of any process, on both sides.
// Blocking:  never; who finds no message or no room waits elsewhere (shared/waiting.hpp).
// Ownership: a view; the pipe must outlive it. A frame belongs to the sender until it is published
//            and given away, and to the receiver from take() on.
// Errors:    `corrupt`: the words make no sense, somebody has overwritten them. Whatever is read is
//            bounded; nothing here follows an address from shared memory.
// Death:     at any instruction leaves cells that name the dead: bury().
// Memory ordering: a cell's word is released by whoever is done with the cell and acquired by
// whoever claims it next. Publishing and emptying are seq_cst, as bells need it, and so are looks.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "channel/pipe_layout.hpp"
#include "shm/objects.hpp"

namespace brood::channel {

// What a sender has claimed.
struct Room {
  enum class Kind : std::uint8_t { claimed, full, corrupt };
  Kind kind = Kind::full;
  StreamCell* cell = nullptr;
  std::uint32_t lap = 0;
};

// The first message, as it lies there.
struct Glimpse {
  enum class Kind : std::uint8_t { message, nothing, corrupt };
  Kind kind = Kind::nothing;
  StreamCell* cell = nullptr;
  StreamWord word = {};
  std::uint64_t type = 0;
  std::uint64_t position = 0;
  bool is_first = false;        // nothing before it is still in use
  bool passed_writing = false;  // something before it was being written
};

// A message that was taken: its bytes, or the frame they are in, which is the caller's.
struct TakenMessage {
  std::uint64_t type = 0;
  std::size_t size = 0;  // of `bytes`
  shm::FramePlace frame = {};
  alignas(8) std::array<std::byte, kInlineBytes> bytes;
};

class Stream {
 public:
  Stream() noexcept = default;
  Stream(StreamHints& hints, StreamCell* cells, std::uint32_t cells_log) noexcept
      : hints_(&hints), cells_(cells), log_(cells_log) {}
  explicit operator bool() const noexcept { return hints_ != nullptr; }
  [[nodiscard]] std::size_t capacity() const noexcept { return std::size_t{1} << log_; }

  // ---- sending

  Room claim(shm::OwnerId me) noexcept;
  static void publish(const Room& room, std::uint64_t type,
                      std::span<const std::byte> bytes) noexcept;  // at most kInlineBytes
  // The frame is the caller's, and its container the pipe; afterwards it is nobody's.
  static void publish(const Room& room, std::uint64_t type, const shm::FramePlace& frame,
                      shm::Objects& objects) noexcept;
  // Whether claim() would find room now.
  [[nodiscard]] bool has_room() noexcept;
  // The bytes of messages of at least `least` bytes that wait here.
  [[nodiscard]] std::uint64_t bytes_waiting(std::uint64_t least) const noexcept;

  // ---- receiving

  [[nodiscard]] Glimpse look() noexcept;
  enum class Took : std::uint8_t {
    message,
    nothing,  // another was quicker
    hole,     // its sender died before its send had returned; the cell is free
  };
  Took take(const Glimpse& glimpse, shm::BlockRef pipe, shm::Objects& objects,
            TakenMessage& message) noexcept;

  // ---- afterwards

  // Undoes what the dead was about. Again changes nothing more.
  void bury(shm::OwnerId dead, shm::BlockRef pipe, shm::Objects& objects) noexcept;

 private:
  [[nodiscard]] StreamCell& cell(std::uint64_t position) const noexcept {
    return cells_[position & (capacity() - 1)];
  }
  [[nodiscard]] std::uint32_t lap(std::uint64_t position) const noexcept {
    return static_cast<std::uint32_t>(position >> log_) & StreamWord::kLapMask;
  }
  [[nodiscard]] Glimpse scan(std::optional<std::uint64_t> until) noexcept;
  template <class Visit>
  Room::Kind find_room(Visit&& visit) noexcept;

  StreamHints* hints_ = nullptr;
  StreamCell* cells_ = nullptr;
  std::uint32_t log_ = 0;
};

// A pipe's body with its geometry, checked once.
struct PipeView {
  std::array<Stream, 2> streams;           // by direction; a one-way pipe has no streams[0]
  std::array<DoorbellBoard*, 2> boards{};  // by side
  std::uint64_t most_bytes = 0;
};
// Nothing: the body is no pipe's.
std::optional<PipeView> view_pipe(std::span<std::byte> body) noexcept;
// Of a new pipe; the body is zeroed and large enough.
void format_pipe(std::span<std::byte> body, bool duplex, std::uint32_t cells_log,
                 std::uint64_t most_bytes) noexcept;

// Whether who receives on that side by `in` would not have to wait: there is a message, or there
// will never be one, or the words make no sense.
bool is_pipe_ready(Stream& in, const shm::ObjectPlace& pipe, std::uint32_t side) noexcept;

// The warden's part (burial.cpp).
void bury_in_pipe(const shm::ObjectPlace& pipe, shm::OwnerId dead, shm::Objects& objects) noexcept;
// After a side of it has ended.
void ring_doorbells_of_pipe(const shm::ObjectPlace& pipe, const shm::Objects& objects) noexcept;

}  // namespace brood::channel
