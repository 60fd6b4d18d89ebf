// A descriptor that is readable while a shared object is ready (channel/doorbell_layout.hpp).
//
// How a kind of object gets a fileno():
//   - its body has a channel::DoorbellBoard;
//   - whoever makes it ready, or ends or closes it, calls channel::ring_doorbells(board, objects)
//     after that change, which is seq_cst; its part of channel::bury_in calls ring_for_the_dead;
//   - each process has one Doorbell a handle: fileno() is descriptor(); an operation that has found
//     the object not ready, or has taken the last of what it holds, calls settle().
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "channel/doorbell.hpp"
#include "shared/object_hold.hpp"
#include "sys/process_mutex.hpp"

namespace brood::shared {

// One process's socket for one board; its handles share it.
class DoorbellSocket;

// Threads: any. Blocking: never. Ownership: of a part of the process's socket for this object,
// which is closed with the last of them; keeps the object alive. In another process than the one
// that opened it, it counts as not opened. Errors: SystemError from descriptor(). Death: of a
// watcher closes its socket; of who rings: see the layout.
class Doorbell {
 public:
  Doorbell() noexcept = default;
  ~Doorbell();
  Doorbell(const Doorbell&) = delete;
  Doorbell& operator=(const Doorbell&) = delete;

  // To poll; opened with the first call. `ready` looks at the object by seq_cst loads. After it has
  // returned, the descriptor is readable only if the object has been ready since.
  template <class Ready>
  int descriptor(const std::shared_ptr<detail::ObjectHold>& hold, channel::DoorbellBoard& board,
                 Ready&& ready) {
    bool is_new = false;
    const int fd = open(hold, board, is_new);
    // What came before there was a doorbell has not rung it.
    if (is_new) ring();
    settle(board, ready);
    return fd;
  }

  // If this process has the doorbell open and the object is not ready: from now on the descriptor
  // is not readable until it is.
  template <class Ready>
  void settle(channel::DoorbellBoard& board, Ready&& ready) noexcept {
    if (!is_open_.load(std::memory_order_acquire)) [[likely]]
      return;
    if (ready() || !is_ours()) return;
    channel::settle_doorbell(board, ready, [this] { silence(); }, [this] { ring(); });
  }

 private:
  int open(const std::shared_ptr<detail::ObjectHold>& hold, channel::DoorbellBoard& board,
           bool& is_new);
  // False: this process has not opened it.
  [[nodiscard]] bool is_ours() const noexcept;
  void silence() const noexcept;
  void ring() const noexcept;

  sys::ProcessMutex opening_;
  std::atomic<bool> is_open_{false};
  std::shared_ptr<DoorbellSocket> socket_;
};

}  // namespace brood::shared
