#include "schedule/pool_scene.hpp"

#include <cstring>

#include "pool/protocol/call.hpp"
#include "pool/protocol/dormancy.hpp"
#include "pool/protocol/lookout.hpp"
#include "pool/protocol/task.hpp"
#include "pool/worker/work_search.hpp"
#include "sys/clock.hpp"

namespace brood::schedule {

namespace {

constexpr std::uint32_t kRetryRing = 1;  // log2 of its entries here

std::byte* memory_for(const pool::PoolGeometry& geometry) {
  alignas(4096) static std::byte bytes[1 << 22];
  if (geometry.end > sizeof bytes) std::abort();
  const auto clear = [](const pool::Zone& zone, std::size_t most) {
    std::memset(bytes + zone.offset, 0, std::min(zone.bytes, most));
  };
  // Of the tables, what the scene's few actors can have touched.
  for (const pool::Zone& zone :
       {geometry.caller_header, geometry.requests, geometry.rings[shm::kNormalPriority],
        geometry.supervisor_header, geometry.shared_header, geometry.states, geometry.owners,
        geometry.entries, geometry.retry_ring, geometry.lives, geometry.desks}) {
    clear(zone, 4096);
  }
  return bytes;
}

}  // namespace

PoolScene::PoolScene(std::uint32_t ring_log) {
  const pool::PoolGeometry geometry = pool::PoolGeometry::make(kTasks, kSlots, 0);
  view_ = pool::PoolView(memory_for(geometry), geometry);
  ring_ = pool::RingWriter(view_.caller().rings[shm::kNormalPriority],
                           view_.ring_cells(shm::kNormalPriority));
  ring_.start(ring_log);
  idle_ = pool::IdleWorkers(view_, processors_);
  waiting_.emplace(view_, std::nullopt);
  view_.caller().records.store(kTasks);
  for (int number = 0; number < kSlots; ++number) {
    view_.entry(worker(number).slot).role.store(shm::WorkerRole::active);
    life(number).word.store(static_cast<std::uint32_t>(number + 1) | sys::kFutexWaiters);
  }
}

void PoolScene::submit(std::uint32_t index, std::uint32_t retries) {
  arguments_[index].write(static_cast<int>(index) + kAnswer);
  shm::TaskRequest& request = view_.request(index);
  request.retries = static_cast<std::uint16_t>(retries);
  request.count = 1;
  view_.state(index).kind = shm::ReplyKind::none;
  const std::uint32_t generation = ++generations_[index];
  request.generation.store(generation, std::memory_order_release);
  pool::publish_task(view_.state(index), generation);
  ring_.push({index, generation});
  pool::call_worker(view_, idle_, *waiting_);
  if (looked_out_for_) pool::look_out_later(view_);
}

bool PoolScene::get(Scene& scene, std::uint32_t index) {
  shm::TaskState& state = view_.state(index);
  for (;;) {
    const auto half = pool::announce_waiter(state, generations_[index]);
    if (!half) break;
    sys::futex_wait(pool::sleeping_half(state), *half, sys::kForever);
  }
  const auto word = shm::TaskWord::unpack(state.word.load(std::memory_order_acquire));
  if (word.phase != shm::TaskPhase::done) return false;
  if (state.kind == shm::ReplyKind::corrupt) return false;
  const bool has_value = state.kind == shm::ReplyKind::value_inline;
  scene.require(has_value || state.kind == shm::ReplyKind::died, "no result");
  const int reply = replies_[index].read();
  if (has_value) scene.require(reply == static_cast<int>(index) + kAnswer, "a wrong result");
  pool::release_task(state);
  return has_value;
}

void PoolScene::run(Scene& scene, int number, shm::RingEntry task) {
  const std::uint32_t index = task.index;
  scene.require(index < kTasks, "a task that nobody submitted");
  ++runs_[index];
  if (meeting_ > 0) {
    present_.fetch_add(1, std::memory_order_relaxed);
    while (present_.load(std::memory_order_relaxed) < meeting_) sys::yield();
  }
  replies_[index].write(arguments_[index].read());
  view_.state(index).kind = shm::ReplyKind::value_inline;
  scene.require(pool::finish_task(view_.state(index), worker(number)).done, "a task taken away");
}

void PoolScene::work(Scene& scene, int number, Idle how) {
  pool::WorkSearch search(view_, worker(number), processors_, pool::Pace(brisk_));
  for (;;) {
    shm::RingEntry task;
    const auto role = view_.entry(worker(number).slot).role.load(std::memory_order_acquire);
    if (role == shm::WorkerRole::leaving) return search.pass_on();
    if (search.take(task)) {
      run(scene, number, task);
    } else if (how == Idle::looking) {
      search.wait(shm::WorkerRole::active);
    } else {
      search.sleep(shm::WorkerRole::active);
    }
  }
}

void PoolScene::be_stopped(int number, Idle how) {
  const std::uint16_t slot = worker(number).slot;
  if (how == Idle::asleep) return idle_.start_sleeping(slot);
  static_cast<void>(idle_.start_looking(slot, kSlots));
}

void PoolScene::stop_at_a_task(int number) {
  pool::WorkSearch search(view_, worker(number));
  shm::WorkerDesk& desk = view_.desk(worker(number).slot);
  bool stopped = false;
  for (;;) {
    shm::RingEntry task;
    const auto role = view_.entry(worker(number).slot).role.load(std::memory_order_acquire);
    if (role == shm::WorkerRole::leaving) return search.pass_on();
    if (!stopped && search.take(task)) {
      stopped = true;
      replies_[task.index].write(0);
      desk.wish.store(shm::LeaveWish::yields, std::memory_order_release);
      pool::call_supervisor(view_);
    } else {
      search.sleep(shm::WorkerRole::active, !stopped);
    }
  }
}

void PoolScene::hand_on(int number) {
  pool::RingWriter retry_ring(view_.supervisor().retry_ring, view_.retry_cells());
  retry_ring.start(kRetryRing);
  pool::Settler settler(view_, outbox_, retry_ring);
  const std::uint16_t slot = worker(number).slot;
  for (;;) {
    const std::uint32_t calls = view_.shared().control.load(std::memory_order_acquire);
    if (view_.desk(slot).wish.load(std::memory_order_acquire) == shm::LeaveWish::yields) break;
    sys::futex_wait(&view_.shared().control, calls, sys::kForever);
  }
  settler.hand_on(worker(number));
  idle_.wake_one();
  send_away(number);
}

// As Supervisor does it, without what it does besides.
void PoolScene::supervise(Scene& scene) {
  pool::RingWriter retry_ring(view_.supervisor().retry_ring, view_.retry_cells());
  retry_ring.start(kRetryRing);
  pool::Settler settler(view_, outbox_, retry_ring);
  std::array<bool, kSlots> buried{};
  for (;;) {
    const std::uint32_t calls = view_.shared().control.load(std::memory_order_acquire);
    std::array<sys::FutexWaiter, 1 + kSlots> words;
    std::size_t count = 0;
    words[count++] = {&view_.shared().control, calls};
    for (int number = 0; number < kSlots; ++number) {
      if (buried[static_cast<std::size_t>(number)]) continue;
      sys::FutexWord& word = life(number).word;
      const std::uint32_t seen = word.load(std::memory_order_acquire);
      if ((seen & sys::kFutexOwnerDied) == 0) {
        words[count++] = {&word, seen};
        continue;
      }
      buried[static_cast<std::size_t>(number)] = true;
      idle_.forget(worker(number).slot);
      settler.settle_task_of(worker(number), {number + 1, 9, 0});
      const auto lives = [](shm::OwnerId owner, const void* context) {
        const auto& gone = *static_cast<const std::array<bool, kSlots>*>(context);
        const int which = owner.slot - shm::kFirstWorkerSlot;
        return which >= 0 && which < kSlots && owner.epoch == 1 &&
               !gone[static_cast<std::size_t>(which)];
      };
      const std::size_t condemned = settler.audit(lives, &buried);
      scene.require(condemned == 0, "a sound record was condemned");
      idle_.keep_only([&](std::uint16_t slot) { return lives({slot, 1}, &buried); });
      view_.supervisor().hint_epoch.fetch_add(1, std::memory_order_release);
      for (int other = 0; other < kSlots; ++other) idle_.ring(worker(other).slot);
    }
    const auto order = view_.caller().order.load(std::memory_order_acquire);
    if (order == shm::PoolOrder::drain && settler.all_done()) return;
    sys::futex_wait_any(std::span(words).first(count), sys::kForever);
  }
}

void PoolScene::let_be_brisk() {
  brisk_ = true;
  processors_ = 1;
  idle_ = pool::IdleWorkers(view_, processors_);
}

void PoolScene::look_out() {
  pool::WaitingTasks waiting(view_, std::nullopt);
  pool::Lookout lookout(view_);
  sys::FutexWord& control = view_.shared().control;
  std::int64_t now = 1;
  for (;;) {
    const std::uint32_t calls = control.load(std::memory_order_acquire);
    if (lookout.look(idle_, waiting, now)) {
      for (int number = 0; number < kSlots; ++number) idle_.ring(worker(number).slot);
    }
    if (lookout.next_look_ns() == sys::kForever) {
      sys::futex_wait(&control, calls, sys::kForever);
    } else {
      now = lookout.next_look_ns();
      sys::yield();
    }
  }
}

void PoolScene::drain() { pool::raise_order(view_, shm::PoolOrder::drain); }

void PoolScene::send_away(int number) {
  const std::uint16_t slot = worker(number).slot;
  view_.entry(slot).role.store(shm::WorkerRole::leaving, std::memory_order_seq_cst);
  idle_.ring(slot);
}

void PoolScene::let_leave(int number) {
  pool::WaitingTasks waiting(view_, std::nullopt);
  send_away(number);
  pool::leave_empty(view_, idle_, worker(number).slot);
  sys::FutexWord& control = view_.shared().control;
  for (;;) {
    const std::uint32_t calls = control.load(std::memory_order_acquire);
    if (pool::count_wanted(view_, idle_, waiting) > 0) break;
    sys::futex_wait(&control, calls, sys::kForever);
  }
  pool::fill_empty(view_);
}

void PoolScene::scribble_idle_bits() {
  shm::IdleBits& bits = view_.shared().idle[0];
  // Of slots that nobody has; the lowest is woken first.
  bits.looking.fetch_or(1, std::memory_order_relaxed);
  bits.state.fetch_or(1, std::memory_order_relaxed);
}

}  // namespace brood::schedule
