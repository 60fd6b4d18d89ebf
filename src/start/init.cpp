#include "start/init.hpp"

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "brood/error.hpp"
#include "start/birth.hpp"
#include "start/child_main.hpp"
#include "start/nursery.hpp"
#include "sys/process.hpp"
#include "sys/procfs.hpp"
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

}  // namespace start

void init(const InitOptions& options) {
  start::be_born_if_spawned();
  const warden::Family* family = warden::Family::current();
  if (family != nullptr) {
    if (family->has_nursery()) return;
    throw StartError(
        "brood: init() has to be called before the first pool, process or shared object is made");
  }
  const int threads = sys::thread_count();
  if (threads > 1 && !options.allow_threads) {
    throw StartError("brood: this process has " + std::to_string(threads) +
                     " threads, and children would have their locks but not them: call init() "
                     "before threads are made, or accept it with .allow_threads = true");
  }
  start::record() = {options, detail::thunk_count(), sys::executable_memory()};
  if (options.arena_limit_bytes) warden::Family::limit_objects(*options.arena_limit_bytes);
  start::flush_streams();
  warden::Family::found_with_nursery(start::be_born, threads > 1);
}

void init(int& /*argc*/, char**& /*argv*/, const InitOptions& options) { init(options); }

}  // namespace brood
