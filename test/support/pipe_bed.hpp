// A pipe in shared memory without a family: for tests of its protocol.
#pragma once

#include <cstring>
#include <memory>
#include <optional>
#include <stdexcept>
#include <vector>

#include "channel/burial.hpp"
#include "channel/stream.hpp"
#include "shm/objects.hpp"
#include "sys/fd.hpp"
#include "sys/memory.hpp"

namespace brood::test {

// What a participant has: a view of its own.
struct PipeUser {
  shm::Objects objects;
  shm::ObjectPlace pipe;
  channel::PipeView view;

  [[nodiscard]] channel::Stream& stream(std::uint32_t direction = 0) {
    return view.streams[direction];
  }

  // A message of one number; `bytes` > 48: in a frame. False: no room.
  bool send(std::uint64_t number, std::size_t bytes = 8) {
    shm::FramePlace frame;
    if (bytes > channel::kInlineBytes) {
      frame = objects.make_frame(pipe.ref, {}, bytes);
      if (!frame) return false;
      std::memcpy(frame.payload.data(), &number, sizeof number);
    }
    const channel::Room room = stream().claim(objects.me());
    if (room.kind != channel::Room::Kind::claimed) {
      if (frame) objects.free_block(frame.ref);
      return false;
    }
    if (frame) {
      channel::Stream::publish(room, kType, frame, objects);
    } else {
      channel::Stream::publish(room, kType, std::as_bytes(std::span(&number, 1)));
    }
    return true;
  }
  // The next number.
  std::optional<std::uint64_t> receive() {
    for (;;) {
      const channel::Glimpse glimpse = stream().look();
      if (glimpse.kind != channel::Glimpse::Kind::message) return std::nullopt;
      channel::TakenMessage message;
      if (stream().take(glimpse, pipe.ref, objects, message) != channel::Stream::Took::message) {
        continue;
      }
      std::uint64_t number = 0;
      if (message.frame) {
        std::memcpy(&number, message.frame.payload.data(), sizeof number);
        objects.free_block(message.frame.ref);
      } else {
        std::memcpy(&number, message.bytes.data(), sizeof number);
      }
      return number;
    }
  }
  static constexpr std::uint64_t kType = 77;
};

class PipeBed {
 public:
  static constexpr std::size_t kPayload = 4 * shm::arena::kPageBytes;

  PipeBed() {
    const std::size_t metadata = shm::Arena::metadata_bytes(kPayload);
    const std::size_t bytes = metadata + kPayload;
    file_.reset(sys::create_memory_file("pipe-bed", bytes));
    if (mapping_.map(file_.get(), bytes) != 0) throw std::runtime_error("no memory for a pipe");
    region_ = {mapping_.data(), file_.get(), 0, metadata, kPayload, kPayload};
  }

  // An empty arena with a duplex pipe whose directions have 2^log cells.
  void make(shm::OwnerId maker, std::uint32_t log) {
    shm::Objects objects;
    objects.attach(region_, maker);
    if (objects.format() != 0) throw std::runtime_error("no arena");
    const shm::ObjectPlace pipe =
        objects.make(shm::ObjectKind::pipe, 1, channel::pipe_body_bytes(true, log));
    channel::format_pipe(pipe.body, true, log, 1U << 20U);
    objects.publish(pipe);
    pipe_ = pipe.ref;
  }
  void copy_from(const PipeBed& other) {
    std::memcpy(mapping_.data(), other.mapping_.data(), mapping_.size());
    pipe_ = other.pipe_;
  }
  [[nodiscard]] bool equals(const PipeBed& other) const {
    return std::memcmp(mapping_.data(), other.mapping_.data(), mapping_.size()) == 0;
  }

  // As that member, which then holds both ends.
  [[nodiscard]] std::unique_ptr<PipeUser> enter(shm::OwnerId me, bool holds = true) {
    auto user = std::make_unique<PipeUser>();
    user->objects.attach(region_, me);
    user->pipe = user->objects.find(pipe_);
    if (!user->pipe) throw std::runtime_error("no pipe");
    if (holds) {
      user->objects.hold(user->pipe, 0, me.slot);
      user->objects.hold(user->pipe, 1, me.slot);
    }
    const auto view = channel::view_pipe(user->pipe.body);
    if (!view) throw std::runtime_error("no view of the pipe");
    user->view = *view;
    return user;
  }

 private:
  sys::Fd file_;
  sys::Mapping mapping_;
  shm::ArenaRegion region_;
  shm::BlockRef pipe_;
};

}  // namespace brood::test
