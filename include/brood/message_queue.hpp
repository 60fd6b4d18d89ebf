// Queue<Message<Header>>: messages that are written and read where they lie in shared memory.
//
//   brood::Queue<brood::Message<FrameInfo>> frames({.max_items = 4});
//   if (auto loan = frames.loan_for(width * height, 1s)) {      // producer
//     loan->header() = {sequence, width, height};
//     camera.read_into(loan->bytes());
//     loan->publish();
//   }
//   if (auto view = frames.get_view_for(1s)) detect(view->header(), view->bytes());  // consumer
//
// Nothing is copied, so the time it takes does not depend on the size. Handles are values, passed
// on as those of any queue; the queue is closed and looked at as any.
#pragma once

#include "brood/detail/cpp20.hpp"

#include <chrono>
#include <cstddef>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>

#include "brood/queue.hpp"

namespace brood {

// What Queue<Message<Header>> holds: a Header, which has to be trivially copyable, and bytes, of
// each message as many as it needs.
template <class Header>
struct Message {};

namespace detail {

// The header, then the bytes from the next multiple of 64 on.
template <class Header>
inline constexpr std::size_t message_offset = (sizeof(Header) + 63) / 64 * 64;

template <class Header>
struct MessageFrame {
  std::shared_ptr<QueueCore> core;
  QueueFrame frame;

  [[nodiscard]] std::byte* begin() const {
    if (!frame.is_ours()) throw StaleHandle("brood: this message is no longer this process's");
    return frame.payload().data();
  }
  [[nodiscard]] std::span<std::byte> bytes() const {
    static_cast<void>(begin());
    return frame.payload().subspan(message_offset<Header>);
  }
};

}  // namespace detail

// A queue of messages. What queue.hpp says of all queues holds for it, and:
//
//   Threads:   any, of any process; a Loan or a View one at a time.
//   Blocking:  loan, put while the queue is full, get_view while it is empty: without limit, or for
//              the time given; try_ forms never.
//   Ownership: a message belongs to its Loan, then to the queue, then to its View: it lies in one
//              place from the first to the last.
//   Errors:    loan, put: Closed, ArenaFull. get_view: Closed. All: Interrupted, FamilyBroken,
//              StaleHandle.
//   Death:     of who holds a Loan or a View frees its message; published ones stay.
template <class Header>
class Queue<Message<Header>> {
  static_assert(std::is_trivially_copyable_v<Header> && std::is_default_constructible_v<Header>,
                "brood: the header of a message is read where it lies, so it has to be trivially "
                "copyable");
  static_assert(alignof(Header) <= 64);

 public:
  // Room for a message, not yet in the queue: it takes no place there until it is published.
  //
  //   Threads:   one at a time.
  //   Blocking:  publish, while the queue is full: if others put since it was lent, or you did (so
  //              publish one loan before you take the next, or as many as fit).
  //   Ownership: of the room, until published; one that is dropped is returned. A forked copy is
  //              inert.
  //   Errors:    publish: Closed, and the loan is still there; Error if it was published.
  //   Death:     of its holder returns the room.
  class Loan {
   public:
    [[nodiscard]] Header& header() { return *reinterpret_cast<Header*>(message_.begin()); }
    // As many as were asked for; 64-aligned. Holds what was there before.
    [[nodiscard]] std::span<std::byte> bytes() { return message_.bytes(); }
    void publish() { static_cast<void>(put(detail::kNoDeadline)); }
    // False: there was no room in time.
    template <class Rep, class Period>
    bool publish_for(std::chrono::duration<Rep, Period> limit) {
      return put(detail::deadline_in(limit));
    }
    bool try_publish() { return put(detail::kNoWait); }

   private:
    friend Queue;
    explicit Loan(detail::MessageFrame<Header> message) : message_(std::move(message)) {}
    bool put(detail::DeadlineNs deadline) {
      const auto outcome = message_.core->put_frame(message_.frame, deadline);
      if (outcome == detail::QueueCore::Outcome::closed) detail::throw_queue_closed();
      return outcome == detail::QueueCore::Outcome::done;
    }
    detail::MessageFrame<Header> message_;
  };

  // A message that this process has got; it lies in shared memory until the view is dropped.
  //
  //   Threads, Blocking: as for any constant; dropped by one. Ownership: of the message. Errors:
  //   StaleHandle in a forked copy. Death: of its holder frees the message; of its producer
  //   nothing. What a producer that has gone wild still writes here, the view shows.
  class View {
   public:
    [[nodiscard]] const Header& header() const {
      return *reinterpret_cast<const Header*>(message_.begin());
    }
    [[nodiscard]] std::span<const std::byte> bytes() const { return message_.bytes(); }

   private:
    friend Queue;
    explicit View(detail::MessageFrame<Header> message) : message_(std::move(message)) {}
    detail::MessageFrame<Header> message_;
  };

  explicit Queue(std::size_t maxsize = 0) : Queue(QueueOptions{.max_items = maxsize}) {}
  explicit Queue(const QueueOptions& options)
      : core_(detail::QueueCore::make(element(), options)) {}

  // Waits until the queue has room for so many bytes, and lends them without a place in it.
  // Nothing: there was no room in time.
  [[nodiscard]] Loan loan(std::size_t bytes) const { return *lend(bytes, detail::kNoDeadline); }
  template <class Rep, class Period>
  [[nodiscard]] std::optional<Loan> loan_for(std::size_t bytes,
                                             std::chrono::duration<Rep, Period> limit) const {
    return lend(bytes, detail::deadline_in(limit));
  }
  [[nodiscard]] std::optional<Loan> try_loan(std::size_t bytes) const {
    return lend(bytes, detail::kNoWait);
  }
  // The same with a copy.
  void put(const Header& header, std::span<const std::byte> bytes) const {
    Loan room = loan(bytes.size());
    room.header() = header;
    if (!bytes.empty()) std::memcpy(room.bytes().data(), bytes.data(), bytes.size());
    room.publish();
  }

  // The oldest message, which leaves the queue. Throws Closed once that is closed and empty.
  // Nothing: none came in time.
  [[nodiscard]] View get_view() const { return *take(detail::kNoDeadline); }
  template <class Rep, class Period>
  [[nodiscard]] std::optional<View> get_view_for(std::chrono::duration<Rep, Period> limit) const {
    return take(detail::deadline_in(limit));
  }
  [[nodiscard]] std::optional<View> try_get_view() const { return take(detail::kNoWait); }

  // As of any queue.
  [[nodiscard]] std::size_t size() const { return core().size(); }
  [[nodiscard]] bool empty() const { return core().empty(); }
  [[nodiscard]] bool full() const { return core().full(); }
  void close() const { core().close(); }
  [[nodiscard]] bool closed() const { return core().closed(); }
  [[nodiscard]] int fileno() const { return core().fileno(); }
  [[nodiscard]] bool still_ready() const { return core().is_ready(); }

  static constexpr std::uint32_t kKind = detail::kQueueKind;
  static std::uint64_t object_type() noexcept { return detail::type_id<Queue>(); }
  [[nodiscard]] const detail::ObjectHandle& object_handle() const { return core().handle(); }
  explicit Queue(const detail::ObjectHandle& handle)
      : core_(detail::QueueCore::of(handle, element())) {}

 private:
  static detail::QueueElement element() { return {object_type(), true, 16, 0, false}; }
  [[nodiscard]] detail::QueueCore& core() const {
    if (core_ == nullptr) detail::throw_no_queue();
    return *core_;
  }

  std::optional<Loan> lend(std::size_t bytes, detail::DeadlineNs deadline) const {
    constexpr std::size_t kOffset = detail::message_offset<Header>;
    if (bytes > SIZE_MAX / 2) throw ArenaFull("brood: no message is as large as that");
    detail::QueueFrame frame;
    const auto outcome = core().loan_frame(kOffset + bytes, deadline, frame);
    if (outcome == detail::QueueCore::Outcome::closed) detail::throw_queue_closed();
    if (outcome != detail::QueueCore::Outcome::done) return std::nullopt;
    ::new (static_cast<void*>(frame.payload().data())) Header{};
    return Loan({core_, std::move(frame)});
  }
  std::optional<View> take(detail::DeadlineNs deadline) const {
    for (;;) {
      detail::QueueFrame frame;
      const auto outcome = core().get_frame(frame, deadline);
      if (outcome == detail::QueueCore::Outcome::closed) detail::throw_queue_closed();
      if (outcome != detail::QueueCore::Outcome::done) return std::nullopt;
      // Another is no message of ours, whoever put it there.
      if (frame.payload().size() < detail::message_offset<Header>) continue;
      return View({core_, std::move(frame)});
    }
  }

  std::shared_ptr<detail::QueueCore> core_;
};

}  // namespace brood
