// A program that uses brood is killed after each instruction of what it does with a pool or a
// process: nothing of it is left.
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <ostream>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "brood/brood.hpp"
#include "pool/caller/kept_file.hpp"
#include "support/every_instruction.hpp"
#include "support/host.hpp"
#include "support/named_memory.hpp"
#include "support/pools.hpp"
#include "support/processes.hpp"
#include "support/stepper.hpp"

namespace brood::test {
namespace {

int twice(int n) { return 2 * n; }
std::string repeated(std::string text) { return text + text; }
void wait_for_ever() {
  for (;;) pause();
}

// What a host has before the operation, and what the operation leaves to it.
struct Things {
  std::optional<Pool> pool;
  std::vector<Future<int>> futures;
  Future<std::string> text;
  std::optional<Process> process;
  std::optional<SharedMemory> memory;
  std::optional<Connection> line;
};

struct Case {
  const char* name;
  std::function<void(Things&)> prepare;
  std::function<void(Things&)> run;
};

void PrintTo(const Case& what, std::ostream* out) { *out << what.name; }

// All code that the operations call has run once: what it is the first to call is looked up.
void make_pool(Things& things) {
  PoolOptions options;
  options.workers = 1;
  things.pool.emplace(options);
  HOST_CHECK(things.pool->apply(twice, 1) == 2);
  HOST_CHECK(things.pool->apply(repeated, std::string(300, 'r')).size() == 600);
}
void nothing(Things& /*things*/) {}

int die(int n) {
  if (n > 0) raise(SIGKILL);
  return n;
}
// Where hosts keep what died. What lies there is whole, whenever the host was killed.
std::filesystem::path kept_directory() {
  static const int program = getpid();
  return std::filesystem::temp_directory_path() / ("brood-step-" + std::to_string(program));
}
void check_what_was_kept() {
  if (!std::filesystem::exists(kept_directory())) return;
  for (const auto& file : std::filesystem::directory_iterator(kept_directory())) {
    try {
      static_cast<void>(pool::KeptFile::read(file.path()));
    } catch (const Error& e) {
      ADD_FAILURE() << e.what();
    }
  }
  std::filesystem::remove_all(kept_directory());
}
void keep_a_task(Things& things) {
  try {
    things.futures.back().get();
  } catch (const WorkerDied& e) {
    HOST_CHECK(!e.kept.empty());
  }
  things.futures.pop_back();
}
void make_pool_that_keeps(Things& things) {
  PoolOptions options;
  options.workers = 1;
  options.keep_failed = kept_directory();
  things.pool.emplace(options);
  for (int i = 0; i < 2; ++i) {
    things.futures.push_back(things.pool->submit(die, 1));
    things.futures.back().wait();
    if (i == 0) keep_a_task(things);
  }
}

void submit(Things& things) { things.futures.push_back(things.pool->submit(twice, 3)); }
void submit_block(Things& things) {
  things.text = things.pool->submit(repeated, std::string(300, 'r'));
}
void abandon(Things& things) {
  things.futures.clear();
  submit(things);
}
// As above: code is looked up at its first call.
void start_a_first_one() {
  Process first([] {});
  first.start();
  first.join();
}
void start_process(Things& things) {
  things.process->start();
  things.process->join();
}

// A first one, for all code that is called.
void make_memory(Things& /*things*/) {
  SharedMemory::create("", 5000).unlink();
  SharedMemory::create(unique_name(), 5000).unlink();
}

// Says when it has one; ends with the other end.
void take_descriptors(Connection end) {
  try {
    for (;;) {
      HOST_CHECK(static_cast<bool>(end.recv<Fd>()));
      end.send(1);
    }
  } catch (const Closed&) {
  }
}
void give_descriptors(Connection end) {
  try {
    for (;;) {
      static_cast<void>(end.recv<int>());
      end.send(Fd(dup(STDERR_FILENO)));
    }
  } catch (const Closed&) {
  }
}
void send_descriptor(Things& things) {
  things.line->send(Fd(dup(STDERR_FILENO)));
  HOST_CHECK(things.line->recv<int>() == 1);
}
void receive_descriptor(Things& things) {
  things.line->send(1);
  HOST_CHECK(static_cast<bool>(things.line->recv<Fd>()));
}
void make_line(Things& things, void (*other)(Connection), void (*first)(Things&)) {
  auto [ours, theirs] = Pipe();
  things.line = std::move(ours);
  things.process.emplace(ForkedTag{}, other, std::move(theirs));
  things.process->start();
  first(things);
}

const Case kCases[] = {
    {"host: submit", make_pool, submit},
    {"host: submit, arguments in a block", make_pool, submit_block},
    {"host: submit, the first beyond the records there are",
     [](Things& things) {
       make_pool(things);
       for (int i = 0; i < 1024; ++i) submit(things);
     },
     submit},
    {"host: submit and get", make_pool,
     [](Things& things) { HOST_CHECK(things.pool->apply(twice, 3) == 6); }},
    {"host: submit and get, all in blocks", make_pool,
     [](Things& things) {
       HOST_CHECK(things.pool->apply(repeated, std::string(300, 'r')).size() == 600);
     }},
    {"host: get what is there and recycle it",
     [](Things& things) {
       make_pool(things);
       submit_block(things);
       things.text.wait();
     },
     [](Things& things) { HOST_CHECK(things.text.get().size() == 600); }},
    {"host: abandon a future, submit, collect it",
     [](Things& things) {
       make_pool(things);
       (void)things.pool->submit(wait_for_ever);
       for (int i = 0; i < 3; ++i) submit(things);
     },
     abandon},
    {"host: map", make_pool,
     [](Things& things) {
       HOST_CHECK(things.pool->map(twice, std::vector<int>{1, 2, 3}).size() == 3);
     }},
    {"host: start a pool, found the family", nothing,
     [](Things& things) { things.pool.emplace(1); }},
    {"host: start a second pool", make_pool,
     [](Things& things) {
       Pool second(1);
       (void)things;
     }},
    {"host: submit with limits, and cancel it", make_pool,
     [](Things& things) {
       const auto deadline = std::chrono::steady_clock::now() + 1h;
       auto future = things.pool->submit({.timeout = 1h, .deadline = deadline}, wait_for_ever);
       HOST_CHECK(future.cancel());
     }},
    {"host: keep a task that died", make_pool_that_keeps, keep_a_task},
    {"host: send a descriptor",
     [](Things& things) { make_line(things, take_descriptors, send_descriptor); }, send_descriptor},
    {"host: receive a descriptor",
     [](Things& things) { make_line(things, give_descriptors, receive_descriptor); },
     receive_descriptor},
    {"host: end a pool", make_pool, [](Things& things) { things.pool.reset(); }},
    {"host: start and join a process",
     [](Things& things) {
       make_pool(things);
       things.process.emplace(ForkedTag{}, [] {});
     },
     start_process},
    {"host: start and join a process, found the family",
     [](Things& things) { things.process.emplace(ForkedTag{}, [] {}); }, start_process},
    {"host: start a daemon",
     [](Things& things) {
       make_pool(things);
       ProcessOptions options;
       options.daemon = true;
       things.process.emplace(ForkedTag{}, options, [] { wait_for_ever(); });
     },
     [](Things& things) { things.process->start(); }},
    {"host: start a daemon with a keeper",
     [](Things& things) {
       make_pool(things);
       ProcessOptions options;
       options.daemon = true;
       options.restart.max = 3;
       things.process.emplace(ForkedTag{}, options, [] { wait_for_ever(); });
     },
     [](Things& things) { things.process->start(); }},
    {"host: end a daemon with a keeper",
     [](Things& things) {
       ProcessOptions options;
       options.daemon = true;
       options.restart.max = 3;
       things.process.emplace(ForkedTag{}, options, [] { wait_for_ever(); });
       things.process->start();
     },
     [](Things& things) { things.process.reset(); }},
    {"host: create shared memory, found the family", nothing,
     [](Things& things) { things.memory = SharedMemory::create("", 5000); }},
    {"host: create and unlink shared memory of a chosen name", make_memory,
     [](Things& things) {
       things.memory = SharedMemory::create(unique_name(), 5000);
       things.memory->unlink();
     }},
    {"host: create shared memory of an automatic name", make_memory,
     [](Things& things) { things.memory = SharedMemory::create("", 5000); }},
    {"host: unlink shared memory",
     [](Things& things) { things.memory = SharedMemory::create("", 5000); },
     [](Things& things) { things.memory->unlink(); }},
    {"host: init", nothing, [](Things& /*things*/) { init(); }},
    {"host: start and join a process by forkserver",
     [](Things& things) {
       init();
       start_a_first_one();
       things.process.emplace([] {});
     },
     start_process},
    {"host: start a daemon by forkserver",
     [](Things& things) {
       init();
       start_a_first_one();
       things.process.emplace(ProcessOptions{.daemon = true}, wait_for_ever);
     },
     [](Things& things) { things.process->start(); }},
    {"host: start a daemon with a keeper by forkserver",
     [](Things& things) {
       init();
       start_a_first_one();
       things.process.emplace(ProcessOptions{.daemon = true, .hang_timeout = 1h}, wait_for_ever);
     },
     [](Things& things) { things.process->start(); }},
    {"host: kill a process and what came from it",
     [](Things& things) {
       init();
       things.process.emplace(ProcessOptions{.daemon = true}, wait_for_ever);
       things.process->start();
     },
     [](Things& things) {
       things.process->kill();
       things.process->join();
     }},
    {"host: start a pool by forkserver",
     [](Things& /*things*/) {
       init();
       start_a_first_one();
     },
     [](Things& things) { things.pool.emplace(1); }},
};

class HostStepTest : public testing::TestWithParam<Case> {
 protected:
  EveryInstruction::Run kill_after(long n) {
    const std::set<std::string> names = names_in_shm();
    static_cast<void>(kept_directory());
    const Gate gate;
    Host host([&] {
      auto things = std::make_unique<Things>();
      GetParam().prepare(*things);
      say("ready");
      gate.pass();
      mark();
      GetParam().run(*things);
      mark();
      wait_for_ever();
      return 0;
    });
    EveryInstruction::Run run;
    EXPECT_EQ(host.read_line(), "ready");
    if (HasFailure()) return run;
    const OnOneProcessor here;
    Stepper victim(host.pid());
    gate.open();
    EXPECT_TRUE(victim.run_to_mark());
    here.bring(host.pid());
    run = path_.go(victim, n, [] { return false; });
    victim.kill();
    EXPECT_EQ(host.end(), "signal 9");
    EXPECT_TRUE(host.is_gone_within(kPromisedSecond)) << "left: " << describe(host.family());
    EXPECT_EQ(names_in_shm(), names);
    check_what_was_kept();
    return run;
  }

  Path path_;
};

TEST_P(HostStepTest, KilledAfterEveryInstruction) {
  EveryInstruction every(GetParam().name, 1000ms);
  every.sweep([&](long n) { return kill_after(n); });
}

INSTANTIATE_TEST_SUITE_P(, HostStepTest, testing::ValuesIn(kCases), name_of_case<Case>);

}  // namespace
}  // namespace brood::test
