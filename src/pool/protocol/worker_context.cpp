#include "pool/protocol/worker_context.hpp"

#include <algorithm>

#include "brood/cpu_count.hpp"
#include "brood/pool.hpp"
#include "brood/worker.hpp"
#include "sys/identity.hpp"

namespace brood {

namespace {

// The finalizer of SplitMix64: every bit of the result depends on every bit of `x`.
std::uint64_t mixed(std::uint64_t x) noexcept {
  x += 0x9e3779b97f4a7c15U;
  x = (x ^ (x >> 30U)) * 0xbf58476d1ce4e5b9U;
  x = (x ^ (x >> 27U)) * 0x94d049bb133111ebU;
  return x ^ (x >> 31U);
}

}  // namespace

namespace pool {

WorkerContext& worker_context() noexcept {
  static auto* const context = new WorkerContext;
  return *context;
}
// See start/process_name.cpp.
[[maybe_unused]] static const bool made_early = (static_cast<void>(worker_context()), true);

void become_worker(std::uint64_t pool_seed, std::size_t share) {
  WorkerContext& context = worker_context();
  context = WorkerContext{};
  context.token = sys::process_token();
  context.pool_seed = pool_seed;
  context.share = share;
}

bool is_worker() noexcept {
  const std::uint64_t token = worker_context().token;
  return token != 0 && token == sys::process_token();
}

void destroy_worker_states() noexcept {
  std::vector<WorkerContext::State>& states = worker_context().states;
  while (!states.empty()) {
    const WorkerContext::State last = states.back();
    states.pop_back();
    last.destroy(last.state);
  }
}

}  // namespace pool

std::size_t worker_index() {
  static_cast<void>(detail::require_worker());
  const std::optional<std::size_t>& index = pool::worker_context().index;
  if (!index) {
    throw Error("brood: this worker has no place yet: ask in PoolOptions::prepare, or in a task");
  }
  return *index;
}

std::uint64_t task_seed() {
  static_cast<void>(detail::require_worker());
  const pool::WorkerContext& context = pool::worker_context();
  if (!context.number) throw Error("brood: task_seed() is for tasks, and none runs here");
  return mixed(mixed(context.pool_seed) ^ *context.number);
}

namespace detail {

std::size_t default_workers() {
  const std::size_t share = pool::worker_context().share;
  const std::size_t processors = cpu_count();
  return share == 0 ? processors : std::min(share, processors);
}

std::uint64_t require_worker() {
  if (!pool::is_worker()) throw Error("brood: this process is no worker of a pool");
  return pool::worker_context().token;
}

void keep_worker_state(void* state, void (*destroy)(void* state)) {
  pool::worker_context().states.push_back({state, destroy});
}

void throw_no_worker_state() {
  throw Error("brood: this worker has no state of this type yet: make it with its arguments first");
}

}  // namespace detail

}  // namespace brood
