// Tasks from submit to get, workers that sleep and wake, and what becomes of a task whose worker
// dies.
#include "pool/protocol/call.hpp"
#include "schedule/pool_scene.hpp"
#include "schedule/report.hpp"

namespace brood::schedule {
namespace {

using Idle = PoolScene::Idle;

// `tasks` tasks, submitted at once and then waited for, on `workers` workers that live.
Body simple(std::uint32_t tasks, int workers, Idle how) {
  return [=](Scene& scene) {
    PoolScene pool;
    for (int number = 0; number < workers; ++number) {
      scene.server("worker", [&, number] { pool.work(scene, number, how); });
    }
    scene.actor("caller", [&] {
      for (std::uint32_t task = 0; task < tasks; ++task) pool.submit(task);
      for (std::uint32_t task = 0; task < tasks; ++task) {
        scene.require(pool.get(scene, task), "died");
      }
    });
    scene.play();
    for (std::uint32_t task = 0; task < tasks; ++task) {
      scene.require(pool.runs(task) == 1, "not run once");
    }
  };
}

// As many tasks as workers, which end only when all of them run.
Body meeting(Idle how) {
  return [=](Scene& scene) {
    PoolScene pool;
    pool.let_meet(kSlots);
    for (int number = 0; number < kSlots; ++number) {
      scene.server("worker", [&, number] { pool.work(scene, number, how); });
    }
    scene.actor("caller", [&] {
      for (std::uint32_t task = 0; task < kSlots; ++task) pool.submit(task);
      for (std::uint32_t task = 0; task < kSlots; ++task) (void)pool.get(scene, task);
    });
    scene.play();
  };
}

// The same, when as many workers as processors are said to be coming: what is left to a worker
// whose task turns out long is done by another.
Body meeting_of_the_brisk(Idle how) {
  return [=](Scene& scene) {
    PoolScene pool;
    pool.let_be_brisk();
    pool.let_look_out();
    pool.let_meet(kSlots);
    for (int number = 0; number < kSlots; ++number) {
      scene.server("worker", [&, number] { pool.work(scene, number, how); });
    }
    scene.server("supervisor", [&] { pool.look_out(); });
    scene.actor("caller", [&] {
      for (std::uint32_t task = 0; task < kSlots; ++task) pool.submit(task);
      for (std::uint32_t task = 0; task < kSlots; ++task) (void)pool.get(scene, task);
    });
    scene.play();
  };
}

// Who was to take the task is stopped.
Body one_is_stopped(Idle how) {
  return [=](Scene& scene) {
    PoolScene pool;
    pool.let_look_out();
    scene.server("stopped", [&] { pool.be_stopped(0, how); });
    scene.server("worker", [&] { pool.work(scene, 1, Idle::asleep); });
    scene.server("supervisor", [&] { pool.look_out(); });
    scene.actor("caller", [&] {
      for (std::uint32_t task = 0; task < 2; ++task) {
        pool.submit(task);
        (void)pool.get(scene, task);
      }
    });
    scene.play();
  };
}

// The only worker leaves for want of work as tasks come; another comes for what it does not take.
Body leaving_for_want_of_work(std::uint32_t tasks, Idle how) {
  return [=](Scene& scene) {
    PoolScene pool;
    sys::FutexWord wanted{0};
    scene.server("worker", [&] { pool.work(scene, 0, how); });
    scene.server("newcomer", [&] {
      while (wanted.load(std::memory_order_acquire) == 0) {
        sys::futex_wait(&wanted, 0, sys::kForever);
      }
      pool.work(scene, 1, how);
    });
    scene.server("supervisor", [&] {
      pool.let_leave(0);
      wanted.store(1, std::memory_order_release);
      sys::futex_wake(&wanted, sys::kWakeAll);
    });
    scene.actor("caller", [&] {
      for (std::uint32_t task = 0; task < tasks; ++task) {
        pool.submit(task);
        scene.require(pool.get(scene, task), "died");
      }
    });
    scene.play();
  };
}

// The pool drains: the supervisor has to learn that the last task has ended.
Body draining(std::uint32_t tasks, int workers) {
  return [=](Scene& scene) {
    PoolScene pool;
    for (int number = 0; number < workers; ++number) {
      scene.server("worker", [&, number] { pool.work(scene, number, Idle::asleep); });
    }
    scene.actor("supervisor", [&] { pool.supervise(scene); });
    scene.actor("caller", [&] {
      for (std::uint32_t task = 0; task < tasks; ++task) pool.submit(task);
      pool.drain();
    });
    scene.play();
  };
}

// A worker that sleeps, or is about to, is told to leave.
void leaving(Scene& scene) {
  PoolScene pool;
  scene.actor("worker", [&] { pool.work(scene, 0, Idle::asleep); });
  scene.actor("supervisor", [&] { pool.send_away(0); });
  scene.play();
}

enum class Pace { unknown, brisk };

// Two tasks on their own, then two that end only together.
Body meeting_later(Idle how, Pace pace = Pace::unknown) {
  return [=](Scene& scene) {
    PoolScene pool;
    if (pace == Pace::brisk) {
      pool.let_be_brisk();
      pool.let_look_out();
      scene.server("supervisor", [&] { pool.look_out(); });
    }
    for (int number = 0; number < kSlots; ++number) {
      scene.server("worker", [&, number] { pool.work(scene, number, how); });
    }
    scene.actor("caller", [&] {
      for (std::uint32_t task = 0; task < 4; ++task) {
        if (task == 2) {
          (void)pool.get(scene, 0);
          (void)pool.get(scene, 1);
          pool.let_meet(kSlots);
        }
        pool.submit(task);
      }
      for (std::uint32_t task = 2; task < 4; ++task) (void)pool.get(scene, task);
    });
    scene.play();
  };
}

// A worker that dies has marked slots as idle that nobody has.
void scribbling(Scene& scene) {
  PoolScene pool;
  sys::RobustWord& life = pool.life(1);
  scene.server("worker", [&] { pool.work(scene, 0, Idle::asleep); });
  const int scribbler = scene.actor("scribbler", [&] {
    pool.scribble_idle_bits();
    life.word.store(sys::kFutexOwnerDied | sys::kFutexWaiters, std::memory_order_release);
    sys::futex_wake(&life.word, 1);
  });
  scene.server("supervisor", [&] { pool.supervise(scene); });
  scene.actor("caller", [&] {
    pool.submit(0);
    scene.require(pool.get(scene, 0), "died");
    scene.await_end(scribbler);
    pool.submit(1);
    scene.require(pool.get(scene, 1), "died");
  });
  scene.play();
}

// A worker is told to leave when it may just have been woken for a task: the other one runs it.
void leaving_when_woken(Scene& scene) {
  PoolScene pool;
  scene.actor("leaver", [&] { pool.work(scene, 0, Idle::asleep); });
  scene.server("worker", [&] { pool.work(scene, 1, Idle::asleep); });
  scene.actor("supervisor", [&] { pool.send_away(0); });
  scene.actor("caller", [&] {
    pool.submit(0);
    scene.require(pool.get(scene, 0), "died");
  });
  scene.play();
}

// A worker stops at the task that it has, if it has one: the other one runs it.
void handing_on(Scene& scene) {
  PoolScene pool;
  scene.server("stopping", [&] { pool.stop_at_a_task(0); });
  scene.server("worker", [&] { pool.work(scene, 1, Idle::asleep); });
  scene.server("supervisor", [&] { pool.hand_on(0); });
  scene.actor("caller", [&] {
    pool.submit(0);
    scene.require(pool.get(scene, 0), "died");
  });
  scene.play();
  scene.require(pool.runs(0) == 1, "not run once");
}

// Two threads order different things at once: the stronger holds.
void orders(Scene& scene) {
  PoolScene pool;
  for (const auto to : {shm::PoolOrder::drain, shm::PoolOrder::terminate}) {
    scene.actor("caller", [&, to] { pool::raise_order(pool.view(), to); });
  }
  scene.play();
  scene.require(pool.view().caller().order.load() == shm::PoolOrder::terminate, "a weaker order");
}

// Two calls of the supervisor at once, each of which has something to tell.
void calls(Scene& scene) {
  PoolScene pool;
  std::array<sys::Atomic<int>, 2> told{};
  for (std::size_t i = 0; i < told.size(); ++i) {
    scene.actor("caller", [&, i] {
      told[i].store(1, std::memory_order_relaxed);
      pool::call_supervisor(pool.view());
    });
  }
  scene.actor("supervisor", [&] {
    sys::FutexWord& control = pool.view().shared().control;
    for (;;) {
      const std::uint32_t seen = control.load(std::memory_order_acquire);
      int sum = 0;
      for (const auto& word : told) sum += word.load(std::memory_order_relaxed);
      if (sum == 2) return;
      sys::futex_wait(&control, seen, sys::kForever);
    }
  });
  scene.play();
}

// One after the other, so that the ring wraps and workers sleep in between.
Body in_turn(std::uint32_t tasks, int workers, Idle how) {
  return [=](Scene& scene) {
    PoolScene pool;
    for (int number = 0; number < workers; ++number) {
      scene.server("worker", [&, number] { pool.work(scene, number, how); });
    }
    scene.actor("caller", [&] {
      for (std::uint32_t task = 0; task < tasks; ++task) {
        // Two records, used again and again.
        pool.submit(task % 2);
        scene.require(pool.get(scene, task % 2), "died");
      }
    });
    scene.play();
  };
}

// Of two workers, `mortals` may be killed at any step.
Body with_deaths(std::uint32_t tasks, std::uint32_t retries, int mortals, Idle how) {
  return [=](Scene& scene) {
    PoolScene pool;
    std::array<int, kSlots> actors{};
    for (int number = 0; number < kSlots; ++number) {
      const auto body = [&, number] { pool.work(scene, number, how); };
      actors[static_cast<std::size_t>(number)] =
          number < mortals ? scene.mortal_server("mortal", body, &pool.life(number))
                           : scene.server("worker", body);
    }
    scene.server("supervisor", [&] { pool.supervise(scene); });
    int values = 0;
    scene.actor("caller", [&] {
      for (std::uint32_t task = 0; task < tasks; ++task) pool.submit(task, retries);
      for (std::uint32_t task = 0; task < tasks; ++task) values += pool.get(scene, task) ? 1 : 0;
    });
    scene.play();
    int deaths = 0;
    for (int number = 0; number < mortals; ++number) {
      deaths += scene.died(actors[static_cast<std::size_t>(number)]) ? 1 : 0;
    }
    const int lost = static_cast<int>(tasks) - values;
    const shm::SupervisorHeader& told = pool.view().supervisor();
    scene.require(static_cast<int>(told.settled.load()) == lost, "the count of lost tasks");
    scene.require(lost <= deaths, "more tasks than workers died");
    if (retries > 0) scene.require(lost == 0, "a task with a retry left was given up");
    for (std::uint32_t task = 0; task < tasks; ++task) {
      scene.require(pool.runs(task) <= 1 + deaths, "run again for no reason");
    }
  };
}

TEST(PoolScheduleTest, OneTaskOneSleepingWorker) {
  expect_right_in_all("one task, a worker that sleeps", simple(1, 1, Idle::asleep),
                      {.old_reads = 0});
  expect_right_by_seed("one task, a worker that sleeps", simple(1, 1, Idle::asleep), 1);
}
TEST(PoolScheduleTest, OneTaskOneLookingWorker) {
  expect_right_by_seed("one task, a worker that looks", simple(1, 1, Idle::looking), 1);
}
TEST(PoolScheduleTest, TwoTasksTwoSleepingWorkers) {
  expect_right_by_seed("two tasks, two workers that sleep", simple(2, 2, Idle::asleep), 1);
}
TEST(PoolScheduleTest, TwoTasksTwoLookingWorkers) {
  expect_right_by_seed("two tasks, two workers that look", simple(2, 2, Idle::looking), 1);
}
TEST(PoolScheduleTest, TheRingWraps) {
  expect_right_by_seed("five tasks in turn, a ring of two entries", in_turn(5, 2, Idle::looking),
                       3);
}
TEST(PoolScheduleTest, EveryTaskIsBegunWhileAWorkerIsIdle) {
  expect_right_by_seed("two tasks that meet, workers that sleep", meeting(Idle::asleep), 1);
  expect_right_by_seed("two tasks that meet, workers that look", meeting(Idle::looking), 1);
  expect_right_by_seed("two tasks, and two that meet", meeting_later(Idle::asleep), 1);
}
TEST(PoolScheduleTest, WorkLeftToAWorkerThatDoesNotComeIsDoneByAnother) {
  expect_right_by_seed("two tasks that meet, workers that are said to come",
                       meeting_of_the_brisk(Idle::asleep), 1);
  expect_right_by_seed("two tasks, and two that meet, workers that are said to come",
                       meeting_later(Idle::asleep, Pace::brisk), 1);
}
TEST(PoolScheduleTest, WorkForAWorkerThatIsStoppedIsDoneByAnother) {
  expect_right_by_seed("two tasks, a worker is stopped asleep", one_is_stopped(Idle::asleep), 1);
  expect_right_by_seed("two tasks, a worker is stopped looking", one_is_stopped(Idle::looking), 1);
}
TEST(PoolScheduleTest, ADrainedPoolEnds) {
  expect_right_by_seed("one task, the pool drains", draining(1, 1), 1);
  expect_right_by_seed("two tasks, two workers, the pool drains", draining(2, 2), 1);
}
TEST(PoolScheduleTest, AWorkerLeavesWhenTold) {
  expect_right_in_all("a worker is told to leave", leaving);
}
TEST(PoolScheduleTest, AWorkerLeavesForWantOfWorkAsThereIsSome) {
  for (const std::uint32_t tasks : {1U, 2U}) {
    expect_right_by_seed("a sleeper leaves for want of work",
                         leaving_for_want_of_work(tasks, Idle::asleep), 2);
    expect_right_by_seed("who looks leaves for want of work",
                         leaving_for_want_of_work(tasks, Idle::looking), 2);
  }
}
TEST(PoolScheduleTest, AWorkerThatLeavesPassesOnWhatItWasWokenFor) {
  expect_right_by_seed("a worker leaves that was woken", leaving_when_woken, 1);
}
TEST(PoolScheduleTest, ATaskThatItsWorkerStopsAtIsRunByAnother) {
  expect_right_by_seed("a worker stops at its task", handing_on, 1);
}
TEST(PoolScheduleTest, NoCallIsLost) {
  expect_right_in_all("two calls of the supervisor at once", calls);
}
TEST(PoolScheduleTest, TheStrongerOfTwoOrdersHolds) {
  expect_right_in_all("two orders at once", orders);
}
TEST(PoolScheduleTest, WhatADeadWorkerOverwroteIsPutRight) {
  expect_right_by_seed("a worker dies that has marked nobody as idle", scribbling, 1);
}
TEST(PoolScheduleTest, AWorkerDies) {
  expect_right_by_seed("two tasks, one worker may die", with_deaths(2, 0, 1, Idle::asleep), 1);
  expect_right_by_seed("two tasks, one looking worker may die", with_deaths(2, 0, 1, Idle::looking),
                       4);
}
TEST(PoolScheduleTest, AWorkerDiesAndTheTaskIsRunAgain) {
  expect_right_by_seed("two tasks with a retry, one worker may die",
                       with_deaths(2, 1, 1, Idle::asleep), 1);
  expect_right_by_seed("two tasks with a retry, one looking worker may die",
                       with_deaths(2, 1, 1, Idle::looking), 1);
}

TEST(PoolScheduleTest, EachBreakIsNoticed) {
  expect_breaks_noticed(
      "task, search, idle bits, settling",
      {"task.cpp", "work_search.cpp", "idle.hpp", "settle.cpp", "call.hpp", "dormancy.cpp"},
      {meeting_of_the_brisk(Idle::asleep),
       leaving_for_want_of_work(1, Idle::asleep),
       leaving_for_want_of_work(2, Idle::looking),
       simple(1, 1, Idle::asleep),
       simple(1, 1, Idle::looking),
       in_turn(3, 2, Idle::looking),
       meeting(Idle::asleep),
       meeting_later(Idle::asleep),
       meeting(Idle::looking),
       draining(1, 1),
       draining(2, 2),
       leaving,
       leaving_when_woken,
       handing_on,
       orders,
       calls,
       scribbling,
       simple(2, 2, Idle::looking),
       with_deaths(2, 0, 1, Idle::looking),
       with_deaths(2, 1, 1, Idle::asleep)},
      {{"task.cpp", "TaskPhase::pending", Damage::relax, "the ring's tail, stored next, orders it"},
       {"task.cpp", "word.pack(), std::memory_order_relaxed", Damage::drop,
        "the sleeper finds another value in the word, and looks again"},
       {"task.cpp", "state.word.store(TaskWord{}.pack()", Damage::drop,
        "only the audit passes over free records by it"},
       {"task.cpp", "compare_exchange_strong(nonsense", Damage::relax,
        "nobody else changes a word that is nonsense"},
       {"task.cpp", "compare_exchange_strong(nonsense", Damage::tear, "the same"},
       {"task.cpp", "compare_exchange_strong(nonsense", Damage::drop, "the same"},
       {"idle.hpp", "compare_exchange_strong(state, next", Damage::drop,
        "the woken clears it itself"},
       {"idle.hpp", "state.fetch_or(comer(slot)", Damage::drop, "then there is one wake-up more"},
       {"idle.hpp", "state.fetch_or(comer(slot)", Damage::relax, "the same"},
       {"idle.hpp", "state.fetch_and(~comer(slot)", Damage::relax,
        "work left to one that does not come is found by the supervisor"},
       {"idle.hpp", "std::popcount(sleepers(", Damage::relax,
        "who counts has been called, or has read the empty places, since they slept"},
       {"idle.hpp", "looking.fetch_or", Damage::drop, "then there is one wake-up more"},
       {"idle.hpp", "state.fetch_and(valid", Damage::relax, "all bells are rung next"},
       {"work_search.cpp", "wanted.load(std::memory_order_seq_cst)", Damage::relax,
        "nobody waits for room in these scenes"},
       {"dormancy.cpp", "dormant.fetch_add", Damage::tear, "the supervisor alone counts"},
       {"dormancy.cpp", "dormant.fetch_sub", Damage::tear, "the same"},
       {"dormancy.cpp", "dormant.fetch_sub", Damage::drop, "then it is called more often"},
       {"settle.cpp", "state.attempts.store(attempts", Damage::drop,
        "in these scenes no task's worker dies twice"},
       {"settle.cpp", "settled.fetch_add", Damage::tear, "the supervisor alone counts"},
       {"settle.cpp", "retried.fetch_add", Damage::tear, "the same"},
       {"settle.cpp", "retried.fetch_add", Damage::drop, "a figure of the statistics"}},
      20'000);
}

TEST(PoolScheduleTest, EachBreakOfTheLookoutIsNoticed) {
  expect_breaks_noticed(
      "looking out", {"lookout.cpp"},
      {meeting_of_the_brisk(Idle::asleep), meeting_later(Idle::asleep, Pace::brisk),
       one_is_stopped(Idle::asleep), one_is_stopped(Idle::looking)},
      {{"lookout.cpp", "wanted.compare_exchange_strong", Damage::tear, "later is not never"}},
      40'000);
}

}  // namespace
}  // namespace brood::schedule
