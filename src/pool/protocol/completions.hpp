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

#include "pool/protocol/call.hpp"
#include "pool/protocol/task.hpp"
#include "pool/protocol/view.hpp"

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

// After a watched task has got its outcome.
void tell_watchers(const PoolView& view, std::uint32_t index, std::uint32_t generation) noexcept;

// After any step that may have given the task its outcome; whether the step was done.
inline bool tell_if_watched(const PoolView& view, std::uint32_t index, const Step& step) noexcept {
  if (step.watched) tell_watchers(view, index, step.generation);
  return step.done;
}

// The same for a step that ends a task or element by its time limit. It is counted before, since
// who is woken may ask for the count.
template <class End>
bool counting_timed_out(const PoolView& view, std::uint32_t index, End&& end) noexcept {
  count_timed_out(view);
  if (tell_if_watched(view, index, end())) return true;
  view.shared().timed_out.fetch_sub(1, std::memory_order_relaxed);
  return false;
}

// Supervisor: something that was to be told may not have been. `over`: no task will end any more.
void tell_watchers_to_look(const PoolView& view, bool over) noexcept;

// Of the bit of a record among the doors. The caller alone changes it.
[[nodiscard]] bool has_door(const PoolView& view, std::uint32_t index) noexcept;
void set_door(const PoolView& view, std::uint32_t index, bool has) noexcept;

}  // namespace brood::pool
