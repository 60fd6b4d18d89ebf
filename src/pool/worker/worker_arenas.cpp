#include "pool/worker/worker_arenas.hpp"

#include <string>
#include <vector>

#include "brood/error.hpp"
#include "pool/protocol/call.hpp"
#include "shm/objects.hpp"
#include "warden/family.hpp"

namespace brood::pool {

using shm::BlockRef;

namespace {

std::span<const std::byte> packet_payload(std::span<const std::byte> packet) {
  shm::PacketHeader header{};
  if (packet.size() < sizeof header) throw DecodeError("brood: the bound values are gone");
  std::memcpy(&header, packet.data(), sizeof header);
  packet = packet.subspan(sizeof header);
  if (header.length > packet.size()) throw DecodeError("brood: the bound values are cut off");
  return packet.first(static_cast<std::size_t>(header.length));
}

}  // namespace

WorkerArenas::WorkerArenas(const SupervisorStart& start, shm::OwnerId me) noexcept
    : view_(start.view), me_(me) {
  inbox_.attach(view_.inbox(start.segment_fd, start.arena_limit_bytes), me_);
  outbox_.attach(view_.outbox(start.segment_fd, start.arena_limit_bytes), me_);
}

std::span<const std::byte> WorkerArenas::bound_values(BlockRef block) const {
  require_in_reach(inbox_, block);
  return packet_payload(inbox_.resolve(block));
}

void WorkerArenas::keep_for_caller(std::span<const detail::ObjectHandle> handles) {
  if (handles.empty()) return;
  std::vector<shm::SentRef> refs;
  for (const detail::ObjectHandle& handle : handles) {
    refs.push_back({BlockRef{handle.name()}, handle.side()});
  }
  shm::Objects& objects = warden::ObjectSpace::join().objects();
  const shm::FramePlace frame = objects.make_frame({}, refs, 0);
  if (!frame) throw ArenaFull("brood: there is no shared memory for the handles in a result");
  objects.arena().transfer(frame.ref, objects.me(), view_.caller().member);
  const std::uint64_t name = frame.ref.bits;
  std::memcpy(outbox_.resolve(block_).data() + offsetof(shm::PacketHeader, handles), &name,
              sizeof name);
}

void WorkerArenas::refuse_reading(int error) const {
  // A task that closed all descriptors closed ours: no other task is to suffer.
  if (error == EBADF) unfit_ = true;
  throw ArenaFull("brood: the system refuses the memory that reading a task's arguments takes");
}

void WorkerArenas::refuse_reply(int error, std::size_t bytes) {
  if (error == EBADF) unfit_ = true;  // see refuse_reading
  throw ArenaFull("brood: there is no shared memory for a result of " + std::to_string(bytes) +
                  " bytes: raise InitOptions::arena_limit_bytes, or return less");
}

}  // namespace brood::pool
