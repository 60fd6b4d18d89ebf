// Event: setting, and waiting for it.
#include "shm/event.hpp"

#include <new>
#include <string>

#include "brood/locks.hpp"
#include "shared/use_object.hpp"
#include "shared/waiting.hpp"

namespace brood::detail {

namespace {

using shm::EventBody;

const shm::ObjectPlace& use(const ObjectHandle& handle) {
  return shared::use_object(handle, sizeof(EventBody));
}
EventBody& body_of(const shm::ObjectPlace& place) noexcept {
  return shared::body_of<EventBody>(place);
}

}  // namespace

EventCore::EventCore() {
  static_assert(kEventKind == static_cast<std::uint32_t>(shm::ObjectKind::event));
  auto hold = ObjectHold::make(shm::ObjectKind::event, 1, sizeof(EventBody));
  new (hold->use().body.data()) EventBody{};
  hold->publish();
  handle_ = ObjectHandle(std::move(hold));
}

bool EventCore::is_set() const { return shm::is_set(body_of(use(handle_))); }

void EventCore::set() const {
  const shm::ObjectPlace& place = use(handle_);
  shm::set(body_of(place));
  // Also if it was set already: whoever did that may have died before it rang.
  place.header->bells[0].ring_for_all();
}

void EventCore::clear() const { shm::clear(body_of(use(handle_))); }

bool EventCore::wait_before(DeadlineNs deadline) const {
  static start::LookTime look_time;
  const shm::ObjectPlace& place = use(handle_);
  EventBody& event = body_of(place);
  const std::uint64_t seen = event.word.load(std::memory_order_seq_cst);
  return shared::wait_until(place.header->bells[0], deadline, &look_time,
                            [&] { return shm::was_set_since(event, seen); });
}

std::string EventCore::describe() const {
  if (!handle_) return "<Event empty>";
  return is_set() ? "<Event set>" : "<Event unset>";
}

}  // namespace brood::detail
