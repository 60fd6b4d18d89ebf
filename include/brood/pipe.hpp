// Pipes: two ends, and messages between them.
//
//   auto [ours, theirs] = brood::Pipe();
//   brood::Process child(work, std::move(theirs));
//   child.start();
//   ours.send(Order{"tea", 2});
//   auto bill = ours.recv<double>();
#pragma once

#include "brood/detail/cpp20.hpp"

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "brood/codec.hpp"
#include "brood/detail/object.hpp"
#include "brood/detail/pipe_end.hpp"
#include "brood/error.hpp"

namespace brood {

struct PipeOptions {
  bool duplex = true;  // false: the first end only receives, the second only sends
  // What may be on its way in each direction before send() waits: so many messages (rounded up to a
  // power of two), and, of messages of 64 KiB and more, so many bytes; one message always may,
  // whatever its size.
  std::size_t max_messages = 256;
  std::size_t max_bytes = std::size_t{64} << 20U;
};

namespace detail {

// The type of what send_bytes() sends.
struct PlainBytes;

// What recv<T> accepts: a T; of a variant also each of its alternatives.
template <class T>
struct AcceptedTypes {
  static constexpr std::array<std::uint64_t, 1> ids = {type_id<T>()};
  static T decode(std::uint64_t /*type*/, Reader& reader) { return decode_untagged<T>(reader); }
};
template <class... Ts>
struct AcceptedTypes<std::variant<Ts...>> {
  using Variant = std::variant<Ts...>;
  static constexpr std::array<std::uint64_t, 1 + sizeof...(Ts)> ids = {type_id<Variant>(),
                                                                       type_id<Ts>()...};
  static Variant decode(std::uint64_t type, Reader& reader) {
    std::optional<Variant> value;
    const auto try_one = [&]<std::size_t i>(std::integral_constant<std::size_t, i>) {
      if (value || type != ids[i + 1]) return;
      value.emplace(std::in_place_index<i>,
                    decode_untagged<std::variant_alternative_t<i, Variant>>(reader));
    };
    [&]<std::size_t... i>(std::index_sequence<i...>) {
      (try_one(std::integral_constant<std::size_t, i>{}), ...);
    }(std::index_sequence_for<Ts...>{});
    return value ? *std::move(value) : decode_untagged<Variant>(reader);
  }
};

}  // namespace detail

// One end of a pipe. Messages arrive whole, in the order in which each thread sent them, each once.
// They are values of any sendable type (codec.hpp), handles among them, or plain bytes. Both are
// marked with their type: who asks for another gets TypeMismatch, and the message stays there for
// who asks for its own. recv<std::variant<A, B>>() takes an A, a B, or such a variant.
//
// An end can itself be sent, in a message or as an argument. The receiver gets a handle of its own,
// as by share(); close yours if the other end is to notice when the receiver's is gone.
//
//   Threads:   any, for send, recv and poll at once; moving and close() alone. Several processes
//              and threads may use the same end: each message goes to one of them. One that is
//              stopped in the middle of recv() keeps the next message from nobody.
//   Blocking:  recv until there is a message, send until there is room (PipeOptions); the timed
//              forms until their limit. Signals don't end a wait (but see signals.hpp).
//   Ownership: move-only, so that the last one closes the end; share() is a copy on purpose. In a
//              child that is forked by a Process an inherited one is the child's from its first
//              use on.
//   Errors:    Closed: nobody has the other end any more; from recv when all messages are taken,
//              from send at once. Also of this end, once it is closed or moved. Error: this end
//              only receives, or only sends. NotSendable, ArenaFull: nothing was sent. DecodeError:
//              the message is no T after all, and is gone. FamilyBroken, StaleHandle.
//   Death:     of a process in send or recv costs at most the message that it was about: it
//              arrives whole, or not at all. Whatever it had sent before arrives. An end ends with
//              the last process that has it; its peer is told as soon as the death is proven.
//
// Memory ordering: what a sender did before send() is visible to who received the message.
class Connection {
 public:
  Connection() noexcept = default;  // closed
  Connection(Connection&&) noexcept = default;
  Connection& operator=(Connection&&) noexcept = default;
  ~Connection() = default;

  // A string literal is sent as the std::string that it begins.
  template <class T>
  void send(const T& value) {
    send_until(value, detail::kNoDeadline);
  }
  // False: there was no room in time, and nothing was sent.
  template <class T>
  [[nodiscard]] bool send_for(const T& value, std::chrono::nanoseconds limit) {
    return send_until(value, detail::deadline_after(limit));
  }
  template <class T>
  [[nodiscard]] bool try_send(const T& value) {
    return send_for(value, std::chrono::nanoseconds(0));
  }

  template <class T>
  [[nodiscard]] T recv() {
    return *recv_until<T>(detail::kNoDeadline);
  }
  // Nothing: no message came in time.
  template <class T>
  [[nodiscard]] std::optional<T> recv_for(std::chrono::nanoseconds limit) {
    return recv_until<T>(detail::deadline_after(limit));
  }
  template <class T>
  [[nodiscard]] std::optional<T> try_recv() {
    return recv_for<T>(std::chrono::nanoseconds(0));
  }

  // Plain bytes: any number from zero to what there is memory for.
  void send_bytes(std::span<const std::byte> bytes);
  // Throws BufferTooShort, which has the message, if it is longer than `most`.
  [[nodiscard]] std::vector<std::byte> recv_bytes(
      std::size_t most = std::numeric_limits<std::size_t>::max());
  // To the beginning of `room`; how many there were. Throws BufferTooShort, which has the message,
  // if they are more than that; `room` is untouched then.
  std::size_t recv_bytes_into(std::span<std::byte> room);

  // Whether recv would not wait: there is a message, or there will never be one. Takes nothing.
  [[nodiscard]] bool poll(std::chrono::nanoseconds limit = std::chrono::nanoseconds(0)) const;

  // To wait for with others (wait.hpp, or your own poll): a descriptor that is readable while
  // poll() is true. It is this process's and is closed with its last handle of this end. Nothing
  // can be read from it. It may be readable once too often: ask poll(), as wait() does. Throws
  // SystemError.
  [[nodiscard]] int fileno() const;
  [[nodiscard]] bool still_ready() const { return poll(); }  // for wait()

  // One more handle of this end.
  [[nodiscard]] Connection share() const;
  void close() noexcept { end_.reset(); }
  [[nodiscard]] bool closed() const noexcept { return end_ == nullptr; }
  [[nodiscard]] bool readable() const { return end().readable(); }
  [[nodiscard]] bool writable() const { return end().writable(); }

  static constexpr std::uint32_t kKind = 2;  // shm::ObjectKind::pipe
  static std::uint64_t object_type() noexcept { return detail::type_id<Connection>(); }

 private:
  friend struct detail::HandleCodec<Connection>;
  friend std::pair<Connection, Connection> Pipe(const PipeOptions& options);

  explicit Connection(std::shared_ptr<detail::PipeEnd> end) noexcept : end_(std::move(end)) {}
  explicit Connection(detail::ObjectHandle handle);
  [[nodiscard]] detail::PipeEnd& end() const {
    if (end_ == nullptr) throw_closed();
    return *end_;
  }
  [[nodiscard]] const detail::ObjectHandle& object_handle() const noexcept;
  [[noreturn]] static void throw_closed();
  static bool send_encoded(detail::PipeEnd& end, std::uint64_t type,
                           std::span<const std::byte> bytes,
                           std::span<const detail::ObjectHandle> handles,
                           detail::DeadlineNs deadline);

  template <class T>
  bool send_until(const T& value, detail::DeadlineNs deadline);
  template <class T>
  bool send_value(const T& value, detail::DeadlineNs deadline);
  template <class T>
  std::optional<T> recv_until(detail::DeadlineNs deadline);

  std::shared_ptr<detail::PipeEnd> end_;
};

// A new pipe's two ends. Throws ArenaFull, StartError, FamilyBroken; Error for options that make no
// sense.
[[nodiscard]] std::pair<Connection, Connection> Pipe(const PipeOptions& options = {});

namespace detail {
template <>
struct Codec<Connection> : HandleCodec<Connection> {};
}  // namespace detail

template <class T>
bool Connection::send_until(const T& value, detail::DeadlineNs deadline) {
  if constexpr (std::is_array_v<T> && std::is_same_v<std::remove_extent_t<T>, char>) {
    return send_until(std::string(value), deadline);
  } else {
    detail::require_sendable<T>();
    return send_value(value, deadline);
  }
}

template <class T>
bool Connection::send_value(const T& value, detail::DeadlineNs deadline) {
  constexpr std::uint64_t type = detail::type_id<T>();
  detail::PipeEnd& to = end();
  if constexpr (detail::may_carry_handles<T>()) {
    const detail::HandleCollector collector;
    std::vector<std::byte> bytes(detail::encoded_size(value));
    detail::Writer writer(bytes);
    detail::encode_untagged(value, writer);
    writer.expect_full();
    return send_encoded(to, type, bytes, collector.handles(), deadline);
  } else {
    const std::size_t size = detail::encoded_size(value);
    if (size <= detail::kSmallMessage) {
      alignas(8) std::array<std::byte, detail::kSmallMessage> bytes;
      const std::span<std::byte> used = std::span(bytes).first(size);
      detail::Writer writer(used);
      detail::encode_untagged(value, writer);
      writer.expect_full();
      return to.send_small(type, used, deadline);
    }
    std::optional<detail::MessageDraft> draft = to.draft(size, {}, deadline);
    if (!draft) return false;
    detail::Writer writer(draft->payload.first(size));
    detail::encode_untagged(value, writer);
    writer.expect_full();
    return to.commit(type, *draft, deadline);
  }
}

template <class T>
std::optional<T> Connection::recv_until(detail::DeadlineNs deadline) {
  static_assert(std::is_same_v<T, std::remove_cv_t<T>>, "brood: ask for the type without const");
  detail::require_sendable<T>();
  using Accepted = detail::AcceptedTypes<T>;
  std::optional<detail::ReceivedMessage> message = end().receive(Accepted::ids, deadline);
  if (!message) return std::nullopt;
  detail::Reader reader(message->bytes());
  std::optional<T> value(Accepted::decode(message->type(), reader));
  reader.expect_end();
  return value;
}

}  // namespace brood
