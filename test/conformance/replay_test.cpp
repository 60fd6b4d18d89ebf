// Tasks that died are kept, and can be run again (P1's "what was it called with?").
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <numeric>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "brood/brood.hpp"
#include "pool/caller/kept_file.hpp"
#include "support/host.hpp"
#include "support/pools.hpp"
#include "support/processes.hpp"

namespace brood::test {
namespace {

namespace fs = std::filesystem;

// ---- tasks

int twice(int n) { return 2 * n; }

// Dies in a process whose environment says so, of what it was called with.
bool is_to_die() { return std::getenv("BROOD_TEST_HARMLESS") == nullptr; }
int crash_on_13(const std::string& text, int n) {
  if (n == 13 && text == "unlucky" && is_to_die()) raise(SIGSEGV);
  return n;
}
int crash_on_bound(const std::vector<int>& bound, int n) {
  if (std::accumulate(bound.begin(), bound.end(), 0) == 6 && n == 7 && is_to_die()) raise(SIGBUS);
  return n;
}
int die_of_three(int n) {
  if (n % 10 == 3 && is_to_die()) raise(SIGABRT);
  if (n % 10 != 3 && !is_to_die()) std::exit(50);  // another element than that which died
  return n;
}
void die_by_kill() { kill(getpid(), SIGKILL); }

// ---- what is kept

class ReplayTest : public PoolConformance {
 protected:
  void SetUp() override {
    PoolConformance::SetUp();
    static std::atomic<int> next{0};
    directory_ = fs::temp_directory_path() / ("brood-replay-" + std::to_string(getpid()) + "-" +
                                              std::to_string(next.fetch_add(1)));
    fs::remove_all(directory_);
  }
  void TearDown() override {
    std::error_code ignored;
    fs::remove_all(directory_, ignored);
  }

  [[nodiscard]] PoolOptions keeping(std::size_t workers = 1) const {
    PoolOptions options = with(workers);
    options.keep_failed = directory_ / "kept";
    options.name = "images";
    return options;
  }
  [[nodiscard]] std::vector<std::string> files() const {
    std::vector<std::string> found;
    std::error_code missing;
    for (const auto& entry : fs::directory_iterator(directory_ / "kept", missing)) {
      found.push_back(entry.path());
    }
    std::ranges::sort(found);
    return found;
  }
  // Of the only file.
  [[nodiscard]] std::string file() const {
    const std::vector<std::string> all = files();
    EXPECT_EQ(all.size(), 1U);
    return all.empty() ? std::string() : all.front();
  }

  fs::path directory_;
};
BROOD_FOR_EACH_START_METHOD(ReplayTest);

std::string replayed(const std::string& file) {
  return run_host([&] {
           replay(file);
           return 0;
         })
      .end;
}
std::string replayed_harmless(const std::string& file) {
  return run_host([&] {
           setenv("BROOD_TEST_HARMLESS", "1", 1);
           replay(file);
           return 0;
         })
      .end;
}

// Everything that is logged meanwhile.
class LogOfTest {
 public:
  LogOfTest()
      : before_(set_log_sink([this](const LogRecord& record) {
          const std::lock_guard lock(mutex_);
          texts_.push_back(record.text);
        })) {}
  ~LogOfTest() { set_log_sink(before_); }
  LogOfTest(const LogOfTest&) = delete;
  LogOfTest& operator=(const LogOfTest&) = delete;
  std::vector<std::string> texts() {
    const std::lock_guard lock(mutex_);
    return texts_;
  }

 private:
  std::mutex mutex_;
  std::vector<std::string> texts_;
  LogSink before_;
};

// ---- each kind of callable

TEST_P(ReplayTest, APlainFunctionDiesOnceMoreTheSameWay) {
  Pool pool(keeping());
  const Death death = death_of([&] { pool.apply(crash_on_13, "unlucky", 13); });
  EXPECT_EQ(death.signal, SIGSEGV);
  EXPECT_EQ(death.kept, file());
  EXPECT_EQ(replayed(death.kept), "signal 11");
  EXPECT_EQ(replayed_harmless(death.kept), "exit 0");
  EXPECT_EQ(files().size(), 1U) << "running it again keeps nothing";
}

TEST_P(ReplayTest, AStatelessLambdaDiesOnceMore) {
  Pool pool(keeping());
  const Death death = death_of([&] {
    pool.apply([](std::vector<std::string> words) { return words.at(1) == "b" ? abort() : void(); },
               std::vector<std::string>{"a", "b"});
  });
  EXPECT_EQ(death.signal, SIGABRT);
  EXPECT_EQ(replayed(death.kept), "signal 6");
}

TEST_P(ReplayTest, AClosureDiesOnceMoreWithWhatItHasCaptured) {
  Pool pool(keeping());
  const int signal = SIGFPE;
  const double other = 2.5;
  const Death death = death_of([&] {
    pool.apply([signal, other](int n) { return other == 2.5 && n == 4 ? raise(signal) : 0; }, 4);
  });
  EXPECT_EQ(replayed(death.kept), "signal 8");
}

TEST_P(ReplayTest, BoundValuesAreKept) {
  Pool pool(keeping());
  const auto bound = brood::bind_front(crash_on_bound, std::vector<int>{1, 2, 3});
  const Death death = death_of([&] { pool.apply(bound, 7); });
  EXPECT_EQ(death.signal, SIGBUS);
  EXPECT_EQ(replayed(death.kept), "signal 7");
  EXPECT_EQ(replayed_harmless(death.kept), "exit 0");
}

TEST_P(ReplayTest, ViewsAreReadInPlaceAgain) {
  Pool pool(keeping());
  const std::vector<double> numbers(1000, 1.5);
  const Death death = death_of([&] {
    pool.apply(
        [](char, std::span<const double> view, std::string_view text) {
          if (reinterpret_cast<std::uintptr_t>(view.data()) % alignof(double) != 0) std::exit(51);
          if (view.size() == 1000 && view[999] == 1.5 && text == "text") abort();
        },
        'x', numbers, "text");
  });
  EXPECT_EQ(death.signal, SIGABRT);
  EXPECT_EQ(replayed(death.kept), "signal 6");
}

TEST_P(ReplayTest, AClosureThatRefersToAConstantIsRefused) {
  Pool pool(keeping());
  static constexpr int kConstant = 3;
  const int* pointer = &kConstant;
  EXPECT_THROW(pool.apply([pointer] { return *pointer; }), NotSendable);
}

// ---- map

TEST_P(ReplayTest, OfMapTheElementThatDiedIsRunAndNoOther) {
  Pool pool(keeping(2));
  std::vector<int> numbers(25);
  std::iota(numbers.begin(), numbers.end(), 0);
  const auto results = pool.map_results(die_of_three, numbers, {.chunk_size = 25});
  ASSERT_EQ(results.size(), 25U);
  for (std::size_t i = 0; i < results.size(); ++i) {
    if (i % 10 != 3) {
      EXPECT_EQ(results[i].value(), static_cast<int>(i));
      continue;
    }
    const Death death = death_of([&] { static_cast<void>(results[i].value()); });
    const pool::KeptFile kept = pool::KeptFile::read(death.kept);
    EXPECT_EQ(kept.details().index, i);
    EXPECT_EQ(replayed(death.kept), "signal 6");
    EXPECT_EQ(replayed_harmless(death.kept), "exit 0");
  }
  EXPECT_EQ(files().size(), 3U);
}

TEST_P(ReplayTest, OfElementsThatNobodyLooksAtEachIsKept) {
  {
    Pool pool(keeping(2));
    std::vector<int> numbers(30);
    std::iota(numbers.begin(), numbers.end(), 0);
    // The first error is thrown, and ends the look at the others.
    EXPECT_THROW(pool.map(die_of_three, numbers, {.chunk_size = 15}), WorkerDied);
  }
  EXPECT_EQ(files().size(), 3U);
  for (const std::string& kept : files()) EXPECT_EQ(replayed(kept), "signal 6");
}

TEST_P(ReplayTest, ElementsOfImapAreKept) {
  Pool pool(keeping());
  int died = 0;
  for (const auto& result : pool.imap_results(die_of_three, std::vector<int>{1, 2, 3, 4})) {
    if (!result) ++died;
  }
  EXPECT_EQ(died, 1);
  EXPECT_EQ(replayed(file()), "signal 6");
}

// ---- when

TEST_P(ReplayTest, ADroppedFuturesTaskIsKeptAtTheLatestWhenThePoolEnds) {
  {
    Pool pool(keeping());
    static_cast<void>(pool.submit(crash_on_13, "unlucky", 13));
    EXPECT_TRUE(wait_until([&] { return pool.stats().died == 1; }));
    static_cast<void>(pool.submit(twice, 3).get());
  }
  EXPECT_EQ(replayed(file()), "signal 11");
}

std::size_t die_of_much(const std::string& text) {
  if (!text.empty()) std::raise(SIGKILL);
  return text.size();
}

// What died and was dropped holds its arguments until it is kept, which no later task has to wait
// for.
TEST(ReplayMemoryTest, DroppedTasksStandInNobodysWay) {
  char name[] = "/tmp/brood-kept-XXXXXX";
  ASSERT_NE(mkdtemp(name), nullptr);
  const HostRun run = run_host([&] {
    init({.arena_limit_bytes = std::size_t{8} << 20});
    Pool pool({.workers = 1, .keep_failed = name});
    for (std::uint64_t i = 0; i < 6; ++i) {
      static_cast<void>(pool.submit(die_of_much, std::string(3 << 20, 'x')));
      HOST_CHECK(wait_until([&] { return pool.stats().died == i + 1; }));
    }
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
  std::size_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(name)) {
    files += entry.is_regular_file() ? 1U : 0U;
  }
  EXPECT_EQ(files, 6U);
  std::filesystem::remove_all(name);
}

TEST_P(ReplayTest, AFutureThatIsDroppedLaterKeepsItsTask) {
  Pool pool(keeping());
  {
    const auto future = pool.submit(crash_on_13, "unlucky", 13);
    future.wait();
    EXPECT_TRUE(files().empty());
  }
  EXPECT_EQ(replayed(file()), "signal 11");
}

TEST_P(ReplayTest, ATaskIsKeptOnceHoweverOftenItsErrorIsLookedAt) {
  Pool pool(keeping());
  auto future = pool.submit(crash_on_13, "unlucky", 13);
  for (int i = 0; i < 3; ++i) {
    const Death death = death_of([&] { std::rethrow_exception(future.exception()); });
    EXPECT_EQ(death.kept, file());
  }
  EXPECT_EQ(death_of([&] { future.get(); }).kept, file());
}

TEST_P(ReplayTest, ATaskThatIsTriedAgainIsKeptWhenItHasDiedForGood) {
  PoolOptions options = keeping();
  options.retries = 2;
  Pool pool(options);
  const Death death = death_of([&] { pool.apply(crash_on_13, "unlucky", 13); });
  EXPECT_EQ(death.attempts, 3);
  EXPECT_EQ(pool::KeptFile::read(file()).details().attempts, 3U);
  EXPECT_EQ(replayed(death.kept), "signal 11");
}

TEST_P(ReplayTest, WhatDoesNotDieIsNotKept) {
  Pool pool(keeping());
  EXPECT_EQ(pool.apply(twice, 2), 4);
  EXPECT_THROW(pool.apply([] { throw std::runtime_error("on purpose"); }), std::runtime_error);
  EXPECT_TRUE(files().empty());
}

TEST_P(ReplayTest, WithoutTheOptionNothingIsKept) {
  Pool pool(with(1));
  const Death death = death_of([&] { pool.apply(die_by_kill); });
  EXPECT_EQ(death.kept, "");
}

TEST_P(ReplayTest, TheErrorSaysHowToRunTheTaskAgain) {
  Pool pool(keeping());
  try {
    pool.apply(crash_on_13, "unlucky", 13);
    FAIL();
  } catch (const WorkerDied& e) {
    const std::string what = e.what();
    EXPECT_NE(what.find("to run it again: "), std::string::npos) << what;
    EXPECT_NE(what.find(GetParam() == StartMethod::fork ? "brood::replay(" : "--brood-replay "),
              std::string::npos)
        << what;
    EXPECT_NE(what.find(file()), std::string::npos) << what;
  }
}

TEST_P(ReplayTest, AFileSaysWhetherItsProgramCanBeToldToRunIt) {
  Pool pool(keeping());
  const Death death = death_of([&] { pool.apply(crash_on_13, "unlucky", 13); });
  EXPECT_EQ(pool::KeptFile::read(death.kept).details().has_init, GetParam() != StartMethod::fork);
}

TEST_P(ReplayTest, AFileIsForItsOwnerOnlyAndSaysWhatItHolds) {
  Pool pool(keeping());
  TaskOptions options;
  options.name = "decode ../upload";
  death_of([&] { pool.submit(options, crash_on_13, "unlucky", 13).get(); });
  const std::string path = file();
  struct stat info{};
  ASSERT_EQ(stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777U, 0600U);
  EXPECT_TRUE(fs::path(path).filename().string().starts_with("images-decode_upload-")) << path;
  const std::string text = describe(pool::KeptFile::read(path));
  for (const char* part : {"decode ../upload", "signal 11", "images", "crash_on_13"}) {
    EXPECT_NE(text.find(part), std::string::npos) << text;
  }
}

// ---- what can't be kept

TEST_P(ReplayTest, ATaskWithHandlesIsNotKeptAndTheLogSaysSoOnce) {
  LogOfTest log;
  Pool pool(keeping());
  Queue<int> queue;
  const auto die = [](Queue<int>) { abort(); };
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(death_of([&] { pool.apply(die, queue); }).kept, "");
  }
  const auto bound = brood::bind_front([](const Queue<int>&, int) { abort(); }, queue);
  EXPECT_EQ(death_of([&] { pool.apply(bound, 1); }).kept, "");
  EXPECT_TRUE(files().empty());
  ASSERT_EQ(log.texts().size(), 2U);
  EXPECT_NE(log.texts().front().find("handles"), std::string::npos);
}

TEST_P(ReplayTest, WhoIsToldByTheLogMayUseThePool) {
  Pool pool(keeping());
  std::atomic<int> told{0};
  const LogSink before = set_log_sink([&](const LogRecord&) {
    static_cast<void>(pool.stats());
    told += pool.apply(twice, 1) / 2;
    static_cast<void>(death_of([&] { pool.apply(die_by_kill); }));
  });
  const Queue<int> queue;
  const auto die = [](Queue<int>) { abort(); };
  death_of([&] { pool.apply(die, queue); });
  fs::remove_all(directory_);
  static_cast<void>(pool.submit(crash_on_13, "unlucky", 13));
  // What nobody asked for is kept by whoever uses the pool after it has died.
  EXPECT_TRUE(wait_until([&] { return pool.apply(twice, 2) == 4 && told.load() == 2; }));
  set_log_sink(before);
  EXPECT_EQ(told.load(), 2);
}

TEST_P(ReplayTest, ADirectoryThatCantBeWrittenToIsAStartError) {
  PoolOptions options = keeping();
  fs::create_directories(directory_);
  options.keep_failed = directory_ / "file";
  std::ofstream(options.keep_failed) << "no directory";
  EXPECT_THROW(Pool{options}, StartError);
  options.keep_failed = directory_ / "file" / "below";
  EXPECT_THROW(Pool{options}, StartError);
  options.keep_failed = "/proc/brood";
  EXPECT_THROW(Pool{options}, StartError);
}

TEST_P(ReplayTest, ADirectoryThatIsGoneLaterIsAWarning) {
  LogOfTest log;
  Pool pool(keeping());
  fs::remove_all(directory_);
  const Death death = death_of([&] { pool.apply(crash_on_13, "unlucky", 13); });
  EXPECT_EQ(death.signal, SIGSEGV);
  EXPECT_EQ(death.kept, "");
  ASSERT_EQ(log.texts().size(), 1U);
  EXPECT_NE(log.texts().front().find("could not be kept"), std::string::npos);
  EXPECT_EQ(pool.apply(twice, 2), 4);
}

TEST_P(ReplayTest, ALimitOnTheSizeOfFilesIsAWarning) {
  LogOfTest log;
  Pool pool(keeping());
  auto future = pool.submit(crash_on_13, "unlucky", 13);
  future.wait();
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  const rlimit small{100, before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  const Death death = death_of([&] { future.get(); });
  setrlimit(RLIMIT_FSIZE, &before);
  EXPECT_EQ(death.kept, "");
  EXPECT_EQ(log.texts().size(), 1U);
  EXPECT_TRUE(files().empty());
}

// ---- what the task finds

struct Model {
  int answer = 0;
};
int preloaded = 0;

TEST_P(ReplayTest, WhatTheWorkersRanFirstIsRunFirst) {
  PoolOptions options = keeping();
  options.preload = {[](int n) { preloaded = n; }, 5};
  options.initializer = {brood::bind_front(
                             [](const std::string& text, int n) {
                               worker_state<Model>(Model{static_cast<int>(text.size()) + n});
                             },
                             std::string("four")),
                         38};
  Pool pool(options);
  const Death death = death_of([&] {
    pool.apply([] {
      if (worker_state<Model>().answer == 42 && preloaded == 5) raise(SIGTRAP);
    });
  });
  EXPECT_EQ(death.signal, SIGTRAP);
  EXPECT_EQ(replayed(death.kept), "signal 5");
}

TEST_P(ReplayTest, TheTaskIsInAWorkerOfItsOwn) {
  PoolOptions options = keeping();
  options.seed = 7;
  Pool pool(options);
  const std::uint64_t seed = pool.apply([] { return task_seed(); });
  static_cast<void>(seed);
  const std::uint64_t next = pool.apply([] { return task_seed(); });
  auto another = with(1);
  another.seed = 7;
  Pool twin(another);
  static_cast<void>(twin.apply([] { return task_seed(); }));
  ASSERT_EQ(twin.apply([] { return task_seed(); }), next);
  const std::uint64_t third = twin.apply([] { return task_seed(); });
  const Death death = death_of([&] {
    pool.apply(
        [](std::uint64_t expected) {
          if (task_seed() != expected) std::exit(60);
          if (worker_index() != 0 || stop_requested() || stop_fd() < 0) std::exit(61);
          if (++worker_state<int>(3) != 4) std::exit(62);
          if (is_to_die()) abort();
        },
        third);
  });
  ASSERT_EQ(death.signal, SIGABRT);
  EXPECT_EQ(replayed(death.kept), "signal 6");
  EXPECT_EQ(replayed_harmless(death.kept), "exit 0");
  // Twice in one process, which is no worker before and after.
  const std::string end = run_host([&] {
                            setenv("BROOD_TEST_HARMLESS", "1", 1);
                            replay(death.kept);
                            replay(death.kept);
                            try {
                              static_cast<void>(worker_index());
                            } catch (const Error&) {
                              return 7;
                            }
                            return 8;
                          }).end;
  EXPECT_EQ(end, "exit 7");
}

TEST_P(ReplayTest, WhatTheTaskThrowsComesOutAsItIs) {
  struct Odd {
    int n;
  };
  Pool pool(keeping());
  const auto f = [](int n) {
    if (is_to_die()) abort();
    throw Odd{n};
  };
  const Death one = death_of([&] { pool.apply(f, 4); });
  const auto results = pool.map_results(f, std::vector<int>{5});
  const Death element = death_of([&] { results.front().value(); });
  for (const auto& [file, n] : {std::pair{one.kept, 4}, std::pair{element.kept, 5}}) {
    const std::string end = run_host([&] {
                              setenv("BROOD_TEST_HARMLESS", "1", 1);
                              try {
                                replay(file);
                              } catch (const Odd& e) {
                                return 10 + e.n;
                              }
                              return 0;
                            }).end;
    EXPECT_EQ(end, "exit " + std::to_string(10 + n));
  }
}

TEST_P(ReplayTest, ATaskCantReplay) {
  Pool pool(keeping());
  const Death death = death_of([&] { pool.apply(die_by_kill); });
  EXPECT_THROW(pool.apply([](const std::string& file) { replay(file); }, death.kept), RemoteError);
}

// ---- files that are none

TEST_P(ReplayTest, AnotherBuildsFileIsRefused) {
  Pool pool(keeping());
  const Death death = death_of([&] { pool.apply(die_by_kill); });
  const pool::KeptFile kept = pool::KeptFile::read(death.kept);
  pool::KeptDetails details = kept.details();
  details.calls.back().code.build_id.back() ^= 1;
  const std::vector<std::span<const std::byte>> pieces = {kept.calls().back().arguments};
  const std::string other = pool::write_kept_file(directory_, details, pieces);
  EXPECT_THROW(replay(other), StartError);
  details = kept.details();
  details.calls.back().code.offset += 1;
  EXPECT_THROW(replay(pool::write_kept_file(directory_, details, pieces)), StartError);
  details = kept.details();
  details.calls.back().function->offset = details.calls.back().function->module_bytes - 1;
  EXPECT_THROW(replay(pool::write_kept_file(directory_, details, pieces)), StartError);
  details = kept.details();
  details.calls.back().function.reset();
  EXPECT_THROW(replay(pool::write_kept_file(directory_, details, pieces)), DecodeError);
}

TEST_P(ReplayTest, WhatCantBeReadIsRefused) {
  EXPECT_THROW(replay(directory_ / "nothing"), SystemError);
  EXPECT_THROW(replay("/dev/zero"), DecodeError);
  EXPECT_THROW(replay("/proc/self/exe"), DecodeError);
  EXPECT_THROW(replay("/"), DecodeError);
}

}  // namespace
}  // namespace brood::test
