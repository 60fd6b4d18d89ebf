#include "pool/worker/chunk_cells.hpp"

#include <algorithm>

#include "brood/error.hpp"

namespace brood::pool {

void ChunkCells::open(const shm::TaskRequest& request, shm::TaskState& state,
                      const WorkerArenas& arenas) {
  const std::size_t cells_bytes = std::size_t{request.count} * request.cell_bytes;
  out_of_reach_ = true;
  arenas.require_cells_in_reach(request.cells);
  out_of_reach_ = false;
  cells_ = arenas.cells(request.cells);
  if (cells_.size() < cells_bytes + request.count) {
    cells_ = {};
    throw DecodeError("brood: the room for the results of a task is gone");
  }
  cell_bytes_ = request.cell_bytes;
  kinds_ = reinterpret_cast<shm::ReplyKind*>(cells_.data() + cells_bytes);
  first_ = std::min(state.progress.load(std::memory_order_acquire), request.count);
  state.kind = shm::ReplyKind::cells;
}

}  // namespace brood::pool
