#include "start/init.hpp"

#include <algorithm>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "brood/error.hpp"
#include "start/birth.hpp"
#include "start/child_main.hpp"
#include "start/nursery.hpp"
#include "sys/fd.hpp"
#include "sys/process.hpp"
#include "sys/procfs.hpp"
#include "sys/surroundings.hpp"
#include "sys/symbols.hpp"
#include "warden/family.hpp"

namespace brood {

namespace start {

namespace {

// Of the moment of init(): what children from the nursery have.
struct Record {
  InitOptions options;
  detail::ThunkId thunks = 0;
  std::optional<std::vector<sys::MemoryRange>> code;
};

Record& record() noexcept {
  static auto* const the_record = new Record;  // NOLINT(bugprone-unhandled-exception-at-new)
  return *the_record;
}

// Made before there are threads; see start/process_name.cpp.
[[maybe_unused]] const bool made_early = (static_cast<void>(record()), true);

}  // namespace

const InitOptions& init_options() noexcept { return record().options; }
detail::ThunkId thunks_at_init() noexcept { return record().thunks; }

void record_birth(std::uint32_t thunks) {
  record().thunks = thunks;
  record().code = sys::executable_memory();
}

const std::optional<std::vector<sys::MemoryRange>>& code_at_init() noexcept {
  return record().code;
}

void require_known_code(detail::ThunkId thunk, const void* function) {
  const auto holds = [&](const sys::MemoryRange& range) {
    const auto address = reinterpret_cast<std::uintptr_t>(function);
    return range.begin <= address && address < range.end;
  };
  const bool known =
      function == nullptr || !code_at_init() || std::ranges::any_of(*code_at_init(), holds);
  if (thunk <= thunks_at_init() && known) return;
  throw NotSendable("brood: the code of " + std::string(detail::find_thunk(thunk).name) +
                    " was loaded after brood::init(): load it before, or use StartMethod::fork");
}

namespace {

constinit ReplayFn the_replay = nullptr;

[[noreturn]] void refuse_replay(const std::string& why) {
  constexpr int kStderr = 2;
  sys::write_once(kStderr, "brood: " + why + "\n");
  sys::exit_now(1);
}

// Whatever else the program does, it is not what somebody wants who says that.
void replay_if_asked(std::span<const std::string> arguments) {
  const std::string with_file = std::string(kReplayArgument) + "=";
  const auto own = std::ranges::find(arguments, "--");
  const auto asked = std::find_if(arguments.begin(), own, [&](const std::string& argument) {
    return argument == kReplayArgument || argument.starts_with(with_file);
  });
  if (asked == own || asked == arguments.begin()) return;
  const bool is_one = *asked != kReplayArgument;
  if (asked != arguments.begin() + 1 || arguments.size() != (is_one ? 2U : 3U)) {
    refuse_replay(std::string(kReplayArgument) +
                  " FILE runs a task again, and takes nothing beside it");
  }
  if (the_replay == nullptr) refuse_replay("this program has no pools, so none of their tasks");
  the_replay(is_one ? asked->substr(with_file.size()) : arguments[2]);
}

// As one word of a command line.
std::string in_shell(const std::string& text) {
  const bool plain = std::ranges::all_of(text, [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
           std::string_view("/._-+=:,@%").find(c) != std::string_view::npos;
  });
  if (plain) return text;
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

// False: that was done before. Throws what init() throws.
bool make_ready(const InitOptions& options) {
  be_born_if_spawned();
  const warden::Family* family = warden::Family::current();
  if (family != nullptr) {
    if (family->has_nursery()) return false;
    throw StartError(
        "brood: init() has to be called before the first pool, process or shared object is made");
  }
  const int threads = sys::thread_count();
  if (threads > 1 && !options.allow_threads) {
    throw StartError("brood: this process has " + std::to_string(threads) +
                     " threads, and children would have their locks but not them: call init() "
                     "before threads are made, or accept it with .allow_threads = true");
  }
  record() = {options, detail::thunk_count(), sys::executable_memory()};
  if (options.arena_limit_bytes) warden::Family::limit_objects(*options.arena_limit_bytes);
  flush_streams();
  warden::Family::found_with_nursery(be_born, threads > 1);
  return true;
}

}  // namespace

bool has_init() noexcept {
  const warden::Family* family = warden::Family::current();
  return family != nullptr && family->has_nursery();
}

std::string replay_command(const std::string& file) {
  if (!has_init()) return "brood::replay(\"" + file + "\")";
  return in_shell(sys::program_path()) + " " + std::string(kReplayArgument) + " " + in_shell(file);
}

void on_replay(ReplayFn replay) noexcept { the_replay = replay; }

}  // namespace start

void init(const InitOptions& options) {
  if (start::make_ready(options)) start::replay_if_asked(sys::command_line());
}

void init(int& argc, char**& argv, const InitOptions& options) {
  if (!start::make_ready(options)) return;
  const std::vector<std::string> arguments(argv, argv + argc);
  start::replay_if_asked(arguments);
}

}  // namespace brood
