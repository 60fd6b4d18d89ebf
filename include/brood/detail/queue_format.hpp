// How items of one type lie in a queue: in its cells, or in frames of their own.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "brood/codec.hpp"
#include "brood/detail/deadline.hpp"
#include "brood/detail/queue_core.hpp"

namespace brood::detail {

// shm::ObjectKind::queue.
inline constexpr std::uint32_t kQueueKind = 1;

constexpr std::uint32_t cell_bytes_for(std::size_t value_bytes) noexcept {
  std::uint32_t bytes = 16;
  while (bytes - kCellHeadBytes < value_bytes) bytes *= 2;
  return bytes;
}

template <class T>
struct QueueFormat {
  using Outcome = QueueCore::Outcome;

  static constexpr bool framed = may_carry_handles<T>() || !has_fixed_size<T> ||
                                 fixed_size<T>.value_or(0) > kLargestCell - kCellHeadBytes;
  static constexpr std::size_t size = fixed_size<T>.value_or(0);
  static constexpr std::uint32_t value_bytes = framed ? 0 : static_cast<std::uint32_t>(size);
  static constexpr std::uint32_t cell_bytes = cell_bytes_for(framed ? 8 : size);
  using Room = std::array<std::byte, cell_bytes - kCellHeadBytes>;

  static Outcome put(QueueCore& core, const T& item, DeadlineNs deadline) {
    if constexpr (framed) {
      QueueFrame frame = encode(core, item);
      return core.put_frame(frame, deadline);
    } else {
      Room room{};
      Writer out{std::span<std::byte>(room).first(size)};
      encode_part(item, out);
      return core.put_cell(room.data(), deadline);
    }
  }

  template <class Item>
  static bool put_or_throw(QueueCore& core, Item&& item, DeadlineNs deadline) {
    const Outcome outcome = put(core, item, deadline);
    if (outcome == Outcome::closed) throw_queue_closed();
    if constexpr (may_carry_handles<T>() && !std::is_lvalue_reference_v<Item>) {
      // What it holds is held by the queue now.
      if (outcome == Outcome::done) [[maybe_unused]]
        const T gone(std::forward<Item>(item));
    }
    return outcome == Outcome::done;
  }

  static std::optional<T> get(QueueCore& core, DeadlineNs deadline, bool& closed) {
    if constexpr (framed) {
      QueueFrame frame;
      const Outcome outcome = core.get_frame(frame, deadline);
      closed = outcome == Outcome::closed;
      if (outcome != Outcome::done) return std::nullopt;
      return decode(frame.payload());
    } else {
      Room room;
      const Outcome outcome = core.get_cell(room.data(), deadline);
      closed = outcome == Outcome::closed;
      if (outcome != Outcome::done) return std::nullopt;
      return decode(std::span(room).first(size));
    }
  }
  static std::optional<T> get_or_throw(QueueCore& core, DeadlineNs deadline) {
    bool closed = false;
    std::optional<T> item = get(core, deadline, closed);
    if (closed) throw_queue_closed();
    return item;
  }

 private:
  static std::size_t encoded_size(const T& item) {
    if constexpr (has_fixed_size<T>) {
      return size;
    } else {
      Sizer sizer;
      encode_part(item, sizer);
      return sizer.size();
    }
  }

  static QueueFrame encode(QueueCore& core, const T& item) {
    const std::size_t bytes = encoded_size(item);
    if constexpr (may_carry_handles<T>()) {
      // The frame begins with the handles, which are known only once all is encoded.
      HandleCollector collector;
      std::vector<std::byte> text(bytes);
      write(item, text);
      QueueFrame frame = core.make_frame(bytes, collector.handles());
      std::ranges::copy(text, frame.payload().begin());
      return frame;
    } else {
      QueueFrame frame = core.make_frame(bytes, {});
      write(item, frame.payload());
      return frame;
    }
  }
  static void write(const T& item, std::span<std::byte> to) {
    Writer out(to);
    encode_part(item, out);
    out.expect_full();
  }
  static T decode(std::span<const std::byte> bytes) {
    Reader in(bytes);
    T item = decode_part<T>(in);
    in.expect_end();
    return item;
  }
};

template <class T>
consteval bool require_queue_item() {
  static_assert(std::is_same_v<T, std::remove_cvref_t<T>>,
                "brood: a queue holds values: neither const nor references");
  require_sendable<T>();
  return true;
}

}  // namespace brood::detail
