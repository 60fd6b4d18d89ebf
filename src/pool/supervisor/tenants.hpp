// The worker processes of a pool, as its supervisor knows them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <ranges>
#include <span>

#include "pool/protocol/idle.hpp"
#include "pool/protocol/task_clock.hpp"
#include "pool/protocol/view.hpp"
#include "sys/fd.hpp"
#include "sys/futex.hpp"

namespace brood::pool {

// How far a worker process has come, by the supervisor's own book: what the worker says of itself
// is only input.
//
//             prepared           pool drained
//   starting ----------> ready --------------> leaving
//      |  |                | |                    |
//      |  +--- reported <--+ |  crash handler     |       the task is settled on entering
//      |          |          |                    |       reported or dying, or when buried
//      +--> dying | condemned+                    |
//             |   |     |                         |
//             +---+--+--+-------------------------+----> buried: reaped, swept, slot free
enum class TenantState : std::uint8_t {
  none,
  starting,
  ready,
  leaving,
  reported,   // crashed by its own word: it may still run, but takes no task any more
  dying,      // the kernel has marked its life word; SIGKILL ends what is left of it
  condemned,  // the same, but how it died is known only when it is reaped
};

inline constexpr std::uint32_t kNoIndex = UINT32_MAX;

struct Tenant {
  TenantState state = TenantState::none;
  std::int32_t pid = 0;
  shm::OwnerId id;
  sys::Fd pidfd;
  std::optional<shm::OwnerId> member;  // its place in the family
  bool announced = false;              // the warden knows of it

  std::uint32_t index = kNoIndex;  // which worker it is; none: the spare, or one that retires
  bool expected = false;           // its end is no death: it was told to leave
  bool retiring = false;           // the same, once it has ended what it runs
  bool handed_on = false;          // the chunk that it stopped at

  bool set_up = false;  // nothing that goes before the first task can fail any more
  StopWatch watch;
  std::uint64_t memory_at_start = 0;  // its own
  bool out_of_memory = false;         // it is killed for that

  [[nodiscard]] bool used() const noexcept { return state != TenantState::none; }
  [[nodiscard]] bool at_work() const noexcept {
    return state == TenantState::starting || state == TenantState::ready;
  }
  // Nothing but what it says itself speaks against it.
  [[nodiscard]] bool may_live() const noexcept {
    return at_work() || state == TenantState::leaving || state == TenantState::reported;
  }
  // What its life word holds from when it is prepared to when it dies.
  [[nodiscard]] std::uint32_t life_word() const noexcept {
    return static_cast<std::uint32_t>(pid) | sys::kFutexWaiters;
  }
};

// The tenants of a pool's slots.
//
// Threads: one, the supervisor's. Blocking: never. Ownership: of the pidfds; the processes are the
// supervisor's children, which the Undertaker reaps. Errors: none. Uses no heap.
// Death: of a worker changes nothing here by itself. Of the supervisor ends the pool.
class Tenants {
 public:
  explicit Tenants(std::uint16_t slots) noexcept : slots_(slots) {}

  // The worker that has been started as `id` is in its slot from now on, until it has moved out.
  Tenant& move_in(shm::OwnerId id, std::int32_t pid, sys::Fd pidfd) noexcept;
  void move_out(Tenant& tenant) noexcept { tenant = Tenant{}; }

  // To walk through them, by slot.
  [[nodiscard]] auto in_use() noexcept {
    return std::views::filter(ever_used(), [](const Tenant& tenant) { return tenant.used(); });
  }
  [[nodiscard]] auto in_use() const noexcept {
    return std::views::filter(ever_used(), [](const Tenant& tenant) { return tenant.used(); });
  }
  [[nodiscard]] std::size_t count() const noexcept;

  [[nodiscard]] Tenant& in(std::uint16_t slot) noexcept { return all_[slot]; }
  [[nodiscard]] bool is_used(std::uint16_t slot) const noexcept { return all_[slot].used(); }
  // nullptr: none of them.
  [[nodiscard]] Tenant* find(int pid) noexcept;
  [[nodiscard]] bool knows(shm::OwnerId id) const noexcept;
  // 0: none is.
  [[nodiscard]] std::uint16_t free_slot() const noexcept;

  void signal(int signal) const noexcept;
  // Has all of them look again.
  void ring(IdleWorkers& idle) const noexcept;

 private:
  [[nodiscard]] std::span<Tenant> ever_used() noexcept {
    return std::span(all_).first(top_slot_).subspan(shm::kFirstWorkerSlot);
  }
  [[nodiscard]] std::span<const Tenant> ever_used() const noexcept {
    return std::span(all_).first(top_slot_).subspan(shm::kFirstWorkerSlot);
  }

  std::array<Tenant, shm::kMaxSlots> all_;
  std::uint16_t slots_;
  std::uint16_t top_slot_ = shm::kFirstWorkerSlot;  // slots from here on were never used
};

}  // namespace brood::pool
