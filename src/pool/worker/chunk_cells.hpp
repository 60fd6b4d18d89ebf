// The results of a chunk of map as the worker writes them: a cell for each element, and its kind.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "pool/worker/worker_arenas.hpp"
#include "shm/pool_layout.hpp"

namespace brood::pool {

// Threads: the one that runs tasks. Blocking: never. Ownership: none: the cells are the caller's,
// in memory that any worker can write. Errors: of open(). Death: of the worker: its next one goes
// on at `progress`; cells from there on are written anew.
class ChunkCells {
 public:
  // For another task.
  void close() noexcept {
    cells_ = {};
    kinds_ = nullptr;
    out_of_reach_ = false;
  }
  // Those of a chunk, from the element on that it has come to. Throws ArenaFull, DecodeError.
  void open(const shm::TaskRequest& request, shm::TaskState& state, const WorkerArenas& arenas);

  [[nodiscard]] bool are_open() const noexcept { return kinds_ != nullptr; }
  // The system did not let open() read them.
  [[nodiscard]] bool are_out_of_reach() const noexcept { return out_of_reach_; }

  // Of an open chunk: those before were finished when it was opened.
  [[nodiscard]] std::uint32_t first() const noexcept { return first_; }
  [[nodiscard]] std::span<std::byte> cell(std::uint32_t index) const noexcept {
    return cells_.subspan(std::size_t{index} * cell_bytes_, cell_bytes_);
  }
  [[nodiscard]] shm::ReplyKind& kind(std::uint32_t index) const noexcept { return kinds_[index]; }

 private:
  std::span<std::byte> cells_;
  shm::ReplyKind* kinds_ = nullptr;
  std::uint32_t cell_bytes_ = 0;
  std::uint32_t first_ = 0;
  bool out_of_reach_ = false;
};

}  // namespace brood::pool
