// Workers that have more memory than they may, and deaths for want of memory.
#pragma once

#include <cstdint>

#include "pool/protocol/supervisor_start.hpp"
#include "pool/protocol/view.hpp"
#include "pool/protocol/worker_setup.hpp"
#include "pool/supervisor/startup_watch.hpp"
#include "pool/supervisor/tenants.hpp"
#include "shm/pool_layout.hpp"

namespace brood::pool {

// Kills who has grown beyond the pool's limit, and tells whether a death was for want of memory: by
// us, or by the kernel, which counts those in the control group's file.
//
// Threads: one, the supervisor's. Blocking: never, apart from reading /proc and that file.
// Ownership: none; what it is given must outlive it. Errors: a size that the system does not tell
// is none; without its file the kernel's kills are not known as such. Uses no heap.
// Death: of a worker between two looks is no matter here. Of the supervisor ends the pool.
//
// Memory ordering: a worker that claims a task leaves its stage `idle`, then looks whether the
// watch is wanted; before this sleeps, it takes that wish back, then looks at the stages once more
// (all seq_cst). So one of the two sees the other.
class MemoryWatch {
 public:
  MemoryWatch(const SupervisorStart& start, Tenants& tenants, const StartupWatch& startup) noexcept;

  // How much of its own a process has; 0 without a limit.
  [[nodiscard]] std::uint64_t measure(int pid) const noexcept;
  // A worker begins with so much, which is not counted.
  void begin(Tenant& tenant, std::uint64_t memory) noexcept;

  // Now and then, as long as somebody is at work.
  void look(std::int64_t now) noexcept;
  // When it is to be called next without being asked.
  [[nodiscard]] std::int64_t next_look_ns() const noexcept;

  // What memory has to do with such a death.
  [[nodiscard]] std::uint32_t causes_of(const Tenant& tenant, int wait_status) noexcept;

 private:
  [[nodiscard]] bool is_wanted() const noexcept;
  [[nodiscard]] bool is_at_work(const Tenant& tenant) const noexcept;
  bool look_at_all() noexcept;
  [[nodiscard]] std::uint64_t count_kills() const noexcept;

  PoolView view_;
  const WorkerSetup& setup_;
  Tenants& tenants_;
  const StartupWatch& startup_;
  std::int64_t next_look_ns_ = 0;
  std::uint64_t kills_;  // by the kernel, in our control group, that are known
};

}  // namespace brood::pool
