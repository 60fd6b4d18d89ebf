// The file of a task that died (PoolOptions::keep_failed): all that it takes to run it again.
//
//   prefix | details | bytes of the calls
//
//   details is a KeptDetails, encoded. The bytes of each call are its bound values, then its
//   arguments, in the order and with the lengths that the details say. In the arguments, what names
//   bound values and the plain function to call is zeros: it means nothing in another process.
//
// A file is input, whoever wrote it: one that is cut off, changed or none of ours is a DecodeError.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "brood/detail/thunk.hpp"
#include "shm/pool_layout.hpp"

namespace brood::pool {

// Where code lies in a module, for processes that have loaded the same module elsewhere.
struct CodePlace {
  std::string module;  // as the loader knows it; empty: the program itself
  std::string build_id;
  std::uint64_t module_bytes = 0;
  std::uint64_t offset = 0;
};

// Of code of this process. nullopt: it is in no module.
std::optional<CodePlace> place_of(const void* code);
// The other way; nullptr: no module that this process has loaded is the same.
const void* code_at(const CodePlace& place);
// As people write it; empty: its module has no names; nullopt: this is in the midst of one.
std::optional<std::string> name_of_function(const void* function);

// One call: the task, or what the worker had run before.
struct KeptCall {
  shm::SetupStep step = shm::SetupStep::none;  // none: it is the task
  std::string name;                            // of the callable's type
  detail::ThunkKind kind = detail::ThunkKind::other;
  CodePlace code;                     // of the thunk
  std::optional<CodePlace> function;  // the plain function that it calls, if it does
  std::string function_name;          // empty: unknown
  std::vector<std::uint64_t> bound_bytes;
  std::uint64_t argument_bytes = 0;
};

struct KeptDetails {
  std::string program;    // its path
  bool has_init = false;  // it calls init(), which runs a task again when it is called to
  std::string program_build_id;
  std::string pool;
  std::string task;
  std::int64_t time_s = 0;  // when it was written, since 1970
  std::int32_t pid = 0;     // of the worker that died, and how
  std::int32_t signal = 0;
  std::int32_t exit_code = 0;
  std::uint64_t fault_address = 0;
  bool out_of_memory = false;
  std::uint64_t memory_limit_bytes = 0;
  bool stack_overflow = false;
  std::uint32_t attempts = 1;
  std::string backtrace;
  std::string stderr_tail;
  std::uint32_t elements = 0;          // of its chunk of map; 0: it is a single task
  std::uint32_t element = 0;           // which of them died
  std::optional<std::uint64_t> index;  // the same in the whole range, where that is known
  std::uint64_t number = 0;            // what task_seed() follows from
  std::uint64_t seed = 0;
  bool lacks_setup = false;     // what the workers had run before refers to shared objects
  std::vector<KeptCall> calls;  // in the order in which they are to be run; the last is the task
};

// The bytes of a call where they lie.
struct CallBytes {
  std::vector<std::span<const std::byte>> bound;
  std::span<const std::byte> arguments;
};

// Writes it into `directory` under a name that no other file has; `calls` are the bytes of the
// calls, in pieces. The path. Throws SystemError, std::bad_alloc; then no file is there.
std::string write_kept_file(const std::string& directory, const KeptDetails& details,
                            std::span<const std::span<const std::byte>> calls);

// What was read of a file. Threads: a value. Ownership: of the bytes that it refers to.
class KeptFile {
 public:
  KeptFile(KeptFile&&) = default;
  KeptFile& operator=(KeptFile&&) = default;
  KeptFile(const KeptFile&) = delete;
  KeptFile& operator=(const KeptFile&) = delete;
  ~KeptFile() = default;

  // Throw DecodeError, and SystemError if it can't be read. `source` names it in errors.
  static KeptFile read(const std::string& path);
  static KeptFile parse(std::vector<std::byte> bytes, const std::string& source);

  [[nodiscard]] const KeptDetails& details() const noexcept { return details_; }
  // As many as details().calls.
  [[nodiscard]] const std::vector<CallBytes>& calls() const noexcept { return calls_; }

 private:
  KeptFile() = default;

  std::vector<std::byte> bytes_;
  KeptDetails details_;
  std::vector<CallBytes> calls_;
};

// The prefix that `rest` has to have before it to be a file.
std::vector<std::byte> kept_file_prefix(std::size_t details_bytes,
                                        std::span<const std::span<const std::byte>> rest);

// For people: what died, how, and what of it is in the file.
std::string describe(const KeptFile& file);

}  // namespace brood::pool
