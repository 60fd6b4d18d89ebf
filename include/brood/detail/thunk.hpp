// How a callable finds its code in another process: by its number in a table that every process
// of the program has for itself. No code address is ever taken from shared memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "brood/detail/codec_type_id.hpp"

namespace brood::detail {

class ObjectHandle;
class TaskFrame;

// Runs one task: decodes callable and arguments, calls, encodes the result.
using ThunkFn = void (*)(TaskFrame& frame);

// A number in the table; 0 is none.
using ThunkId = std::uint32_t;

// What a thunk runs: a call as a task, elements of map, a process or what a pool's workers begin
// with.
enum class ThunkKind : std::uint8_t { other, call, map, process };

struct Thunk {
  ThunkFn run = nullptr;
  std::string_view name = {};  // of the callable's type, for messages
  ThunkKind kind = ThunkKind::other;
  // How the encoded arguments begin: with so many references to bound values (callable.hpp), then,
  // if what is called in the end is a plain function, with its sealed address.
  std::uint32_t bound_fronts = 0;
  bool calls_function = false;
};

template <class Job>
constexpr Thunk make_thunk() {
  Thunk thunk{&Job::run, Job::name()};
  if constexpr (requires { Job::kind; }) {
    thunk.kind = Job::kind;
    thunk.bound_fronts = Job::Callable::bound_fronts;
    thunk.calls_function = Job::Callable::calls_function;
  }
  return thunk;
}

// Threads: any. Blocking: never. Errors: terminates the program if 2^20 kinds of task are named.
// Death: the table is private memory.
ThunkId register_thunk(Thunk thunk) noexcept;
// The thunk of that number; run == nullptr if there is none: numbers come from outside.
Thunk find_thunk(ThunkId id) noexcept;
// How many there are: numbers up to it are known to a process forked now.
ThunkId thunk_count() noexcept;

// Registered before main (or when its module is loaded) for every Job that the program names.
template <class Job>
inline const ThunkId registered_thunk = register_thunk(make_thunk<Job>());

// The same, also while static objects are still being made.
template <class Job>
ThunkId thunk_of() noexcept {
  if (registered_thunk<Job> != 0) [[likely]]
    return registered_thunk<Job>;
  static const ThunkId early = register_thunk(make_thunk<Job>());
  return early;
}

// A pointer to a function, signed with a key that only this family's processes have in their
// private memory: bytes that something else wrote there are refused, not called.
struct SealedFunction {
  std::uint64_t address = 0;
  std::uint64_t seal = 0;
};
// Throws DecodeError if the family does not know the code there.
SealedFunction seal_function(void (*function)());
// Throws DecodeError if the seal is not ours.
void (*open_function(const SealedFunction& sealed))();

// What is to be done after an element of a task.
enum class ElementEnd {
  next,   // the next one
  again,  // the same once more: it failed and has retries left
  stop,   // nothing: the task was cancelled, or the others are for another worker
};

// What a thunk sees of its task. Lives in the worker for the time of one task.
class TaskFrame {
 public:
  virtual ~TaskFrame() = default;
  TaskFrame() = default;
  TaskFrame(const TaskFrame&) = delete;
  TaskFrame& operator=(const TaskFrame&) = delete;

  // Callable and arguments, as encoded by the caller; 16-byte aligned, read-only.
  [[nodiscard]] virtual std::span<const std::byte> arguments() const noexcept = 0;

  // Brackets the call of the user's function: what it throws is the user's, the rest is ours.
  virtual void enter_user_code() noexcept = 0;
  virtual void leave_user_code() noexcept = 0;

  // Room for the encoded result of `bytes` bytes, which may contain handles. Throws ArenaFull.
  virtual std::span<std::byte> reply(std::size_t bytes, bool has_handles) = 0;
  // The handles in the result just encoded: their objects live until the caller has taken it.
  virtual void keep_for_caller(std::span<const ObjectHandle> handles) = 0;

  // A task of several elements (map): those below first() are finished.
  [[nodiscard]] virtual std::uint32_t count() const noexcept = 0;
  [[nodiscard]] virtual std::uint32_t first() const noexcept = 0;
  // Room for the encoded result of element `index`, in its cell or in a block. Throws ArenaFull.
  virtual std::span<std::byte> reply_element(std::uint32_t index, std::size_t bytes,
                                             bool in_cell) = 0;
  // Calls call(context), the work on elements from `index` on, which it counts up: what it throws
  // ends the one that it was at.
  virtual void attempt_elements(const std::uint32_t& index, void (*call)(void* context),
                                void* context) {
    try {
      call(context);
    } catch (...) {
      fail_element(index);
    }
  }
  // The element ends with the exception being handled.
  virtual void fail_element(std::uint32_t index) noexcept = 0;
  virtual ElementEnd finish_element(std::uint32_t index) noexcept = 0;

  // The encoded values bound by bind_front, in memory that the caller keeps while tasks use them.
  [[nodiscard]] virtual std::span<const std::byte> bound_bytes(std::uint64_t block) const = 0;
  // What this worker made of the bound values `id`; empty the first time.
  virtual std::shared_ptr<const void>& bound_cache(std::uint64_t id) = 0;
};

}  // namespace brood::detail
