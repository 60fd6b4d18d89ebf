// What a pool's workers write to stderr, on its way to the pool's own: seen by the supervisor, so
// that the last of it is known when a worker has died.
//
//     worker 1 ── writes ──► its pipe ──┐ SIGIO
//     worker 2 ── writes ──► its pipe ──┴──► supervisor ──► what is on its way ──► stderr
//                                                └──► the last 4 KiB of each worker
//
// While stderr takes nothing (a full pipe, a stopped terminal), what the living write stays in
// their pipes, and they wait once those are full, as they would without us; of the dead it is taken
// out, and kept as long as there is room.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "shm/pool_layout.hpp"
#include "sys/fd.hpp"
#include "sys/futex.hpp"
#include "sys/patient_stream.hpp"
#include "sys/poll.hpp"

namespace brood::pool {

// Used by the supervisor alone, in a process that must not use the heap.
//
// Threads: one. Blocking: as sys::PatientStream. Ownership: of the pipes' reading ends; the stream
// must stay open. Errors: none: a worker that can't have a pipe writes to the stream itself; what
// the stream refuses is dropped, and so is what the dead left beyond 1 MiB, which is said there.
// Death: of a worker: its pipe holds what it wrote. Of the supervisor: what is in the pipes is lost
// with the workers.
class StderrRelay {
 public:
  // For text that goes to `stream` (-1: nowhere). Has SIGIO wake the process that sleeps on
  // `control`, by counting it up.
  void start(int stream, sys::FutexWord& control) noexcept;

  // A pipe for the worker that is to start in `slot`; none if the system refuses.
  [[nodiscard]] sys::Fd open(std::uint16_t slot) noexcept;
  // The last that it wrote, up to now. Valid until the next call.
  [[nodiscard]] std::span<const std::byte> tail_of(std::uint16_t slot) noexcept;
  // Nobody writes there any more who counts.
  void close(std::uint16_t slot) noexcept;

  // Passes on what has come, as far as the stream takes it: no more than a little at a time.
  void forward(std::int64_t now_ns) noexcept;
  // When forward() is to be called without a signal.
  [[nodiscard]] std::int64_t next_look_ns() const noexcept { return next_look_ns_; }

  // Passes on the rest. Gives up when the stream takes nothing for a while.
  void finish() noexcept;

 private:
  struct Tail {
    std::uint64_t written;  // in all; the byte at position p is last[p % size]
    std::array<std::byte, shm::kStderrTailBytes> last;
  };
  struct Memory {
    std::array<std::byte, std::size_t{1} << 20U> outgoing;
    std::array<std::byte, std::size_t{1} << 16U> chunk;  // what a pipe holds, as a rule
    std::array<std::byte, shm::kStderrTailBytes> tail;   // that was asked for, in one piece
    std::array<sys::PollEntry, shm::kMaxSlots> entries;
    std::array<Tail, shm::kMaxSlots> tails;  // by slot
  };

  std::span<const std::byte> take_from(std::uint16_t slot, std::size_t most) noexcept;
  void take_all_from(std::uint16_t slot) noexcept;
  void keep(std::span<const std::byte> text) noexcept;
  void tell_dropped() noexcept;
  bool flush(std::int64_t now_ns) noexcept;
  void look_for_text(std::int64_t now_ns) noexcept;
  void pass_on_from_all(std::int64_t now_ns) noexcept;
  [[nodiscard]] std::size_t piece_length() const noexcept;

  Memory* memory_ = nullptr;  // nullptr: there are no pipes
  std::array<sys::Fd, shm::kMaxSlots> pipes_;
  std::uint16_t top_slot_ = 0;   // those from here on never had a pipe
  std::uint16_t next_slot_ = 0;  // the first to look at
  sys::PatientStream stream_;

  // What is on its way: outgoing[begin_, end_).
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
  std::uint64_t dropped_ = 0;  // bytes that nobody was told of

  bool more_ = false;  // may be in the pipes although no signal tells of it
  std::int64_t pause_ns_ = 0;
  std::int64_t next_look_ns_ = sys::kForever;
};

}  // namespace brood::pool
