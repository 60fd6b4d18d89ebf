// Text that passes through a process which must never wait for it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "sys/fd.hpp"

namespace brood::sys {

// A pipe whose writers wait while it is full and whose reader never does: SIGIO tells the calling
// process of each write. Both ends close-on-exec. 0 or -errno.
int pipe_with_news(Fd& reading, Fd& writing) noexcept;

// What is there now. 0: nobody can write any more; -EAGAIN: nothing; or another -errno.
long read_now(int fd, std::span<std::byte> bytes) noexcept;

// What one write to a pipe does not tear (PIPE_BUF).
inline constexpr std::size_t kUntornBytes = 4096;

// A descriptor as somebody writes to it who never waits, without a change to the descriptor, which
// others use: a file is written as it is, a pipe or terminal through an open file of our own, or if
// the system refuses that only while it says that there is room.
//
// Threads: one. Blocking: as long as writing a file takes. Ownership: the descriptor stays the
// caller's, who keeps it open. Errors: -errno. The caller has to catch or ignore SIGPIPE and
// SIGXFSZ.
class PatientStream {
 public:
  PatientStream() noexcept = default;
  // -1: what is written goes nowhere.
  explicit PatientStream(int fd) noexcept;

  // Writes of `bytes` what there is room for, at most kUntornBytes. How many, -EAGAIN (none), or
  // another -errno.
  long write(std::span<const std::byte> bytes) noexcept;
  // Whether write() never waits for a reader.
  [[nodiscard]] bool is_patient() const noexcept { return is_patient_; }
  // Until there may be room.
  void wait(std::int64_t deadline_ns) const noexcept;

 private:
  enum class Way : std::uint8_t { none, plain, asked, socket };

  Way way_ = Way::none;
  int fd_ = -1;
  Fd own_;
  bool is_patient_ = true;
};

}  // namespace brood::sys
