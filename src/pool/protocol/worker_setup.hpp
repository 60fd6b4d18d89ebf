// What a pool's workers get and run before their first task: how it is sent, done, and how its
// failure is written down (caller/setup_failure.hpp reads it).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "brood/detail/object.hpp"
#include "brood/pool.hpp"
#include "pool/protocol/view.hpp"
#include "start/surroundings.hpp"

namespace brood::pool {

// An Initializer in a form that another process can read.
struct SetupCall {
  std::uint32_t thunk = 0;  // 0: nothing to run
  std::vector<std::byte> arguments;
  std::vector<std::vector<std::byte>> blobs;
};

// All that the supervisor and the workers have to know of the options besides numbers of their own.
struct WorkerSetup {
  SetupCall preload;
  SetupCall initializer;
  SetupCall prepare;
  std::uint64_t max_tasks = 0;
  std::uint64_t recycle_above_bytes = 0;
  std::uint64_t memory_limit_bytes = 0;
  std::int64_t idle_timeout_ns = 0;  // 0: none
  std::uint32_t min_workers = 1;
  std::uint32_t share = 1;          // of the processors, for each worker
  std::uint32_t inner_threads = 0;  // 0: as they like
  bool overrule_variables = false;  // also where the environment says something else
  bool has_surroundings = false;    // other than the supervisor's
  bool has_output = false;          // of the descriptors that go along
  bool has_errors = false;
  bool relays_errors = true;  // WorkerStderr::tail
  start::Surroundings surroundings;
  std::string memory_events;  // counts deaths for want of memory; empty: nobody knows
};

// The same before it is sent, with what can't be said in bytes.
struct SetupToSend {
  WorkerSetup setup;
  start::StartDescriptors descriptors;        // of the surroundings
  std::vector<detail::ObjectHandle> handles;  // that the calls refer to: kept while the pool lives
};

// Throws StartError for options that make no sense, NotSendable.
SetupToSend make_setup(const PoolOptions& options, StartMethod method);

// The calling process is to have run `call`; throws what that throws.
void run_setup_call(const SetupCall& call);

// Looks up what tells libraries that are loaded how many threads they may use: where nothing can be
// locked for ever, before this process is copied.
void find_inner_threads() noexcept;
// Tells them, and those that this process loads later by its environment. Throws std::bad_alloc.
void limit_inner_threads(const WorkerSetup& setup);

// Tells of the exception being handled in the note. What does not fit is cut off its text.
void write_note(shm::SetupNote& note) noexcept;

}  // namespace brood::pool
