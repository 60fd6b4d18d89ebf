// The caller's side of a pool, without types: records, replies, waiting.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

#include "brood/detail/callable.hpp"
#include "brood/detail/object.hpp"
#include "brood/detail/thunk.hpp"
#include "brood/error.hpp"

namespace brood {
struct PoolOptions;
struct PoolStats;
struct TaskOptions;
}  // namespace brood

namespace brood::detail {

// steady_clock in nanoseconds; INT64_MAX is for ever.
using DeadlineNs = std::int64_t;
inline constexpr DeadlineNs kNoDeadline = INT64_MAX;
DeadlineNs deadline_after(std::chrono::nanoseconds duration) noexcept;

// Names a task of a pool until it is released.
struct TaskTicket {
  std::uint32_t index = 0;
  std::uint32_t generation = 0;  // 0: none
};

// What became of a task before it was submitted: no worker is to hear of it.
enum class EndedBefore : std::uint8_t { no, cancelled, late };

// A task being written. `arguments` is 16-byte aligned room for callable and arguments.
struct TaskDraft {
  std::uint32_t index = 0;
  std::uint32_t priority = 1;
  EndedBefore ended = EndedBefore::no;
  std::span<std::byte> arguments;
};

// What the caller keeps for a task until it is released: what the arguments only refer to.
struct TaskBaggage {
  BoundPtr blob;
  std::vector<ObjectHandle> handles;
  std::string name;            // given by the user
  std::shared_ptr<void> stop;  // cancels the task when its stop token says so
  [[nodiscard]] bool empty() const noexcept {
    return blob == nullptr && handles.empty() && name.empty();
  }
};

// What is needed besides the arguments.
struct TaskSpec {
  ThunkId thunk = 0;
  const void* function = nullptr;  // the plain function to call, if it is one
  std::size_t argument_bytes = 0;
  // See PoolOptions and TaskOptions.
  std::uint32_t retries = 0;
  bool retry_exceptions = false;
  std::uint32_t priority = 1;  // 0: most urgent
  EndedBefore ended = EndedBefore::no;
  std::int64_t timeout_ns = kNoDeadline;
  DeadlineNs deadline_ns = kNoDeadline;
  std::string name;
  // map: how many elements, and the bytes of a cell for the result of each; 0: a single task.
  std::uint32_t elements = 0;
  std::uint32_t cell_bytes = 0;
};

// How a task or element ended. The bytes lie in shared memory: they are input.
struct TaskReply {
  enum class Kind { value, exception, died, cancelled, timed_out, no_room, out_of_reach, corrupt };
  Kind kind = Kind::corrupt;
  std::span<const std::byte> bytes;
  std::uint32_t element = 0;  // of its task
};

class CompletionSource;

// Threads: any; the members synchronise themselves. Blocking: wait(), join_until(), terminate().
// Ownership: shared by the Pool and its futures; the segment lives until the last of them is gone.
// In a process that the host forked by itself every copy is inert: operations throw Error, the
// destructor does nothing.
// Death: of a worker ends its task; of the supervisor ends the pool (BrokenPool).
class PoolCore : public std::enable_shared_from_this<PoolCore> {
 public:
  static std::shared_ptr<PoolCore> start(const PoolOptions& options);
  virtual ~PoolCore() = default;
  PoolCore() = default;
  PoolCore(const PoolCore&) = delete;
  PoolCore& operator=(const PoolCore&) = delete;

  [[nodiscard]] virtual std::size_t workers() const noexcept = 0;
  // A task without options of its own, and one with. Throws Error if they make no sense.
  [[nodiscard]] virtual const TaskSpec& defaults() const noexcept = 0;
  [[nodiscard]] virtual TaskSpec spec_of(const TaskOptions& options) const = 0;

  // Waits until fewer tasks than may are waiting. Throws what draft() throws. With a place taken,
  // that one task may be submitted, and leave() is to be called. None is needed where the task's
  // deadline or `stop` has ended it meanwhile, which is written down in `spec`.
  enum class Place : std::uint8_t { none_by_limit, taken, not_needed };
  virtual Place admit(TaskSpec& spec, const std::stop_token& stop, DeadlineNs limit) = 0;
  virtual void leave() noexcept = 0;

  // Where code and constants lie in the workers.
  [[nodiscard]] virtual Addresses addresses() const noexcept = 0;

  // Begins a task. Throws PoolClosed, BrokenPool, FamilyBroken, ArenaFull, NotSendable (the
  // callable's code is not in the workers). Every draft must be committed or dropped.
  virtual TaskDraft draft(const TaskSpec& spec) = 0;
  virtual void drop(const TaskDraft& draft) noexcept = 0;
  // The workers may take it from now on. The baggage is kept until the task is released.
  virtual TaskTicket commit(const TaskDraft& draft, TaskBaggage baggage) = 0;
  // The inbox block with the bytes of `blob`.
  virtual std::uint64_t place(const BoundPtr& blob) = 0;

  [[nodiscard]] virtual bool ready(TaskTicket task) const noexcept = 0;
  // True: the task has ended. False: the deadline came first. Throws PoolClosed, BrokenPool,
  // FamilyBroken if it never will.
  virtual bool wait(TaskTicket task, DeadlineNs deadline) = 0;
  // Whether no value will come. Never blocks.
  virtual bool cancel(TaskTicket task) noexcept = 0;
  // The same when the token says so; the task has not been released yet.
  virtual void cancel_on(const std::stop_token& stop, TaskTicket task) = 0;
  [[nodiscard]] virtual bool is_cancelled(TaskTicket task) const noexcept = 0;
  // Taken by a worker, and its outcome not known yet.
  [[nodiscard]] virtual bool is_running(TaskTicket task) const noexcept = 0;

  // Of a task that has ended.
  [[nodiscard]] virtual TaskReply reply(TaskTicket task) const = 0;
  [[nodiscard]] virtual TaskReply reply_of_element(TaskTicket task, std::uint32_t index) const = 0;
  // The cells of a task of several elements that has ended, if each holds a value in place; empty
  // if any element has another outcome, or anything else is the matter.
  [[nodiscard]] virtual std::span<const std::byte> values_in_cells(TaskTicket /*task*/) const {
    return {};
  }
  // Throws what a reply that is no value stands for.
  [[noreturn]] virtual void throw_reply(TaskTicket task, const TaskReply& reply,
                                        std::size_t index) const = 0;
  // For those who wait for several. Throws Error in another process than that of the pool.
  virtual CompletionSource& completions() = 0;
  // No worker has taken it yet.
  [[nodiscard]] virtual bool is_pending(TaskTicket task) const noexcept = 0;
  // map: how many elements are finished. Input.
  [[nodiscard]] virtual std::uint32_t elements_done(TaskTicket task) const noexcept = 0;
  // map: how long the worker took for the elements of a task that has ended; 0: unknown. Input.
  [[nodiscard]] virtual std::chrono::microseconds busy_time(TaskTicket task) const noexcept = 0;
  // Gives the record up; of a task that has not ended, when it has.
  virtual void release(TaskTicket task) noexcept = 0;

  virtual void resize(std::size_t workers) = 0;
  virtual void close() noexcept = 0;
  virtual void terminate() noexcept = 0;
  // True: all processes of the pool have ended.
  virtual bool join_until(DeadlineNs deadline) = 0;
  virtual bool shutdown(DeadlineNs drain, std::chrono::nanoseconds term) = 0;
  [[nodiscard]] virtual PoolStats stats() const = 0;
  // Of workers, while the pool ran.
  [[nodiscard]] virtual std::uint64_t deaths() const noexcept { return 0; }
  // As the destructor of Pool: ends everything, bounded.
  virtual void end() noexcept = 0;
};

// A task's place in the queue, from asking for it until the task stands there itself.
class Admission {
 public:
  Admission(PoolCore& core, TaskSpec& spec, const std::stop_token& stop, DeadlineNs limit)
      : core_(core), place_(core.admit(spec, stop, limit)) {}
  ~Admission() {
    if (place_ == PoolCore::Place::taken) core_.leave();
  }
  Admission(const Admission&) = delete;
  Admission& operator=(const Admission&) = delete;
  explicit operator bool() const noexcept { return place_ != PoolCore::Place::none_by_limit; }

 private:
  PoolCore& core_;
  PoolCore::Place place_;
};

// What a Pool has. Throws PoolClosed if it was moved from, and Error in a task, where a pool of the
// program was never made: it is empty, or there is none at all, `pool` then being a null pointer.
const std::shared_ptr<PoolCore>& require_pool(const std::shared_ptr<PoolCore>* pool);

}  // namespace brood::detail
