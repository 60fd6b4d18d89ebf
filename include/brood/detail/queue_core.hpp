// A queue without types: what the templates of queue.hpp are made of.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "brood/detail/object.hpp"
#include "brood/detail/pool_core.hpp"

namespace brood {
struct QueueOptions;
}  // namespace brood

namespace brood::detail {

// The room for a value in cells of each size.
inline constexpr std::size_t kCellHeadBytes = 8;
inline constexpr std::size_t kLargestCell = 128;

// What kind of values a queue holds; follows from the type.
struct QueueElement {
  std::uint64_t type = 0;
  bool framed = false;            // in blocks of their own, named in the cells
  std::uint32_t cell_bytes = 16;  // with the head
  std::uint32_t value_bytes = 0;  // of values that are not framed
  bool counts_tasks = false;
};

// No wait at all.
inline constexpr DeadlineNs kNoWait = INT64_MIN;

// A block of shared memory of this process's, on its way into a queue or out of it.
//
// Threads: one at a time. Blocking: never. Ownership: of the block, which the destructor frees; in
// a forked copy it does nothing. Death: of this process frees the block.
class QueueFrame {
 public:
  QueueFrame() noexcept = default;
  QueueFrame(std::uint64_t name, std::span<std::byte> payload) noexcept;
  QueueFrame(QueueFrame&& other) noexcept { swap(other); }
  QueueFrame& operator=(QueueFrame&& other) noexcept {
    QueueFrame(std::move(other)).swap(*this);
    return *this;
  }
  ~QueueFrame();

  explicit operator bool() const noexcept { return name_ != 0; }
  [[nodiscard]] std::span<std::byte> payload() const noexcept { return payload_; }
  [[nodiscard]] std::uint64_t name() const noexcept { return name_; }
  [[nodiscard]] bool is_ours() const noexcept;
  // It is somebody else's now.
  void release() noexcept { name_ = 0; }

 private:
  void swap(QueueFrame& other) noexcept {
    std::swap(name_, other.name_);
    std::swap(payload_, other.payload_);
    std::swap(token_, other.token_);
  }
  std::uint64_t name_ = 0;
  std::span<std::byte> payload_;
  std::uint64_t token_ = 0;
};

// Threads: any. Blocking: put and get until the deadline. Ownership: of a hold of the queue; one
// for all handles of this process. Errors: those of queue.hpp. Death: see queue.hpp.
class QueueCore {
 public:
  static std::shared_ptr<QueueCore> make(const QueueElement& element, const QueueOptions& options);
  // nullptr for an empty handle. Throws TypeMismatch if it is no queue of such elements.
  static std::shared_ptr<QueueCore> of(const ObjectHandle& handle, const QueueElement& element);
  virtual ~QueueCore() = default;
  QueueCore() = default;
  QueueCore(const QueueCore&) = delete;
  QueueCore& operator=(const QueueCore&) = delete;

  [[nodiscard]] virtual const ObjectHandle& handle() const noexcept = 0;

  // late: the deadline came first. closed: and, for get, nothing is left.
  enum class Outcome : std::uint8_t { done, late, closed };

  // `room` has cell_bytes - kCellHeadBytes bytes.
  virtual Outcome put_cell(const std::byte* room, DeadlineNs deadline) = 0;
  virtual Outcome get_cell(std::byte* room, DeadlineNs deadline) = 0;

  // Throws ArenaFull.
  virtual QueueFrame make_frame(std::size_t bytes, std::span<const ObjectHandle> handles) = 0;
  // Until the queue has room for a frame, as far as can be seen. Waits for shared memory, too.
  virtual Outcome loan_frame(std::size_t bytes, DeadlineNs deadline, QueueFrame& frame) = 0;
  // done: the frame is the queue's. Else it is still the caller's.
  virtual Outcome put_frame(QueueFrame& frame, DeadlineNs deadline) = 0;
  virtual Outcome get_frame(QueueFrame& frame, DeadlineNs deadline) = 0;

  virtual void task_done() = 0;
  // False: the deadline came first. Throws TaskAbandoned.
  virtual bool join(DeadlineNs deadline) = 0;

  [[nodiscard]] virtual std::size_t size() = 0;
  [[nodiscard]] virtual bool empty() = 0;
  [[nodiscard]] virtual bool full() = 0;
  virtual void close() = 0;
  [[nodiscard]] virtual bool closed() = 0;
  [[nodiscard]] virtual int fileno() = 0;
  // Whether get would not wait.
  [[nodiscard]] virtual bool is_ready() = 0;
};

[[noreturn]] void throw_queue_closed();
[[noreturn]] void throw_no_queue();

}  // namespace brood::detail
