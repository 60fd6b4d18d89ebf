// The calling process's side of a queue: waiting, frames, tasks. The cells are queue_ring.hpp's.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "brood/detail/queue_core.hpp"
#include "channel/queue_ring.hpp"
#include "shared/doorbell.hpp"
#include "shared/object_hold.hpp"
#include "shared/waiting.hpp"
#include "start/look_time.hpp"
#include "start/waits.hpp"
#include "sys/clock.hpp"
#include "sys/identity.hpp"
#include "sys/process_mutex.hpp"

namespace brood::shared {

class SharedQueue final : public detail::QueueCore {
 public:
  SharedQueue(detail::ObjectHandle handle, const detail::QueueElement& element);
  ~SharedQueue() override;

  [[nodiscard]] const detail::ObjectHandle& handle() const noexcept override { return handle_; }
  [[nodiscard]] const detail::QueueElement& element() const noexcept { return element_; }

  Outcome put_cell(const std::byte* room, detail::DeadlineNs deadline) override;
  Outcome get_cell(std::byte* room, detail::DeadlineNs deadline) override;
  detail::QueueFrame make_frame(std::size_t bytes,
                                std::span<const detail::ObjectHandle> handles) override;
  Outcome loan_frame(std::size_t bytes, detail::DeadlineNs deadline,
                     detail::QueueFrame& frame) override;
  Outcome put_frame(detail::QueueFrame& frame, detail::DeadlineNs deadline) override;
  Outcome get_frame(detail::QueueFrame& frame, detail::DeadlineNs deadline) override;
  void task_done() override;
  bool join(detail::DeadlineNs deadline) override;
  [[nodiscard]] std::size_t size() override;
  [[nodiscard]] bool empty() override;
  [[nodiscard]] bool full() override;
  void close() override;
  [[nodiscard]] bool closed() override;
  [[nodiscard]] int fileno() override;
  [[nodiscard]] bool is_ready() override;

  [[nodiscard]] bool counts_tasks() const noexcept { return ring_.held() != nullptr; }

  // Makes sure that this process has the queue; what to work on is valid from then on.
  void enter();

 private:
  using Attempt = channel::Attempt;
  using Position = channel::Position;

  void ready_here() {
    if (token_.load(std::memory_order_acquire) != sys::process_token()) [[unlikely]]
      enter();
  }
  [[nodiscard]] channel::QueueBody& body() const noexcept { return ring_.body(); }
  [[nodiscard]] bool has_limit() const noexcept {
    return ring_.shape().bounded != 0 || ring_.shape().max_bytes != 0;
  }
  [[nodiscard]] bool is_closed() const noexcept {
    return body().closed.load(std::memory_order_seq_cst) != 0;
  }

  // queue.cpp
  Attempt try_claim(Position& at);
  Attempt try_take(Position& at);
  template <class Done>
  bool wait(shm::Bell& bell, detail::DeadlineNs deadline, start::LookTime& look, Done&& done);
  Outcome claim_slowly(Position& at, detail::DeadlineNs deadline, std::size_t bytes,
                       Attempt attempt);
  Outcome take_slowly(Position& at, detail::DeadlineNs deadline, Attempt attempt);
  void published() noexcept;
  void begin_task() noexcept;
  void cleared(std::size_t bytes) noexcept;
  void look_after_head() noexcept;

  // queue_frames.cpp
  bool drop_oldest() noexcept;
  bool reserve(std::size_t bytes) noexcept;
  void recount() noexcept;
  void unreserve(std::size_t bytes) noexcept;

  // queue_tasks.cpp
  [[nodiscard]] bool is_finished();
  void abandon_tasks() noexcept;

  detail::ObjectHandle handle_;
  detail::QueueElement element_;
  std::atomic<std::uint64_t> token_{0};  // of the process that `ring_` is set up for
  sys::ProcessMutex entering_;
  shm::Objects* objects_ = nullptr;
  shm::ObjectHeader* header_ = nullptr;
  shm::OwnerId me_;
  channel::QueueRing ring_;
  Doorbell doorbell_;
  std::atomic<std::int64_t> open_tasks_{0};  // got and not called done, through this
  start::LookTime look_for_room_;
  start::LookTime look_for_value_;
};

template <class Done>
bool SharedQueue::wait(shm::Bell& bell, detail::DeadlineNs deadline, start::LookTime& look,
                       Done&& done) {
  if (deadline == detail::kNoWait) return false;
  const channel::QueueWait mode = ring_.shape().wait;
  if (mode != channel::QueueWait::spin) {
    return wait_until(bell, deadline, mode == channel::QueueWait::sleep ? nullptr : &look,
                      std::forward<Done>(done));
  }
  for (;;) {
    for (int i = 0; i < 1000; ++i) {
      if (done()) return true;
      sys::cpu_relax();
    }
    start::serve_signals();
    if (sys::now_ns() >= deadline) return done();
    require_warden();
  }
}

}  // namespace brood::shared
