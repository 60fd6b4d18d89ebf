#include <array>
#include <cstring>
#include <vector>

#include "brood/detail/value_core.hpp"
#include "brood/error.hpp"
#include "shared/object_hold.hpp"
#include "shared/waiting.hpp"
#include "shm/wide_value.hpp"
#include "sys/identity.hpp"
#include "warden/object_space.hpp"

namespace brood::detail {

namespace {

using shm::ObjectKind;
using shm::ObjectPlace;
using shm::WideValue;

static_assert(static_cast<std::uint32_t>(ObjectKind::value) == kValueKind);

// Where a RawValue lies: aligned for every type.
constexpr std::size_t kRawOffset = shm::kElementsOffset;

thread_local WideUpdate* the_update = nullptr;

start::LookTime& look_time() noexcept {
  static start::LookTime time;
  return time;
}

HeldMemory receive(ObjectHandle handle, std::size_t body_bytes, std::size_t offset) {
  if (!handle) return {};
  const ObjectPlace& place = handle.hold()->use();
  if (place.body.size() < body_bytes) {
    throw DecodeError("brood: the object behind a handle is too small for a value of this type");
  }
  std::byte* data = place.body.data() + offset;
  return {std::move(handle), data};
}

ObjectPlace use(const HeldMemory& value) {
  static_cast<void>(value.data());
  return value.handle().hold()->use();
}

// In an operation: also when the warden has been lost meanwhile.
shm::OwnerId me_here() noexcept { return warden::ObjectSpace::current()->objects().me(); }

// A claim that names no member of the family was never made by one: somebody has overwritten it.
bool claim(WideValue& value, shm::OwnerId me) {
  if (value.try_claim(me)) return true;
  const std::uint64_t seen = value.state();
  const shm::ValueState state = shm::ValueState::unpack(seen);
  if (!state.claimed) return value.try_claim(me);
  const warden::ObjectSpace* space = warden::ObjectSpace::current();
  if (space == nullptr || !space->has_left(state.claimer)) return false;
  value.unclaim(seen);
  return value.try_claim(me);
}

}  // namespace

HeldMemory make_value(std::uint64_t type, const void* initial, std::size_t bytes) {
  auto hold = ObjectHold::make(ObjectKind::value, type, shm::value_body_bytes(bytes));
  const ObjectPlace& place = hold->use();
  std::byte* words = place.body.data() + shm::kValueWordsOffset;
  if (shm::is_atomic_size(bytes)) {
    std::memcpy(words, initial, bytes);
  } else {
    WideValue(place.body, bytes).begin(static_cast<const std::byte*>(initial));
  }
  hold->publish();
  return {ObjectHandle(std::move(hold)), words};
}

HeldMemory make_raw_value(std::uint64_t type, const void* initial, std::size_t bytes) {
  auto hold = ObjectHold::make(ObjectKind::value, type, kRawOffset + bytes);
  std::byte* data = hold->use().body.data() + kRawOffset;
  std::memcpy(data, initial, bytes);
  hold->publish();
  return {ObjectHandle(std::move(hold)), data};
}

HeldMemory receive_value(ObjectHandle handle, std::size_t bytes) {
  return receive(std::move(handle), shm::value_body_bytes(bytes), shm::kValueWordsOffset);
}

HeldMemory receive_raw_value(ObjectHandle handle, std::size_t bytes) {
  return receive(std::move(handle), kRawOffset + bytes, kRawOffset);
}

// Each turn but the first means that somebody has finished a change meanwhile.
void read_wide(const HeldMemory& value, std::byte* to, std::size_t bytes) {
  const WideValue wide(use(value).body, bytes);
  while (!wide.try_read(to)) sys::cpu_relax();
}

bool compare_exchange_wide(const HeldMemory& value, void* expected, const void* desired,
                           std::size_t bytes) {
  WideUpdate update(value, bytes);
  std::vector<std::byte> now(bytes);
  update.read(now.data());
  if (std::memcmp(now.data(), expected, bytes) != 0) {
    std::memcpy(expected, now.data(), bytes);
    return false;
  }
  update.publish(desired);
  return true;
}

WideUpdate::WideUpdate(const HeldMemory& value, std::size_t bytes)
    : bytes_(bytes), outer_(the_update) {
  const ObjectPlace place = use(value);
  hold_ = value.handle().hold();
  for (const WideUpdate* other = outer_; other != nullptr; other = other->outer_) {
    if (other->is_open() && other->hold_->ref() == hold_->ref()) {
      throw Error("brood: this value is being changed by a function that was called to change it");
    }
  }
  WideValue wide(place.body, bytes);
  const shm::OwnerId me = me_here();
  if (!wide.try_claim(me)) {
    shared::wait_until(place.header->bells[1], kNoDeadline, &look_time(),
                       [&] { return claim(wide, me); });
  }
  token_ = sys::process_token();
  the_update = this;
}

WideUpdate::~WideUpdate() {
  if (is_open()) {
    const ObjectPlace& place = hold_->place();
    if (WideValue(place.body, bytes_).give_up(me_here())) place.header->bells[1].ring();
  }
  finish();
}

// Not in a process that the updating function has forked: the claim is its parent's.
bool WideUpdate::is_open() const noexcept { return token_ != 0 && token_ == sys::process_token(); }

void WideUpdate::finish() noexcept {
  if (token_ == 0) return;
  token_ = 0;
  the_update = outer_;
}

void WideUpdate::read(std::byte* to) const {
  WideValue(hold_->place().body, bytes_).read_claimed(to);
}

void WideUpdate::publish(const void* from) {
  if (!is_open()) {
    throw StaleHandle("brood: a value is changed by the process that began to change it");
  }
  const ObjectPlace& place = hold_->place();
  const bool published =
      WideValue(place.body, bytes_).publish(static_cast<const std::byte*>(from), me_here());
  finish();
  place.header->bells[1].ring();
  if (!published) throw Error("brood: something has overwritten the memory of a shared value");
}

}  // namespace brood::detail
