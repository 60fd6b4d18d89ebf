// What makes stop_fd() of a worker readable: a mailbox that the supervisor knocks at.
//
// A worker that opens it sets its bit among the stop doors, then looks whether its task is to stop;
// who marks a task so has the supervisor look, which reads the bit after the mark (all seq_cst): so
// one of the two knocks. A knock may come too late, for the worker's next task: who polls asks
// stop_requested().
//
// Threads: any. Blocking: never. Ownership: none. Errors: a knock that the system does not let
// through is lost. Death: of the worker closes its mailbox; the supervisor clears the bit.
#pragma once

#include <array>
#include <span>

#include "pool/protocol/view.hpp"

namespace brood::pool {

// "brood/stop/<id>/<slot>.<epoch>", in hexadecimal digits.
class StopDoorName {
 public:
  StopDoorName(const PoolView& view, shm::OwnerId worker) noexcept;
  [[nodiscard]] std::span<const char> text() const noexcept { return text_; }

 private:
  std::array<char, 37> text_;
};

void set_stop_door(const PoolView& view, shm::OwnerId worker, bool open) noexcept;

// Supervisor: the worker's task is to stop.
void knock_at_stop_door(const PoolView& view, shm::OwnerId worker) noexcept;

}  // namespace brood::pool
