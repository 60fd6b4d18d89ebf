// Event: setting, and waiting for it.
#include "shm/event.hpp"

#include <new>
#include <string>

#include "brood/locks.hpp"
#include "channel/doorbell.hpp"
#include "channel/event_layout.hpp"
#include "shared/doorbell.hpp"
#include "shared/use_object.hpp"
#include "shared/waiting.hpp"

namespace brood::detail {

namespace {

using channel::SharedEvent;
using shm::EventBody;

const shm::ObjectPlace& use(const ObjectHandle& handle) {
  return shared::use_object(handle, sizeof(SharedEvent));
}
SharedEvent& body_of(const shm::ObjectPlace& place) noexcept {
  return shared::body_of<SharedEvent>(place);
}

}  // namespace

struct EventCore::Watch {
  shared::Doorbell doorbell;

  void settle(SharedEvent& body) noexcept {
    doorbell.settle(body.board, [&] { return shm::is_set(body.event); });
  }
};

EventCore::EventCore(ObjectHandle handle)
    : handle_(std::move(handle)), watch_(std::make_shared<Watch>()) {}

EventCore::EventCore() : watch_(std::make_shared<Watch>()) {
  static_assert(kEventKind == static_cast<std::uint32_t>(shm::ObjectKind::event));
  auto hold = ObjectHold::make(shm::ObjectKind::event, 1, sizeof(SharedEvent));
  new (hold->use().body.data()) SharedEvent{};
  hold->publish();
  handle_ = ObjectHandle(std::move(hold));
}

bool EventCore::is_set() const {
  SharedEvent& body = body_of(use(handle_));
  watch_->settle(body);
  return shm::is_set(body.event);
}

void EventCore::set() const {
  const shm::ObjectPlace& place = use(handle_);
  SharedEvent& body = body_of(place);
  shm::set(body.event);
  // Also if it was set already: whoever did that may have died before it rang.
  place.header->bells[0].ring_for_all();
  channel::ring_doorbells(body.board, objects_here());
}

void EventCore::clear() const {
  SharedEvent& body = body_of(use(handle_));
  shm::clear(body.event);
  watch_->settle(body);
}

int EventCore::fileno() const {
  SharedEvent& body = body_of(use(handle_));
  return watch_->doorbell.descriptor(handle_.hold(), body.board,
                                     [&] { return shm::is_set(body.event); });
}

bool EventCore::wait_before(DeadlineNs deadline) const {
  static start::LookTime look_time;
  const shm::ObjectPlace& place = use(handle_);
  EventBody& event = body_of(place).event;
  const std::uint64_t seen = event.word.load(std::memory_order_seq_cst);
  return shared::wait_until(place.header->bells[0], deadline, &look_time,
                            [&] { return shm::was_set_since(event, seen); });
}

std::string EventCore::describe() const {
  if (!handle_) return "<Event empty>";
  return is_set() ? "<Event set>" : "<Event unset>";
}

}  // namespace brood::detail
