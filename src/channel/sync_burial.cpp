#include "channel/sync_burial.hpp"

#include "channel/doorbell.hpp"
#include "channel/event_layout.hpp"
#include "shm/barrier.hpp"
#include "shm/condition.hpp"
#include "shm/event.hpp"
#include "shm/lock.hpp"
#include "shm/semaphore.hpp"

namespace brood::channel {

void bury_in_lock(const shm::ObjectPlace& object, shm::OwnerId dead) noexcept {
  if (object.body.size() < sizeof(shm::LockBody)) return;
  shm::orphan(*reinterpret_cast<shm::LockBody*>(object.body.data()), dead);
}

void bury_in_event(const shm::ObjectPlace& object, const shm::Objects& objects) noexcept {
  if (object.body.size() < sizeof(SharedEvent)) return;
  auto& body = *reinterpret_cast<SharedEvent*>(object.body.data());
  ring_for_the_dead(body.board, objects, [&body] { return shm::is_set(body.event); });
}

void bury_in_semaphore(const shm::ObjectPlace& object, shm::OwnerId dead) noexcept {
  if (object.body.size() < shm::Permits::bytes_for(0)) return;
  shm::Permits(object.body).bury(dead);
}

void bury_in_condition(const shm::ObjectPlace& object, shm::OwnerId dead) noexcept {
  if (object.body.size() < sizeof(shm::ConditionBody)) return;
  shm::bury_waiter(*reinterpret_cast<shm::ConditionBody*>(object.body.data()), dead);
}

void bury_in_barrier(const shm::ObjectPlace& object, shm::OwnerId dead) noexcept {
  if (object.body.size() < shm::BarrierView::bytes_for(1)) return;
  shm::BarrierView(object.body).bury(dead);
}

}  // namespace brood::channel
