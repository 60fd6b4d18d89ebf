#include "shm/objects.hpp"

#include <atomic>
#include <cerrno>
#include <mutex>
#include <new>

namespace brood::shm {

void ring_all_bells(ObjectHeader& header) noexcept {
  for (Bell& bell : header.bells) bell.ring_for_all();
}

void Objects::attach(const ArenaRegion& region, OwnerId me) noexcept {
  me_ = me;
  arena_.attach(region, me);
}

Arena::Allocation Objects::allocate(std::size_t bytes, bool zeroed) noexcept {
  const std::lock_guard lock(allocating_);
  return zeroed ? arena_.allocate_zeroed(bytes) : arena_.allocate(bytes);
}

// ---- objects

namespace {

ObjectPlace failed(int error) noexcept {
  ObjectPlace none;
  none.error = error;
  return none;
}

}  // namespace

ObjectPlace Objects::as_object(BlockRef ref, std::span<std::byte> block) const noexcept {
  if (block.size() < sizeof(ObjectHeader)) return {};
  auto* header = reinterpret_cast<ObjectHeader*>(block.data());
  if (header->magic.load(std::memory_order_acquire) != kObjectMagic) return {};
  const ObjectKind kind = std::atomic_ref(header->kind).load(std::memory_order_relaxed);
  const std::size_t offset = body_offset(kind);
  if (block.size() < offset) return {};
  return {ref, header, kind, block.subspan(offset), 0};
}

ObjectPlace Objects::make(ObjectKind kind, std::uint64_t type, std::size_t body_bytes) noexcept {
  const std::size_t offset = body_offset(kind);
  if (body_bytes > SIZE_MAX - offset) return failed(ENOSPC);
  const Arena::Allocation block = allocate(offset + body_bytes, true);
  if (!block.ref) return failed(block.error);
  auto* header = new (block.bytes.data()) ObjectHeader{};
  header->kind = kind;
  header->type = type;
  const auto unused_sides = static_cast<std::uint8_t>(sides_of(kind) == 2 ? 0 : 2);
  for (std::uint32_t side = 0; side < sides_of(kind); ++side) holds_of(*header, side).set(me_.slot);
  header->word.store(ObjectWord{ObjectState::live, 0, unused_sides, 0}.pack(),
                     std::memory_order_relaxed);
  header->magic.store(kObjectMagic, std::memory_order_release);
  return {block.ref, header, kind, block.bytes.subspan(offset), 0};
}

bool Objects::publish(const ObjectPlace& object) noexcept {
  return arena_.transfer(object.ref, me_, arena::kNobody);
}

ObjectPlace Objects::find(BlockRef ref) noexcept {
  if (!ref) return {};
  if (const int error = arena_.reach(ref); error != 0) return failed(error);
  ObjectPlace object = as_object(ref, arena_.resolve(ref));
  if (!object) return {};
  const ObjectWord word = ObjectWord::unpack(object.header->word.load(std::memory_order_acquire));
  return word.state == ObjectState::live ? object : ObjectPlace{};
}

std::uint64_t Objects::count_move(ObjectHeader& header) noexcept {
  constexpr std::uint64_t kOneMove = std::uint64_t{1} << 32;
  return header.word.fetch_add(kOneMove, std::memory_order_seq_cst) + kOneMove;
}

bool Objects::hold(const ObjectPlace& object, std::uint32_t side, std::uint16_t slot) noexcept {
  SlotSet& holds = holds_of(*object.header, side);
  const bool is_new = holds.set(slot);
  std::uint64_t bits = object.header->word.load(std::memory_order_seq_cst);
  for (;;) {
    ObjectWord word = ObjectWord::unpack(bits);
    if (word.state != ObjectState::live || (word.ended >> side & 1U) != 0) {
      if (is_new) let_go(object, side, slot);
      return false;
    }
    ++word.moves;
    if (object.header->word.compare_exchange_weak(bits, word.pack(), std::memory_order_seq_cst)) {
      return true;
    }
  }
}

// The last holder ends the side while its own bit still keeps the block. If two clear their bits at
// once, each has seen the other's, and it is left to the warden, as is what frames may name.
bool Objects::release(const ObjectPlace& object, std::uint32_t side, std::uint16_t slot) noexcept {
  SlotSet& holds = holds_of(*object.header, side);
  if (!holds.has(slot)) return false;
  const ObjectWord seen = ObjectWord::unpack(count_move(*object.header));
  Ending ending = Ending::kept;
  if (holds.has_only(slot)) {
    ending = (seen.sent >> side & 1U) != 0 ? Ending::unclear : end_side(object, side, seen);
  }
  // The frames that lay in it go by way of the collector.
  const bool is_container = object.kind == ObjectKind::queue || object.kind == ObjectKind::pipe;
  const bool is_last = let_go(object, side, slot);
  if (ending == Ending::ended) return is_container;
  return ending == Ending::unclear || is_last;
}

// Clears the bit; whether it was the last one there. Who clears the last bit of an object that has
// ended frees it: nothing else here may be touched after that.
bool Objects::let_go(const ObjectPlace& object, std::uint32_t side, std::uint16_t slot) noexcept {
  holds_of(*object.header, side).clear(slot);
  const bool is_last = holds_of(*object.header, side).empty();
  // What is read now may be another object's. If so, the name fits no more, and nothing is freed.
  if (is_last) free_if_over(object);
  return is_last;
}

bool Objects::has_ended(const ObjectPlace& object, std::uint32_t side) noexcept {
  const ObjectWord word = ObjectWord::unpack(object.header->word.load(std::memory_order_seq_cst));
  return word.state != ObjectState::live || (word.ended >> side & 1U) != 0;
}

void Objects::mark_sent(const ObjectPlace& object, std::uint32_t side) noexcept {
  std::uint64_t bits = object.header->word.load(std::memory_order_relaxed);
  for (;;) {
    ObjectWord word = ObjectWord::unpack(bits);
    if ((word.sent >> side & 1U) != 0) return;
    word.sent = static_cast<std::uint8_t>(word.sent | 1U << side);
    if (object.header->word.compare_exchange_weak(bits, word.pack(), std::memory_order_seq_cst)) {
      return;
    }
  }
}

// Ends a side that nobody else holds, if nothing has moved since the word was `seen`. The caller's
// bit in its hold set keeps the block meanwhile.
Objects::Ending Objects::end_side(const ObjectPlace& object, std::uint32_t side,
                                  const ObjectWord& seen) noexcept {
  std::uint64_t bits = object.header->word.load(std::memory_order_seq_cst);
  for (;;) {
    ObjectWord word = ObjectWord::unpack(bits);
    if (word.state != ObjectState::live || (word.ended >> side & 1U) != 0) return Ending::kept;
    if (seen.moves != word.moves) return Ending::unclear;
    word.ended = static_cast<std::uint8_t>(word.ended | 1U << side);
    if (word.ended == 3) word.state = ObjectState::dying;
    if (!object.header->word.compare_exchange_weak(bits, word.pack(), std::memory_order_seq_cst)) {
      continue;
    }
    ring_all_bells(*object.header);
    if (side_ended_ != nullptr) side_ended_(object, *this);
    return Ending::ended;
  }
}

// As ours first: a death in between leaves a block that Arena::sweep frees.
void Objects::free_if_over(const ObjectPlace& object) noexcept {
  const ObjectWord word = ObjectWord::unpack(object.header->word.load(std::memory_order_seq_cst));
  if (word.state != ObjectState::dying) return;
  for (std::uint32_t side = 0; side < object.sides(); ++side) {
    if (!holds_of(*object.header, side).empty()) return;
  }
  if (arena_.transfer(object.ref, arena::kNobody, me_)) arena_.free(object.ref);
}

// ---- frames

FramePlace Objects::as_frame(BlockRef ref, std::span<std::byte> block) const noexcept {
  if (block.size() < sizeof(FrameHeader)) return {};
  auto* header = reinterpret_cast<FrameHeader*>(block.data());
  if (header->magic.load(std::memory_order_acquire) != kFrameMagic) return {};
  const std::uint64_t refs = header->refs;
  const std::uint64_t offset = header->payload_offset;
  const std::uint64_t bytes = header->payload_bytes;
  if (offset > block.size() || bytes > block.size() - offset) return {};
  if (refs > (block.size() - sizeof(FrameHeader)) / sizeof(SentRef)) return {};
  if (offset != frame_payload_offset(refs)) return {};
  return {ref,
          header,
          {reinterpret_cast<SentRef*>(header + 1), static_cast<std::size_t>(refs)},
          block.subspan(offset, bytes),
          0};
}

FramePlace Objects::make_frame(BlockRef container, std::span<const SentRef> refs,
                               std::size_t payload_bytes) noexcept {
  const std::size_t offset = frame_payload_offset(refs.size());
  if (payload_bytes > SIZE_MAX / 2) return {{}, nullptr, {}, {}, ENOSPC};
  const Arena::Allocation block = allocate(offset + payload_bytes, false);
  if (!block.ref) return {{}, nullptr, {}, {}, block.error};
  auto* header = new (block.bytes.data()) FrameHeader{};
  header->container.store(container.bits, std::memory_order_relaxed);
  header->payload_bytes = payload_bytes;
  header->payload_offset = static_cast<std::uint32_t>(offset);
  header->refs = static_cast<std::uint32_t>(refs.size());
  auto* const sent = reinterpret_cast<SentRef*>(header + 1);
  for (std::size_t i = 0; i < refs.size(); ++i) {
    sent[i] = refs[i];
    if (const ObjectPlace object = find(refs[i].object)) mark_sent(object, refs[i].side);
  }
  header->magic.store(kFrameMagic, std::memory_order_release);
  return {block.ref, header, {sent, refs.size()}, block.bytes.subspan(offset, payload_bytes), 0};
}

FramePlace Objects::find_frame(BlockRef ref) const noexcept {
  if (!ref || arena_.reach(ref) != 0) return {};
  return as_frame(ref, arena_.resolve(ref));
}

bool Objects::take_frame(BlockRef ref) noexcept {
  // Its producer may still be about to give it away.
  for (int i = 0; i < 4; ++i) {
    const std::optional<OwnerId> owner = arena_.owner(ref);
    if (!owner || *owner == me_) return false;
    if (arena_.transfer(ref, *owner, me_)) return true;
  }
  return false;
}

// ---- the warden's part

template <class Visit>
void Objects::for_each_object(Visit&& visit) noexcept {
  arena_.for_each_block([&](BlockRef ref, OwnerId owner, std::span<std::byte> block) {
    if (owner != arena::kNobody) return;
    if (const ObjectPlace object = as_object(ref, block)) visit(object);
  });
}

template <class Visit>
void Objects::for_each_frame(Visit&& visit) noexcept {
  arena_.for_each_block([&](BlockRef ref, OwnerId owner, std::span<std::byte> block) {
    if (const FramePlace frame = as_frame(ref, block)) visit(frame, owner);
  });
}

bool Objects::bury(OwnerId dead, BuryFn bury_in) noexcept {
  arena_.sweep(dead);
  bool to_collect = false;
  for_each_object([&](const ObjectPlace& object) {
    // Whoever ended it may have died before it could free it.
    free_if_over(object);
    bool held = false;
    for (std::uint32_t side = 0; side < object.sides(); ++side) {
      held = holds_of(*object.header, side).has(dead.slot) || held;
    }
    if (!held) return;
    bury_in(object, dead, *this);
    for (Bell& bell : object.header->bells) bell.ring_for_the_dead();
    for (std::uint32_t side = 0; side < object.sides(); ++side) {
      to_collect = release(object, side, dead.slot) || to_collect;
    }
  });
  return to_collect;
}

// Marks what is named by frames that somebody can still come by; true if that changed anything.
bool Objects::name_what_frames_name() noexcept {
  bool changed = false;
  for_each_frame([&](const FramePlace& frame, OwnerId owner) {
    if (frame.refs.empty()) return;
    if (owner == arena::kNobody) {
      const ObjectPlace container = find({frame.header->container.load(std::memory_order_relaxed)});
      if (!container || container.header->named.load(std::memory_order_relaxed) == 0) return;
    }
    for (const SentRef& sent : frame.refs) {
      const ObjectPlace object = find(sent.object);
      if (!object || sent.side >= object.sides()) continue;
      const std::uint32_t before =
          object.header->named.fetch_or(1U << sent.side, std::memory_order_relaxed);
      changed = changed || (before >> sent.side & 1U) == 0;
    }
  });
  return changed;
}

bool Objects::collect() noexcept {
  bool unclear = false;
  for_each_object([](const ObjectPlace& object) {
    std::uint32_t named = 0;
    object.header->seen.store(object.header->word.load(std::memory_order_seq_cst),
                              std::memory_order_relaxed);
    for (std::uint32_t side = 0; side < object.sides(); ++side) {
      if (!holds_of(*object.header, side).empty()) named |= 1U << side;
    }
    object.header->named.store(named, std::memory_order_relaxed);
  });
  // Bounded, as it is by the number of objects unless somebody scribbles there.
  constexpr int kMostRounds = 64;
  int rounds = 0;
  while (name_what_frames_name() && ++rounds < kMostRounds) {
  }
  if (rounds == kMostRounds) return true;
  for_each_object([&](const ObjectPlace& object) {
    const auto seen = ObjectWord::unpack(object.header->seen.load(std::memory_order_relaxed));
    const std::uint32_t named = object.header->named.load(std::memory_order_relaxed);
    // A new one has not been looked at.
    if (seen.state != ObjectState::live) return;
    for (std::uint32_t side = 0; side < object.sides(); ++side) {
      if ((named >> side & 1U) != 0) continue;
      // What ends one side is no move, so that both may end in one round.
      holds_of(*object.header, side).set(me_.slot);
      unclear = end_side(object, side, seen) == Ending::unclear || unclear;
      let_go(object, side, me_.slot);
    }
  });
  for_each_frame([&](const FramePlace& frame, OwnerId owner) {
    if (owner != arena::kNobody) return;
    if (find({frame.header->container.load(std::memory_order_relaxed)})) return;
    if (arena_.transfer(frame.ref, arena::kNobody, me_)) arena_.free(frame.ref);
  });
  return unclear;
}

}  // namespace brood::shm
