#include "support/pool_spy.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <stdexcept>

#include "pool/protocol/task.hpp"
#include "support/processes.hpp"

namespace brood::test {

namespace {

std::uintptr_t address_of_pool() {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    if (line.find("memfd:brood:pool") == std::string::npos) continue;
    return std::strtoull(line.c_str(), nullptr, 16);
  }
  throw std::runtime_error("this process has no pool");
}

}  // namespace

PoolSpy::PoolSpy(std::size_t workers) {
  for (const std::string& file : open_files(getpid())) {
    if (file.find("memfd:brood:pool") != std::string::npos) fd_ = std::atoi(file.c_str());
  }
  struct stat info{};
  if (fd_ < 0 || fstat(fd_, &info) != 0) throw std::runtime_error("this process has no pool");
  // The sizes that the caller may have chosen; the file's tells which.
  for (std::size_t tasks = std::size_t{1} << 24; tasks >= 1024; tasks /= 2) {
    for (std::size_t payload = std::size_t{1} << 36; payload >= std::size_t{1} << 24;
         payload /= 2) {
      const auto geometry = pool::PoolGeometry::make(tasks, workers, payload);
      if (geometry.end != static_cast<std::size_t>(info.st_size)) continue;
      view_ = pool::PoolView(reinterpret_cast<std::byte*>(address_of_pool()), geometry);
      return;
    }
  }
  throw std::runtime_error("the pool's segment has an unknown layout");
}

std::vector<std::uint16_t> PoolSpy::active_slots() const {
  std::vector<std::uint16_t> slots;
  for (std::uint16_t slot = shm::kFirstWorkerSlot; slot < view_.geometry().slots; ++slot) {
    if (view_.entry(slot).role.load() == shm::WorkerRole::active) slots.push_back(slot);
  }
  return slots;
}

Sighting PoolSpy::look(std::uint16_t slot) const {
  Sighting seen;
  seen.slot = slot;
  const shm::WorkerDesk& desk = view_.desk(slot);
  seen.pid = view_.entry(slot).pid.load();
  seen.stage = desk.stage.load();
  const auto intent = shm::RingEntry::unpack(desk.intent.load());
  if (intent.generation == 0 || intent.index >= view_.records()) return seen;
  const shm::TaskState& state = view_.state(intent.index);
  const auto word = shm::TaskWord::unpack(state.word.load());
  const shm::OwnerWord owner = view_.owners().look(slot);
  seen.owns_task = word.phase == shm::TaskPhase::claimed && word.owner.slot == slot &&
                   word.owner.epoch == owner.epoch && word.generation == intent.generation;
  seen.index = intent.index;
  seen.generation = intent.generation;
  seen.progress = state.progress.load();
  return seen;
}

void PoolSpy::attach(shm::Arena& inbox, shm::Arena& outbox) const {
  constexpr std::size_t kNoLimit = std::size_t{1} << 40;
  const shm::OwnerId nobody{shm::kMaxSlots - 1, 1};
  inbox.attach(view_.inbox(fd_, kNoLimit), nobody);
  outbox.attach(view_.outbox(fd_, kNoLimit), nobody);
}

PoolSpy::Accounts PoolSpy::accounts() const {
  const auto inbox = std::make_unique<shm::Arena>();
  const auto outbox = std::make_unique<shm::Arena>();
  attach(*inbox, *outbox);
  Accounts accounts{inbox->stats(), outbox->stats(), 0};
  for (std::uint32_t index = 0; index < view_.records(); ++index) {
    const auto word = shm::TaskWord::unpack(view_.state(index).word.load());
    if (word.phase != shm::TaskPhase::free) ++accounts.records_in_use;
  }
  return accounts;
}

std::string PoolSpy::broken_invariant() const {
  const auto inbox = std::make_unique<shm::Arena>();
  const auto outbox = std::make_unique<shm::Arena>();
  attach(*inbox, *outbox);
  std::string why;
  if (!inbox->is_valid(&why)) return "inbox: " + why;
  if (!outbox->is_valid(&why)) return "outbox: " + why;
  return {};
}

}  // namespace brood::test
