// What the tests of locks and the like have in common.
#pragma once

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "brood/brood.hpp"
#include "support/pools.hpp"
#include "support/shared_word.hpp"

namespace brood::test {

class SyncTest : public StartMethodTest {
 protected:
  static ProcessOptions started_so() { return {.start = GetParam()}; }

  template <class F, class... Args>
  static Process run(F&& f, Args&&... args) {
    Process process(started_so(), std::forward<F>(f), std::forward<Args>(args)...);
    process.start();
    return process;
  }
};

inline void die_now() { ::kill(::getpid(), SIGKILL); }

inline void join_all(std::vector<Process>& processes) {
  for (Process& process : processes) {
    EXPECT_TRUE(process.join_for(kHangGuard));
    EXPECT_EQ(process.exit_code(), 0);
    if (process.is_alive()) process.kill();
  }
}

template <class T>
std::string printed(const T& object) {
  std::ostringstream out;
  out << object;
  return out.str();
}

// In children: a number that grows with each that says so.
inline void say_so(const SharedWord& word) { word.word().fetch_add(1); }
inline bool comes_to(const SharedWord& word, std::uint64_t value) {
  return wait_until([&] { return word.word().load() >= value; });
}

}  // namespace brood::test
