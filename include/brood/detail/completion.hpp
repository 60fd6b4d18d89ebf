// Waiting for several tasks at once, without types: who says that a task has ended, and who
// collects what was said.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "brood/detail/pool_core.hpp"

namespace brood::detail {

// Where the end of watched tasks is reported, in the process that watches. Called with the source's
// lock held.
class CompletionSink {
 public:
  virtual void ended(std::uint32_t slot) noexcept = 0;

 protected:
  ~CompletionSink() = default;
};

// A pool, as those see it who wait for several of its tasks.
//
// Threads: any. Blocking: for its lock. Ownership: of its descriptors and of what it notes for a
// task until that has ended or unwatch(). Errors: ArenaFull, SystemError where stated. Death: of a
// worker before it has told of its task's end is made up for; of the pool is the end of all tasks.
class CompletionSource {
 public:
  // Reports the task's end to `sink`, once: at once if it has ended, or no task will end any more;
  // also when the task is released. Throws ArenaFull, Error (another process's pool).
  virtual void watch(TaskTicket task, CompletionSink& sink, std::uint32_t slot) = 0;
  // After it nothing is reported, unless it has been.
  virtual void unwatch(TaskTicket task, CompletionSink& sink, std::uint32_t slot) noexcept = 0;

  // Whether collect() has something to do; cheap.
  [[nodiscard]] virtual bool has_news() const noexcept = 0;
  // Reports what is known to have ended. True: the pool is over, and all is reported.
  virtual bool collect() noexcept = 0;
  // The same without trust in what was told. `doubt`: have the supervisor look as well.
  virtual bool look_at_all(bool doubt) noexcept = 0;

  // What to sleep on after a look that found nothing: the word, and the value it had before that
  // look; none if the reporting threads are this process's own.
  struct Bell {
    const void* word = nullptr;
    std::uint32_t value = 0;
  };
  virtual Bell listen() noexcept = 0;
  // How long it is worth to look before sleeping.
  [[nodiscard]] virtual std::int64_t most_look_ns() const noexcept = 0;

  // Readable when something may be told; and when the pool is over. -1: none is needed. Throws
  // SystemError.
  struct Descriptors {
    int door = -1;
    int end = -1;
  };
  virtual Descriptors descriptors() = 0;
  // From now on the door is not readable until there is news: look again afterwards.
  virtual void arm() noexcept = 0;

  // Readable once this task has ended; open until it is released. Throws SystemError, Error.
  virtual int door(TaskTicket task) = 0;

 protected:
  ~CompletionSource() = default;
};

// The tasks that somebody waits for, of whatever pools.
//
// Threads: any. Blocking: next_until(). Ownership: keeps the pools; the tasks are whoever has their
// futures'. In a forked copy it is inert. Errors: of add() and fileno(): what watching throws;
// then nothing was added. Death: see CompletionSource.
class CompletionCore {
 public:
  static std::unique_ptr<CompletionCore> make();
  virtual ~CompletionCore() = default;
  CompletionCore() = default;
  CompletionCore(const CompletionCore&) = delete;
  CompletionCore& operator=(const CompletionCore&) = delete;

  virtual void add(const std::shared_ptr<PoolCore>& core, TaskTicket task, std::uint64_t tag) = 0;
  // 0, 1, 2...
  std::uint64_t number_next() noexcept { return numbers_.fetch_add(1, std::memory_order_relaxed); }
  // Whether something was added and not given out yet.
  [[nodiscard]] virtual bool empty() const noexcept = 0;
  // The tag of a task that has ended, oldest end first. Empty: none by then, or wake() was called
  // since the last such answer, or there is nothing to wait for and `idle` is false. Serves signals
  // unless the deadline is 0.
  virtual std::optional<std::uint64_t> next_until(DeadlineNs deadline, bool idle = false) = 0;
  virtual void wake() noexcept = 0;
  // Lets go of pools that nothing is waited for of; next_until() does too when nothing is left.
  virtual void forget_pools() noexcept = 0;
  virtual int fileno() = 0;

 private:
  std::atomic<std::uint64_t> numbers_{0};
};

// Waits until the word that is 0 is another; false if the deadline came first. Serves signals.
bool wait_for_flag(const std::uint32_t& word, DeadlineNs deadline);
void raise_flag(std::uint32_t& word) noexcept;

}  // namespace brood::detail
