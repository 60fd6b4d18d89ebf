// Telling those who wait for several tasks that one has ended (shm/pool_layout.hpp:
// CompletionHeader).
//
// Threads: any, of any process. Blocking: never. Ownership: none. Errors: none: a door that the
// system does not let us knock at is knocked at again after the next death. Death: of whoever ends
// a task before it has told of it: the supervisor tells all. Nothing here uses the heap.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "pool/view.hpp"

namespace brood::pool {

// "brood/door/<id>/task/<index>.<generation>", in hexadecimal digits.
class DoorName {
 public:
  DoorName(std::uint64_t id, std::uint32_t index, std::uint32_t generation) noexcept;
  // The pool's own.
  explicit DoorName(std::uint64_t id) noexcept : DoorName(id, UINT32_MAX, 0) {}
  [[nodiscard]] std::span<const char> text() const noexcept { return text_; }

 private:
  std::array<char, 50> text_;
};

// After finish_task() of a watched task.
void tell_watchers(const PoolView& view, std::uint32_t index, std::uint32_t generation) noexcept;

// Supervisor: something that was to be told may not have been. `over`: no task will end any more.
void tell_watchers_to_look(const PoolView& view, bool over) noexcept;

// Of the bit of a record among the doors. The caller alone changes it.
[[nodiscard]] bool has_door(const PoolView& view, std::uint32_t index) noexcept;
void set_door(const PoolView& view, std::uint32_t index, bool has) noexcept;

}  // namespace brood::pool
