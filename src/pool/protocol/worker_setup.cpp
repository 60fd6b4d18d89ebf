#include "pool/protocol/worker_setup.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <limits>
#include <memory>
#include <span>
#include <utility>

#include "brood/cpu_count.hpp"
#include "brood/detail/thunk.hpp"
#include "pool/protocol/exception.hpp"
#include "pool/protocol/worker_context.hpp"
#include "start/nursery.hpp"
#include "sys/cgroup.hpp"
#include "sys/modules.hpp"
#include "sys/process.hpp"
#include "sys/surroundings.hpp"

namespace brood::pool {

namespace {

// ---- on the caller's side

[[noreturn]] void refuse(const std::string& what) {
  throw StartError("brood: can't make a pool: " + what);
}

SetupCall send_call(const Initializer& what, StartMethod method, bool kept,
                    std::vector<detail::ObjectHandle>& handles) {
  if (!what) return {};
  const auto there = method == StartMethod::spawn || kept ? detail::Addresses::of_its_own
                                                          : detail::Addresses::of_a_copy;
  what.target()->check(there);
  detail::HandleCollector collector;
  detail::SentCall sent = what.target()->send();
  for (detail::ObjectHandle& handle : collector.handles()) handles.push_back(std::move(handle));
  if (method != StartMethod::fork) start::require_known_code(sent.thunk, sent.function);
  return {sent.thunk, std::move(sent.arguments), std::move(sent.blobs)};
}

// A worker is started, named and ended by its pool.
void require_meaning(const ProcessOptions& options) {
  const auto refuse_if = [](bool given, const char* name) {
    if (given) refuse(std::string("PoolOptions::worker.") + name + " has no meaning for workers");
  };
  refuse_if(!options.name.empty(), "name");
  refuse_if(options.daemon, "daemon");
  refuse_if(options.start.has_value(), "start");
  refuse_if(options.close_fds, "close_fds");
  refuse_if(!options.keep_fds.empty(), "keep_fds");
  refuse_if(options.restart.max != 0, "restart");
  refuse_if(options.hang_timeout.has_value(), "hang_timeout");
  refuse_if(options.out == Output::capture, "out = capture");
  refuse_if(options.err == Output::capture, "err = capture");
}

std::uint32_t bounded(std::size_t number) {
  return static_cast<std::uint32_t>(
      std::min<std::size_t>(number, std::numeric_limits<std::uint32_t>::max()));
}

// ---- in a process of the pool

// What the thunk sees.
class SetupFrame final : public detail::TaskFrame {
 public:
  explicit SetupFrame(const SetupCall& call) : call_(call) {}

  [[nodiscard]] std::span<const std::byte> arguments() const noexcept override {
    return call_.arguments;
  }
  void enter_user_code() noexcept override {}
  void leave_user_code() noexcept override {}
  void keep_for_caller(std::span<const detail::ObjectHandle> /*handles*/) override {}
  std::span<std::byte> reply(std::size_t bytes, bool /*has_handles*/) override {
    if (bytes > reply_.size()) throw DecodeError("brood: this is no initializer's code");
    return std::span(reply_).first(bytes);
  }
  [[nodiscard]] std::uint32_t count() const noexcept override { return 0; }
  [[nodiscard]] std::uint32_t first() const noexcept override { return 0; }
  std::span<std::byte> reply_element(std::uint32_t /*index*/, std::size_t /*bytes*/,
                                     bool /*in_cell*/) override {
    throw DecodeError("brood: this is no initializer's code");
  }
  void fail_element(std::uint32_t /*index*/) noexcept override {}
  detail::ElementEnd finish_element(std::uint32_t /*index*/) noexcept override {
    return detail::ElementEnd::next;
  }
  [[nodiscard]] std::span<const std::byte> bound_bytes(std::uint64_t block) const override {
    if (block >= call_.blobs.size()) throw DecodeError("brood: the bound values are gone");
    return call_.blobs[static_cast<std::size_t>(block)];
  }
  std::shared_ptr<const void>& bound_cache(std::uint64_t /*id*/) override { return bound_; }

 private:
  const SetupCall& call_;
  std::array<std::byte, sizeof(int)> reply_{};
  std::shared_ptr<const void> bound_;
};

struct Library {
  const char* variable;
  const char* setter;  // void(int), should it be loaded already
};
constexpr std::array kLibraries = {
    Library{"OMP_NUM_THREADS", "omp_set_num_threads"},
    Library{"OPENBLAS_NUM_THREADS", "openblas_set_num_threads"},
    Library{"MKL_NUM_THREADS", "MKL_Set_Num_Threads"},
    Library{"BLIS_NUM_THREADS", nullptr},
    Library{"VECLIB_MAXIMUM_THREADS", nullptr},
    Library{"NUMEXPR_NUM_THREADS", nullptr},
};
std::array<std::atomic<sys::AnyFunction>, kLibraries.size()> setters{};

}  // namespace

SetupToSend make_setup(const PoolOptions& options, StartMethod method) {
  SetupToSend made;
  WorkerSetup& setup = made.setup;
  require_meaning(options.worker);
  if (options.idle_timeout && options.idle_timeout->count() <= 0) {
    refuse("idle_timeout is not positive");
  }
  if (options.min_workers == 0 || options.min_workers > options.workers) {
    refuse("min_workers is " + std::to_string(options.min_workers) + ", not 1 to workers");
  }
  if (options.isolated && options.max_tasks_per_worker > 1) {
    refuse("isolated is one task per worker, max_tasks_per_worker more");
  }
  const bool kept = !options.keep_failed.empty();
  setup.preload = send_call(options.preload, method, kept, made.handles);
  setup.initializer = send_call(options.initializer, method, kept, made.handles);
  setup.prepare = send_call(options.prepare, method, kept, made.handles);
  setup.max_tasks = options.isolated ? 1 : options.max_tasks_per_worker;
  setup.recycle_above_bytes = options.recycle_above_bytes;
  setup.memory_limit_bytes = options.memory_limit_bytes;
  setup.idle_timeout_ns = options.idle_timeout ? options.idle_timeout->count() : 0;
  setup.min_workers = bounded(options.min_workers);
  setup.share = bounded(std::max<std::size_t>(detail::default_workers() / options.workers, 1));
  setup.inner_threads = options.inner_threads.value_or(setup.share);
  setup.overrule_variables = options.inner_threads.has_value();
  setup.relays_errors = options.worker_stderr == WorkerStderr::tail;
  find_inner_threads();
  setup.memory_events = sys::cgroup_memory_events();
  setup.has_surroundings = start::changes_anything(options.worker);
  if (setup.has_surroundings) {
    start::Preparation ready = start::prepare(options.worker);
    setup.surroundings = std::move(ready.surroundings);
    made.descriptors = std::move(ready.descriptors);
    setup.has_output = made.descriptors.output >= 0;
    setup.has_errors = made.descriptors.errors >= 0;
  }
  return made;
}

void run_setup_call(const SetupCall& call) {
  const detail::Thunk thunk = detail::find_thunk(call.thunk);
  if (thunk.run == nullptr) throw DecodeError("brood: an initializer names code that is not here");
  SetupFrame frame(call);
  thunk.run(frame);
}

void find_inner_threads() noexcept {
  for (std::size_t i = 0; i < kLibraries.size(); ++i) {
    if (kLibraries[i].setter == nullptr) continue;
    setters[i].store(sys::find_function(kLibraries[i].setter), std::memory_order_relaxed);
  }
}

// Without setenv(): its lock may be that of a thread which this process has no copy of.
void limit_inner_threads(const WorkerSetup& setup) {
  if (setup.inner_threads == 0) return;
  std::vector<std::string> variables = sys::environment();
  for (std::size_t i = 0; i < kLibraries.size(); ++i) {
    const Library& library = kLibraries[i];
    if (!setup.overrule_variables && sys::has_variable(library.variable)) continue;
    const std::string name = std::string(library.variable) + "=";
    std::erase_if(variables, [&](const std::string& entry) { return entry.starts_with(name); });
    variables.push_back(name + std::to_string(setup.inner_threads));
    const sys::AnyFunction setter = setters[i].load(std::memory_order_relaxed);
    if (setter != nullptr) {
      reinterpret_cast<void (*)(int)>(setter)(static_cast<int>(setup.inner_threads));
    }
  }
  sys::replace_environment(std::move(variables));
}

void write_note(shm::SetupNote& note) noexcept {
  std::vector<std::byte> bytes = encode_current_exception(true, 1, note.exception.size());
  const std::size_t length = std::min(bytes.size(), note.exception.size());
  if (length != 0) std::memcpy(note.exception.data(), bytes.data(), length);
  note.length.store(static_cast<std::uint32_t>(length), std::memory_order_release);
}

}  // namespace brood::pool
