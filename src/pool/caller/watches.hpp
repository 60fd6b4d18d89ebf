// The caller's side of watched tasks: who in this process waits for which (shm/pool_layout.hpp:
// CompletionHeader).
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "brood/detail/completion.hpp"
#include "pool/protocol/idle.hpp"
#include "pool/protocol/view.hpp"
#include "shm/segment.hpp"
#include "sys/epoll.hpp"
#include "sys/fd.hpp"

namespace brood::pool {

// Threads, Blocking, Errors, Death: see CompletionSource. Ownership: of the doors; segment and view
// must outlive it. What is read from the ring is input: it only says where to look.
class Watches final : public detail::CompletionSource {
 public:
  // `is_over()`: no task of the pool will end any more.
  Watches(const shm::Segment& segment, const PoolView& view, std::function<bool()> is_over);
  ~Watches();
  Watches(const Watches&) = delete;
  Watches& operator=(const Watches&) = delete;

  // Readable when the pool's supervisor has ended. Before anything else.
  void set_end(int pidfd) noexcept { end_ = pidfd; }

  void watch(detail::TaskTicket task, detail::CompletionSink& sink, std::uint32_t slot) override;
  void unwatch(detail::TaskTicket task, detail::CompletionSink& sink,
               std::uint32_t slot) noexcept override;
  [[nodiscard]] bool has_news() const noexcept override;
  bool collect() noexcept override;
  bool look_at_all(bool doubt) noexcept override;
  Bell listen() noexcept override;
  [[nodiscard]] std::int64_t most_look_ns() const noexcept override;
  Descriptors descriptors() override;
  void arm() noexcept override;
  int door(detail::TaskTicket task) override;

  // The task is about to be given up. Costs nothing where nothing was ever watched.
  void forget(detail::TaskTicket task) noexcept {
    if (used_.load(std::memory_order_relaxed)) [[unlikely]]
      forget_watched(task);
  }
  // In a forked copy: nothing here may be given back.
  void abandon() noexcept;

 private:
  // Whose place in a list is its number plus one; 0: none.
  struct Node {
    detail::TaskTicket task;
    std::uint32_t next = 0;  // of the same record, or among the free
    std::uint32_t slot = 0;
    detail::CompletionSink* sink = nullptr;  // nullptr: free
  };
  struct Door {
    std::uint32_t generation = 0;
    sys::Fd mailbox;
    sys::ReadableSet set;
  };

  void start_using();
  void forget_watched(detail::TaskTicket task) noexcept;
  std::uint32_t make_node(detail::TaskTicket task, detail::CompletionSink& sink,
                          std::uint32_t slot);
  // Reports and frees the nodes of the task, or the one of that sink without a report.
  void report(detail::TaskTicket task) noexcept;
  void report_all(bool over) noexcept;
  bool collect_told() noexcept;
  bool look_at_all_locked() noexcept;
  bool finish_if_over() noexcept;
  void free_node(std::uint32_t number) noexcept;
  void make_door(detail::TaskTicket task, Door& door);
  void open_id();

  const shm::Segment& segment_;
  PoolView view_;
  IdleWorkers idle_;
  std::function<bool()> is_over_;
  int end_ = -1;
  std::atomic<bool> used_{false};
  std::atomic<std::uint64_t> position_{0};  // of the ring: those below it were read
  std::atomic<std::uint64_t> seen_losses_{0};

  std::mutex mutex_;  // guards what follows, and writing of position_ and seen_losses_
  std::vector<std::uint32_t> first_;  // of each record's nodes
  std::vector<Node> nodes_;
  std::uint32_t free_ = 0;
  std::size_t watched_ = 0;
  std::unordered_map<std::uint32_t, std::unique_ptr<Door>> doors_;
  sys::Fd mailbox_;  // the pool's door
};

}  // namespace brood::pool
