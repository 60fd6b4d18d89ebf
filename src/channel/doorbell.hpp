// Ringing the doorbells of an object (doorbell_layout.hpp).
//
// Threads: any, of any process. Blocking: never. Ownership: none. Errors: a doorbell that the
// system does not let us ring stays armed, for whoever changes the object next. Death: see the
// layout. Nothing here uses the heap.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "channel/doorbell_layout.hpp"
#include "shm/objects.hpp"

namespace brood::channel {

// "brood/door/<id>/<slot>.<epoch>", in hexadecimal digits.
class DoorbellName {
 public:
  DoorbellName(std::uint64_t id, shm::OwnerId owner) noexcept;
  [[nodiscard]] std::span<const char> text() const noexcept { return text_; }

 private:
  std::array<char, 37> text_;
};

// The board's id; gives it one if it has none.
std::uint64_t id_of(DoorbellBoard& board) noexcept;

// Rings for every watcher, whether it sleeps or not.
void ring_all_doorbells(DoorbellBoard& board, const shm::Objects& objects) noexcept;

// After the death of a member that held the object: it may have made the object ready and not rung,
// or have disarmed the board for what others have taken since. `ready` looks by seq_cst loads. Who
// polls is told only of what is ready: to receive on the word of a death would be to wait.
template <class Ready>
void ring_for_the_dead(DoorbellBoard& board, const shm::Objects& objects, Ready&& ready) noexcept {
  if (!ready()) {
    board.armed.store(1, std::memory_order_seq_cst);
    if (!ready()) return;
  }
  ring_all_doorbells(board, objects);
}

// For a watcher that has found the object not ready: from now on its doorbell is silent until it
// is. `silence` takes what is in the doorbell out, `ring` rings it. `ready` as above.
template <class Ready, class Silence, class Ring>
void settle_doorbell(DoorbellBoard& board, Ready&& ready, Silence&& silence, Ring&& ring) noexcept {
  silence();
  board.armed.store(1, std::memory_order_seq_cst);
  if (ready()) ring();
}

// After a seq_cst change that has made the object ready.
inline void ring_doorbells(DoorbellBoard& board, const shm::Objects& objects) noexcept {
  if (board.armed.load(std::memory_order_seq_cst) == 0) [[likely]]
    return;
  if (board.armed.exchange(0, std::memory_order_seq_cst) != 0) ring_all_doorbells(board, objects);
}

}  // namespace brood::channel
