// What becomes of a queue when a member that held it has died.
#include "channel/queue_burial.hpp"

#include "channel/doorbell.hpp"
#include "channel/queue_ring.hpp"

namespace brood::channel {

void bury_in_queue(const shm::ObjectPlace& object, shm::OwnerId dead,
                   shm::Objects& objects) noexcept {
  QueueRing ring;
  if (!ring.attach(object, objects)) return;
  QueueBody& body = ring.body();
  std::uint32_t abandoned = ring.bury(dead);
  body.deaths.fetch_add(1, std::memory_order_seq_cst);
  if (HeldTasks* const held = ring.held(); held != nullptr) {
    abandoned += (*held)[dead.slot % held->size()].exchange(0, std::memory_order_seq_cst);
    if (abandoned != 0) body.abandoned.fetch_add(abandoned, std::memory_order_seq_cst);
    body.finished.ring_for_all();
  }
  ring_for_the_dead(body.board, objects, [&ring] { return ring.is_ready(); });
}

}  // namespace brood::channel
