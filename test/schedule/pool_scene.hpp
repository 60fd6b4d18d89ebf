// A pool of the scene: its segment in ordinary memory, and what its actors do with it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "pool/protocol/admission.hpp"
#include "pool/protocol/idle.hpp"
#include "pool/protocol/ring.hpp"
#include "pool/protocol/settle.hpp"
#include "pool/protocol/view.hpp"
#include "schedule/explorer.hpp"

namespace brood::schedule {

inline constexpr std::size_t kTasks = 8;
inline constexpr std::uint16_t kSlots = 2;  // of workers
inline constexpr int kAnswer = 42;

// A pool of kSlots workers that run `tasks` tasks.
class PoolScene {
 public:
  // `ring_log`: the main ring has 2^ring_log entries.
  explicit PoolScene(std::uint32_t ring_log = 1);

  [[nodiscard]] const pool::PoolView& view() const { return view_; }
  static shm::OwnerId worker(int number) {
    return {static_cast<std::uint16_t>(shm::kFirstWorkerSlot + number), 1};
  }
  sys::RobustWord& life(int number) { return view_.owners().life(worker(number).slot); }

  // As PoolCaller does it.
  void submit(std::uint32_t index, std::uint32_t retries = 0);
  // Waits for the task; true: it has a value, which is right; false: its worker died, or its record
  // was overwritten.
  bool get(Scene& scene, std::uint32_t index);

  enum class Idle { asleep, looking };
  // Workers: take tasks until they are told to leave.
  void work(Scene& scene, int number, Idle how);
  // One that is stopped as it sleeps or looks for work, and never goes on.
  void be_stopped(int number, Idle how);
  // One that stops at its task, as in the midst of a chunk, until it is told to leave; and the
  // supervisor that gives the task to another.
  void stop_at_a_task(int number);
  void hand_on(int number);
  // The supervisor: settles the tasks of workers that die; until all is done, if it is to drain.
  void supervise(Scene& scene);

  // From now on a task ends only when so many are running at once.
  void let_meet(int tasks) { meeting_ = tasks; }
  // From now on there is one processor, and workers have had short tasks before they come here.
  void let_be_brisk();
  // As PoolCaller and Supervisor do it.
  void drain();
  void send_away(int number);
  // The same for want of work; returns when somebody else is wanted.
  void let_leave(int number);
  // As a worker might that has lost its way.
  void scribble_idle_bits();
  // From now on somebody is in look_out(); until then nobody asks for that, except where work is
  // left to those who come.
  void let_look_out() { looked_out_for_ = true; }
  // The supervisor, as it looks whether the workers come that are to.
  void look_out();

  [[nodiscard]] int runs(std::uint32_t index) const { return runs_[index]; }

 private:
  void run(Scene& scene, int number, shm::RingEntry task);

  pool::PoolView view_;
  pool::RingWriter ring_;
  pool::IdleWorkers idle_;
  std::optional<pool::WaitingTasks> waiting_;  // the caller's; always, once constructed
  shm::Arena outbox_;
  std::array<Data<int>, kTasks> arguments_;
  std::array<Data<int>, kTasks> replies_;
  std::array<int, kTasks> runs_{};
  std::array<std::uint32_t, kTasks> generations_{};
  int meeting_ = 0;
  int processors_ = 2;
  bool brisk_ = false;
  bool looked_out_for_ = false;
  sys::Atomic<int> present_{0};
};

}  // namespace brood::schedule
