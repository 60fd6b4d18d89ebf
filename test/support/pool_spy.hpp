// A look at a pool from inside: the shared records, for tests that must know at which step a
// worker is when they kill it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "pool/protocol/view.hpp"
#include "shm/arena.hpp"

namespace brood::test {

// A worker and the task it had when it was looked at.
struct Sighting {
  std::uint16_t slot = 0;
  int pid = 0;
  shm::WorkerStage stage = shm::WorkerStage::idle;
  bool owns_task = false;  // its record's word names it
  std::uint32_t index = 0;
  std::uint32_t generation = 0;
  std::uint32_t progress = 0;  // map: the element
};

// Looks at the only pool of this process.
class PoolSpy {
 public:
  explicit PoolSpy(std::size_t workers);

  [[nodiscard]] const pool::PoolView& view() const { return view_; }

  // The slots whose worker takes tasks.
  [[nodiscard]] std::vector<std::uint16_t> active_slots() const;
  [[nodiscard]] Sighting look(std::uint16_t slot) const;

  struct Accounts {
    shm::Arena::Stats inbox;
    shm::Arena::Stats outbox;
    std::size_t records_in_use = 0;
  };
  [[nodiscard]] Accounts accounts() const;
  // Empty if all invariants of both arenas hold. While nothing is going on.
  [[nodiscard]] std::string broken_invariant() const;

 private:
  void attach(shm::Arena& inbox, shm::Arena& outbox) const;

  pool::PoolView view_;
  int fd_ = -1;
};

}  // namespace brood::test
