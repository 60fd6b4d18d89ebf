// How a pool's workers come into the world: as copies of the supervisor, or of its template.
#pragma once

#include <cstdint>
#include <optional>

#include "pool/protocol/supervisor_start.hpp"
#include "pool/supervisor/memory_watch.hpp"
#include "pool/supervisor/places.hpp"
#include "pool/supervisor/startup_watch.hpp"
#include "pool/supervisor/template.hpp"
#include "pool/supervisor/tenants.hpp"
#include "sys/fd.hpp"
#include "sys/process.hpp"

namespace brood::pool {

// Threads: one, the supervisor's. Blocking: for as long as a copy takes. Ownership: none; what it
// is given must outlive it. Who is born is a tenant, and the supervisor's child.
// Errors: what the system refuses is tried again later (StartupWatch). Uses no heap.
// Death: of the supervisor between a copy and its announcement: the worker has asked the kernel to
// end with its parent. Of the template while it makes a copy: see there.
class Births {
 public:
  Births(const SupervisorStart& start, Places& places, StartupWatch& startup, MemoryWatch& memory,
         Template& origin) noexcept;

  // Has a worker on each seat that is to be filled, and a spare.
  void fill_seats(std::int64_t now) noexcept;
  // When its pause after failures is over; sys::kForever: it makes none.
  [[nodiscard]] std::int64_t next_start_ns(std::int64_t now) const noexcept;

  // The template was reaped.
  void bury_template(const sys::ExitStatus& status, bool pool_ends, std::int64_t now) noexcept;

 private:
  [[nodiscard]] bool needs_template() const noexcept;
  void start_template(std::int64_t now) noexcept;
  bool start_worker(std::uint32_t index, std::int64_t now) noexcept;
  long copy_for_worker(shm::OwnerId id, std::optional<shm::OwnerId> member, int errors,
                       sys::Fd& pidfd) noexcept;
  void prepare_slot(std::uint16_t slot) noexcept;

  const SupervisorStart& start_;
  Places& places_;
  StartupWatch& startup_;
  MemoryWatch& memory_;
  Template& template_;
  bool template_announced_ = false;
};

// Makes a desk ready for its slot's next worker.
void clear_desk(shm::WorkerDesk& desk) noexcept;

}  // namespace brood::pool
