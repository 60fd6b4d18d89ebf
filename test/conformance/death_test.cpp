// What becomes of tasks whose worker dies (P1), and of exceptions.
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <any>
#include <csignal>
#include <cstdlib>
#include <functional>
#include <future>
#include <memory>
#include <new>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <system_error>
#include <typeinfo>
#include <variant>
#include <vector>

#include "brood/pool.hpp"
#include "support/ledger.hpp"
#include "support/pools.hpp"
#include "support/processes.hpp"

namespace brood::test {
namespace {

class DeathTest : public PoolConformance {};
BROOD_FOR_EACH_START_METHOD(DeathTest);

int twice(int n) { return 2 * n; }
void die_by(int signal) { raise(signal); }
void die_by_kill() { kill(getpid(), SIGKILL); }

void throw_on_purpose() { throw std::runtime_error("on purpose"); }

template <class T>
T die_as(T value) {
  die_by_kill();
  return value;
}
int hang(int n) {
  for (;;) pause();
  return n;
}

// Deep recursion that the compiler can't turn into a loop.
[[gnu::noinline]] int overflow_stack(int n) {
  volatile char frame[4096];
  frame[0] = static_cast<char>(n);
  if (n < 0) return 0;
  return overflow_stack(n + 1) + frame[0];
}

TEST_P(DeathTest, ASignalIsNamed) {
  Pool pool(with(2));
  for (const int signal :
       {SIGKILL, SIGSEGV, SIGABRT, SIGTERM, SIGBUS, SIGFPE, SIGILL, SIGUSR1, SIGXCPU, SIGPIPE}) {
    const Death death = death_of([&] { pool.apply(die_by, signal); });
    EXPECT_EQ(death.signal, signal);
    EXPECT_EQ(death.exit_code, 0);
    EXPECT_GT(death.pid, 0);
    EXPECT_EQ(death.attempts, 1);
    EXPECT_EQ(death.index, 0U);
    EXPECT_EQ(death.task, "brood::test::die_by");
    EXPECT_EQ(pool.apply(twice, 2), 4);
  }
}

TEST_P(DeathTest, AFaultIsNamedWithItsAddress) {
  Pool pool(with(1));
  const Death death = death_of([&] {
    pool.apply([](std::uintptr_t address) { *reinterpret_cast<volatile int*>(address) = 1; },
               std::uintptr_t{0x1234560});
  });
  EXPECT_EQ(death.signal, SIGSEGV);
  EXPECT_EQ(death.fault_address, 0x1234560U);
}

TEST_P(DeathTest, AnExitIsNamedByItsStatus) {
  Pool pool(with(1));
  for (const int status : {0, 3, 255}) {
    const Death death = death_of([&] { pool.apply([](int s) { std::exit(s); }, status); });
    EXPECT_EQ(death.signal, 0);
    EXPECT_EQ(death.exit_code, status);
  }
  for (const int status : {0, 4}) {
    const Death death = death_of([&] { pool.apply([](int s) { _exit(s); }, status); });
    EXPECT_EQ(death.signal, 0);
    EXPECT_EQ(death.exit_code, status);
  }
  EXPECT_EQ(death_of([&] { pool.apply([] { std::quick_exit(5); }); }).exit_code, 5);
}

TEST_P(DeathTest, TerminateAndAbortAreDeathsBySignal) {
  Pool pool(with(1));
  EXPECT_EQ(death_of([&] { pool.apply([] { std::abort(); }); }).signal, SIGABRT);
  EXPECT_EQ(death_of([&] { pool.apply([] { std::terminate(); }); }).signal, SIGABRT);
  const auto throws_out_of_noexcept = []() noexcept { throw_on_purpose(); };
  EXPECT_EQ(death_of([&] { pool.apply(throws_out_of_noexcept); }).signal, SIGABRT);
}

TEST_P(DeathTest, AStackOverflowIsADeathLikeAnother) {
  Pool pool(with(1));
  const Death death = death_of([&] { pool.apply(overflow_stack, 0); });
  EXPECT_EQ(death.signal, SIGSEGV);
  EXPECT_NE(death.fault_address, 0U);
  EXPECT_EQ(pool.apply(twice, 2), 4);
}

TEST_P(DeathTest, AMainThreadThatEndsAloneIsADeath) {
  Pool pool(with(1));
  const auto only_main_thread_ends = [] {
    pthread_t other;
    pthread_create(
        &other, nullptr,
        [](void*) -> void* {
          for (;;) pause();
        },
        nullptr);
    // Not pthread_exit, whose unwinding would meet the library's frames.
    syscall(SYS_exit, 0);
  };
  const Death death = death_of([&] { pool.apply(only_main_thread_ends); });
  EXPECT_GT(death.pid, 0);
  EXPECT_EQ(pool.apply(twice, 2), 4);
  EXPECT_TRUE(wait_until([&] { return !runs(death.pid); })) << "its other thread lives on";
}

TEST_P(DeathTest, PthreadExitInATaskIsADeathToo) {
  Pool pool(with(1));
  const std::string outcome = outcome_of([&] { pool.apply([] { pthread_exit(nullptr); }); });
  EXPECT_EQ(outcome, "WorkerDied");
  EXPECT_EQ(pool.apply(twice, 2), 4);
}

TEST_P(DeathTest, OnlyTheTaskThatRanIsLost) {
  Pool pool(with(4));
  std::vector<Future<int>> futures;
  for (int i = 0; i < 2000; ++i) {
    futures.push_back(pool.submit(
        [](int n) {
          if (n % 20 == 7) kill(getpid(), SIGKILL);
          return n;
        },
        i));
  }
  for (int i = 0; i < 2000; ++i) {
    auto& future = futures[static_cast<std::size_t>(i)];
    if (i % 20 == 7) {
      EXPECT_THROW(future.get(), WorkerDied);
    } else {
      EXPECT_EQ(future.get(), i);
    }
  }
  const PoolStats stats = pool.stats();
  EXPECT_EQ(stats.died, 100U);
  EXPECT_EQ(stats.retried, 0U);
}

TEST_P(DeathTest, EveryOtherTaskIsRunOnce) {
  Pool pool(with(2));
  TempFolder folder;
  const std::string list = folder.path("list");
  std::vector<Future<void>> futures;
  for (int i = 0; i < 300; ++i) {
    futures.push_back(pool.submit(
        [](std::string path, int n) {
          record(path, n);
          if (n % 10 == 0) kill(getpid(), SIGKILL);
        },
        list, i));
  }
  for (auto& future : futures) static_cast<void>(outcome_of([&] { future.get(); }));
  const auto counts = counted(list);
  EXPECT_EQ(counts.size(), 300U);
  for (const auto& [number, times] : counts) EXPECT_EQ(times, 1) << number;
}

// ---- what a task is called

TEST_P(DeathTest, AFunctionHasItsName) {
  Pool pool(with(1));
  const std::string here = "brood::test::";
  EXPECT_EQ(death_of([&] { pool.apply(die_by_kill); }).task, here + "die_by_kill");
  EXPECT_EQ(death_of([&] { pool.apply(die_as<int>, 1); }).task, here + "die_as<int>");
  EXPECT_EQ(death_of([&] { pool.apply(brood::bind_front(die_by, SIGKILL)); }).task,
            here + "die_by");
  EXPECT_EQ(death_of([&] { pool.map(die_as<int>, std::vector<int>{1}); }).task,
            here + "die_as<int>");
  EXPECT_EQ(death_of([&] { pool.submit(TaskOptions{.name = "mine"}, die_by_kill).get(); }).task,
            "mine");
  // Of everything else it is the type's.
  const std::string lambda = death_of([&] { pool.apply([] { die_by_kill(); }); }).task;
  EXPECT_NE(lambda.find("lambda"), std::string::npos) << lambda;
  try {
    pool.apply(throw_on_purpose);
    FAIL();
  } catch (const std::runtime_error& e) {
    EXPECT_EQ(remote_info(e)->task, here + "throw_on_purpose");
  }
}

TEST_P(DeathTest, AFunctionIsNamedAlsoWhereItIsStopped) {
  PoolOptions options = with(1);
  options.grace = 10ms;
  Pool pool(options);
  auto future = pool.submit(hang, 1);
  EXPECT_TRUE(wait_until([&] { return pool.stats().workers.front().task == "brood::test::hang"; }))
      << pool.stats().workers.front().task;
  EXPECT_TRUE(future.cancel());
  try {
    future.get();
    FAIL();
  } catch (const Cancelled& e) {
    EXPECT_STREQ(e.what(), "brood: brood::test::hang was cancelled");
  }
  try {
    pool.submit(TaskOptions{.timeout = 20ms}, hang, 1).get();
    FAIL();
  } catch (const TaskTimeout& e) {
    EXPECT_NE(std::string(e.what()).find("brood: brood::test::hang ran for longer"),
              std::string::npos)
        << e.what();
  }
}

TEST_P(DeathTest, RetriesAreCountedAndExhausted) {
  PoolOptions options = with(2);
  options.retries = 2;
  Pool pool(options);
  TempFolder folder;
  const std::string list = folder.path("list");
  const Death death = death_of([&] {
    pool.apply(
        [](std::string path) {
          record(path, 1);
          kill(getpid(), SIGKILL);
        },
        list);
  });
  EXPECT_EQ(death.attempts, 3);
  EXPECT_EQ(recorded(list).size(), 3U);
  EXPECT_EQ(pool.stats().retried, 2U);
  EXPECT_EQ(pool.stats().died, 3U);
}

TEST_P(DeathTest, ATaskMaySucceedAtItsThirdAttempt) {
  Pool pool(with(2));
  TempFolder folder;
  const auto third_time = [](std::string path, std::string payload) {
    record(path, 1);
    if (recorded(path).size() < 3) std::abort();
    return payload;
  };
  for (const std::size_t size : {10U, 100'000U}) {
    const std::string payload(size, 'r');
    EXPECT_EQ(pool.submit(TaskOptions{.retries = 2}, third_time, folder.path(std::to_string(size)),
                          payload)
                  .get(),
              payload);
  }
}

TEST_P(DeathTest, ATasksOwnRetriesReplaceThePools) {
  PoolOptions options = with(1);
  options.retries = 5;
  Pool pool(options);
  EXPECT_EQ(death_of([&] { pool.submit(TaskOptions{.retries = 0}, die_by_kill).get(); }).attempts,
            1);
  EXPECT_EQ(death_of([&] { pool.submit(TaskOptions{.retries = 1}, die_by_kill).get(); }).attempts,
            2);
}

TEST_P(DeathTest, AnExceptionIsNoDeathAndIsNotTriedAgain) {
  PoolOptions options = with(1);
  options.retries = 3;
  Pool pool(options);
  TempFolder folder;
  const std::string list = folder.path("list");
  EXPECT_THROW(pool.apply(
                   [](std::string path) {
                     record(path, 1);
                     throw std::runtime_error("no");
                   },
                   list),
               std::runtime_error);
  EXPECT_EQ(recorded(list).size(), 1U);
  EXPECT_EQ(pool.stats().died, 0U);
}

TEST_P(DeathTest, DeathsInTasksNeverBreakThePool) {
  PoolOptions options = with(2);
  options.restart_limit = 1;
  Pool pool(options);
  for (int i = 0; i < 300; ++i) {
    ASSERT_EQ(outcome_of([&] { pool.apply(die_by_kill); }), "WorkerDied") << "death " << i;
  }
  EXPECT_EQ(pool.apply(twice, 2), 4);
}

TEST_P(DeathTest, IdleWorkersThatAreKilledAreReplaced) {
  Pool pool(with(2));
  std::set<int> killed;
  for (int i = 0; i < 50; ++i) {
    pool.apply(twice, 1);
    for (const PoolStats::Worker& worker : pool.stats().workers) {
      if (worker.pid <= 0 || killed.contains(worker.pid)) continue;
      kill(worker.pid, SIGKILL);
      killed.insert(worker.pid);
    }
    ASSERT_EQ(pool.apply(twice, i), 2 * i);
  }
  EXPECT_TRUE(wait_until([&] { return pool.stats().died == killed.size(); }))
      << pool.stats().died << " deaths of " << killed.size();
  EXPECT_GE(killed.size(), 2U);
}

TEST_P(DeathTest, GrandchildrenOfADeadWorkerAreKilled) {
  Pool pool(with(1));
  TempFolder folder;
  const std::string list = folder.path("pids");
  EXPECT_THROW(pool.apply(
                   [](std::string path) {
                     const pid_t child = fork();
                     if (child == 0) {
                       signal(SIGTERM, SIG_IGN);
                       if (fork() == 0) setsid();
                       record(path, getpid());
                       for (;;) pause();
                     }
                     wait_until([&] { return recorded(path).size() == 2; });
                     kill(getpid(), SIGKILL);
                   },
                   list),
               WorkerDied);
  for (const std::int64_t pid : recorded(list)) {
    EXPECT_TRUE(wait_until([&] { return !runs(static_cast<int>(pid)); })) << pid;
  }
}

// ---- exceptions

template <class E>
void expect_rethrown(Pool& pool, void (*task)(), const std::string& text) {
  try {
    pool.apply(task);
    ADD_FAILURE() << "nothing was thrown instead of " << text;
  } catch (const std::exception& e) {
    EXPECT_NE(dynamic_cast<const E*>(&e), nullptr) << text;
    EXPECT_EQ(e.what(), text);
    const RemoteInfo* info = remote_info(e);
    ASSERT_NE(info, nullptr) << text;
    EXPECT_FALSE(info->task.empty());
    EXPECT_FALSE(info->type_name.empty());
    EXPECT_EQ(dynamic_cast<const Error*>(&e), nullptr);
  }
}

TEST_P(DeathTest, StandardExceptionsKeepTheirTypeAndText) {
  Pool pool(with(1));
  expect_rethrown<std::logic_error>(pool, [] { throw std::logic_error("1"); }, "1");
  expect_rethrown<std::invalid_argument>(pool, [] { throw std::invalid_argument("2"); }, "2");
  expect_rethrown<std::domain_error>(pool, [] { throw std::domain_error("3"); }, "3");
  expect_rethrown<std::length_error>(pool, [] { throw std::length_error("4"); }, "4");
  expect_rethrown<std::out_of_range>(pool, [] { throw std::out_of_range("5"); }, "5");
  expect_rethrown<std::runtime_error>(pool, [] { throw std::runtime_error("6"); }, "6");
  expect_rethrown<std::range_error>(pool, [] { throw std::range_error("7"); }, "7");
  expect_rethrown<std::overflow_error>(pool, [] { throw std::overflow_error("8"); }, "8");
  expect_rethrown<std::underflow_error>(pool, [] { throw std::underflow_error("9"); }, "9");
  expect_rethrown<std::exception>(pool, [] { throw std::exception(); }, std::exception().what());
  expect_rethrown<std::bad_alloc>(pool, [] { throw std::bad_alloc(); }, std::bad_alloc().what());
  expect_rethrown<std::bad_array_new_length>(
      pool, [] { throw std::bad_array_new_length(); }, std::bad_array_new_length().what());
  expect_rethrown<std::bad_cast>(pool, [] { throw std::bad_cast(); }, std::bad_cast().what());
  expect_rethrown<std::bad_any_cast>(
      pool, [] { static_cast<void>(std::any_cast<int>(std::any(1.0))); },
      std::bad_any_cast().what());
  expect_rethrown<std::bad_typeid>(pool, [] { throw std::bad_typeid(); }, std::bad_typeid().what());
  expect_rethrown<std::bad_exception>(
      pool, [] { throw std::bad_exception(); }, std::bad_exception().what());
  expect_rethrown<std::bad_function_call>(
      pool, [] { std::function<void()>()(); }, std::bad_function_call().what());
  expect_rethrown<std::bad_optional_access>(
      pool, [] { static_cast<void>(std::optional<int>().value()); },
      std::bad_optional_access().what());
  expect_rethrown<std::bad_weak_ptr>(
      pool, [] { std::shared_ptr<int> p{std::weak_ptr<int>()}; }, std::bad_weak_ptr().what());
  EXPECT_THROW(pool.apply([] { static_cast<void>(std::get<int>(std::variant<int, char>('c'))); }),
               std::bad_variant_access);
}

TEST_P(DeathTest, LongTextsAndNullBytesSurvive) {
  Pool pool(with(1));
  try {
    pool.apply([] { throw std::runtime_error(std::string(1'000'000, 'x')); });
    FAIL();
  } catch (const std::runtime_error& e) {
    EXPECT_EQ(std::string(e.what()), std::string(1'000'000, 'x'));
  }
}

TEST_P(DeathTest, SystemErrorsKeepTheirCode) {
  Pool pool(with(1));
  try {
    pool.apply([] { throw std::system_error(ENOENT, std::generic_category(), "reading"); });
    FAIL();
  } catch (const std::system_error& e) {
    EXPECT_EQ(e.code(), std::errc::no_such_file_or_directory);
    EXPECT_EQ(std::string(e.what()),
              std::system_error(ENOENT, std::generic_category(), "reading").what());
    EXPECT_NE(remote_info(e), nullptr);
  }
  try {
    pool.apply([] { throw std::system_error(EACCES, std::system_category()); });
    FAIL();
  } catch (const std::system_error& e) {
    EXPECT_EQ(e.code().value(), EACCES);
    EXPECT_EQ(e.code().category(), std::system_category());
  }
  // The number of a category that this process may not have means nothing here.
  EXPECT_THROW(
      pool.apply([] { throw std::system_error(std::make_error_code(std::future_errc::no_state)); }),
      RemoteError);
}

class UsersError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};
struct NoException {};

TEST_P(DeathTest, OtherTypesComeBackAsRemoteErrorWithTheirName) {
  Pool pool(with(1));
  const auto expect_remote = [&](void (*task)(), const std::string& text, const std::string& type) {
    try {
      pool.apply(task);
      ADD_FAILURE() << "nothing thrown";
    } catch (const RemoteError& e) {
      EXPECT_NE(std::string(e.what()).find(text), std::string::npos) << e.what();
      EXPECT_NE(e.type_name.find(type), std::string::npos) << e.type_name;
      EXPECT_EQ(remote_info(e), static_cast<const RemoteInfo*>(&e));
    }
  };
  expect_remote([] { throw UsersError("mine"); }, "mine", "UsersError");
  expect_remote([] { throw NoException{}; }, "NoException", "NoException");
  expect_remote([] { throw 42; }, "int", "int");
  expect_remote([] { throw "text"; }, "text", "char");
  expect_remote([] { throw std::string("string"); }, "string", "string");
}

TEST_P(DeathTest, BroodsErrorsThrownByTheUsersCodeAreTheUsers) {
  Pool pool(with(1));
  const auto expect_foreign = [&](void (*task)()) {
    try {
      pool.apply(task);
      ADD_FAILURE() << "nothing thrown";
    } catch (const Error& e) {
      ADD_FAILURE() << "came back as an error of brood: " << e.what();
    } catch (const RemoteError& e) {
      EXPECT_NE(e.type_name.find("brood::"), std::string::npos);
    }
  };
  expect_foreign([] { throw PoolClosed("mine"); });
  expect_foreign([] { throw TimeoutError("mine"); });
  expect_foreign([] { throw DecodeError("mine"); });
  expect_foreign([] { throw NotSendable("mine"); });
  expect_foreign([] { throw ArenaFull("mine"); });
  expect_foreign([] { throw WorkerDied(Death{}); });
  // A nested pool's error is one as well.
  expect_foreign([] {
    PoolOptions options;
    options.workers = 1;
    options.start = StartMethod::fork;
    Pool inner(options);
    inner.apply([] { kill(getpid(), SIGKILL); });
  });
}

class Unsavable {
 public:
  template <class Archive>
  void save(Archive&) const {
    throw std::out_of_range("can't be saved");
  }
  template <class Archive>
  void load(Archive&) {}
};
class Unloadable {
 public:
  template <class Archive>
  void save(Archive& ar) const {
    ar(1);
  }
  template <class Archive>
  void load(Archive&) {
    throw std::out_of_range("can't be loaded");
  }
};

TEST_P(DeathTest, FailuresOfAUsersCodecAreErrorsOfTheTask) {
  Pool pool(with(1));
  EXPECT_THROW(static_cast<void>(pool.submit([](Unsavable) {}, Unsavable())), std::out_of_range);
  EXPECT_THROW(pool.apply([](Unloadable) {}, Unloadable()), DecodeError);
  EXPECT_THROW(pool.apply([] { return Unsavable(); }), std::out_of_range);
  EXPECT_THROW(pool.apply([] { return Unloadable(); }), DecodeError);
  EXPECT_EQ(pool.apply(twice, 1), 2);
}

TEST_P(DeathTest, TheInfoNamesTheWorker) {
  Pool pool(with(1));
  const int pid = pool.apply(getpid);
  try {
    pool.apply([] { throw std::runtime_error("where?"); });
    FAIL();
  } catch (const std::exception& e) {
    ASSERT_NE(remote_info(e), nullptr);
    EXPECT_EQ(remote_info(e)->worker_pid, pid);
  }
}

}  // namespace
}  // namespace brood::test
