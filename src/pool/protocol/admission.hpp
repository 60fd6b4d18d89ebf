// The limit on tasks that wait for a worker.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>

#include "pool/protocol/ring.hpp"
#include "pool/protocol/view.hpp"

namespace brood::pool {

// Counts the tasks in the caller's rings that no worker has taken. One that was cancelled or missed
// its deadline is counted until those before it are taken.
//
// Threads: any; the members lock. Blocking: never. Ownership: none; the view must outlive it.
// Errors: none. Death: of a worker changes nothing here: what it had taken is not waiting.
class WaitingTasks {
 public:
  WaitingTasks() noexcept = default;
  WaitingTasks(const PoolView& view, std::optional<std::size_t> most) noexcept;

  [[nodiscard]] bool is_limited() const noexcept { return most_.has_value(); }

  [[nodiscard]] std::size_t count_all() noexcept;
  // The same beside what it was at the last call of this.
  struct Change {
    std::size_t count = 0;
    bool any_left = false;    // of those that were there already
    std::uint64_t taken = 0;  // of them and of those that have come since
  };
  [[nodiscard]] Change change() noexcept;

  // Takes a place for a task that is going to be submitted; false if there is none.
  bool take_place() noexcept;
  // It stands in its ring now, or was given up.
  void give_place_back() noexcept;

  // What changes when a task is taken, for sleeping until then; has that made known.
  const sys::FutexWord& want_room() noexcept;
  // All who sleep on it look again. One that begins to sleep while another asks for room may miss
  // this: it looks up by itself.
  void wake_all() noexcept;

 private:
  [[nodiscard]] std::size_t count() noexcept;

  PoolView view_;
  std::optional<std::size_t> most_;
  std::mutex mutex_;  // guards the rest
  std::array<RingReader, shm::kPriorities> rings_;
  std::array<RingReader::Left, shm::kPriorities> last_{};  // of the rings, at the last call
  std::size_t places_ = 0;  // taken by tasks that are not in their rings yet
};

}  // namespace brood::pool
