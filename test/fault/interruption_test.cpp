// Calls that signals interrupt, again and again, in every process: nothing changes.
#include <gtest/gtest.h>
#include <sys/time.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <string>

#include "fault/scenarios.hpp"
#include "support/host.hpp"
#include "support/processes.hpp"

namespace brood::test {
namespace {

constexpr std::array<Scenario, 11> kScenarios = {{{"Work", work},
                                                  {"Map", map_strings},
                                                  {"LargeValues", send_much},
                                                  {"Deaths", die_and_go_on},
                                                  {"Terminate", terminate_at_work},
                                                  {"Shutdown", shut_down},
                                                  {"Destructor", drop_everything},
                                                  {"Process", use_a_process},
                                                  {"EndedProcesses", end_processes},
                                                  {"Restart", restart_a_forked_process},
                                                  {"EndOfKept", end_a_kept_process}}};

// A timer of its own, and a descriptor that it keeps: not among the others.
constexpr Scenario kSignals = {"Signals", serve_signals, ask_for_signals};

void run_interrupted(const Scenario& scenario, int of, int out_of) {
  if (scenario.prepare != nullptr) scenario.prepare();
  const std::string before = take_stock();
  const FaultyKernel kernel;
  FaultyKernel::interrupt(of, out_of);
  const std::string outcome = outcome_of_scenario(scenario.run);
  if (outcome != "success") say(std::string(scenario.name) + ": " + outcome);
  std::string figures;
  for (const Role role :
       {Role::host, Role::warden, Role::supervisor, Role::worker, Role::process}) {
    figures +=
        " " + std::string(name_of(role)) + " " + std::to_string(FaultyKernel::interrupted(role));
  }
  std::fprintf(stderr, "FIGURE %s, %d of %d interrupted:%s\n", scenario.name, of, out_of,
               figures.c_str());
  FaultyKernel::heal();
  const std::string left = left_since(before);
  if (!left.empty()) say(std::string(scenario.name) + " left" + left);
}

int run_all(int of, int out_of) {
  for (const Scenario& scenario : kScenarios) run_interrupted(scenario, of, out_of);
  run_interrupted(kSignals, of, out_of);
  return 0;
}

TEST(InterruptionTest, EverySecondCallInEveryProcess) {
  prepare_faults();
  const HostRun run = run_host([] { return run_all(1, 2); });
  EXPECT_EQ(run.end, "exit 0");
  EXPECT_EQ(run.out, "");
}

TEST(InterruptionTest, NineOfTenCallsInEveryProcess) {
  prepare_faults();
  const HostRun run = run_host([] { return run_all(9, 10); });
  EXPECT_EQ(run.end, "exit 0");
  EXPECT_EQ(run.out, "");
}

// ---- real signals

struct SharedSignals {
  std::array<std::atomic<int>, 2> workers;  // that have a handler of their own
  std::atomic<bool> over;
  std::atomic<int> handled;
};
SharedSignals* the_signals = nullptr;

void count_signal(int /*signal*/) { the_signals->handled.fetch_add(1); }

void handle(int signal) {
  struct sigaction action{};
  action.sa_handler = count_signal;  // without SA_RESTART
  sigaction(signal, &action, nullptr);
}

// Stays until both workers have done it, so that each of them does.
void take_signals(int index) {
  handle(SIGUSR1);
  the_signals->workers[static_cast<std::size_t>(index)].store(getpid());
  wait_until([&] { return the_signals->workers[1 - static_cast<std::size_t>(index)] != 0; });
}

void use_a_pool_for(std::chrono::milliseconds time) {
  Pool pool(forked_pool(2));
  Future<void> first = pool.submit(take_signals, 0);
  Future<void> second = pool.submit(take_signals, 1);
  first.get();
  second.get();
  for (const Deadline deadline(time); !deadline.passed();) {
    REQUIRE_RIGHT(pool.apply(twice, 21) == 42);
    const std::string text(300'000, 'x');
    REQUIRE_RIGHT(pool.apply(echo, text) == text);
    const std::vector<int> numbers(200, 1);
    REQUIRE_RIGHT(pool.map(twice, numbers) == std::vector<int>(200, 2));
    std::this_thread::sleep_for(200us);
  }
  pool.close();
  REQUIRE_RIGHT(pool.join_for(kHangGuard / 2));
}

int work_under_a_timer(bool with_pool_work) {
  handle(SIGALRM);
  const itimerval often{{0, 700}, {0, 700}};
  HOST_CHECK(setitimer(ITIMER_REAL, &often, nullptr) == 0);
  const std::string before = take_stock();
  if (with_pool_work) {
    use_a_pool_for(1500ms);
  } else {
    for (const Scenario& scenario : kScenarios) {
      const std::string outcome = outcome_of_scenario(scenario.run);
      if (outcome != "success") say(std::string(scenario.name) + ": " + outcome);
    }
  }
  the_signals->over.store(true);
  const std::string left = left_since(before);
  if (!left.empty()) say("left" + left);
  return 0;
}

void map_signals() {
  the_signals = new (mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0))
      SharedSignals{};
}

// SIGCHLD has a handler in supervisors alone; others ignore it. Workers get what theirs handle.
int storm(const Host& host) {
  int sent = 0;
  for (const ProcessInfo& process : host.family()) {
    if (process.name.starts_with("brood:") && kill(process.pid, SIGCHLD) == 0) ++sent;
  }
  for (const std::atomic<int>& worker : the_signals->workers) {
    const int pid = worker.load();
    if (pid != 0 && !the_signals->over && kill(pid, SIGUSR1) == 0) ++sent;
  }
  return sent;
}

TEST(InterruptionTest, RealSignalsToAllProcessesOfABusyPool) {
  map_signals();
  Host host([] { return work_under_a_timer(true); });
  int sent = 0;
  const Deadline deadline(kHangGuard);
  while (!the_signals->over && !deadline.passed() && runs(host.pid())) {
    sent += storm(host);
    std::this_thread::sleep_for(100us);
  }
  EXPECT_EQ(host.end(), "exit 0");
  EXPECT_TRUE(host.is_gone_within(kPromisedSecond)) << describe(host.family());
  EXPECT_EQ(host.rest_of_output(), "");
  std::printf("FIGURE signals to a busy pool: %d sent, %d handled by host and workers\n", sent,
              the_signals->handled.load());
  EXPECT_GT(sent, 100);
}

TEST(InterruptionTest, ATimerInTheHostDuringEachScenario) {
  map_signals();
  const HostRun run = run_host([] { return work_under_a_timer(false); });
  EXPECT_EQ(run.end, "exit 0");
  EXPECT_EQ(run.out, "");
  std::printf("FIGURE a timer in the host: %d signals handled\n", the_signals->handled.load());
  EXPECT_GT(the_signals->handled.load(), 20);
}

}  // namespace
}  // namespace brood::test
