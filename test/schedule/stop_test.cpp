// Stopping tasks: cancel() and time limits against the worker's own end, and the supervisor's watch
// over limits that others set.
#include "pool/protocol/admission.hpp"
#include "pool/protocol/call.hpp"
#include "pool/protocol/task.hpp"
#include "pool/protocol/task_clock.hpp"
#include "pool/worker/work_search.hpp"
#include "schedule/pool_scene.hpp"
#include "schedule/report.hpp"

namespace brood::schedule {
namespace {

using pool::CancelStep;
using shm::TaskPhase;
using shm::TaskWord;

constexpr std::uint32_t kFirst = 1;  // generations
constexpr std::int64_t kLimit = 100;
constexpr std::int64_t kLate = 200;

// One worker and its tasks, without rings: they are named to it.
struct StopScene {
  explicit StopScene(Scene& played) : scene(played) {
    for (std::uint32_t index = 0; index < 2; ++index) {
      shm::TaskRequest& request = view().request(index);
      request.count = 1;
      request.generation.store(kFirst);
      request.timeout_ns = kLimit;
      request.deadline_ns = shm::kNoLimitNs;
      pool::publish_task(state(index), kFirst);
    }
  }

  [[nodiscard]] const pool::PoolView& view() const { return pool.view(); }
  [[nodiscard]] shm::TaskState& state(std::uint32_t index) const { return view().state(index); }
  [[nodiscard]] TaskWord word(std::uint32_t index) const {
    return TaskWord::unpack(state(index).word.load(std::memory_order_acquire));
  }
  void limit(std::uint32_t index) const {
    view().request(index).flags = static_cast<std::uint16_t>(shm::TaskFlag::limited);
  }

  bool claim(std::uint32_t index) const {
    view().desk(me.slot).intent.store(shm::RingEntry{index, kFirst, 0}.pack(),
                                      std::memory_order_relaxed);
    return pool::claim_task(state(index), kFirst, me);
  }
  // As a worker does it; false: it is doomed, and waits to be killed.
  bool run(std::uint32_t index) {
    if (!claim(index)) return true;
    ++runs[index];
    replies[index].write(kAnswer);
    state(index).kind = shm::ReplyKind::value_inline;
    while (!pool::finish_task(state(index), me)) {
      if (word(index).doomed) return false;
      (void)pool::unexpire_task(state(index), me);
    }
    return true;
  }
  // As a caller does it, who need not wait for the worker.
  bool get(std::uint32_t index) {
    for (;;) {
      const auto half = pool::announce_waiter(state(index), kFirst);
      if (!half) break;
      sys::futex_wait(pool::sleeping_half(state(index)), *half, sys::kForever);
    }
    const TaskWord now = word(index);
    scene.require(pool::has_outcome(now), "woken without an outcome");
    if (now.settled) return false;
    scene.require(replies[index].read() == kAnswer, "a wrong result");
    return true;
  }

  Scene& scene;
  PoolScene pool;
  shm::OwnerId me = PoolScene::worker(0);
  std::array<Data<int>, 2> replies;
  std::array<int, 2> runs{};
};

// cancel() while the task waits, runs and ends; somebody else waits for it.
void cancelling(Scene& scene) {
  StopScene stop(scene);
  bool cancelled = false;
  scene.actor("worker", [&] { stop.run(0); });
  scene.actor("canceller", [&] {
    pool::Step change;
    const CancelStep step = pool::cancel_task(stop.state(0), kFirst, change);
    cancelled = step != CancelStep::too_late;
    scene.require(step != CancelStep::already, "cancelled before");
  });
  bool has_value = false;
  scene.actor("waiter", [&] { has_value = stop.get(0); });
  scene.play();
  scene.require(has_value != cancelled, "cancelled with a value, or neither");
  scene.require(stop.word(0).phase == TaskPhase::done, "the record is not free");
  scene.require(stop.runs[0] <= 1, "run twice");
}

// A deadline passes while the task waits, and somebody cancels it.
void three_ends(Scene& scene) {
  StopScene stop(scene);
  std::array<bool, 2> ended{};
  scene.actor("worker", [&] { stop.run(0); });
  scene.actor("clock", [&] { ended[0] = pool::expire_pending(stop.state(0), kFirst).done; });
  scene.actor("canceller", [&] {
    pool::Step change;
    ended[1] = pool::cancel_task(stop.state(0), kFirst, change) != CancelStep::too_late;
  });
  bool has_value = false;
  scene.actor("waiter", [&] { has_value = stop.get(0); });
  scene.play();
  const int ends = (ended[0] ? 1 : 0) + (ended[1] ? 1 : 0) + (has_value ? 1 : 0);
  scene.require(ends == 1, "not one outcome");
}

// The first task has a limit which is over whenever the supervisor looks, and no grace: the worker
// dies for that task, or has both tasks behind it.
void killing(Scene& scene) {
  StopScene stop(scene);
  stop.limit(0);
  bool doomed = false;
  bool done = false;
  scene.actor("worker", [&] { done = stop.run(0) && stop.run(1); });
  scene.actor("supervisor", [&] {
    pool::TaskClock clock(stop.view(), 0);
    pool::StopWatch watch;
    for (int look = 0; look < 2 && !doomed; ++look) {
      const std::int64_t now = look == 0 ? 0 : kLate;
      doomed = clock.must_die(watch, stop.me, now);
    }
  });
  scene.play();
  scene.require(doomed != done, "killed for a task that it had left, or left to hang");
  if (doomed) scene.require(stop.runs[1] == 0, "another task was lost");
}

// Whoever sets a limit is seen by the look that follows, however that came to be.
void limit_is_seen(Scene& scene) {
  StopScene stop(scene);
  stop.limit(0);
  stop.view().supervisor().next_look_ns.store(shm::kNoLimitNs);  // it is there before workers are
  bool noticed = false;
  scene.actor("worker", [&] {
    (void)stop.claim(0);
    pool::announce_limit(stop.view(), stop.me, kLimit / 2);
  });
  scene.actor("supervisor", [&] {
    pool::TaskClock clock(stop.view(), 0);
    pool::StopWatch watch;
    sys::FutexWord& control = stop.view().shared().control;
    // At first it wakes by itself, for something else, sooner than for this limit.
    for (int look = 0;; ++look) {
      const std::int64_t other = look == 0 ? kLimit / 4 : shm::kNoLimitNs;
      const std::uint32_t calls = control.load(std::memory_order_acquire);
      clock.take_back_promise();
      (void)clock.must_die(watch, stop.me, 0);
      noticed = clock.promise(shm::kNoLimitNs) == kLimit / 2;
      if (noticed) return;
      clock.promise(other);
      if (other == shm::kNoLimitNs) sys::futex_wait(&control, calls, sys::kForever);
    }
  });
  scene.play();
  scene.require(noticed, "it sleeps beyond a limit");
}

// The same for the deadlines of tasks that wait, which several threads submit.
void deadlines_are_seen(Scene& scene) {
  StopScene stop(scene);
  for (std::uint32_t index = 0; index < 2; ++index) {
    stop.state(index).word.store(0);
    const std::int64_t deadline = kLimit * (2 - index);
    stop.view().request(index).deadline_ns = deadline;
    scene.actor("caller", [&stop, index, deadline] {
      pool::publish_task(stop.state(index), kFirst);
      pool::announce_deadline(stop.view(), deadline, 1);
    });
  }
  bool noticed = false;
  scene.actor("supervisor", [&] {
    pool::TaskClock clock(stop.view(), 0);
    sys::FutexWord& control = stop.view().shared().control;
    while (!noticed) {
      const std::uint32_t calls = control.load(std::memory_order_acquire);
      clock.take_back_promise();
      clock.expire_pending_tasks(1);
      noticed = clock.promise(shm::kNoLimitNs) == kLimit;
      if (!noticed) sys::futex_wait(&control, calls, sys::kForever);
    }
  });
  scene.play();
  scene.require(noticed, "it sleeps beyond a deadline");
}

// Somebody waits for room until a worker takes the only task that waits.
void room(Scene& scene) {
  PoolScene pool;
  pool.submit(0);
  scene.actor("worker", [&] {
    pool::WorkSearch search(pool.view(), PoolScene::worker(0));
    shm::RingEntry task;
    scene.require(search.take(task), "no task");
  });
  scene.actor("caller", [&] {
    pool::WaitingTasks waiting(pool.view(), 1);
    while (!waiting.take_place()) {
      const sys::FutexWord& wanted = waiting.want_room();
      if (waiting.take_place()) return;
      sys::futex_wait(&wanted, 1, sys::kForever);
    }
  });
  scene.play();
}

TEST(StopScheduleTest, RoomIsMadeKnown) {
  expect_right_by_seed("waiting for room for a task", room, 1);
}
TEST(StopScheduleTest, ATaskIsCancelledOrHasItsValue) {
  expect_right_by_seed("cancel against claim and finish", cancelling, 2);
}
TEST(StopScheduleTest, OfThreeEndsOneIsTheOutcome) {
  expect_right_by_seed("cancel, deadline and worker", three_ends, 1);
}
TEST(StopScheduleTest, AWorkerIsKilledOnlyForTheTaskThatItHas) {
  expect_right_by_seed("a time limit against finish", killing, 1);
}
TEST(StopScheduleTest, NoLimitIsSleptThrough) {
  expect_right_by_seed("a limit while the supervisor goes to sleep", limit_is_seen, 1);
  expect_right_by_seed("a deadline while the supervisor goes to sleep", deadlines_are_seen, 1);
}

TEST(StopScheduleTest, EachBreakIsNoticed) {
  expect_breaks_noticed(
      "stopping", {"task.cpp", "task_clock.cpp", "admission.cpp"},
      {cancelling, three_ends, killing, limit_is_seen, deadlines_are_seen, room},
      {{"task.cpp", "TaskPhase::pending", Damage::relax, "the ring's tail, stored next, orders it"},
       {"task.cpp", "word.pack(), std::memory_order_relaxed", Damage::drop,
        "the sleeper finds another value in the word, and looks again"},
       {"admission.cpp", "word.load(std::memory_order_seq_cst)", Damage::relax,
        "the head hint would have to be old as well, which is too rare to be met"},
       {"admission.cpp", "wanted.store(1", Damage::drop, "then who waits does not sleep"},
       {"task_clock.cpp", "state.word.load(std::memory_order_acquire)", Damage::relax,
        "the requests are written before the scenes begin"},
       {"task_clock.cpp", "next_look_ns.store(wake_ns", Damage::relax,
        "only a load that overtakes it would tell, and none does here"},
       {"task_clock.cpp", "next_look_ns.store(wake_ns", Damage::drop, "then there are more calls"}},
      20'000);
}

}  // namespace
}  // namespace brood::schedule
