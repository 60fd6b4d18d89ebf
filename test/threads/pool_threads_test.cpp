// A whole pool in one program: callers' threads, workers that die, and a supervisor that settles
// what they had while the others go on.
#include <gtest/gtest.h>

#include <cstring>
#include <deque>
#include <random>
#include <string>

#include "brood/pool.hpp"
#include "pool/caller/records.hpp"
#include "pool/caller/reply.hpp"
#include "pool/caller/stats.hpp"
#include "pool/protocol/call.hpp"
#include "pool/protocol/task.hpp"
#include "pool/supervisor/births.hpp"
#include "sys/clock.hpp"
#include "sys/process.hpp"
#include "threads/participants.hpp"
#include "threads/pool_of_threads.hpp"

namespace brood::test {

using pool::RingReader;
using shm::BlockRef;
using shm::OwnerId;
using shm::PoolOrder;
using shm::ReplyKind;
using shm::RingEntry;
using shm::TaskState;
using shm::WorkerRole;
using shm::WorkerStage;

namespace {

constexpr OwnerId kCaller{shm::kCallerSlot, shm::kCallerEpoch};
constexpr std::uint32_t kSignal = 11;

// The life word of a worker that lives, and of one that the kernel has marked.
constexpr std::uint32_t kLives = 1;
constexpr std::uint32_t kDied = 1 | sys::kFutexOwnerDied;

}  // namespace

// ---- a worker

ThreadWorker::ThreadWorker(const SharedPool& pool, OwnerId me)
    : view_(pool.view()), me_(me), desk_(view_.desk(me.slot)), idle_(view_) {
  inbox_.attach(view_.inbox(pool.segment.fd(), SharedPool::kLimitBytes), me_);
  outbox_.attach(view_.outbox(pool.segment.fd(), SharedPool::kLimitBytes), me_);
  ring_ = RingReader(
      view_.caller().rings[shm::kNormalPriority], view_.ring_cells(shm::kNormalPriority), 31,
      view_.shared().head_hints[shm::kNormalPriority], view_.supervisor().hint_epoch);
  retry_ring_ = RingReader(view_.supervisor().retry_ring, view_.retry_cells(), shm::kRetryRingLog,
                           view_.shared().retry_head_hint, view_.supervisor().hint_epoch);
}

void ThreadWorker::run() {
  desk_.prepared.store(1, std::memory_order_release);
  while (view_.entry(me_.slot).role.load(std::memory_order_acquire) != WorkerRole::leaving) {
    RingEntry task;
    if (!take(task)) {
      wait_for_work();
    } else if (!run_task(task)) {
      return die();
    }
  }
}

bool ThreadWorker::take(RingEntry& task) {
  const auto claim = [&](RingEntry entry) {
    if (entry.index >= view_.records()) return RingReader::Offer::unknown;
    desk_.intent.store(entry.pack(), std::memory_order_release);
    if (!pool::claim_task(view_.state(entry.index), entry.generation, me_)) {
      return RingReader::Offer::gone;
    }
    task = entry;
    return RingReader::Offer::taken;
  };
  if (!retry_ring_.take(claim) && !ring_.take(claim)) return false;
  if (maybe_work()) idle_.wake_one();
  return true;
}

void ThreadWorker::wait_for_work() {
  if (idle_.start_looking(me_.slot, 1)) {
    bool found = false;
    for (int i = 0; i < 50 && !found; ++i) found = maybe_work();
    idle_.stop_looking(me_.slot);
    if (found || maybe_work()) return;
  }
  const std::uint32_t bell = desk_.bell.load(std::memory_order_acquire);
  idle_.start_sleeping(me_.slot);
  const WorkerRole role = view_.entry(me_.slot).role.load(std::memory_order_seq_cst);
  if (role == WorkerRole::active && !maybe_work()) {
    sys::futex_wait(&desk_.bell, bell, hang_guard_ns());
  }
  idle_.stop_sleeping(me_.slot);
}

bool ThreadWorker::run_task(RingEntry task) {
  desk_.stage.store(WorkerStage::claimed, std::memory_order_relaxed);
  const shm::TaskRequest& request = view_.request(task.index);
  TaskState& state = view_.state(task.index);
  std::span<const std::byte> arguments = request.inline_arguments;
  if (request.arguments) arguments = inbox_.resolve(request.arguments);
  EXPECT_GE(arguments.size(), request.argument_bytes);
  Order order;
  std::memcpy(&order, arguments.data(), sizeof order);
  arguments = arguments.first(request.argument_bytes).subspan(sizeof order);
  EXPECT_TRUE(Pattern(order.seed).is_in(arguments));

  const bool dies = state.attempts.load() < order.deaths;
  if (dies && order.step == Step::claimed) return false;
  if (!reply(order, state, dies)) return false;
  EXPECT_TRUE(pool::finish_task(state, me_).done);
  desk_.done.store(desk_.done.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  desk_.stage.store(WorkerStage::idle, std::memory_order_release);
  return !(dies && order.step == Step::finished);
}

bool ThreadWorker::reply(const Order& order, TaskState& state, bool dies) {
  const Pattern pattern(order.seed + 1);
  if (order.reply_bytes <= shm::kInlineReplyBytes) {
    state.length = order.reply_bytes;
    state.kind = ReplyKind::value_inline;
    pattern.write(std::span(state.reply).first(order.reply_bytes));
    return true;
  }
  state.kind = ReplyKind::value_block;
  const auto block = outbox_.allocate(sizeof(shm::PacketHeader) + order.reply_bytes);
  EXPECT_EQ(block.error, 0);
  if (block.error != 0) return true;
  const shm::PacketHeader header{order.reply_bytes, 0};
  std::memcpy(block.bytes.data(), &header, sizeof header);
  std::memcpy(state.reply.data(), &block.ref, sizeof block.ref);
  pattern.write(block.bytes.subspan(sizeof header, order.reply_bytes));
  if (dies && order.step == Step::named_its_block) return false;
  EXPECT_TRUE(outbox_.transfer(block.ref, me_, kCaller));
  return !(dies && order.step == Step::handed_its_block_over);
}

// As the kernel does it: after all that the thread did, and whoever sees the mark sees that.
void ThreadWorker::die() {
  view_.owners().life(me_.slot).word.store(kDied, std::memory_order_release);
  pool::call_supervisor(view_);
}

// ---- the supervisor

ThreadSupervisor::ThreadSupervisor(const SharedPool& pool, std::uint16_t workers)
    : pool_(pool),
      view_(pool.view()),
      end_slot_(static_cast<std::uint16_t>(shm::kFirstWorkerSlot + workers)),
      owners_(view_.owners()),
      retry_ring_(view_.supervisor().retry_ring, view_.retry_cells()),
      settler_(view_, outbox_, retry_ring_),
      idle_(view_) {
  const OwnerId me{shm::kSupervisorSlot, 1};
  inbox_.attach(view_.inbox(pool.segment.fd(), SharedPool::kLimitBytes), me);
  outbox_.attach(view_.outbox(pool.segment.fd(), SharedPool::kLimitBytes), me);
  retry_ring_.start(shm::kRetryRingLog);
}

void ThreadSupervisor::run() {
  for (std::uint16_t slot = shm::kFirstWorkerSlot; slot < end_slot_; ++slot) start_worker(slot);
  for (;;) {
    const std::uint32_t calls = view_.shared().control.load(std::memory_order_acquire);
    look_at_lives();
    if (view_.caller().order.load(std::memory_order_acquire) != PoolOrder::run) break;
    outbox_.give_back(sys::now_ns(), 0);
    inbox_.give_back(sys::now_ns(), 0);
    sys::futex_wait(&view_.shared().control, calls, hang_guard_ns());
  }
  for (std::uint16_t slot = shm::kFirstWorkerSlot; slot < end_slot_; ++slot) {
    view_.entry(slot).role.store(WorkerRole::leaving, std::memory_order_seq_cst);
  }
  ring_all();
  for (Tenant& tenant : tenants_) {
    if (tenant.thread.joinable()) tenant.thread.join();
  }
}

void ThreadSupervisor::start_worker(std::uint16_t slot) {
  const OwnerId id = owners_.claim_slot(slot, sys::process_id()).value();
  pool::clear_desk(view_.desk(slot));
  owners_.life(slot).word.store(kLives, std::memory_order_relaxed);
  EXPECT_TRUE(owners_.settle(id, sys::process_id()));
  shm::WorkerEntry& entry = view_.entry(slot);
  entry.pid.store(sys::process_id(), std::memory_order_relaxed);
  entry.index.store(slot - shm::kFirstWorkerSlot, std::memory_order_relaxed);
  entry.role.store(WorkerRole::active, std::memory_order_seq_cst);
  tenants_[slot] = {id, std::thread([this, id] {
                      const auto worker = std::make_unique<ThreadWorker>(pool_, id);
                      worker->run();
                    })};
}

void ThreadSupervisor::look_at_lives() {
  for (std::uint16_t slot = shm::kFirstWorkerSlot; slot < end_slot_; ++slot) {
    if (owners_.life(slot).word.load(std::memory_order_acquire) != kDied) continue;
    const OwnerId id = tenants_[slot].id;
    mourn(id);
    bury(id);
    start_worker(slot);
  }
}

// What is done at the early sign of a death.
void ThreadSupervisor::mourn(OwnerId worker) {
  idle_.forget(worker.slot);
  view_.supervisor().died.fetch_add(1, std::memory_order_relaxed);
  settler_.settle_task_of(worker, {sys::process_id(), kSignal, worker.epoch});
  ring_all();
}

// What has to wait for proof.
void ThreadSupervisor::bury(OwnerId worker) {
  tenants_[worker.slot].thread.join();
  view_.entry(worker.slot).role.store(WorkerRole::none, std::memory_order_relaxed);
  outbox_.sweep(worker);
  EXPECT_TRUE(owners_.mark_dead(worker));
  EXPECT_TRUE(owners_.release(worker));
  tenants_[worker.slot].id = {};
  const auto is_live = [](OwnerId owner, const void* self) {
    return static_cast<const ThreadSupervisor*>(self)->tenants_[owner.slot].id == owner;
  };
  EXPECT_EQ(settler_.audit(is_live, this), 0U) << "nobody has overwritten anything";
  idle_.keep_only([this](std::uint16_t slot) { return tenants_[slot].id.epoch != 0; });
  view_.supervisor().hint_epoch.fetch_add(1, std::memory_order_release);
  ring_all();
}

void ThreadSupervisor::ring_all() {
  for (std::uint16_t slot = shm::kFirstWorkerSlot; slot < end_slot_; ++slot) idle_.ring(slot);
}

namespace {

// ---- callers

using detail::TaskReply;
using detail::TaskTicket;

struct Submitted {
  TaskTicket task;
  Order order;
  std::uint32_t retries = 0;
};

class PoolThreadsTest : public testing::Test {
 protected:
  static constexpr std::uint16_t kWorkers = 3;
  static constexpr unsigned kCallers = 2;

  [[nodiscard]] Submitted submit(const Order& order, std::size_t argument_bytes,
                                 std::uint32_t retries) {
    detail::TaskSpec spec;
    spec.thunk = 1;
    spec.argument_bytes = sizeof order + argument_bytes;
    spec.retries = retries;
    const detail::TaskDraft draft = records_.draft(spec);
    std::memcpy(draft.arguments.data(), &order, sizeof order);
    Pattern(order.seed).write(draft.arguments.subspan(sizeof order));
    const TaskTicket task = records_.commit(draft, {});
    pool::IdleWorkers idle(view_);
    if (!idle.anyone_looking()) idle.wake_one();
    return {task, order, retries};
  }

  // False: it hangs.
  [[nodiscard]] bool wait(TaskTicket task) {
    const std::int64_t end = hang_guard_ns();
    TaskState& state = view_.state(task.index);
    while (!pool::has_ended(view_, task)) {
      const auto half = pool::announce_waiter(state, task.generation);
      if (!half) continue;
      if (sys::futex_wait(pool::sleeping_half(state), *half, end) == -ETIMEDOUT) return false;
    }
    return true;
  }

  void check(const Submitted& sent) {
    const TaskReply reply = pool::read_reply(view_, records_, sent.task);
    // A death after the end is none of the task's.
    const bool dies = sent.order.deaths > sent.retries && sent.order.step != Step::finished;
    if (!dies) {
      ASSERT_EQ(reply.kind, TaskReply::Kind::value);
      EXPECT_EQ(reply.bytes.size(), sent.order.reply_bytes);
      EXPECT_TRUE(Pattern(sent.order.seed + 1).is_in(reply.bytes));
      return;
    }
    ASSERT_EQ(reply.kind, TaskReply::Kind::died);
    shm::DeathNote note{};
    std::memcpy(&note, reply.bytes.data(), sizeof note);
    EXPECT_EQ(note.wait_status, kSignal);
    EXPECT_EQ(note.attempts, sent.retries + 1);
  }

  // Waits for the oldest tasks until `most` are left. False: one of them hangs.
  [[nodiscard]] bool take_results(std::deque<Submitted>& tasks, std::size_t most) {
    for (; tasks.size() > most; tasks.pop_front()) {
      if (!wait(tasks.front().task)) {
        ADD_FAILURE() << "a task never ended";
        return false;
      }
      check(tasks.front());
      records_.release(tasks.front().task, false);
    }
    return true;
  }

  // `deadly`: of so many tasks one kills its workers; 0: none does.
  void call(unsigned number, std::uint32_t tasks, std::size_t outstanding, unsigned deadly) {
    std::minstd_rand random(number + 1);
    std::deque<Submitted> sent;
    for (std::uint32_t i = 0; i < tasks; ++i) {
      Order order;
      order.seed = random();
      order.reply_bytes = 8 + static_cast<std::uint32_t>(random() % (8U << (random() % 10)));
      std::uint32_t retries = 0;
      if (deadly != 0 && random() % deadly == 0) {
        order.step = static_cast<Step>(random() % 4);
        order.deaths = 1 + static_cast<std::uint32_t>(random() % 2);
        // The last two steps are those of a reply in a block.
        order.reply_bytes += order.step == Step::claimed ? 0 : 64;
        retries = static_cast<std::uint32_t>(random() % 2);
      }
      sent.push_back(submit(order, 8 + random() % (8U << (random() % 10)), retries));
      // Nobody wants the result of some.
      if (random() % 8 == 0) {
        records_.release(sent.back().task, false);
        sent.pop_back();
      }
      if (!take_results(sent, outstanding)) return;
    }
    static_cast<void>(take_results(sent, 0));
  }

  void run(std::uint32_t tasks, std::size_t outstanding, unsigned deadly) {
    std::atomic<unsigned> calling{kCallers};
    run_together(2 + kCallers, [&](unsigned i) {
      if (i == 0) {
        std::make_unique<ThreadSupervisor>(shared_, kWorkers)->run();
      } else if (i == 1) {
        while (calling.load() != 0) {
          const PoolStats stats =
              pool::read_stats(view_, kWorkers, [](detail::TaskTicket) { return std::string(); });
          EXPECT_EQ(stats.workers.size(), kWorkers);
          sys::sleep_ns(1'000'000);
        }
      } else {
        call(i, tasks, outstanding, deadly);
        if (calling.fetch_sub(1) != 1) return;
        EXPECT_TRUE(nothing_is_left());
        view_.caller().order.store(PoolOrder::terminate, std::memory_order_release);
        pool::call_supervisor(view_);
      }
    });
  }

  // After the last task: what nobody wanted is freed with the next drafts.
  [[nodiscard]] bool nothing_is_left() {
    shm::Arena outbox;
    outbox.attach(view_.outbox(shared_.segment.fd(), SharedPool::kLimitBytes), kCaller);
    return wait_until([&] {
      detail::TaskSpec spec;
      spec.thunk = 1;
      records_.drop(records_.draft(spec));
      std::size_t in_use = outbox.stats().live_blocks;
      for (std::uint32_t index = 0; index < view_.records(); ++index) {
        in_use += view_.state(index).word.load(std::memory_order_relaxed) == 0 ? 0U : 1U;
      }
      return in_use == 0;
    });
  }

  SharedPool shared_{kWorkers};
  pool::PoolView view_ = shared_.view();
  pool::Records records_{shared_.segment, view_, SharedPool::kLimitBytes};
};

TEST_F(PoolThreadsTest, TasksAndResultsArriveWhole) { run(20'000, 20, 0); }

TEST_F(PoolThreadsTest, RecordsAndRingGrowUnderWay) {
  run(5'000, 2'500, 0);
  EXPECT_GT(view_.records(), 1024U);
}

TEST_F(PoolThreadsTest, WhatTheDeadHadIsSettledWhileOthersGoOn) {
  run(3'000, 20, 10);
  EXPECT_GT(view_.supervisor().died.load(), 100U);
  EXPECT_GT(view_.supervisor().retried.load(), 10U);
}

}  // namespace
}  // namespace brood::test
