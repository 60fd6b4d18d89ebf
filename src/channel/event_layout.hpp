// An event as it lies in shared memory: its word (shm/sync_layout.hpp), and the doorbells of those
// who wait for it beside other things (doorbell_layout.hpp).
#pragma once

#include "channel/doorbell_layout.hpp"
#include "shm/sync_layout.hpp"

namespace brood::channel {

struct SharedEvent {
  shm::EventBody event;
  alignas(64) DoorbellBoard board;
};

}  // namespace brood::channel
