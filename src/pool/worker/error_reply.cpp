#include "pool/worker/error_reply.hpp"

#include <cstring>

#include "pool/protocol/exception.hpp"

namespace brood::pool {

using shm::ReplyKind;

namespace {

bool reply_encoded(WorkerArenas& arenas, std::span<const std::byte> bytes,
                   ReplyPlace place) noexcept {
  if (place.length != nullptr && bytes.size() <= place.bytes.size()) {
    place.kind = ReplyKind::exception_inline;
    *place.length = static_cast<std::uint32_t>(bytes.size());
    std::memcpy(place.bytes.data(), bytes.data(), bytes.size());
    return true;
  }
  try {
    place.kind = ReplyKind::exception_block;
    const std::span<std::byte> room = arenas.allocate_reply(place.bytes.data(), bytes.size());
    std::memcpy(room.data(), bytes.data(), bytes.size());
    return true;
  } catch (...) {
    return false;
  }
}

}  // namespace

void reply_exception(WorkerArenas& arenas, bool from_user, std::uint32_t attempts,
                     ReplyPlace place) noexcept {
  arenas.drop_block();
  if (reply_encoded(arenas, encode_current_exception(from_user, attempts), place)) return;
  // Without its trace, which was taken with the first.
  if (reply_encoded(arenas, encode_current_exception(from_user, attempts), place)) return;
  // Not even room for the error: the caller is told that there was none.
  place.kind = ReplyKind::none;
}

}  // namespace brood::pool
