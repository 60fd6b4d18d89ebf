// A pool whose processes are threads: a supervisor and workers that take the library's own steps
// on a segment, each by views of its own. Workers die at moments that their tasks ask for.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>

#include "pool/protocol/idle.hpp"
#include "pool/protocol/ring.hpp"
#include "pool/protocol/settle.hpp"
#include "shm/arena.hpp"
#include "threads/shared_pool.hpp"

namespace brood::test {

// Where a worker dies.
enum class Step : std::uint32_t { claimed, named_its_block, handed_its_block_over, finished };

// What lies in a task's arguments before its pattern.
struct Order {
  std::uint64_t seed = 0;
  std::uint32_t reply_bytes = 0;  // of the pattern of seed + 1
  std::uint32_t deaths = 0;       // so many of its workers die
  Step step = Step::claimed;      // there
  std::uint32_t reserved = 0;
};

// A worker. Its function ends with its task or in the middle of it: see `dies`.
class ThreadWorker {
 public:
  ThreadWorker(const SharedPool& pool, shm::OwnerId me);
  // Returns when it is told to leave, or dies.
  void run();

 private:
  bool take(shm::RingEntry& task);
  bool maybe_work() { return retry_ring_.maybe_pending() || ring_.maybe_pending(); }
  void wait_for_work();
  // Whether it lives on.
  bool run_task(shm::RingEntry task);
  bool reply(const Order& order, shm::TaskState& state, bool dies);
  void die();

  pool::PoolView view_;
  shm::OwnerId me_;
  shm::WorkerDesk& desk_;
  pool::IdleWorkers idle_;
  shm::Arena inbox_;
  shm::Arena outbox_;
  pool::RingReader ring_;
  pool::RingReader retry_ring_;
};

class ThreadSupervisor {
 public:
  ThreadSupervisor(const SharedPool& pool, std::uint16_t workers);
  // Starts the workers, replaces those that die, and ends when the order is to end.
  void run();

 private:
  void start_worker(std::uint16_t slot);
  void look_at_lives();
  void mourn(shm::OwnerId worker);
  void bury(shm::OwnerId worker);
  void ring_all();

  struct Tenant {
    shm::OwnerId id;
    std::thread thread;
  };

  const SharedPool& pool_;
  pool::PoolView view_;
  std::uint16_t end_slot_;
  shm::OwnerTable owners_;
  shm::Arena inbox_;
  shm::Arena outbox_;
  pool::RingWriter retry_ring_;
  pool::Settler settler_;
  pool::IdleWorkers idle_;
  std::array<Tenant, shm::kMaxSlots> tenants_;
};

}  // namespace brood::test
