#include "channel/stream.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "channel/doorbell.hpp"

namespace brood::channel {

namespace {

// So many cells are looked at in one go. Two laps are enough unless others are very busy, or the
// words are nonsense.
constexpr std::uint64_t kMostLaps = 8;

bool replace(StreamCell& cell, StreamWord expected, StreamWord desired) noexcept {
  std::uint64_t bits = expected.pack();
  return cell.word.compare_exchange_strong(bits, desired.pack(), std::memory_order_seq_cst);
}

StreamWord load(const StreamCell& cell) noexcept {
  return StreamWord::unpack(cell.word.load(std::memory_order_seq_cst));
}

StreamWord empty_after(StreamWord word) noexcept {
  return {StreamCellState::empty, {}, 0, (word.lap + 1) & StreamWord::kLapMask};
}

// Whether the frame is a message's of this pipe, and is now ours.
bool take_frame_of(shm::BlockRef pipe, shm::BlockRef frame, shm::Objects& objects,
                   shm::FramePlace& place) noexcept {
  place = objects.find_frame(frame);
  if (!place) return false;
  if (place.header->container.load(std::memory_order_relaxed) != pipe.bits) return false;
  return objects.take_frame(frame);
}

}  // namespace

// ---- sending

// Calls visit(cell, word, position) for the first empty cell; it may fail, and then another is
// looked for.
template <class Visit>
Room::Kind Stream::find_room(Visit&& visit) noexcept {
  // Acquired: who knows by the hint that a position was claimed also sees its claim (a receiver
  // takes the first empty cell for the end).
  std::uint64_t position = hints_->tail.load(std::memory_order_acquire);
  for (std::uint64_t i = 0; i < kMostLaps * capacity(); ++i) {
    StreamCell& here = cell(position);
    const StreamWord word = load(here);
    const std::int32_t ahead = word.laps_after(lap(position));
    if (ahead == 0 && word.state == StreamCellState::empty) {
      if (visit(here, word, position)) return Room::Kind::claimed;
      continue;
    }
    if (ahead == -1) return Room::Kind::full;
    if (ahead < -1) return Room::Kind::corrupt;
    // Used in this lap, or a later one: then all before that was claimed, too.
    if (ahead > 1) position += (static_cast<std::uint64_t>(ahead) - 1) << log_;
    ++position;
  }
  return Room::Kind::corrupt;
}

Room Stream::claim(shm::OwnerId me) noexcept {
  Room room;
  room.kind = find_room([&](StreamCell& here, StreamWord word, std::uint64_t position) {
    if (!replace(here, word, {StreamCellState::writing, me, 0, word.lap})) return false;
    hints_->tail.store(position + 1, std::memory_order_release);
    room.cell = &here;
    room.lap = word.lap;
    return true;
  });
  return room;
}

bool Stream::has_room() noexcept {
  return find_room([](StreamCell&, StreamWord, std::uint64_t) { return true; }) != Room::Kind::full;
}

// The type is released and acquired, so that a receiver that sees a later message's type also sees
// that the word has moved on (Stream::take).
void Stream::publish(const Room& room, std::uint64_t type,
                     std::span<const std::byte> bytes) noexcept {
  const std::size_t size = std::min(bytes.size(), kInlineBytes);
  room.cell->type.store(type, std::memory_order_release);
  for (std::size_t at = 0; at < size; at += 8) {
    std::uint64_t part = 0;
    std::memcpy(&part, bytes.data() + at, std::min<std::size_t>(size - at, 8));
    room.cell->payload[at / 8].store(part, std::memory_order_relaxed);
  }
  const StreamWord full{
      StreamCellState::full_inline, {}, static_cast<std::uint8_t>(size), room.lap};
  room.cell->word.store(full.pack(), std::memory_order_seq_cst);
}

// Between publishing and giving the receiver takes it from us.
void Stream::publish(const Room& room, std::uint64_t type, const shm::FramePlace& frame,
                     shm::Objects& objects) noexcept {
  room.cell->type.store(type, std::memory_order_release);
  room.cell->payload[0].store(frame.ref.bits, std::memory_order_relaxed);
  room.cell->payload[1].store(frame.payload.size(), std::memory_order_relaxed);
  const StreamWord full{StreamCellState::full_frame, {}, 0, room.lap};
  room.cell->word.store(full.pack(), std::memory_order_seq_cst);
  objects.give_frame(frame.ref);
}

std::uint64_t Stream::bytes_waiting(std::uint64_t least) const noexcept {
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < capacity(); ++i) {
    if (load(cells_[i]).state != StreamCellState::full_frame) continue;
    const std::uint64_t size = cells_[i].payload[1].load(std::memory_order_relaxed);
    if (size >= least) sum = size > UINT64_MAX - sum ? UINT64_MAX : sum + size;
  }
  return sum;
}

// ---- receiving

// What was being written when we came by may have been published since, and what we found later may
// be the same sender's next: then the former is there to be seen now.
Glimpse Stream::look() noexcept {
  Glimpse found = scan(std::nullopt);
  while (found.kind == Glimpse::Kind::message && found.passed_writing) {
    const Glimpse earlier = scan(found.position);
    if (earlier.kind != Glimpse::Kind::message || earlier.position >= found.position) break;
    found = earlier;
  }
  return found;
}

// The first message that lies before `until`.
Glimpse Stream::scan(std::optional<std::uint64_t> until) noexcept {
  Glimpse found;
  found.is_first = true;
  std::uint64_t position = hints_->head.load(std::memory_order_acquire);
  const std::uint64_t begin = position;
  for (std::uint64_t i = 0; i < kMostLaps * capacity(); ++i) {
    if (until == position) return found;
    StreamCell& here = cell(position);
    const StreamWord word = load(here);
    const std::int32_t ahead = word.laps_after(lap(position));
    if (ahead < 0 || (ahead == 0 && word.state == StreamCellState::empty)) {
      // Nobody else may come by to say what is done with.
      if (found.is_first && position != begin) {
        hints_->head.store(position, std::memory_order_release);
      }
      found.kind = ahead < -1 ? Glimpse::Kind::corrupt : Glimpse::Kind::nothing;
      return found;
    }
    if (ahead == 0 && word.state == StreamCellState::hole) {
      replace(here, word, empty_after(word));
      continue;
    }
    if (ahead == 0 && word.is_full()) {
      found.kind = Glimpse::Kind::message;
      found.cell = &here;
      found.word = word;
      found.type = here.type.load(std::memory_order_acquire);
      found.position = position;
      return found;
    }
    if (ahead == 0) {
      if (!word.is_claimed()) break;
      found.is_first = false;
      found.passed_writing = found.passed_writing || word.state == StreamCellState::writing;
    }
    // Far behind: what is still in use is at most a lap before what has been used again.
    if (ahead > 2) position += (static_cast<std::uint64_t>(ahead) - 2) << log_;
    ++position;
  }
  found.kind = Glimpse::Kind::corrupt;
  return found;
}

Stream::Took Stream::take(const Glimpse& glimpse, shm::BlockRef pipe, shm::Objects& objects,
                          TakenMessage& message) noexcept {
  const bool is_frame = glimpse.word.state == StreamCellState::full_frame;
  StreamCell& here = *glimpse.cell;
  const StreamWord taken{is_frame ? StreamCellState::taken_frame : StreamCellState::taken_inline,
                         objects.me(), 0, glimpse.word.lap};
  // If it is still the same word, then what was read of the message was of this message.
  if (!replace(here, glimpse.word, taken)) return Took::nothing;
  message.type = glimpse.type;
  message.size = 0;
  Took took = Took::message;
  if (is_frame) {
    const shm::BlockRef frame{here.payload[0].load(std::memory_order_relaxed)};
    if (!take_frame_of(pipe, frame, objects, message.frame)) took = Took::hole;
  } else {
    message.frame = {};
    message.size = std::min<std::size_t>(glimpse.word.size, kInlineBytes);
    for (std::size_t at = 0; at < message.size; at += 8) {
      const std::uint64_t part = here.payload[at / 8].load(std::memory_order_relaxed);
      std::memcpy(message.bytes.data() + at, &part, 8);
    }
  }
  here.word.store(empty_after(glimpse.word).pack(), std::memory_order_seq_cst);
  if (glimpse.is_first) hints_->head.store(glimpse.position + 1, std::memory_order_release);
  return took;
}

// ---- afterwards

void Stream::bury(shm::OwnerId dead, shm::BlockRef pipe, shm::Objects& objects) noexcept {
  for (std::size_t i = 0; i < capacity(); ++i) {
    StreamCell& here = cells_[i];
    const StreamWord word = load(here);
    if (!word.is_owned_by(dead)) continue;
    if (word.state == StreamCellState::writing) {
      replace(here, word, {StreamCellState::hole, {}, 0, word.lap});
      continue;
    }
    if (word.state == StreamCellState::taken_frame) {
      // Unless the dead had made it its own: then it is gone already.
      const shm::BlockRef frame{here.payload[0].load(std::memory_order_relaxed)};
      shm::FramePlace place;
      if (take_frame_of(pipe, frame, objects, place)) objects.free_block(frame);
    }
    replace(here, word, empty_after(word));
  }
}

std::optional<PipeView> view_pipe(std::span<std::byte> body) noexcept {
  if (body.size() < hints_offset(2)) return std::nullopt;
  auto* header = reinterpret_cast<PipeHeader*>(body.data());
  const std::uint32_t log = std::atomic_ref(header->cells_log).load(std::memory_order_relaxed);
  const bool duplex = std::atomic_ref(header->is_duplex).load(std::memory_order_relaxed) != 0;
  if (log > kMaxPipeCellsLog || pipe_body_bytes(duplex, log) > body.size()) return std::nullopt;
  PipeView view;
  view.most_bytes = std::atomic_ref(header->most_bytes).load(std::memory_order_relaxed);
  for (std::uint32_t side = 0; side < 2; ++side) {
    view.boards[side] = reinterpret_cast<DoorbellBoard*>(body.data() + board_offset(side));
  }
  for (std::uint32_t direction = duplex ? 0 : 1; direction < 2; ++direction) {
    view.streams[direction] = Stream(
        *reinterpret_cast<StreamHints*>(body.data() + hints_offset(direction)),
        reinterpret_cast<StreamCell*>(body.data() + cells_offset(direction, duplex, log)), log);
  }
  return view;
}

void format_pipe(std::span<std::byte> body, bool duplex, std::uint32_t cells_log,
                 std::uint64_t most_bytes) noexcept {
  auto* header = reinterpret_cast<PipeHeader*>(body.data());
  header->cells_log = cells_log;
  header->is_duplex = duplex ? 1 : 0;
  header->most_bytes = most_bytes;
}

bool is_pipe_ready(Stream& in, const shm::ObjectPlace& pipe, std::uint32_t side) noexcept {
  if (in && in.look().kind != Glimpse::Kind::nothing) return true;
  return shm::Objects::has_ended(pipe, 1 - side);
}

void bury_in_pipe(const shm::ObjectPlace& pipe, shm::OwnerId dead, shm::Objects& objects) noexcept {
  std::optional<PipeView> view = view_pipe(pipe.body);
  if (!view) return;
  for (Stream& stream : view->streams) {
    if (stream) stream.bury(dead, pipe.ref, objects);
  }
  for (std::uint32_t side = 0; side < view->boards.size(); ++side) {
    ring_for_the_dead(*view->boards[side], objects,
                      [&] { return is_pipe_ready(view->streams[1 - side], pipe, side); });
  }
}

void ring_doorbells_of_pipe(const shm::ObjectPlace& pipe, const shm::Objects& objects) noexcept {
  const std::optional<PipeView> view = view_pipe(pipe.body);
  if (!view) return;
  for (DoorbellBoard* board : view->boards) ring_all_doorbells(*board, objects);
}

}  // namespace brood::channel
