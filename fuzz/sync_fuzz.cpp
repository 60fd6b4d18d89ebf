// Bodies of locks and the like in arbitrary bytes: every operation ends, within the body.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "shm/barrier.hpp"
#include "shm/condition.hpp"
#include "shm/event.hpp"
#include "shm/lock.hpp"
#include "shm/semaphore.hpp"

namespace {

using namespace brood::shm;

constexpr OwnerId kMe{3, 9};
constexpr OwnerId kOther{4, 2};
constexpr ThreadName kMyThread{kMe, 77};

void use_lock(LockBody& lock) {
  take(lock, kMyThread, {.recursive = true});
  retake(lock, kMyThread, 2);
  mark_hungry(lock);
  drop(lock, kMyThread);
  drop_all(lock, kMyThread);
  take_orphaned(lock, kMyThread);
  recover(lock, kMyThread);
  orphan(lock, look(lock).owner.owner);
}

void use_permits(std::span<std::byte> body) {
  Permits permits(body);
  permits.acquire(kMe);
  permits.release(kOther, true);
  permits.release(kMe, false);
  permits.bury(kMe);
  permits.bury_those([](OwnerId holder) { return holder.slot % 2 == 0; });
}

void use_condition(ConditionBody& condition) {
  const std::size_t cell = enter(condition, kMe);
  notify(condition, 2);
  if (cell != kNoCell) leave(condition, cell);
  bury_waiter(condition, kOther);
  notify(condition, SIZE_MAX);
}

void use_barrier(std::span<std::byte> body) {
  BarrierView view(body);
  const auto arrival = view.arrive(kMe, body.size() % 16 == 0);
  static_cast<void>(view.outcome(arrival.generation));
  view.acted(arrival.generation);
  view.bury(kMe);
  view.bury_those([](OwnerId party) { return party.slot % 2 == 0; });
  view.reset();
  view.abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  // Aligned as blocks are, exactly as large as the input, but never smaller than a body.
  const auto body_of = [&](std::size_t least) {
    std::vector<std::uint64_t> words((std::max(size, least) + 7) / 8);
    std::memcpy(words.data(), data, size);
    return words;
  };
  const auto bytes_of = [](std::vector<std::uint64_t>& words) {
    return std::as_writable_bytes(std::span(words));
  };
  std::vector<std::uint64_t> words = body_of(sizeof(LockBody));
  use_lock(*reinterpret_cast<LockBody*>(words.data()));
  words = body_of(Permits::bytes_for(0));
  use_permits(bytes_of(words));
  words = body_of(sizeof(ConditionBody));
  use_condition(*reinterpret_cast<ConditionBody*>(words.data()));
  words = body_of(BarrierView::bytes_for(1));
  use_barrier(bytes_of(words));
  return 0;
}
