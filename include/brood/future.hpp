// The result of a task, when there is one.
#pragma once

#include "brood/detail/cpp20.hpp"

#include <chrono>
#include <exception>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>

#include "brood/continuation.hpp"
#include "brood/detail/completion.hpp"
#include "brood/detail/pool_core.hpp"
#include "brood/result.hpp"

namespace brood {

// What became of a task submitted to a pool.
//
//   Threads:   one at a time per Future; distinct futures of a pool may be used at once.
//   Blocking:  get(), wait() until the task has ended; get_for(), wait_for() and the _until forms
//              at most that long. ready() never.
//   Ownership: move-only. The destructor neither waits nor cancels: the task runs all the same and
//              its result is dropped. A Future may outlive its Pool.
//   Errors:    get() throws what the task threw (a standard exception as its own type, any other
//              as RemoteError), WorkerDied, TaskTimeout if it ran longer than it may or missed its
//              deadline, Cancelled, PoolClosed if the pool ended before the task was run,
//              BrokenPool, FamilyBroken, DecodeError, ArenaFull if the result found no room. Waits
//              serve signals (signals.hpp): Interrupted, after which the result can still be got.
//   Death:     of the worker ends the wait with WorkerDied within about a millisecond, or starts
//              the task again if it has retries left.
//
// What the task did before it returned is visible to whoever got its result.
template <class R>
class [[nodiscard]] Future : public detail::Continuable<Future<R>, R> {
 public:
  Future() noexcept = default;
  Future(Future&& other) noexcept
      : core_(std::move(other.core_)), task_(std::exchange(other.task_, {})) {}
  Future& operator=(Future&& other) noexcept {
    if (this != &other) {
      release();
      core_ = std::move(other.core_);
      task_ = std::exchange(other.task_, {});
    }
    return *this;
  }
  ~Future() { release(); }

  // Whether there is a result to come or to get: false after get() and for a moved-from Future.
  [[nodiscard]] bool valid() const noexcept { return core_ != nullptr; }

  // Whether get() would return or throw at once. Requires valid().
  [[nodiscard]] bool ready() const noexcept { return core_ != nullptr && core_->ready(task_); }

  // Whether a worker is at it now.
  [[nodiscard]] bool running() const noexcept {
    return core_ != nullptr && core_->is_running(task_);
  }

  // No value is wanted. True: none will come, and get() throws Cancelled at once. A task that waits
  // is never run; one that runs is asked to stop (stop_requested() in task.hpp), and its worker
  // killed after PoolOptions::grace if it does not. False: the task has ended, or ended by its time
  // limit, before. Never blocks.
  bool cancel() noexcept { return core_ != nullptr && core_->cancel(task_); }
  [[nodiscard]] bool cancelled() const noexcept {
    return core_ != nullptr && core_->is_cancelled(task_);
  }

  // Waits for the result and moves it out: once. Throws also Error if there is none to get.
  R get() {
    require_valid();
    core_->wait(task_, detail::kNoDeadline);
    return take();
  }

  // The same with a limit; nullopt (for void: false) if the task has not ended by then.
  auto get_for(std::chrono::nanoseconds limit) { return get_before(detail::deadline_after(limit)); }
  auto get_until(std::chrono::steady_clock::time_point limit) {
    return get_before(limit.time_since_epoch().count());
  }

  // As get(), but what that would throw for the task is in the outcome. Interrupted is thrown.
  Result<R> result() {
    require_valid();
    if (std::exception_ptr never = await_end()) {
      release();
      return Result<R>::of(0, [&]() -> R { std::rethrow_exception(never); });
    }
    return Result<R>::of(0, [this] { return take(); });
  }

  // Waits, and tells what get() will throw; nullptr if the task returned. Takes nothing away.
  [[nodiscard]] std::exception_ptr exception() const {
    require_valid();
    if (std::exception_ptr never = await_end()) return never;
    const detail::TaskReply reply = core_->reply(task_);
    std::exception_ptr error;
    try {
      if (reply.kind != detail::TaskReply::Kind::value) core_->throw_reply(task_, reply, 0);
    } catch (...) {
      error = std::current_exception();
    }
    return error;
  }

  // Until the task has ended; throws as get() if it never will.
  void wait() const {
    require_valid();
    core_->wait(task_, detail::kNoDeadline);
  }
  // False if the task has not ended by then.
  [[nodiscard]] bool wait_for(std::chrono::nanoseconds limit) const {
    require_valid();
    return core_->wait(task_, detail::deadline_after(limit));
  }
  [[nodiscard]] bool wait_until(std::chrono::steady_clock::time_point limit) const {
    require_valid();
    return core_->wait(task_, limit.time_since_epoch().count());
  }

  // For poll(), epoll and brood::wait(): readable once the task has ended, or never will. Takes two
  // descriptors of this process until the result is taken or this dropped; for many tasks, see
  // CompletionQueue (completion.hpp). Throws Error if there is nothing to get, SystemError.
  [[nodiscard]] int fileno() const {
    require_valid();
    return core_->completions().door(task_);
  }

 private:
  friend class Pool;
  friend struct detail::FutureAccess;
  using Value = std::conditional_t<std::is_void_v<R>, char, R>;
  using Optional = std::conditional_t<std::is_void_v<R>, bool, std::optional<Value>>;

  Future(std::shared_ptr<detail::PoolCore> core, detail::TaskTicket task) noexcept
      : core_(std::move(core)), task_(task) {}

  bool wait_before(detail::DeadlineNs deadline) const {
    require_valid();
    return core_->wait(task_, deadline);
  }
  void on_end(detail::LoopCore& loop, Posted job) const {
    // By value: this may be gone before the call has returned.
    loop.when_ended(std::shared_ptr(core_), task_, std::move(job));
  }

  void require_valid() const {
    if (core_ == nullptr)
      throw Error("brood: get() was already called, or this future is empty or moved from");
  }

  // Not nullptr: it never will, because of this.
  [[nodiscard]] std::exception_ptr await_end() const {
    try {
      core_->wait(task_, detail::kNoDeadline);
    } catch (const Interrupted&) {
      throw;
    } catch (...) {
      return std::current_exception();
    }
    return nullptr;
  }

  Optional get_before(detail::DeadlineNs deadline) {
    require_valid();
    if (!core_->wait(task_, deadline)) return Optional{};
    if constexpr (std::is_void_v<R>) {
      take();
      return true;
    } else {
      return Optional(take());
    }
  }

  // Whatever happens, the record is given up afterwards.
  R take() {
    const Future taken(std::move(*this));
    const detail::TaskReply reply = taken.core_->reply(taken.task_);
    if (reply.kind != detail::TaskReply::Kind::value) {
      taken.core_->throw_reply(taken.task_, reply, 0);
    }
    if constexpr (!std::is_void_v<R>) {
      detail::Reader reader(reply.bytes);
      R result = detail::decode_part<R>(reader);
      reader.expect_end();
      return result;
    }
  }

  void release() noexcept {
    if (core_ != nullptr) core_->release(task_);
    core_ = nullptr;
  }

  std::shared_ptr<detail::PoolCore> core_;
  detail::TaskTicket task_;
};

}  // namespace brood
