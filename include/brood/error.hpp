// The errors of brood. Each type says what the caller can do about it.
//
// Every failure of the library itself derives from brood::Error. What a *task* threw never does: a
// standard exception comes back as its own type, any other as RemoteError, so `catch (const
// brood::Error&)` never swallows an error of the user's own function. Both carry a RemoteInfo; get
// it with remote_info(e).
//
//   Threads:   values; distinct objects may be used from distinct threads.
//   Blocking:  never.
//   Ownership: each error owns its texts.
//   Errors:    constructing one may throw std::bad_alloc.
//   Death:     WorkerDied describes the death of another process; nothing here depends on one.
#pragma once

#include "brood/detail/cpp20.hpp"

#include <cstddef>
#include <cstdint>
#include <exception>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "brood/backtrace.hpp"

namespace brood {

// Base of every error that brood itself raises.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A timed operation reached its limit; nothing was lost, try again or give up.
class TimeoutError : public Error {
 public:
  using Error::Error;
};

// A task ran for longer than it may, or missed its deadline, and was ended.
class TaskTimeout : public TimeoutError {
 public:
  explicit TaskTimeout(const std::string& what, int attempts = 1)
      : TimeoutError(what), attempts_(attempts) {}

  // How often the task was started, as Death::attempts; 0: it waited until it was too late.
  [[nodiscard]] int attempts() const noexcept { return attempts_; }

 private:
  int attempts_;
};

// The task was cancelled; no value will come.
class Cancelled : public Error {
 public:
  using Error::Error;
};

// A wait was ended by a signal the caller asked to be interrupted by.
class Interrupted : public Error {
 public:
  explicit Interrupted(const std::string& what, int signal = 0) : Error(what), signal_(signal) {}

  [[nodiscard]] int signal() const noexcept { return signal_; }

 private:
  int signal_;
};

// The other side is gone or closed: stop using this object.
class Closed : public Error {
 public:
  using Error::Error;
};

// A bounded object has no room; try later.
class Full : public Error {
 public:
  using Error::Error;
};

// An object holds nothing; try later.
class Empty : public Error {
 public:
  using Error::Error;
};

// The pool takes no more tasks, or ended before this one was run: make a new pool.
class PoolClosed : public Closed {
 public:
  using Closed::Closed;
};

// The pool can't go on (workers die before their first task, its supervisor was killed, its memory
// was overwritten): make a new pool.
class BrokenPool : public Error {
 public:
  using Error::Error;
};

// The warden of this family of processes is gone; shared objects can't be trusted to be cleaned.
class FamilyBroken : public Error {
 public:
  using Error::Error;
};

// A process could not be started; the text says why and what would help.
class StartError : public Error {
 public:
  using Error::Error;
};

// PoolOptions::initializer, preload or prepare threw, or ended its process (by a crash, an exit; by
// SIGKILL only if that goes on happening): the pool ends, and this is what all its tasks get.
class InitializerFailed : public BrokenPool {
 public:
  explicit InitializerFailed(const std::string& what, std::exception_ptr cause = nullptr)
      : BrokenPool(what), cause_(std::move(cause)) {}

  // What it threw, as a task's exception is rethrown, or WorkerDied; nullptr: unknown.
  [[nodiscard]] const std::exception_ptr& cause() const noexcept { return cause_; }

 private:
  std::exception_ptr cause_;
};

// A callable or value can't be sent to another process; the text names the reason.
class NotSendable : public Error {
 public:
  using Error::Error;
};

// Bytes from another process are not an encoding of the expected type.
class DecodeError : public Error {
 public:
  using Error::Error;
};

// The bytes are an encoding of another type than the one asked for.
class TypeMismatch : public DecodeError {
 public:
  using DecodeError::DecodeError;
};

// Shared memory is exhausted or refused by the system: free something, or raise the limit.
class ArenaFull : public Error {
 public:
  using Error::Error;
};

// A message is longer than the room for it: here it is, whole.
class BufferTooShort : public Error {
 public:
  explicit BufferTooShort(std::vector<std::byte> message)
      : Error("brood: a message of " + std::to_string(message.size()) +
              " bytes is longer than the room for it"),
        message_(std::move(message)) {}

  [[nodiscard]] const std::vector<std::byte>& message() const noexcept { return message_; }

 private:
  std::vector<std::byte> message_;
};

// The object behind a handle is gone.
class StaleHandle : public Error {
 public:
  using Error::Error;
};

// The previous owner of a lock died while holding it; repair the data, then call recover().
class OwnerDied : public Error {
 public:
  using Error::Error;
};

// A party of the barrier died or the barrier was reset.
class BrokenBarrier : public Error {
 public:
  using Error::Error;
};

// A consumer died before it called task_done().
class TaskAbandoned : public Error {
 public:
  using Error::Error;
};

// The peer did not prove that it knows the key.
class AuthenticationError : public Error {
 public:
  using Error::Error;
};

// A call to the kernel failed for a reason without a type of its own.
class SystemError : public Error {
 public:
  // `error_number` is an errno value; `what` names the operation, e.g. "mapping a segment".
  SystemError(int error_number, const std::string& what)
      : Error(what + ": " + std::generic_category().message(error_number)),
        code_(error_number, std::generic_category()) {}

  [[nodiscard]] const std::error_code& code() const noexcept { return code_; }

 private:
  std::error_code code_;
};

// Where an exception rethrown from a task came from.
struct RemoteInfo {
  int worker_pid = 0;          // process that ran the task
  std::string task = {};       // name of the callable
  std::string type_name = {};  // demangled type that was thrown there
  Backtrace backtrace = {};    // of the last throw or rethrow there; empty if unknown
  int attempts = 1;            // how often the task was started, this time included
};

// An exception of a non-standard type thrown in a task. Deliberately no brood::Error.
class RemoteError : public std::runtime_error, public RemoteInfo {
 public:
  RemoteError(const std::string& what, RemoteInfo info)
      : std::runtime_error(what), RemoteInfo(std::move(info)) {}
};

// What is known of where `e` was thrown, or nullptr if it was not rethrown from a task.
[[nodiscard]] inline const RemoteInfo* remote_info(const std::exception& e) noexcept {
  return dynamic_cast<const RemoteInfo*>(&e);
}

// What is known of a process's death.
struct Death {
  int pid = 0;                       // of the process that died
  int signal = 0;                    // that killed it; 0 if it exited
  int exit_code = 0;                 // if it exited; 0 if a signal killed it
  std::uintptr_t fault_address = 0;  // of SIGSEGV, SIGBUS, SIGFPE, SIGILL; 0 if unknown
  bool out_of_memory = false;        // for want of memory: by the kernel, or a limit of the pool's
  bool core_dumped = false;          // known only once the kernel has finished with the process
  int attempts = 1;                  // how often the task was started, this death included
  std::string task = {};             // name of the callable it was running; empty if none
  std::size_t index = 0;             // of the element in map; 0 otherwise
  std::string backtrace = {};        // where it crashed (backtrace.hpp); empty if unknown
  // The last 4 KiB that the process wrote to stderr, of a worker maybe before this task; as they
  // are. Empty if it wrote none, or that is not looked at (worker_stderr, ProcessOptions::err).
  std::string stderr_tail = {};
  bool hung = false;      // it was killed because it gave no sign of life in time
  std::string kept = {};  // the file that runs it again: see PoolOptions::keep_failed
  // Of PoolOptions, if it was killed for having more; 0 otherwise.
  std::uint64_t memory_limit_bytes = 0;
  bool stack_overflow = false;  // what it hit was the end of its stack, by all appearance
};

// The process that ran the task died (killed, crashed, exited). Only this task is lost: retrying
// is the caller's decision, the pool itself goes on.
class WorkerDied : public Error, public Death {
 public:
  explicit WorkerDied(Death death) : Error(describe(death)), Death(std::move(death)) {}

 private:
  static std::string describe(const Death& death);
};

}  // namespace brood
