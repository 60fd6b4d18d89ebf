// Values in frames: large ones, those of changing size, those that have handles in them.
#include <algorithm>
#include <string>
#include <system_error>
#include <vector>

#include "brood/error.hpp"
#include "shared/queue.hpp"
#include "shared/waiting.hpp"
#include "sys/clock.hpp"
#include "sys/identity.hpp"

namespace brood::detail {

QueueFrame::QueueFrame(std::uint64_t name, std::span<std::byte> payload) noexcept
    : name_(name), payload_(payload), token_(sys::process_token()) {}

bool QueueFrame::is_ours() const noexcept { return name_ != 0 && token_ == sys::process_token(); }

QueueFrame::~QueueFrame() {
  if (!is_ours()) return;
  if (warden::ObjectSpace* space = warden::ObjectSpace::current()) {
    space->objects().free_block({name_});
  }
}

}  // namespace brood::detail

namespace brood::shared {

using detail::DeadlineNs;
using detail::QueueCore;
using detail::QueueFrame;

namespace {

QueueFrame as_frame(const shm::FramePlace& place) noexcept {
  return {place.ref.bits, place.payload};
}

[[noreturn]] void throw_no_memory(std::size_t bytes, int error) {
  throw ArenaFull("brood: no shared memory for a message of " + std::to_string(bytes) + " bytes (" +
                  std::generic_category().message(error) +
                  "): take some out, or raise InitOptions::arena_limit_bytes");
}

void require_that_it_can_fit(std::size_t bytes, std::uint64_t max_bytes) {
  if (max_bytes == 0 || bytes <= max_bytes) return;
  throw Error("brood: a message of " + std::to_string(bytes) +
              " bytes never fits into this queue, whose max_bytes is " + std::to_string(max_bytes));
}

}  // namespace

// ---- how many bytes are in the queue
//
// `bytes` is at least what lies in it. Who dies between reserving and publishing, or between taking
// and giving back, leaves it too high: whoever then meets the limit counts anew. (Only the message
// of a producer that is stopped between those two at that very moment is overlooked.)

bool SharedQueue::reserve(std::size_t bytes) noexcept {
  const auto limit = static_cast<std::int64_t>(ring_.shape().max_bytes);
  if (limit == 0) return true;
  const auto more = static_cast<std::int64_t>(bytes);
  for (;;) {
    std::int64_t now = body().bytes.load(std::memory_order_seq_cst);
    while (now <= limit - more) {
      if (body().bytes.compare_exchange_weak(now, std::max<std::int64_t>(now, 0) + more,
                                             std::memory_order_seq_cst)) {
        return true;
      }
    }
    if (body().deaths.exchange(0, std::memory_order_seq_cst) != 0) {
      recount();
      continue;
    }
    if (ring_.shape().drops_oldest == 0 || !drop_oldest()) return false;
  }
}

void SharedQueue::recount() noexcept {
  for (int i = 0; i < 8; ++i) {
    std::int64_t before = body().bytes.load(std::memory_order_seq_cst);
    std::int64_t sum = 0;
    ring_.for_each_frame([&](shm::BlockRef name) {
      const shm::FramePlace frame = objects_->find_frame(name);
      if (frame) sum += static_cast<std::int64_t>(frame.payload.size());
    });
    if (body().bytes.compare_exchange_strong(before, sum, std::memory_order_seq_cst)) return;
  }
  body().deaths.fetch_add(1, std::memory_order_relaxed);
}

void SharedQueue::unreserve(std::size_t bytes) noexcept {
  if (ring_.shape().max_bytes == 0) return;
  body().bytes.fetch_sub(static_cast<std::int64_t>(bytes), std::memory_order_seq_cst);
  // It may be room for several.
  header_->bells[1].ring_for_all();
}

// ---- frames

QueueFrame SharedQueue::make_frame(std::size_t bytes,
                                   std::span<const detail::ObjectHandle> handles) {
  ready_here();
  require_that_it_can_fit(bytes, ring_.shape().max_bytes);
  std::vector<shm::SentRef> refs;
  refs.reserve(handles.size());
  for (const detail::ObjectHandle& handle : handles)
    refs.push_back({{handle.name()}, handle.side()});
  const shm::FramePlace frame = objects_->make_frame(handle_.hold()->ref(), refs, bytes);
  if (!frame) throw_no_memory(bytes, frame.error);
  return as_frame(frame);
}

QueueCore::Outcome SharedQueue::loan_frame(std::size_t bytes, DeadlineNs deadline,
                                           QueueFrame& frame) {
  ready_here();
  require_that_it_can_fit(bytes, ring_.shape().max_bytes);
  const auto has_room = [&] {
    if (is_closed() || ring_.shape().drops_oldest != 0) return true;
    const auto limit = static_cast<std::int64_t>(ring_.shape().max_bytes);
    return !ring_.is_full() && (limit == 0 || body().bytes.load(std::memory_order_seq_cst) <=
                                                  limit - static_cast<std::int64_t>(bytes));
  };
  if (!has_room() && !wait(header_->bells[1], deadline, look_for_room_, has_room)) {
    return Outcome::late;
  }
  if (is_closed()) return Outcome::closed;
  frame = make_frame(bytes, {});
  return Outcome::done;
}

QueueCore::Outcome SharedQueue::put_frame(QueueFrame& frame, DeadlineNs deadline) {
  ready_here();
  if (!frame.is_ours())
    throw StaleHandle("brood: this message was published already, or is another process's");
  Position at;
  const std::size_t bytes = ring_.shape().max_bytes != 0 ? frame.payload().size() : 0;
  Attempt attempt = Attempt::full;
  if (is_closed()) {
    attempt = Attempt::closed;
  } else if (bytes == 0) {
    attempt = ring_.claim(at, me_);
  }
  if (attempt != Attempt::done) {
    const Outcome outcome = claim_slowly(at, deadline, bytes, attempt);
    if (outcome != Outcome::done) return outcome;
  }
  ring_.publish_frame(at, me_, {frame.name()});
  frame.release();
  published();
  return Outcome::done;
}

QueueCore::Outcome SharedQueue::get_frame(QueueFrame& frame, DeadlineNs deadline) {
  ready_here();
  for (;;) {
    Position at;
    const Attempt attempt = ring_.take(at, me_);
    if (attempt != Attempt::done) {
      const Outcome outcome = take_slowly(at, deadline, attempt);
      if (outcome != Outcome::done) return outcome;
    }
    const shm::FramePlace accepted = ring_.accept_frame(at);
    if (accepted) frame = as_frame(accepted);
    if (accepted && ring_.held() != nullptr) begin_task();
    ring_.clear(at, me_);
    cleared(accepted.payload.size());
    if (accepted) return Outcome::done;
  }
}

// False: there was nothing to drop.
bool SharedQueue::drop_oldest() noexcept {
  Position at;
  if (ring_.take(at, me_) != Attempt::done) return false;
  shm::FramePlace dropped;
  if (ring_.shape().framed != 0) dropped = ring_.accept_frame(at);
  ring_.clear(at, me_);
  cleared(dropped.payload.size());
  if (dropped) objects_->free_block(dropped.ref);
  if (ring_.held() != nullptr) body().finished.ring_for_all();
  return true;
}

}  // namespace brood::shared
