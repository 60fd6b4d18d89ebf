#include "pool/caller/kept_tasks.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <system_error>
#include <utility>

#include "brood/detail/callable.hpp"
#include "brood/log.hpp"
#include "start/init.hpp"
#include "sys/modules.hpp"
#include "sys/new_file.hpp"
#include "sys/symbols.hpp"

namespace brood::pool {

namespace {

std::string text_of(int error) { return std::generic_category().message(-error); }

// Throws StartError.
std::string make_writable(const std::string& directory) {
  const auto refuse = [&](const char* what, int error) {
    throw StartError("brood: PoolOptions::keep_failed: " + directory + " " + what + ": " +
                     text_of(error));
  };
  std::string resolved;
  int error = sys::resolve_directory(directory, resolved);
  if (error == -ENOENT) {
    error = sys::make_directories(directory);
    if (error < 0) refuse("can't be made", error);
    error = sys::resolve_directory(directory, resolved);
  }
  if (error < 0) refuse("is no directory that can be used", error);
  sys::NewFile probe;
  error = probe.create(resolved);
  if (error < 0) refuse("can't be written to", error);
  return resolved;
}

std::string build_id_of_program() {
  for (const sys::Module& module : sys::loaded_modules()) {
    if (module.name.empty()) return module.build_id;
  }
  return {};
}

}  // namespace

// The calls of a file, and the pieces of their bytes.
class KeptTasks::Packing {
 public:
  explicit Packing(KeptTasks& keeper) : keeper_(keeper) {}

  // `bound` finds the bound values that a reference means.
  void add(shm::SetupStep step, detail::ThunkId number, std::span<const std::byte> arguments,
           const std::function<std::span<const std::byte>(std::uint64_t block)>& bound) {
    const detail::Thunk thunk = detail::find_thunk(number);
    const auto place = place_of(reinterpret_cast<const void*>(thunk.run));
    if (!place) throw Error("brood: its code is in no file");
    KeptCall call;
    call.step = step;
    call.name = thunk.name;
    call.kind = thunk.kind;
    call.code = *place;
    call.argument_bytes = arguments.size();
    detail::Reader in(arguments);
    for (std::uint32_t i = 0; i < thunk.bound_fronts; ++i) {
      const auto ref = in.read_scalar<detail::BoundRef>();
      const std::span<const std::byte> values = bound(ref.block);
      call.bound_bytes.push_back(values.size());
      pieces_.push_back(values);
    }
    if (thunk.calls_function) {
      const auto sealed = in.read_scalar<detail::SealedFunction>();
      const KeptCall& known =
          keeper_.function_of(reinterpret_cast<const void*>(detail::open_function(sealed)));
      call.function = known.function;
      call.function_name = known.function_name;
    }
    const std::size_t head = arguments.size() - in.remaining();
    for (std::size_t done = 0; done < head; done += kZeros.size()) {
      pieces_.push_back(std::span(kZeros).first(std::min(kZeros.size(), head - done)));
    }
    pieces_.push_back(arguments.subspan(head));
    calls_.push_back(std::move(call));
  }

  void add(shm::SetupStep step, const SetupCall& call) {
    if (call.thunk == 0) return;
    add(step, call.thunk, call.arguments, [&](std::uint64_t block) {
      return std::span<const std::byte>(call.blobs.at(static_cast<std::size_t>(block)));
    });
  }

  std::vector<KeptCall> calls() { return std::move(calls_); }
  [[nodiscard]] std::span<const std::span<const std::byte>> pieces() const { return pieces_; }

 private:
  static constexpr std::array<std::byte, 64> kZeros{};

  KeptTasks& keeper_;
  std::vector<KeptCall> calls_;
  std::vector<std::span<const std::byte>> pieces_;
};

KeptTasks::KeptTasks(const std::string& directory, std::string pool, const SetupToSend& setup)
    : directory_(make_writable(directory)), pool_(std::move(pool)), setup_(setup) {}

std::string KeptTasks::keep(const DeadTask& dead, const shm::TaskRequest& request,
                            const Records& records, std::uint64_t seed) noexcept {
  try {
    bool to_be_told = false;
    {
      const std::lock_guard lock(mutex_);
      Files& files = kept_[dead.ticket.index];
      if (files.generation != dead.ticket.generation) files = {dead.ticket.generation, {}};
      const auto [at, is_new] = files.of_elements.try_emplace(dead.element);
      if (!is_new) return at->second;
      if (!dead.has_handles) {
        at->second = write(dead, request, records, seed);
        return at->second;
      }
      to_be_told = told_.insert(dead.death.task).second;
    }
    // Unlocked: the log is anybody's.
    if (to_be_told) {
      warn(dead, "is not kept: its arguments have handles, which mean nothing in another process");
    }
  } catch (const std::exception& e) {
    warn(dead, e.what());
  } catch (...) {
    warn(dead, "can't be kept");
  }
  return {};
}

void KeptTasks::forget(detail::TaskTicket ticket) noexcept {
  const std::lock_guard lock(mutex_);
  kept_.erase(ticket.index);
}

bool KeptTasks::knows(detail::TaskTicket ticket, std::uint32_t element) noexcept {
  const std::lock_guard lock(mutex_);
  const auto found = kept_.find(ticket.index);
  return found != kept_.end() && found->second.generation == ticket.generation &&
         found->second.of_elements.contains(element);
}

std::string KeptTasks::write(const DeadTask& dead, const shm::TaskRequest& request,
                             const Records& records, std::uint64_t seed) {
  const Death& death = dead.death;
  KeptDetails details;
  details.program = sys::program_path();
  details.has_init = start::has_init();
  details.program_build_id = build_id_of_program();
  details.pool = pool_;
  details.task = death.task;
  details.time_s = std::chrono::duration_cast<std::chrono::seconds>(
                       std::chrono::system_clock::now().time_since_epoch())
                       .count();
  details.pid = death.pid;
  details.signal = death.signal;
  details.exit_code = death.exit_code;
  details.fault_address = death.fault_address;
  details.out_of_memory = death.out_of_memory;
  details.memory_limit_bytes = death.memory_limit_bytes;
  details.stack_overflow = death.stack_overflow;
  details.attempts = static_cast<std::uint32_t>(death.attempts);
  details.backtrace = death.backtrace;
  details.stderr_tail = death.stderr_tail;
  if (request.cells) {
    details.elements = request.count;
    details.element = dead.element;
    details.index = dead.index;
  }
  details.number = request.number() + dead.element;
  details.seed = seed;

  Packing packing(*this);
  const WorkerSetup& setup = setup_.setup;
  const std::array<std::pair<shm::SetupStep, const SetupCall*>, 3> before = {
      std::pair{shm::SetupStep::preload, &setup.preload},
      std::pair{shm::SetupStep::initializer, &setup.initializer},
      std::pair{shm::SetupStep::prepare, &setup.prepare}};
  for (const auto& [step, call] : before) {
    if (call->thunk == 0) continue;
    if (setup_.handles.empty()) {
      packing.add(step, *call);
    } else {
      details.lacks_setup = true;
    }
  }
  packing.add(shm::SetupStep::none, request.thunk, records.arguments_of(request),
              [&](std::uint64_t block) { return records.bound_values(block); });
  details.calls = packing.calls();
  return write_kept_file(directory_, details, packing.pieces());
}

// Looking a name up takes milliseconds.
const KeptCall& KeptTasks::function_of(const void* function) {
  const auto found = functions_.find(function);
  if (found != functions_.end()) return found->second;
  KeptCall call;
  call.function = place_of(function);
  if (!call.function) throw Error("brood: the function that it calls is in no file");
  call.function_name = name_of_function(function).value_or(std::string());
  return functions_.emplace(function, std::move(call)).first->second;
}

void KeptTasks::warn(const DeadTask& dead, std::string_view why) noexcept {
  try {
    std::string text = "brood: " + dead.death.task + " died and ";
    text += why.starts_with("is not kept") ? "" : "could not be kept in " + directory_ + ": ";
    log(LogLevel::warning, text.append(why));
  } catch (...) {
    // Without memory there is nothing to say it with.
  }
}

}  // namespace brood::pool
