// The log and the lists of actions, used by threads at once.
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "brood/hooks.hpp"
#include "brood/log.hpp"
#include "start/hooks.hpp"

namespace brood::test {
namespace {

void in_threads(int count, const std::function<void(int)>& work) {
  std::vector<std::thread> threads;
  for (int t = 0; t < count; ++t) threads.emplace_back(work, t);
  for (std::thread& t : threads) t.join();
}

// What a sink captures is plain memory: only the log's own orders make it right.
TEST(LogThreadsTest, SinksAreReplacedWhileOthersLog) {
  std::atomic<int> torn{0};
  const auto sink_of = [&](char c) {
    return [&torn, held = std::make_shared<std::string>(100, c)](const LogRecord& record) {
      if (held->find_first_not_of(held->front()) != std::string::npos) ++torn;
      if (record.text != "text") ++torn;
    };
  };
  set_log_sink(sink_of('a'));
  in_threads(4, [&](int t) {
    for (int i = 0; i < 2000; ++i) {
      if (t < 2) {
        log(LogLevel::error, "text");
      } else {
        set_log_sink(sink_of(static_cast<char>('b' + i % 20)));
      }
    }
  });
  set_log_sink({});
  EXPECT_EQ(torn.load(), 0);
}

TEST(LogThreadsTest, EveryRegisteredActionIsCalledOnce) {
  constexpr int kEach = 500;
  static std::vector<int> calls(4 * kEach);
  in_threads(4, [](int t) {
    for (int i = 0; i < kEach; ++i) {
      after_fork([place = t * kEach + i] { ++calls[static_cast<std::size_t>(place)]; });
    }
  });
  start::run_after_fork_actions();
  EXPECT_EQ(calls, std::vector<int>(calls.size(), 1));
}

}  // namespace
}  // namespace brood::test
