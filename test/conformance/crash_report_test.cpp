// What a WorkerDied tells of the crash: where it was, by name.
#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <random>
#include <ranges>
#include <span>
#include <string>
#include <vector>

#include "brood/pool.hpp"
#include "pool/protocol/view.hpp"
#include "support/host.hpp"
#include "support/pool_spy.hpp"
#include "support/pools.hpp"

namespace brood::test {
namespace {

class CrashReportTest : public PoolConformance {};
BROOD_FOR_EACH_START_METHOD(CrashReportTest);

int twice(int n) { return 2 * n; }

volatile int* nowhere() {
  static volatile std::uintptr_t address = 0x1234560;
  return reinterpret_cast<volatile int*>(address);
}

// Not inlined, and more to do after the crash: each has a frame of its own.
[[gnu::noinline]] int write_nowhere_in_a_static_function(int n) {
  *nowhere() = n;
  return n;
}
[[gnu::noinline]] int caller_of_the_static_function(int n) {
  return write_nowhere_in_a_static_function(n) + n;
}
[[gnu::noinline]] int overflow_the_stack(int n) {
  volatile char frame[4096];
  frame[0] = static_cast<char>(n);
  if (n < 0) return 0;
  return overflow_the_stack(n + 1) + frame[0];
}
[[gnu::noinline]] int abort_at_seven(int n) {
  if (n == 7) std::abort();
  return 2 * n;
}
[[gnu::noinline]] int call_no_function(int n) {
  static int (*volatile function)(int) = nullptr;
  return function(n) + n;
}
[[gnu::noinline]] int raise_in_a_task(int signal) {
  raise(signal);
  return signal + 1;
}

std::string line_with(const std::string& backtrace, const std::string& what) {
  const std::size_t at = backtrace.find(what);
  if (at == std::string::npos) return {};
  const std::size_t begin = backtrace.rfind('\n', at) + 1;
  return backtrace.substr(begin, backtrace.find('\n', at) - begin);
}

// "#3 ..." says 3.
int number_of(const std::string& line) {
  return line.starts_with("#") ? std::atoi(line.c_str() + 1) : -1;
}

TEST_P(CrashReportTest, AFaultIsFoundInStaticFunctionsAndTheirCallers) {
  Pool pool(with(1));
  for (int round = 0; round < 2; ++round) {
    const Death death = death_of([&] { pool.apply(caller_of_the_static_function, 1); });
    EXPECT_EQ(death.signal, SIGSEGV);
    EXPECT_EQ(death.fault_address, 0x1234560U);
    const std::string inner = line_with(death.backtrace, "write_nowhere_in_a_static_function(int)");
    const std::string outer = line_with(death.backtrace, "caller_of_the_static_function(int)");
    EXPECT_TRUE(inner.starts_with("#0 ")) << death.backtrace;
    EXPECT_EQ(number_of(outer), 1) << death.backtrace;
    EXPECT_NE(inner.find(" + 0x"), std::string::npos) << inner;
    EXPECT_NE(inner.find(" at /"), std::string::npos) << inner;
    // The library's own business is left out.
    EXPECT_EQ(death.backtrace.find("supervisor"), std::string::npos) << death.backtrace;
  }
}

TEST_P(CrashReportTest, EachSignalOfACrashHasABacktrace) {
  Pool pool(with(1));
  for (const int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS}) {
    const Death death = death_of([&] { pool.apply(raise_in_a_task, signal); });
    EXPECT_EQ(death.signal, signal);
    EXPECT_NE(death.backtrace.find("raise_in_a_task(int)"), std::string::npos)
        << "signal " << signal << ":\n"
        << death.backtrace;
  }
  for (const int signal : {SIGKILL, SIGTERM, SIGUSR1}) {
    EXPECT_EQ(death_of([&] { pool.apply(raise_in_a_task, signal); }).backtrace, "");
  }
  EXPECT_EQ(death_of([&] { pool.apply([] { _exit(3); }); }).backtrace, "");
}

TEST_P(CrashReportTest, AStackOverflowIsFound) {
  Pool pool(with(1));
  const Death death = death_of([&] { pool.apply(overflow_the_stack, 0); });
  EXPECT_TRUE(line_with(death.backtrace, "overflow_the_stack(int)").starts_with("#0 "))
      << death.backtrace;
  EXPECT_EQ(std::ranges::count(death.backtrace, '\n'), 32);
  EXPECT_TRUE(death.stack_overflow);
  const std::string what = WorkerDied(death).what();
  EXPECT_NE(what.find("signal 11 (stack overflow) while"), std::string::npos) << what;
  EXPECT_EQ(pool.apply(twice, 2), 4);
}

TEST_P(CrashReportTest, OtherFaultsAreNoStackOverflow) {
  Pool pool(with(1));
  EXPECT_FALSE(death_of([&] { pool.apply(caller_of_the_static_function, 1); }).stack_overflow);
  EXPECT_FALSE(death_of([&] { pool.apply(call_no_function, 1); }).stack_overflow);
  EXPECT_FALSE(death_of([&] { pool.apply(raise_in_a_task, SIGSEGV); }).stack_overflow);
  if (kSanitized) return;
  // Beyond the other end of the stack.
  const Death death = death_of([&] {
    pool.apply([] {
      volatile char here = 0;
      for (volatile char* at = &here;; at += 4096) *at = 1;
    });
  });
  EXPECT_EQ(death.signal, SIGSEGV);
  EXPECT_FALSE(death.stack_overflow);
}

TEST_P(CrashReportTest, ACallThroughANullPointerIsFoundByItsCaller) {
  Pool pool(with(1));
  const Death death = death_of([&] { pool.apply(call_no_function, 1); });
  // Some compilers' tables let the unwinder leave out the address that was called.
  const std::string line = line_with(death.backtrace, "call_no_function(int)");
  EXPECT_TRUE(line.starts_with("#0 ") || line.starts_with("#1 ")) << death.backtrace;
}

TEST_P(CrashReportTest, AStackThatWasOverwrittenIsADeathLikeAnother) {
  if (kSanitized) GTEST_SKIP() << "the tool finds what is overwritten first";
  Pool pool(with(1));
  const Death death = death_of([&] {
    pool.apply([] {
      // Whatever the unwinder finds above here is nonsense.
      volatile std::uintptr_t here = 0;
      auto* words = const_cast<std::uintptr_t*>(&here);
      for (int i = -4; i < 4096 && i < 64; ++i) words[i] = 0x4141414141414141U;
      *nowhere() = 1;
    });
  });
  EXPECT_EQ(death.signal, SIGSEGV);
  EXPECT_EQ(pool.apply(twice, 2), 4);
}

TEST_P(CrashReportTest, AnElementOfMapHasItsOwn) {
  Pool pool(with(2));
  const auto results = pool.map_results(abort_at_seven, std::views::iota(0, 20));
  for (std::size_t i = 0; i < 20; ++i) {
    if (i != 7) {
      EXPECT_EQ(results[i].value(), 2 * static_cast<int>(i));
      continue;
    }
    const Death death = death_of([&] { static_cast<void>(results[i].value()); });
    EXPECT_EQ(death.signal, SIGABRT);
    EXPECT_EQ(death.index, 7U);
    EXPECT_NE(death.backtrace.find("abort_at_seven(int)"), std::string::npos) << death.backtrace;
  }
}

// Elements with cells of every size.
TEST_P(CrashReportTest, AnElementWithALargeResultDiesWithItsAttempts) {
  struct Large {
    std::array<int, 16> numbers;
  };
  PoolOptions options = with(1);
  options.retries = 2;
  Pool pool(options);
  const auto results = pool.map_results(
      [](int n) {
        if (n == 1) kill(getpid(), SIGKILL);
        if (n == 2) *nowhere() = n;
        return Large{};
      },
      std::vector<int>{0, 1, 2});
  const Death killed = death_of([&] { static_cast<void>(results[1].value()); });
  EXPECT_EQ(killed.attempts, 3);
  EXPECT_EQ(killed.signal, SIGKILL);
  EXPECT_EQ(killed.fault_address, 0U);
  const Death crashed = death_of([&] { static_cast<void>(results[2].value()); });
  EXPECT_EQ(crashed.attempts, 3);
  EXPECT_EQ(crashed.fault_address, 0x1234560U);
}

TEST_P(CrashReportTest, ALibraryThatWasLoadedLaterIsFound) {
  if (kSanitized) GTEST_SKIP() << "the tool refuses calls of functions it was not built into";
  Pool pool(with(1));
  const Death death = death_of([&] {
    pool.apply(
        [](std::string library) {
          void* handle = dlopen(library.c_str(), RTLD_NOW);
          if (handle == nullptr) _exit(1);
          reinterpret_cast<void (*)(int)>(dlsym(handle, "crash_in_a_library"))(1);
        },
        std::string(BROOD_CRASHING_LIBRARY));
  });
  EXPECT_EQ(death.signal, SIGSEGV);
  const std::string line = line_with(death.backtrace, "static_crash(int)");
  EXPECT_TRUE(line.starts_with("#0 ")) << death.backtrace;
  EXPECT_NE(line.find(BROOD_CRASHING_LIBRARY), std::string::npos) << line;
}

TEST_P(CrashReportTest, ManyDeathsLeaveNoMemoryBehind) {
  Pool pool(with(2));
  const PoolSpy spy(2);
  for (int i = 0; i < 20; ++i) {
    EXPECT_NE(death_of([&] { pool.apply(caller_of_the_static_function, 1); }).backtrace, "");
    static_cast<void>(pool.submit(caller_of_the_static_function, 1));
  }
  EXPECT_EQ(pool.apply(twice, 2), 4);
  EXPECT_TRUE(wait_until([&] {
    pool.apply(twice, 1);
    return spy.accounts().outbox.live_blocks == 0;
  }));
}

// Writes `bytes` into the crash notes of all workers, then dies.
void scribble_and_die(std::size_t workers, unsigned seed, int signal) {
  const PoolSpy spy(workers);
  std::mt19937 random(seed);
  for (std::uint16_t slot = 0; slot < spy.view().geometry().slots; ++slot) {
    shm::CrashNote& note = spy.view().crash_note(slot);
    for (std::byte& byte : note.trace) byte = static_cast<std::byte>(random());
    // Mostly records that look like some.
    for (std::size_t at = 0; at < 1000; at += 1 + random() % 20) {
      note.trace[at] = static_cast<std::byte>(1 + random() % 2);
    }
    note.bytes.store(static_cast<std::uint32_t>(seed % 3 == 0 ? random() : random() % 3000));
  }
  raise(signal);
}

TEST_P(CrashReportTest, AnOverwrittenNoteCostsNoMoreThanTheBacktrace) {
  Pool pool(with(2));
  for (unsigned seed = 0; seed < 30; ++seed) {
    // By SIGUSR1 without a crash handler, which would write the note itself.
    for (const int signal : {SIGUSR1, SIGSEGV}) {
      const Death death =
          death_of([&] { pool.apply(scribble_and_die, std::size_t{2}, seed, signal); });
      EXPECT_EQ(death.signal, signal);
      for (const char c : death.backtrace) EXPECT_TRUE(c == '\n' || (c >= ' ' && c != 0x7f));
    }
  }
  EXPECT_EQ(pool.apply(twice, 2), 4);
}

// Its results take all the memory that there is for such notes.
TEST(CrashReportMemoryTest, WithoutMemoryForItADeathIsADeathAllTheSame) {
  // One that has not called init() yet.
  hosts_prepare_for(StartMethod::fork);
  const HostRun run = run_host([] {
    init({.arena_limit_bytes = std::size_t{4} << 20});
    Pool pool(1);
    std::vector<Future<std::vector<char>>> kept;
    const PoolSpy spy(1);
    for (const std::size_t bytes : {100'000U, 3000U, 1500U, 700U}) {
      for (;;) {
        kept.push_back(pool.submit([](std::size_t n) { return std::vector<char>(n, 'x'); }, bytes));
        kept.back().wait();
        if (kept.back().exception() != nullptr) break;
      }
    }
    const Death death = death_of([&] { pool.apply(caller_of_the_static_function, 1); });
    HOST_CHECK(death.signal == SIGSEGV);
    HOST_CHECK(death.backtrace.empty());
    kept.clear();
    HOST_CHECK(wait_until([&] {
      return !death_of([&] { pool.apply(caller_of_the_static_function, 1); }).backtrace.empty();
    }));
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
}

}  // namespace
}  // namespace brood::test
