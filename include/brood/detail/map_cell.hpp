// Where the result of an element of map lies, and reading it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <span>
#include <type_traits>
#include <utility>

#include "brood/codec.hpp"
#include "brood/detail/pool_core.hpp"

namespace brood::detail {

// Results of up to kMaxBytes that all take the same room lie in the cell itself; of others the cell
// names a block.
template <class R>
struct MapCell {
  static constexpr std::size_t kMaxBytes = 64;
  static constexpr std::size_t value_bytes = [] {
    if constexpr (std::is_void_v<R>) {
      return std::size_t{0};
    } else {
      return fixed_size<R>.value_or(kMaxBytes + 1);
    }
  }();
  static constexpr bool has_handles = [] {
    if constexpr (std::is_void_v<R>) {
      return false;
    } else {
      return may_carry_handles<R>();
    }
  }();
  static constexpr bool in_cell = value_bytes <= kMaxBytes && !has_handles;
  static constexpr std::uint32_t bytes =
      in_cell ? std::max<std::uint32_t>((value_bytes + 7) / 8 * 8, 8) : 8;

  // What became of an element of a task that has ended; its position is for the error.
  static R take(PoolCore& core, TaskTicket task, std::uint32_t element, std::size_t index) {
    const TaskReply reply = core.reply_of_element(task, element);
    if (reply.kind != TaskReply::Kind::value) core.throw_reply(task, reply, index);
    return decode(in_cell ? reply.bytes.first(value_bytes) : reply.bytes);
  }
  static R decode([[maybe_unused]] std::span<const std::byte> encoded) {
    if constexpr (!std::is_void_v<R>) {
      Reader reader(encoded);
      R result = decode_part<R>(reader);
      reader.expect_end();
      return result;
    }
  }
};

// The results of a chunk, for taking one after the other. It has ended or, by `never`, never will.
template <class R>
class ChunkResults {
 public:
  ChunkResults(PoolCore& core, TaskTicket task, std::exception_ptr never)
      : core_(core), task_(task), never_(std::move(never)) {
    if constexpr (MapCell<R>::in_cell) {
      if (never_ == nullptr) cells_ = core.values_in_cells(task);
    }
  }

  // Throws as MapCell::take() does; `index` is the element's position in all of the call.
  R take(std::uint32_t element, std::size_t index) const {
    if (never_ != nullptr) std::rethrow_exception(never_);
    if (cells_.empty()) return MapCell<R>::take(core_, task_, element, index);
    const auto begin = std::size_t{element} * MapCell<R>::bytes;
    return MapCell<R>::decode(cells_.subspan(begin, MapCell<R>::value_bytes));
  }

 private:
  PoolCore& core_;
  TaskTicket task_;
  std::exception_ptr never_;
  std::span<const std::byte> cells_;  // if all is well
};

}  // namespace brood::detail
