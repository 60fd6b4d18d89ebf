#include "warden/object_space.hpp"

#include <array>
#include <span>
#include <utility>

#include "brood/error.hpp"
#include "channel/burial.hpp"
#include "sys/fd.hpp"
#include "sys/identity.hpp"
#include "sys/memory.hpp"
#include "sys/syscall.hpp"
#include "warden/family.hpp"
#include "warden/protocol.hpp"

namespace brood::warden {

namespace {

// Address space for objects: as much as there is (ulimit -v, -f).
constexpr std::array<std::size_t, 4> kPayloadSizes = {std::size_t{1} << 36, std::size_t{1} << 32,
                                                      std::size_t{1} << 27, std::size_t{1} << 24};

std::atomic<ObjectSpace*> the_space{nullptr};

std::size_t payload_offset(std::size_t payload_bytes) noexcept {
  constexpr std::size_t kAlignment = shm::arena::kPageBytes;
  return (shm::Arena::metadata_bytes(payload_bytes) + kAlignment - 1) / kAlignment * kAlignment;
}

std::size_t segment_bytes(std::size_t payload_bytes) noexcept {
  return payload_offset(payload_bytes) + payload_bytes;
}

}  // namespace

shm::ArenaRegion ObjectSegment::region() const noexcept {
  return {base, fd, 0, payload_offset(payload_bytes), payload_bytes, limit_bytes};
}

ObjectSpace::~ObjectSpace() {
  ObjectSpace* self = this;
  the_space.compare_exchange_strong(self, nullptr);
}

ObjectSpace* ObjectSpace::current() noexcept {
  ObjectSpace* space = the_space.load(std::memory_order_acquire);
  return space != nullptr && space->token_ == sys::process_token() ? space : nullptr;
}

ObjectSpace* ObjectSpace::inherited() noexcept { return the_space.load(std::memory_order_acquire); }

ObjectSpace& ObjectSpace::join() {
  ObjectSpace* space = current();
  if (space == nullptr) {
    Family::join();
    space = current();
    if (space == nullptr) throw FamilyBroken("brood: this process has no shared objects");
  }
  space->require_usable();
  return *space;
}

void ObjectSpace::require_usable() {
  if (warden_lost()) {
    throw FamilyBroken("the warden of this family of processes was killed; start the program anew");
  }
  if (!has_place_) {
    throw Error(
        "brood: too many processes of this family are alive for this worker to use shared "
        "objects");
  }
  if (is_protected_.load(std::memory_order_acquire)) {
    sys::require(sys::make_writable(segment_.base(), segment_.size()),
                 "opening the shared objects for writing");
    is_protected_.store(false, std::memory_order_release);
  }
}

void ObjectSpace::move_descriptors(int warden_socket) noexcept {
  socket_ = warden_socket;
  objects_.attach(segment().region(), objects_.me());
}

void ObjectSpace::attach(shm::OwnerId me) noexcept {
  objects_.attach(segment().region(), me);
  token_ = sys::process_token();
}

void ObjectSpace::publish() noexcept { the_space.store(this, std::memory_order_release); }

void ObjectSpace::found(const shm::FamilyLayout& family, int socket, std::size_t limit_bytes) {
  family_ = &family;
  socket_ = socket;
  limit_bytes_ = limit_bytes;
  for (const std::size_t bytes : kPayloadSizes) {
    try {
      segment_ = shm::Segment("brood:objects", segment_bytes(bytes));
      payload_bytes_ = bytes;
      break;
    } catch (const SystemError&) {
      if (bytes == kPayloadSizes.back()) throw;
    }
  }
  objects_.know_members(family.owners);
  objects_.when_side_ends(channel::side_ended);
  objects_.attach(segment().region(), {shm::kHostSlot, 1});
  const int formatted = objects_.format();
  if (formatted < 0) throw ArenaFull("brood: the system has no more shared memory");
  attach({shm::kHostSlot, 1});
}

void ObjectSpace::find(const shm::FamilyLayout& family, int socket, sys::Fd segment,
                       std::size_t limit_bytes) {
  family_ = &family;
  objects_.know_members(family.owners);
  objects_.when_side_ends(channel::side_ended);
  socket_ = socket;
  limit_bytes_ = limit_bytes;
  const auto size = static_cast<std::size_t>(
      sys::require(sys::file_bytes(segment.get()), "looking at the segment of shared objects"));
  for (const std::size_t bytes : kPayloadSizes) {
    if (segment_bytes(bytes) == size) payload_bytes_ = bytes;
  }
  segment_ = shm::Segment(std::move(segment), size);
}

void ObjectSpace::enter(shm::OwnerId me, int warden_socket) noexcept {
  socket_ = warden_socket;
  has_place_ = true;
  attach(me);
  publish();
}

void ObjectSpace::enter_worker(shm::OwnerId me, bool has_place) noexcept {
  ObjectSpace* const space = inherited();
  if (space == nullptr) return;
  space->has_place_ = has_place;
  space->attach(me);
  space->is_protected_.store(
      sys::make_read_only(space->segment_.base(), space->segment_.size()) == 0,
      std::memory_order_release);
}

bool ObjectSpace::warden_lost() const noexcept {
  const std::uint32_t life =
      family_->lives[shm::kWardenSlot].life.word.load(std::memory_order_acquire);
  if (life != 0) return (life & sys::kFutexOwnerDied) != 0;
  // It could not hold its word (a sandbox may forbid that), so there is no early sign.
  const Family* family = Family::current();
  return family != nullptr && family->warden_lost();
}

bool ObjectSpace::has_left(shm::OwnerId member) const noexcept {
  if (member.slot >= family_->owners.size()) return true;
  const auto word =
      shm::OwnerWord::unpack(family_->owners[member.slot].load(std::memory_order_acquire));
  return word.epoch != member.epoch || word.state == shm::OwnerState::free;
}

void ObjectSpace::ask_to_collect() noexcept {
  Announcement said;
  said.request = Request::collect;
  sys::send_packet(socket_, std::as_bytes(std::span(&said, 1)), -1, false);
}

}  // namespace brood::warden
