// A task of a ThreadPool, and what its thunk sees of it. All is private memory.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <unordered_map>
#include <vector>

#include "brood/detail/completion.hpp"
#include "brood/detail/thunk.hpp"
#include "sys/event_fd.hpp"
#include "sys/fd.hpp"
#include "sys/syscall.hpp"

namespace brood::pool {

// What a task or element came to.
struct Outcome {
  std::vector<std::byte> bytes;
  std::exception_ptr error;
  bool has_value = false;
};

struct Watcher {
  detail::CompletionSink* sink;
  std::uint32_t slot;
};

struct ThreadTask {
  std::uint32_t generation = 0;
  detail::TaskSpec spec;
  std::vector<std::max_align_t> arguments;
  detail::TaskBaggage baggage;
  std::vector<Outcome> outcomes;  // one, or one an element
  std::vector<detail::ObjectHandle> kept;
  std::atomic<std::uint32_t> progress{0};
  std::int64_t busy_us = 0;
  std::uint32_t ended = 0;  // waiters sleep on it
  std::atomic<bool> is_taken{false};
  std::atomic<bool> is_cancelled{false};  // only outcomes below `progress` are to be looked at
  std::mutex stop_mutex;                  // guards the next
  sys::Fd stop;                           // an event, set when it is cancelled

  void cancel() noexcept {
    const std::lock_guard lock(stop_mutex);
    is_cancelled.store(true);
    if (stop) sys::set_event(stop.get());
  }
  int stop_fd() {
    const std::lock_guard lock(stop_mutex);
    if (!stop) {
      stop = sys::Fd(static_cast<int>(sys::require(sys::open_event(), "opening stop_fd()")));
      if (is_cancelled.load()) sys::set_event(stop.get());
    }
    return stop.get();
  }
  bool is_released = false;
  std::vector<Watcher> watchers;
  sys::Fd door;

  [[nodiscard]] bool has_ended() const noexcept {
    return std::atomic_ref(const_cast<std::uint32_t&>(ended)).load(std::memory_order_acquire) != 0;
  }
};

// What thunks see of a task that runs in a thread.
class ThreadFrame final : public detail::TaskFrame {
 public:
  using Bound = std::unordered_map<std::uint64_t, std::shared_ptr<const void>>;
  using BoundBytes = std::function<std::span<const std::byte>(std::uint64_t)>;
  ThreadFrame(ThreadTask& task, Bound& bound, const BoundBytes& bytes) noexcept
      : task_(task), bound_(bound), bytes_(bytes) {}

  [[nodiscard]] std::span<const std::byte> arguments() const noexcept override {
    return std::as_bytes(std::span(task_.arguments)).first(task_.spec.argument_bytes);
  }
  void enter_user_code() noexcept override {}
  void leave_user_code() noexcept override {}
  std::span<std::byte> reply(std::size_t bytes, bool /*has_handles*/) override {
    return room(task_.outcomes[0], bytes);
  }
  void keep_for_caller(std::span<const detail::ObjectHandle> handles) override {
    task_.kept.insert(task_.kept.end(), handles.begin(), handles.end());
  }
  [[nodiscard]] std::uint32_t count() const noexcept override { return task_.spec.elements; }
  [[nodiscard]] std::uint32_t first() const noexcept override { return 0; }
  std::span<std::byte> reply_element(std::uint32_t index, std::size_t bytes,
                                     bool in_cell) override {
    // In a cell, the value is followed by what fills it.
    const std::size_t size = in_cell ? std::max<std::size_t>(bytes, task_.spec.cell_bytes) : bytes;
    return room(task_.outcomes[index], size).first(bytes);
  }
  void fail_element(std::uint32_t index) noexcept override {
    task_.outcomes[index].has_value = false;
    task_.outcomes[index].error = std::current_exception();
  }
  detail::ElementEnd finish_element(std::uint32_t index) noexcept override {
    if (task_.is_cancelled.load()) return detail::ElementEnd::stop;
    task_.progress.store(index + 1, std::memory_order_release);
    return detail::ElementEnd::next;
  }
  [[nodiscard]] std::span<const std::byte> bound_bytes(std::uint64_t block) const override {
    return bytes_(block);
  }
  std::shared_ptr<const void>& bound_cache(std::uint64_t id) override { return bound_[id]; }

 private:
  static std::span<std::byte> room(Outcome& outcome, std::size_t bytes) {
    outcome.bytes.resize(bytes);
    outcome.has_value = true;
    return outcome.bytes;
  }

  ThreadTask& task_;
  Bound& bound_;
  const BoundBytes& bytes_;
};

}  // namespace brood::pool
