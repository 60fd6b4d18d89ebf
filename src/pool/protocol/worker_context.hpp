// What brood/worker.hpp tells tasks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace brood::pool {

// Threads: the one that runs tasks writes; others may read what does not change meanwhile.
// Ownership: of the states. Death: private memory; a copy of the process is no worker.
struct WorkerContext {
  std::uint64_t token = 0;  // of the worker process
  std::optional<std::size_t> index;
  std::uint64_t pool_seed = 0;
  std::optional<std::uint64_t> number;  // of the task or element that runs
  // Of the processors, also in what a worker starts; 0: all of them.
  std::size_t share = 0;
  int stop_fd = -1;  // of a task that is run again: what stop_fd() gives
  struct State {
    void* state;
    void (*destroy)(void*);
  };
  std::vector<State> states;
};

WorkerContext& worker_context() noexcept;

// This process is a worker from now on, and none of what it was copied from is its own.
void become_worker(std::uint64_t pool_seed, std::size_t share);
// Whether it is one, and no child that a task has made.
bool is_worker() noexcept;
// Last made first. What a destructor throws ends the process.
void destroy_worker_states() noexcept;

}  // namespace brood::pool
