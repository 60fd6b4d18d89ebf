#include "brood/replay.hpp"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "brood/detail/callable.hpp"
#include "brood/detail/thunk.hpp"
#include "brood/error.hpp"
#include "brood/log.hpp"
#include "pool/caller/kept_file.hpp"
#include "pool/caller/replay.hpp"
#include "pool/protocol/worker_context.hpp"
#include "start/demangle.hpp"
#include "sys/event_fd.hpp"
#include "sys/fd.hpp"
#include "sys/procfs.hpp"

namespace brood::pool {

namespace {

// What is known here of a call in the file.
struct FoundCall {
  shm::SetupStep step = shm::SetupStep::none;
  detail::Thunk thunk;
  std::vector<std::byte> arguments;  // whole again
  std::vector<std::vector<std::byte>> bound;
};

[[noreturn]] void refuse_build(const KeptDetails& details, const std::string& why) {
  throw StartError("brood: this can't be run again: " + why + "; the task died in " +
                   details.program);
}

// No address is taken from the file: it has to be that of a thunk that is known here.
detail::Thunk find_code(const KeptDetails& details, const KeptCall& call) {
  const void* code = code_at(call.code);
  if (code == nullptr) {
    refuse_build(details, call.code.module.empty()
                              ? "this is another program, or another build of it"
                              : call.code.module + " is not loaded here, or is another build");
  }
  for (detail::ThunkId id = 1; id <= detail::thunk_count(); ++id) {
    const detail::Thunk thunk = detail::find_thunk(id);
    if (reinterpret_cast<const void*>(thunk.run) != code || thunk.name != call.name) continue;
    if (thunk.kind == call.kind) return thunk;
  }
  refuse_build(details, "the code of " + call.name + " is not in this program");
}

// The function as this process knows it. As far as the file can be checked it is: executable, in
// the module that it was in, and of the same name.
detail::SealedFunction find_function(const KeptDetails& details, const CodePlace& place,
                                     const std::string& name) {
  const void* function = code_at(place);
  const auto address = reinterpret_cast<std::uintptr_t>(function);
  const auto holds = [&](const sys::MemoryRange& range) {
    return range.begin <= address && address < range.end;
  };
  const auto executable = sys::executable_memory();
  const bool runs = function != nullptr &&
                    (!executable.has_value() || std::ranges::any_of(executable.value(), holds));
  if (!runs) refuse_build(details, "the function that it calls is in no module that is loaded");
  if (name_of_function(function) != name) {
    refuse_build(details,
                 (name.empty() ? "the function that it calls" : name) + " is not where it was");
  }
  return detail::seal_function(reinterpret_cast<void (*)()>(address));
}

FoundCall find_call(const KeptDetails& details, const KeptCall& call, const CallBytes& bytes) {
  FoundCall found;
  found.step = call.step;
  found.thunk = find_code(details, call);
  found.arguments.assign(bytes.arguments.begin(), bytes.arguments.end());
  for (const auto values : bytes.bound) found.bound.emplace_back(values.begin(), values.end());
  const std::size_t head = found.thunk.bound_fronts * sizeof(detail::BoundRef) +
                           (found.thunk.calls_function ? sizeof(detail::SealedFunction) : 0);
  if (found.bound.size() != found.thunk.bound_fronts || found.arguments.size() < head ||
      call.function.has_value() != found.thunk.calls_function) {
    throw DecodeError("brood: the file of a task does not fit the code of " + call.name);
  }
  detail::Writer out(found.arguments);
  for (std::uint64_t i = 0; i < found.thunk.bound_fronts; ++i)
    out.write_scalar(detail::BoundRef{i, i});
  if (call.function) out.write_scalar(find_function(details, *call.function, call.function_name));
  return found;
}

// What the thunk sees.
class ReplayFrame final : public detail::TaskFrame {
 public:
  ReplayFrame(const FoundCall& call, std::uint32_t elements, std::uint32_t element)
      : call_(call), elements_(elements), element_(element) {}

  [[nodiscard]] std::span<const std::byte> arguments() const noexcept override {
    return call_.arguments;
  }
  void enter_user_code() noexcept override {}
  void leave_user_code() noexcept override {}
  std::span<std::byte> reply(std::size_t bytes, bool /*has_handles*/) override {
    reply_.resize(bytes);
    return reply_;
  }
  void keep_for_caller(std::span<const detail::ObjectHandle> /*handles*/) override {}
  [[nodiscard]] std::uint32_t count() const noexcept override { return elements_; }
  [[nodiscard]] std::uint32_t first() const noexcept override { return element_; }
  std::span<std::byte> reply_element(std::uint32_t /*index*/, std::size_t bytes,
                                     bool /*in_cell*/) override {
    return reply(bytes, false);
  }
  void fail_element(std::uint32_t /*index*/) noexcept override {
    failure_ = std::current_exception();
  }
  detail::ElementEnd finish_element(std::uint32_t /*index*/) noexcept override {
    return detail::ElementEnd::stop;
  }
  [[nodiscard]] std::span<const std::byte> bound_bytes(std::uint64_t block) const override {
    if (block >= call_.bound.size()) throw DecodeError("brood: the bound values are gone");
    return call_.bound[static_cast<std::size_t>(block)];
  }
  std::shared_ptr<const void>& bound_cache(std::uint64_t id) override { return bound_[id]; }

  // What an element threw.
  [[nodiscard]] const std::exception_ptr& failure() const noexcept { return failure_; }

 private:
  const FoundCall& call_;
  std::uint32_t elements_;
  std::uint32_t element_;
  std::vector<std::byte> reply_;
  std::unordered_map<std::uint64_t, std::shared_ptr<const void>> bound_;
  std::exception_ptr failure_;
};

std::atomic_flag is_replaying;

// While it exists, this process is a worker to whoever asks.
class ReplayedWorker {
 public:
  ReplayedWorker() : stop_fd_(sys::open_event()) {
    if (is_worker()) {
      throw Error("brood: a worker can't be another one meanwhile: replay() is not for tasks");
    }
    if (is_replaying.test_and_set()) {
      throw Error("brood: this process runs a task again already: one at a time");
    }
    before_ = std::move(worker_context());
    worker_context() = {};
  }
  ~ReplayedWorker() {
    destroy_worker_states();
    worker_context() = std::move(before_);
    is_replaying.clear();
  }
  ReplayedWorker(const ReplayedWorker&) = delete;
  ReplayedWorker& operator=(const ReplayedWorker&) = delete;

  // What it is at this step: a worker learns bit by bit who it is.
  void become(shm::SetupStep step, const KeptDetails& details) {
    WorkerContext& context = worker_context();
    if (step != shm::SetupStep::preload && context.token == 0) become_worker(details.seed, 0);
    if (step == shm::SetupStep::none || step == shm::SetupStep::prepare) context.index = 0;
    if (step == shm::SetupStep::none) {
      context.number = details.number;
      context.stop_fd = stop_fd_.get();
    }
  }

 private:
  sys::Fd stop_fd_;
  WorkerContext before_;
};

void run_again(const KeptFile& file) {
  const KeptDetails& details = file.details();
  std::vector<FoundCall> calls;
  calls.reserve(details.calls.size());
  for (std::size_t i = 0; i < details.calls.size(); ++i) {
    calls.push_back(find_call(details, details.calls[i], file.calls()[i]));
  }
  if (details.lacks_setup) {
    log(LogLevel::warning,
        "brood: what the workers ran before the task (preload, initializer, prepare) has handles, "
        "and is left out");
  }
  ReplayedWorker worker;
  for (const FoundCall& call : calls) {
    worker.become(call.step, details);
    ReplayFrame frame(call, details.elements, details.element);
    call.thunk.run(frame);
    if (frame.failure() != nullptr) std::rethrow_exception(frame.failure());
  }
}

}  // namespace

void replay_and_exit(const std::string& file) {
  constexpr int kStderr = 2;
  int status = 1;
  try {
    replay(file);
    status = 0;
  } catch (const Error& e) {
    sys::write_once(kStderr, std::string(e.what()) + "\n");
  } catch (const std::exception& e) {
    sys::write_once(kStderr, "the task threw " + current_exception_type() + ": " + e.what() + "\n");
  } catch (...) {
    sys::write_once(kStderr, "the task threw " + current_exception_type() + "\n");
  }
  std::exit(status);
}

}  // namespace brood::pool

namespace brood {

void replay(const std::string& file) { pool::run_again(pool::KeptFile::read(file)); }

}  // namespace brood
