#include "pool/caller/stats.hpp"

#include <atomic>
#include <string>

#include "sys/procfs.hpp"

namespace brood::pool {

namespace {

const char* state_of(const shm::WorkerDesk& desk) noexcept {
  if (desk.prepared.load(std::memory_order_relaxed) == 0) return "starting";
  switch (desk.stage.load(std::memory_order_relaxed)) {
    case shm::WorkerStage::claimed:
      return "claimed";
    case shm::WorkerStage::running:
      return "running";
    case shm::WorkerStage::replying:
      return "replying";
    default:
      return "idle";
  }
}

std::string task_of(const PoolView& view, const shm::WorkerDesk& desk, const NameOf& name_of) {
  const auto intent = shm::RingEntry::unpack(desk.intent.load(std::memory_order_relaxed));
  if (intent.generation == 0 || intent.index >= view.records()) return {};
  return name_of({intent.index, intent.generation});
}

void read_worker(const PoolView& view, std::uint16_t slot, const NameOf& name_of,
                 PoolStats::Worker& worker) {
  const shm::WorkerEntry& entry = view.entry(slot);
  const shm::WorkerDesk& desk = view.desk(slot);
  worker.pid = entry.pid.load(std::memory_order_relaxed);
  worker.state = state_of(desk);
  worker.done = desk.done.load(std::memory_order_relaxed);
  worker.restarts = entry.restarts.load(std::memory_order_relaxed);
  if (worker.state != "idle" && worker.state != "starting") {
    worker.task = task_of(view, desk, name_of);
  }
  if (const auto usage = sys::usage_of(worker.pid)) {
    worker.cpu = std::chrono::nanoseconds(usage->user_ns + usage->system_ns);
    worker.rss_bytes = usage->rss_bytes;
  }
}

void read_latency(const shm::LatencyCounts& from, LatencyHistogram& to) {
  static_assert(shm::kLatencySteps == LatencyHistogram::kSteps);
  for (std::size_t step = 0; step < from.size(); ++step) {
    to.counts[step] = from[step].load(std::memory_order_relaxed);
  }
}

}  // namespace

PoolStats read_stats(const PoolView& view, std::size_t workers, const NameOf& name_of) {
  PoolStats stats;
  stats.workers.resize(workers);
  const shm::SupervisorHeader& header = view.supervisor();
  stats.died = header.died.load(std::memory_order_relaxed);
  read_latency(view.shared().waiting, stats.waiting_time);
  read_latency(view.shared().running, stats.running_time);
  stats.timed_out = view.shared().timed_out.load(std::memory_order_relaxed);
  stats.retried = header.retried.load(std::memory_order_relaxed);
  stats.done = header.retired_done.load(std::memory_order_relaxed) +
               header.settled.load(std::memory_order_relaxed);
  for (std::uint16_t slot = shm::kFirstWorkerSlot; slot < view.geometry().slots; ++slot) {
    const shm::WorkerRole role = view.entry(slot).role.load(std::memory_order_acquire);
    if (role == shm::WorkerRole::none || role == shm::WorkerRole::parked) continue;
    const std::uint32_t index = view.entry(slot).index.load(std::memory_order_relaxed);
    // One that leaves has given its place up.
    if (index >= workers) stats.done += view.desk(slot).done.load(std::memory_order_relaxed);
    if (index >= workers) continue;
    read_worker(view, slot, name_of, stats.workers[index]);
    stats.done += stats.workers[index].done;
  }
  for (std::uint32_t index = 0; index < view.records(); ++index) {
    const auto word = shm::TaskWord::unpack(view.state(index).word.load(std::memory_order_relaxed));
    stats.pending += word.phase == shm::TaskPhase::pending ? 1U : 0U;
    stats.running += word.phase == shm::TaskPhase::claimed ? 1U : 0U;
  }
  return stats;
}

}  // namespace brood::pool
