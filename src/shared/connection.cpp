// The ends of pipes: waiting, and what becomes of large messages.
#include <algorithm>
#include <bit>
#include <cstring>
#include <string>
#include <system_error>

#include "brood/pipe.hpp"
#include "channel/doorbell.hpp"
#include "channel/stream.hpp"
#include "shared/doorbell.hpp"
#include "shared/object_hold.hpp"
#include "shared/waiting.hpp"

namespace brood {

namespace detail {

namespace {

using channel::Glimpse;
using channel::Room;
using channel::Stream;
using shm::ObjectPlace;
using shm::Objects;

static_assert(kSmallMessage == channel::kInlineBytes);
static_assert(Connection::kKind == static_cast<std::uint32_t>(shm::ObjectKind::pipe));

// At this scope, so that its destructor is registered before there are threads: the C library's
// list of exit handlers must not be changed while another thread forks.
const ObjectHandle kNoHandle;

// Of larger messages so many bytes may be on their way that it is worth to look how many are.
constexpr std::size_t kCountedBytes = std::size_t{64} << 10U;

[[noreturn, gnu::cold]] void throw_overwritten() {
  throw DecodeError("brood: the pipe's shared memory makes no sense: some process overwrote it");
}
[[noreturn, gnu::cold]] void throw_peer_gone() {
  throw Closed("brood: nobody has the other end of this pipe any more");
}

class End final : public PipeEnd {
 public:
  End(ObjectHandle handle, const channel::PipeView& view)
      : handle_(std::move(handle)),
        side_(handle_.side()),
        out_(view.streams[side_]),
        in_(view.streams[1 - side_]),
        board_(view.boards[side_]),
        peers_board_(view.boards[1 - side_]),
        most_bytes_(view.most_bytes) {}

  [[nodiscard]] const ObjectHandle& handle() const noexcept override { return handle_; }
  [[nodiscard]] bool readable() const noexcept override { return static_cast<bool>(in_); }
  [[nodiscard]] bool writable() const noexcept override { return static_cast<bool>(out_); }

  bool send_small(std::uint64_t type, std::span<const std::byte> bytes,
                  DeadlineNs deadline) override;
  std::optional<MessageDraft> draft(std::size_t bytes, std::span<const ObjectHandle> handles,
                                    DeadlineNs deadline) override;
  bool commit(std::uint64_t type, MessageDraft& draft, DeadlineNs deadline) override;
  std::optional<ReceivedMessage> receive(std::span<const std::uint64_t> types,
                                         DeadlineNs deadline) override;
  bool poll(DeadlineNs deadline) override;
  int fileno() override;

 private:
  // Both check that this process has the end.
  const ObjectPlace& use_for_sending() {
    if (!out_) throw Error("brood: this end of the pipe only receives");
    return handle_.hold()->use();
  }
  const ObjectPlace& use_for_receiving() {
    if (!in_) throw Error("brood: this end of the pipe only sends");
    return handle_.hold()->use();
  }
  static shm::Bell& bell(const ObjectPlace& place, std::size_t which) noexcept {
    return place.header->bells[which];
  }

  // As shared::wait_until. Whoever leaves without what it was woken for passes the ring on.
  template <class Done>
  static bool wait(shm::Bell& bell, DeadlineNs deadline, start::LookTime& look_time, Done&& done) {
    try {
      return shared::wait_until(bell, deadline, &look_time, std::forward<Done>(done));
    } catch (...) {
      bell.ring();
      throw;
    }
  }

  void require_peer(const ObjectPlace& place) const {
    if (Objects::has_ended(place, 1 - side_)) throw_peer_gone();
  }
  bool claim(const ObjectPlace& place, Room& room, DeadlineNs deadline);
  void tell_receivers(const ObjectPlace& place) noexcept {
    bell(place, channel::message_bell(1 - side_)).ring();
    channel::ring_doorbells(*peers_board_, objects_here());
  }
  // Whether there is a message; nobody will ever send one: Closed.
  bool look(const ObjectPlace& place, Glimpse& glimpse);
  [[nodiscard]] bool is_ready(const ObjectPlace& place) noexcept {
    return channel::is_pipe_ready(in_, place, side_);
  }
  std::optional<ReceivedMessage> take(const ObjectPlace& place, const Glimpse& glimpse);

  ObjectHandle handle_;
  const std::uint32_t side_;
  Stream out_;
  Stream in_;
  channel::DoorbellBoard* const board_;
  channel::DoorbellBoard* const peers_board_;
  const std::uint64_t most_bytes_;
  shared::Doorbell doorbell_;
  start::LookTime sending_;
  start::LookTime receiving_;
};

std::shared_ptr<PipeEnd> end_of(ObjectHandle handle) {
  const std::optional<channel::PipeView> view = channel::view_pipe(handle.hold()->use().body);
  if (!view || handle.side() > 1) throw_overwritten();
  return std::make_shared<End>(std::move(handle), *view);
}

// ---- sending

bool End::claim(const ObjectPlace& place, Room& room, DeadlineNs deadline) {
  const shm::OwnerId me = objects_here().me();
  return wait(bell(place, channel::room_bell(side_)), deadline, sending_, [&] {
    require_peer(place);
    room = out_.claim(me);
    if (room.kind == Room::Kind::corrupt) throw_overwritten();
    return room.kind == Room::Kind::claimed;
  });
}

bool End::send_small(std::uint64_t type, std::span<const std::byte> bytes, DeadlineNs deadline) {
  const ObjectPlace& place = use_for_sending();
  Room room;
  if (!claim(place, room, deadline)) return false;
  Stream::publish(room, type, bytes);
  tell_receivers(place);
  return true;
}

std::optional<MessageDraft> End::draft(std::size_t bytes, std::span<const ObjectHandle> handles,
                                       DeadlineNs deadline) {
  const ObjectPlace& place = use_for_sending();
  const bool has_room = wait(bell(place, channel::room_bell(side_)), deadline, sending_, [&] {
    require_peer(place);
    if (!out_.has_room()) return false;
    if (bytes < kCountedBytes) return true;
    const std::uint64_t waiting = out_.bytes_waiting(kCountedBytes);
    return waiting == 0 || (bytes <= most_bytes_ && waiting <= most_bytes_ - bytes);
  });
  if (!has_room) return std::nullopt;
  std::vector<shm::SentRef> refs;
  refs.reserve(handles.size());
  for (const ObjectHandle& handle : handles) refs.push_back({{handle.name()}, handle.side()});
  const shm::FramePlace frame = objects_here().make_frame(place.ref, refs, bytes);
  if (!frame) {
    throw ArenaFull("brood: no shared memory for a message of " + std::to_string(bytes) +
                    " bytes (" + std::generic_category().message(frame.error) +
                    "): receive what waits, or raise InitOptions::arena_limit_bytes");
  }
  return draft_of(frame.ref.bits, frame.payload);
}

bool End::commit(std::uint64_t type, MessageDraft& draft, DeadlineNs deadline) {
  const ObjectPlace& place = use_for_sending();
  Room room;
  if (!claim(place, room, deadline)) return false;
  shm::FramePlace frame;
  frame.ref = {frame_of(draft)};
  frame.payload = draft.payload;
  gave_away(draft);
  Stream::publish(room, type, frame, objects_here());
  tell_receivers(place);
  return true;
}

// ---- receiving

bool End::look(const ObjectPlace& place, Glimpse& glimpse) {
  glimpse = in_.look();
  if (glimpse.kind == Glimpse::Kind::nothing && Objects::has_ended(place, 1 - side_)) {
    // What was sent before the end is there by now.
    glimpse = in_.look();
    if (glimpse.kind == Glimpse::Kind::nothing) throw_peer_gone();
  }
  if (glimpse.kind == Glimpse::Kind::corrupt) throw_overwritten();
  return glimpse.kind == Glimpse::Kind::message;
}

// Nothing: another was quicker, or the sender died before it had finished.
std::optional<ReceivedMessage> End::take(const ObjectPlace& place, const Glimpse& glimpse) {
  Objects& objects = objects_here();
  channel::TakenMessage taken;
  const Stream::Took took = in_.take(glimpse, place.ref, objects, taken);
  if (took == Stream::Took::nothing) return std::nullopt;
  bell(place, channel::room_bell(1 - side_)).ring();
  if (took == Stream::Took::hole) return std::nullopt;
  if (!taken.frame) return small_message(taken.type, std::span(taken.bytes).first(taken.size));
  return large_message(taken.type, taken.frame.ref.bits, !taken.frame.refs.empty(),
                       taken.frame.payload);
}

std::optional<ReceivedMessage> End::receive(std::span<const std::uint64_t> types,
                                            DeadlineNs deadline) {
  const ObjectPlace& place = use_for_receiving();
  std::optional<ReceivedMessage> message;
  wait(bell(place, channel::message_bell(side_)), deadline, receiving_, [&] {
    Glimpse glimpse;
    while (look(place, glimpse)) {
      if (std::find(types.begin(), types.end(), glimpse.type) == types.end()) {
        throw TypeMismatch(
            "brood: the next message is of another type than the one asked for; it is still there");
      }
      message = take(place, glimpse);
      if (message) return true;
    }
    return false;
  });
  doorbell_.settle(*board_, [&] { return is_ready(place); });
  return message;
}

bool End::poll(DeadlineNs deadline) {
  const ObjectPlace& place = use_for_receiving();
  shm::Bell& messages = bell(place, channel::message_bell(side_));
  const bool has_come = wait(messages, deadline, receiving_, [&] { return is_ready(place); });
  // The ring may have been meant for somebody who receives.
  if (has_come) messages.ring();
  return has_come;
}

int End::fileno() {
  const ObjectPlace& place = use_for_receiving();
  return doorbell_.descriptor(handle_.hold(), *board_, [&] { return is_ready(place); });
}

void free_frame(std::uint64_t frame) noexcept {
  if (warden::ObjectSpace* const space = warden::ObjectSpace::current()) {
    space->objects().free_block({frame});
  }
}

}  // namespace

// ---- what End is made of

std::pair<std::shared_ptr<PipeEnd>, std::shared_ptr<PipeEnd>> PipeEnd::make(
    const PipeOptions& options) {
  if (options.max_messages == 0 || options.max_messages > std::size_t{1}
                                                              << channel::kMaxPipeCellsLog) {
    throw Error("brood: PipeOptions::max_messages must be from 1 to 1048576");
  }
  const auto log = static_cast<std::uint32_t>(std::bit_width(options.max_messages - 1));
  auto first = ObjectHold::make(shm::ObjectKind::pipe, Connection::object_type(),
                                channel::pipe_body_bytes(options.duplex, log));
  channel::format_pipe(first->use().body, options.duplex, log, options.max_bytes);
  auto second = ObjectHold::other_side(*first, 1);
  first->publish();
  return {end_of(ObjectHandle(std::move(first))), end_of(ObjectHandle(std::move(second)))};
}

std::shared_ptr<PipeEnd> PipeEnd::of(ObjectHandle handle) { return end_of(std::move(handle)); }

ReceivedMessage PipeEnd::small_message(std::uint64_t type, std::span<const std::byte> bytes) {
  ReceivedMessage message;
  message.type_ = type;
  message.size_ = bytes.size();
  std::memcpy(message.small_.data(), bytes.data(), bytes.size());
  return message;
}

ReceivedMessage PipeEnd::large_message(std::uint64_t type, std::uint64_t frame, bool has_handles,
                                       std::span<const std::byte> bytes) noexcept {
  ReceivedMessage message;
  message.type_ = type;
  message.frame_ = frame;
  message.has_handles_ = has_handles;
  message.large_ = bytes;
  return message;
}

MessageDraft PipeEnd::draft_of(std::uint64_t frame, std::span<std::byte> payload) noexcept {
  MessageDraft draft;
  draft.frame_ = frame;
  draft.payload = payload;
  return draft;
}

MessageDraft::~MessageDraft() {
  if (frame_ != 0) free_frame(frame_);
}

ReceivedMessage& ReceivedMessage::operator=(ReceivedMessage&& other) noexcept {
  if (this == &other) return *this;
  reset();
  type_ = other.type_;
  frame_ = std::exchange(other.frame_, 0);
  has_handles_ = other.has_handles_;
  size_ = std::exchange(other.size_, 0);
  large_ = other.large_;
  if (frame_ == 0) std::memcpy(small_.data(), other.small_.data(), size_);
  return *this;
}

void ReceivedMessage::reset() noexcept {
  if (frame_ == 0) return;
  free_frame(std::exchange(frame_, 0));
  // If what it named was not taken out, nobody may have it any more.
  warden::ObjectSpace* const space = warden::ObjectSpace::current();
  if (has_handles_ && space != nullptr) space->ask_to_collect();
}

}  // namespace detail

// ---- Connection, where it is not generic

std::pair<Connection, Connection> Pipe(const PipeOptions& options) {
  auto [first, second] = detail::PipeEnd::make(options);
  return {Connection(std::move(first)), Connection(std::move(second))};
}

Connection::Connection(detail::ObjectHandle handle)
    : end_(handle ? detail::PipeEnd::of(std::move(handle)) : nullptr) {}

const detail::ObjectHandle& Connection::object_handle() const noexcept {
  return end_ != nullptr ? end_->handle() : detail::kNoHandle;
}

void Connection::throw_closed() {
  throw Closed("brood: this end of the pipe was closed, or moved away");
}

Connection Connection::share() const {
  static_cast<void>(end());
  return Connection(end_);
}

bool Connection::send_encoded(detail::PipeEnd& end, std::uint64_t type,
                              std::span<const std::byte> bytes,
                              std::span<const detail::ObjectHandle> handles,
                              detail::DeadlineNs deadline) {
  if (handles.empty() && bytes.size() <= detail::kSmallMessage) {
    return end.send_small(type, bytes, deadline);
  }
  std::optional<detail::MessageDraft> draft = end.draft(bytes.size(), handles, deadline);
  if (!draft) return false;
  if (!bytes.empty()) std::memcpy(draft->payload.data(), bytes.data(), bytes.size());
  return end.commit(type, *draft, deadline);
}

void Connection::send_bytes(std::span<const std::byte> bytes) {
  send_encoded(end(), detail::type_id<detail::PlainBytes>(), bytes, {}, detail::kNoDeadline);
}

namespace {

detail::ReceivedMessage receive_bytes(detail::PipeEnd& end) {
  constexpr std::array<std::uint64_t, 1> kBytes = {detail::type_id<detail::PlainBytes>()};
  return *end.receive(kBytes, detail::kNoDeadline);
}

std::vector<std::byte> copy_of(std::span<const std::byte> bytes) {
  return {bytes.begin(), bytes.end()};
}

}  // namespace

std::vector<std::byte> Connection::recv_bytes(std::size_t most) {
  const detail::ReceivedMessage message = receive_bytes(end());
  if (message.bytes().size() > most) throw BufferTooShort(copy_of(message.bytes()));
  return copy_of(message.bytes());
}

std::size_t Connection::recv_bytes_into(std::span<std::byte> room) {
  const detail::ReceivedMessage message = receive_bytes(end());
  const std::span<const std::byte> bytes = message.bytes();
  if (bytes.size() > room.size()) throw BufferTooShort(copy_of(bytes));
  if (!bytes.empty()) std::memcpy(room.data(), bytes.data(), bytes.size());
  return bytes.size();
}

int Connection::fileno() const { return end().fileno(); }

bool Connection::poll(std::chrono::nanoseconds limit) const {
  return end().poll(detail::deadline_after(limit));
}

}  // namespace brood
