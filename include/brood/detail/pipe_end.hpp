// The untyped half of Connection.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include "brood/detail/object.hpp"
#include "brood/detail/pool_core.hpp"

namespace brood {
struct PipeOptions;
}  // namespace brood

namespace brood::detail {

// Messages up to this size need no memory of their own.
inline constexpr std::size_t kSmallMessage = 48;

// A message that was received: this process's alone. The bytes of a large one lie in shared memory,
// where a broken process may still write: they are input.
class ReceivedMessage {
 public:
  ReceivedMessage() noexcept = default;
  ReceivedMessage(ReceivedMessage&& other) noexcept { *this = std::move(other); }
  ReceivedMessage& operator=(ReceivedMessage&& other) noexcept;
  ~ReceivedMessage() { reset(); }

  [[nodiscard]] std::uint64_t type() const noexcept { return type_; }
  [[nodiscard]] std::span<const std::byte> bytes() const noexcept {
    return frame_ != 0 ? std::span<const std::byte>(large_) : std::span(small_).first(size_);
  }

 private:
  friend class PipeEnd;
  void reset() noexcept;

  std::uint64_t type_ = 0;
  std::uint64_t frame_ = 0;  // 0: a small one
  bool has_handles_ = false;
  std::size_t size_ = 0;
  std::span<const std::byte> large_;
  alignas(8) std::array<std::byte, kSmallMessage> small_;
};

// A message being written: `payload` is where its bytes go.
class MessageDraft {
 public:
  MessageDraft() noexcept = default;
  MessageDraft(MessageDraft&& other) noexcept
      : payload(other.payload), frame_(std::exchange(other.frame_, 0)) {}
  MessageDraft& operator=(MessageDraft&&) = delete;
  ~MessageDraft();

  std::span<std::byte> payload;

 private:
  friend class PipeEnd;
  std::uint64_t frame_ = 0;
};

// One end of a pipe, as this process's handles of it share it.
//
// Threads: any. Blocking: what takes a deadline; false, or nothing: it came first. Ownership: a
// hold of its side. Errors: as Connection says. Death: likewise.
class PipeEnd {
 public:
  static std::pair<std::shared_ptr<PipeEnd>, std::shared_ptr<PipeEnd>> make(
      const PipeOptions& options);
  // Throws DecodeError if the object is no pipe's.
  static std::shared_ptr<PipeEnd> of(ObjectHandle handle);

  virtual ~PipeEnd() = default;
  PipeEnd(const PipeEnd&) = delete;
  PipeEnd& operator=(const PipeEnd&) = delete;

  [[nodiscard]] virtual const ObjectHandle& handle() const noexcept = 0;
  [[nodiscard]] virtual bool readable() const noexcept = 0;
  [[nodiscard]] virtual bool writable() const noexcept = 0;

  // At most kSmallMessage bytes.
  virtual bool send_small(std::uint64_t type, std::span<const std::byte> bytes,
                          DeadlineNs deadline) = 0;
  // Waits for room for a message of that size, too; nothing: the deadline came first.
  virtual std::optional<MessageDraft> draft(std::size_t bytes,
                                            std::span<const ObjectHandle> handles,
                                            DeadlineNs deadline) = 0;
  virtual bool commit(std::uint64_t type, MessageDraft& draft, DeadlineNs deadline) = 0;

  // The next message, if its type is one of these; TypeMismatch otherwise.
  virtual std::optional<ReceivedMessage> receive(std::span<const std::uint64_t> types,
                                                 DeadlineNs deadline) = 0;
  virtual bool poll(DeadlineNs deadline) = 0;
  virtual int fileno() = 0;

 protected:
  PipeEnd() noexcept = default;
  static ReceivedMessage small_message(std::uint64_t type, std::span<const std::byte> bytes);
  static ReceivedMessage large_message(std::uint64_t type, std::uint64_t frame, bool has_handles,
                                       std::span<const std::byte> bytes) noexcept;
  static MessageDraft draft_of(std::uint64_t frame, std::span<std::byte> payload) noexcept;
  static std::uint64_t frame_of(const MessageDraft& draft) noexcept { return draft.frame_; }
  static void gave_away(MessageDraft& draft) noexcept { draft.frame_ = 0; }
};

}  // namespace brood::detail
