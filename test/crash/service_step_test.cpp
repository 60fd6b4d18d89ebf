// A supervisor, a warden or a keeper is killed after each instruction of what it does about the
// death of another: nobody hangs, the host is told by a typed error, and nothing is left.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <optional>
#include <ostream>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "brood/brood.hpp"
#include "support/every_instruction.hpp"
#include "support/host.hpp"
#include "support/named_memory.hpp"
#include "support/pools.hpp"
#include "support/processes.hpp"
#include "support/stepper.hpp"

namespace brood::test {
namespace {

// Shared by the test, the host and all that comes from it.
struct Board {
  std::atomic<int> pid{0};       // of who is to die
  std::atomic<int> attempts{0};  // of the task
  std::atomic<bool> done{false};
};

class SharedBoard {
 public:
  SharedBoard()
      : board_(new(mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                        -1, 0)) Board) {}
  ~SharedBoard() { munmap(board_, sizeof(Board)); }
  SharedBoard(const SharedBoard&) = delete;
  SharedBoard& operator=(const SharedBoard&) = delete;
  Board* operator->() const { return board_; }
  [[nodiscard]] Board* get() const { return board_; }

 private:
  Board* board_;
};
Board* board = nullptr;  // the same, for tasks

int twice(int n) { return 2 * n; }

// Never returns the first time.
int wait_to_be_killed() {
  if (board->attempts.fetch_add(1) > 0) return 7;
  board->pid.store(getpid());
  for (;;) pause();
}

// Stepping stands in nobody's way for long; what the host tells is one of these.
using Outcomes = std::set<std::string>;

class ServiceStepTest : public testing::Test {
 protected:
  void SetUp() override { board = shared_.get(); }

  // What a case is made of. The host gets a gate at which it waits until the service was killed.
  std::function<int(const Gate&)> program_;
  // Whom to step through.
  std::function<int(const Host&)> service_;
  // What it has to see to.
  std::function<void(Host&)> trigger_;
  // Whether it has done so, when it sleeps.
  std::function<bool(const Host&)> is_over_;
  // The lines that the host says then; none: the host itself was killed.
  std::vector<Outcomes> expected_;
  // What is to be looked at afterwards.
  std::function<void()> epilogue_ = [] {};

  void sweep(const char* name);
  EveryInstruction::Run kill_after(long n);

  SharedBoard shared_;
  std::unique_ptr<Gate> gate_;
  Path path_;
};

// What a child says that is born while its warden dies.
constexpr const char* kWardenDied =
    "Error: brood: can't start 'Process-1': the warden of its family was killed";

// A process sleeps when it was seen to sleep several times.
bool is_at_rest(int pid) {
  for (int i = 0; i < 3; ++i) {
    const auto process = look_at(pid);
    if (!process || process->state != 'S') return false;
    usleep(200);
  }
  return true;
}

EveryInstruction::Run ServiceStepTest::kill_after(long n) {
  EveryInstruction::Run run;
  new (board) Board;
  gate_ = std::make_unique<Gate>();
  const Gate& gate = *gate_;
  Host host([&] { return program_(gate); });
  EXPECT_EQ(host.read_line(), "ready");
  if (HasFailure()) return run;
  const auto all_rest = [&] {
    for (const ProcessInfo& process : host.family()) {
      if (!is_at_rest(process.pid)) return false;
    }
    return is_at_rest(host.pid());
  };
  EXPECT_TRUE(wait_until(all_rest)) << "no rest: " << describe(host.family());
  const OnOneProcessor here;
  {
    Stepper service(service_(host));
    here.bring(service.pid());
    while (service.step() == Stepper::Seen::step) {
    }
    trigger_(host);
    run = path_.go(service, n, [&] { return is_over_(host); });
  }
  for (const Outcomes& outcomes : expected_) {
    const std::string line = host.read_line();
    EXPECT_TRUE(outcomes.contains(line)) << "the host said '" << line << "'";
    gate.open();
  }
  EXPECT_EQ(host.end(), expected_.empty() ? "signal 9" : "exit 0");
  EXPECT_TRUE(host.is_gone_within(kPromisedSecond)) << "left: " << describe(host.family());
  epilogue_();
  return run;
}

void ServiceStepTest::sweep(const char* name) {
  EveryInstruction every(name, 1500ms);
  every.sweep([&](long n) { return kill_after(n); });
}

int warden_of(const Host& host) { return named(host.family(), "brood:warden").front().pid; }
int supervisor_of(const Host& /*host*/) { return look_at(board->pid.load())->parent; }

bool is_gone(int pid) { return !runs(pid); }

// ---- the supervisor

// A pool whose first task never ends by itself, until the second call of its function.
PoolOptions two_workers(unsigned retries) {
  PoolOptions options;
  options.workers = 2;
  options.retries = retries;
  return options;
}

int wait_for_the_dying(const Gate& gate, unsigned retries) {
  Pool pool(two_workers(retries));
  for (int i = 0; i < 20; ++i) pool.apply(twice, i);
  auto future = pool.submit(wait_to_be_killed);
  HOST_CHECK(wait_until([] { return board->pid.load() != 0; }));
  say("ready");
  say(outcome_of([&] { HOST_CHECK(future.get() == 7); }));
  gate.pass();
  say(outcome_of([&] { pool.apply(twice, 1); }));
  gate.pass();
  return 0;
}

std::size_t workers_of(int supervisor) {
  std::size_t count = 0;
  for (const ProcessInfo& process : children_of(supervisor)) count += process.runs() ? 1U : 0U;
  return count;
}

// The supervisor has replaced the dead worker.
class SupervisorStepTest : public ServiceStepTest {
 protected:
  void step_while_recovering(const char* name, unsigned retries, bool kill_idle) {
    program_ = [=](const Gate& gate) { return wait_for_the_dying(gate, retries); };
    service_ = [this](const Host& host) { return supervisor_ = supervisor_of(host); };
    trigger_ = [=, this](Host& /*host*/) {
      victim_ = board->pid.load();
      if (kill_idle) {
        for (const ProcessInfo& worker : children_of(supervisor_)) {
          if (worker.pid != victim_ && worker.name.find('/') != std::string::npos) {
            victim_ = worker.pid;
            break;
          }
        }
      }
      kill(victim_, SIGKILL);
    };
    is_over_ = [this](const Host& /*host*/) {
      if (look_at(victim_) || workers_of(supervisor_) != 3) return false;
      for (const ProcessInfo& worker : children_of(supervisor_)) {
        if (!is_at_rest(worker.pid)) return false;
      }
      return true;
    };
    // The task of the dead worker has ended, or not; the other's can't have.
    const std::string told = retries > 0 ? "value" : "WorkerDied";
    expected_ = {kill_idle ? Outcomes{"BrokenPool"} : Outcomes{told, "BrokenPool"}, {"BrokenPool"}};
    sweep(name);
  }

  int supervisor_ = 0;

 private:
  int victim_ = 0;
};

TEST_F(SupervisorStepTest, WhileItSettlesTheTaskOfADeadWorker) {
  step_while_recovering("supervisor: a worker died in its task", 0, false);
}
TEST_F(SupervisorStepTest, WhileItStartsTheTaskOfADeadWorkerAgain) {
  step_while_recovering("supervisor: a worker died in a task with retries", 1, false);
}
TEST_F(SupervisorStepTest, WhileItReplacesAnIdleWorker) {
  step_while_recovering("supervisor: an idle worker died", 0, true);
}

// A task that does not stop is cancelled: its worker is killed for it, and replaced.
int cancel_when_told(const Gate& gate) {
  PoolOptions options = two_workers(0);
  options.grace = 0s;
  Pool pool(options);
  auto future = pool.submit(wait_to_be_killed);
  HOST_CHECK(wait_until([] { return board->pid.load() != 0; }));
  say("ready");
  gate.pass();
  HOST_CHECK(future.cancel());
  say(outcome_of([&] { future.get(); }));
  gate.pass();
  say(outcome_of([&] { pool.apply(twice, 1); }));
  gate.pass();
  return 0;
}

TEST_F(SupervisorStepTest, WhileItStopsATask) {
  program_ = cancel_when_told;
  service_ = [this](const Host& host) { return supervisor_ = supervisor_of(host); };
  trigger_ = [this](Host& /*host*/) { gate_->open(); };
  is_over_ = [this](const Host& /*host*/) {
    return is_gone(board->pid.load()) && workers_of(supervisor_) == 3 &&
           std::ranges::all_of(children_of(supervisor_),
                               [](const ProcessInfo& p) { return is_at_rest(p.pid); });
  };
  expected_ = {{"Cancelled"}, {"BrokenPool"}};
  sweep("supervisor: a task is cancelled");
}

// ---- recycling, and pools with a template

// A worker that was told to leave has gone, and another has its place.
int recycle_when_told(const Gate& gate) {
  PoolOptions options;
  options.workers = 1;
  options.max_tasks_per_worker = 2;
  Pool pool(options);
  pool.apply([] { board->pid.store(getpid()); });
  say("ready");
  gate.pass();
  say(outcome_of([&] { HOST_CHECK(pool.apply(twice, 2) == 4); }));
  gate.pass();
  say(outcome_of([&] { pool.apply(twice, 1); }));
  gate.pass();
  return 0;
}

TEST_F(ServiceStepTest, TheSupervisorWhileItReplacesAWorkerThatIsWorn) {
  program_ = recycle_when_told;
  service_ = supervisor_of;
  trigger_ = [this](Host& /*host*/) { gate_->open(); };
  is_over_ = [](const Host& host) {
    if (runs(board->pid.load())) return false;
    const auto processes = host.family();
    return std::ranges::all_of(processes, [](const ProcessInfo& p) { return is_at_rest(p.pid); });
  };
  expected_ = {{"value", "BrokenPool"}, {"BrokenPool"}};
  sweep("supervisor: a worker is worn");
}

int use_a_template(const Gate& gate) {
  PoolOptions options;
  options.workers = 1;
  options.preload = {twice, 1};
  options.initializer = {twice, 2};
  Pool pool(options);
  auto future = pool.submit(wait_to_be_killed);
  HOST_CHECK(wait_until([] { return board->pid.load() != 0; }));
  say("ready");
  say(outcome_of([&] { future.get(); }));
  gate.pass();
  say(outcome_of([&] { HOST_CHECK(pool.apply(twice, 1) == 2); }));
  gate.pass();
  return 0;
}

class TemplateStepTest : public ServiceStepTest {
 protected:
  TemplateStepTest() {
    program_ = use_a_template;
    trigger_ = [this](Host& /*host*/) {
      supervisor_ = supervisor_of_victim();
      victim_ = board->pid.load();
      kill(victim_, SIGKILL);
    };
    // Template, worker, spare.
    is_over_ = [this](const Host& /*host*/) {
      if (look_at(victim_) || workers_of(supervisor_) != 3) return false;
      return std::ranges::all_of(children_of(supervisor_),
                                 [](const ProcessInfo& p) { return is_at_rest(p.pid); });
    };
  }
  static int supervisor_of_victim() { return look_at(board->pid.load())->parent; }

  int supervisor_ = 0;
  int victim_ = 0;
};

TEST_F(TemplateStepTest, TheSupervisorWhileItHasAWorkerMade) {
  service_ = supervisor_of;
  expected_ = {{"WorkerDied", "BrokenPool"}, {"BrokenPool"}};
  sweep("supervisor: a worker from a template");
}

// It loads again, and the pool goes on.
TEST_F(TemplateStepTest, TheTemplateWhileItMakesAWorker) {
  service_ = [](const Host& /*host*/) {
    for (const ProcessInfo& process : children_of(supervisor_of_victim())) {
      if (process.name.find('/') == std::string::npos) return process.pid;
    }
    return 0;
  };
  expected_ = {{"WorkerDied"}, {"value"}};
  sweep("template: a worker is wanted");
}

// ---- the keeper

// Whatever it was at, its process is gone, and the host knows.
class KeeperStepTest : public ServiceStepTest {
 protected:
  KeeperStepTest() {
    service_ = [](const Host& /*host*/) { return look_at(board->pid.load())->parent; };
  }

  // `act` is what the host does once it is told to.
  void step_through(const char* name, const ProcessOptions& options, void (*act)(Process&),
                    const Outcomes& codes) {
    program_ = [=](const Gate& gate) {
      Process p(forked, options, [] {
        board->attempts.fetch_add(1);
        board->pid.store(getpid());
        for (;;) pause();
      });
      p.start();
      HOST_CHECK(wait_until([] { return board->pid.load() != 0; }));
      say("ready");
      if (act != nullptr) {
        gate.pass();
        act(p);
      }
      p.join();
      // A dead keeper's status may be its tracer's still.
      say(std::to_string(p.exit_code().value_or(-SIGKILL)));
      gate.pass();
      say(outcome_of([] {
        Process next(forked, [] {});
        next.start();
        next.join();
        HOST_CHECK(next.exit_code() == 0);
      }));
      gate.pass();
      return 0;
    };
    expected_ = {codes, {"value"}};
    sweep(name);
  }
};

TEST_F(KeeperStepTest, WhileItStartsItsProcessAgain) {
  trigger_ = [](Host& /*host*/) { kill(board->pid.load(), SIGKILL); };
  is_over_ = [](const Host& /*host*/) {
    return board->attempts.load() == 2 && is_at_rest(board->pid.load());
  };
  step_through("keeper: its process died",
               {.restart = {.max = 5, .backoff = 0ns}, .hang_timeout = 1h}, nullptr, {"-9"});
}

TEST_F(KeeperStepTest, WhileItEndsAsItsProcessDid) {
  trigger_ = [](Host& /*host*/) { kill(board->pid.load(), SIGTERM); };
  is_over_ = [](const Host& /*host*/) { return false; };  // it ends itself
  step_through("keeper: its process died for good", {.restart = {.max = 5}}, nullptr,
               {"-15", "-9"});
}

TEST_F(KeeperStepTest, WhileItKillsItsProcess) {
  trigger_ = [this](Host& /*host*/) { gate_->open(); };
  is_over_ = [](const Host& /*host*/) { return false; };
  step_through("keeper: it is told to kill", {.restart = {.max = 5}}, [](Process& p) { p.kill(); },
               {"-9"});
}

// ---- the warden

class WardenStepTest : public ServiceStepTest {
 protected:
  WardenStepTest() { service_ = warden_of; }
};

TEST_F(WardenStepTest, WhileItBuriesTheHost) {
  program_ = [](const Gate& gate) {
    Pool pool(two_workers(0));
    pool.apply(twice, 1);
    say("ready");
    gate.pass();
    return 0;
  };
  trigger_ = [](Host& host) { host.send(SIGKILL); };
  is_over_ = [](const Host& /*host*/) { return false; };  // it ends itself
  sweep("warden: the host died");
}

TEST_F(WardenStepTest, WhileItBuriesASupervisor) {
  program_ = [](const Gate& gate) {
    Pool pool(two_workers(0));
    auto future = pool.submit(wait_to_be_killed);
    HOST_CHECK(wait_until([] { return board->pid.load() != 0; }));
    say("ready");
    say(outcome_of([&] { future.get(); }));
    gate.pass();
    say(outcome_of([] { Pool second(1); }));
    gate.pass();
    return 0;
  };
  trigger_ = [](Host& host) { kill(supervisor_of(host), SIGKILL); };
  is_over_ = [](const Host& /*host*/) { return is_gone(board->pid.load()); };
  expected_ = {{"BrokenPool", "FamilyBroken"}, {"FamilyBroken"}};
  sweep("warden: a supervisor died");
}

TEST_F(WardenStepTest, WhileItBuriesAProcess) {
  program_ = [](const Gate& gate) {
    Process process(forked, [] {
      for (;;) pause();
    });
    process.start();
    Pool pool(two_workers(0));
    pool.apply(twice, 1);
    board->pid.store(process.pid());
    say("ready");
    process.join();
    HOST_CHECK(process.exit_code() == -9);
    say("joined");
    gate.pass();
    // It may still hold that the warden lives, but not for long.
    say(outcome_of([&] {
      while (true) pool.apply(twice, 1);
    }));
    gate.pass();
    say(outcome_of([] {
      Process next(forked, [] {});
      next.start();
    }));
    gate.pass();
    return 0;
  };
  trigger_ = [](Host& /*host*/) { kill(board->pid.load(), SIGKILL); };
  is_over_ = [](const Host& /*host*/) { return is_gone(board->pid.load()); };
  expected_ = {{"joined"}, {"FamilyBroken"}, {"FamilyBroken"}};
  sweep("warden: a process died");
}

TEST_F(WardenStepTest, WhileItBearsAndReapsAChild) {
  program_ = [](const Gate& gate) {
    init();
    say("ready");
    gate.pass();
    say(outcome_of([] {
      Process child([] { return ExitCode{5}; });
      child.start();
      HOST_CHECK(child.join_for(kHangGuard));
      // Who would know its status, if not the warden?
      HOST_CHECK(child.exit_code().value_or(5) == 5);
    }));
    board->done.store(true);
    gate.pass();
    say(outcome_of([] {
      Process next([] {});
      next.start();
    }));
    gate.pass();
    return 0;
  };
  trigger_ = [this](Host& /*host*/) { gate_->open(); };
  is_over_ = [](const Host& /*host*/) { return board->done.load(); };
  expected_ = {{"value", "FamilyBroken", kWardenDied}, {"FamilyBroken"}};
  sweep("warden: it bears and reaps a child");
}

TEST_F(WardenStepTest, WhileMembersAnnounceThemselves) {
  program_ = [](const Gate& gate) {
    Pool pool(two_workers(0));
    pool.apply(twice, 1);
    say("ready");
    gate.pass();
    say(outcome_of([] {
      Process next(forked, [] {});
      next.start();
      next.join();
      HOST_CHECK(next.exit_code() == 0);
    }));
    say(outcome_of([] {
      Pool second(1);
      second.apply(twice, 1);
    }));
    board->done.store(true);
    gate.pass();
    gate.pass();
    say(outcome_of([] { Pool third(1); }));
    gate.pass();
    return 0;
  };
  trigger_ = [this](Host& /*host*/) { gate_->open(); };
  is_over_ = [](const Host& /*host*/) { return board->done.load(); };
  const Outcomes any = {"value", "FamilyBroken", "BrokenPool"};
  expected_ = {any, any, {"FamilyBroken"}};
  sweep("warden: members announce themselves");
}

TEST_F(WardenStepTest, WhileItGivesAName) {
  const std::set<std::string> names = names_in_shm();
  program_ = [](const Gate& gate) {
    SharedMemory::create("", 5000).unlink();
    say("ready");
    gate.pass();
    for (const std::string& name : {unique_name(), std::string()}) {
      const std::set<std::string> before = names_in_shm();
      say(outcome_of([&] { SharedMemory::create(name, 5000).unlink(); }));
      HOST_CHECK(names_in_shm() == before);
    }
    board->done.store(true);
    gate.pass();
    gate.pass();
    say(outcome_of([] { SharedMemory::create("", 5000); }));
    gate.pass();
    return 0;
  };
  trigger_ = [this](Host& /*host*/) { gate_->open(); };
  is_over_ = [](const Host& /*host*/) { return board->done.load(); };
  const Outcomes any = {"value", "FamilyBroken"};
  expected_ = {any, any, {"FamilyBroken"}};
  epilogue_ = [=] { EXPECT_EQ(names_in_shm(), names); };
  sweep("warden: it gives a name");
}

TEST_F(WardenStepTest, WhileItRemovesNames) {
  const std::string chosen = unique_name();
  const std::string strangers = unique_name();
  const std::set<std::string> names = names_in_shm();
  program_ = [=](const Gate& gate) {
    static const SharedMemory kept[] = {
        SharedMemory::create("", 5000), SharedMemory::create(chosen, 5000),
        SharedMemory::create("", 5000), SharedMemory::create(strangers, 5000)};
    std::filesystem::remove(shm_path(strangers));
    std::ofstream(shm_path(strangers)) << "somebody else's";
    say("ready");
    gate.pass();
    return 0;
  };
  trigger_ = [](Host& host) { host.send(SIGKILL); };
  is_over_ = [](const Host& /*host*/) { return false; };  // it ends itself
  epilogue_ = [=] {
    EXPECT_TRUE(std::filesystem::remove(shm_path(strangers)));
    std::filesystem::remove(shm_path(chosen));  // it persists if the warden is gone too
    run_host([] {
      SharedMemory::create("", 10).unlink();
      return 0;
    });
    EXPECT_EQ(names_in_shm(), names);
  };
  sweep("warden: it removes names");
}

}  // namespace
}  // namespace brood::test
