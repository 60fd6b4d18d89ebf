// Exceptions on their way to the caller: what is told of the throw, and what comes of any bytes.
#include <gtest/gtest.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "brood/error.hpp"
#include "pool/protocol/exception.hpp"
#include "start/thrown_trace.hpp"
#include "sys/stack.hpp"
#include "sys/thrown.hpp"

namespace brood {
namespace {

using sys::try_watched;

void count_up(void* counter) noexcept { ++*static_cast<int*>(counter); }

// Counts the throws that are told of, for as long as it lives.
class Counting {
 public:
  Counting() { sys::throw_hook() = {count_up, &count_}; }
  ~Counting() { sys::throw_hook() = before_; }
  Counting(const Counting&) = delete;
  Counting& operator=(const Counting&) = delete;
  [[nodiscard]] int count() const { return count_; }

 private:
  const sys::ThrowHook before_ = sys::throw_hook();
  int count_ = 0;
};

TEST(TryWatchedTest, EachThrowThatItCatchesIsToldOnce) {
  const Counting counting;
  int caught = 0;
  for (int i = 0; i < 10; ++i) try_watched([] { throw 1; }, [&] { ++caught; });
  EXPECT_EQ(caught, 10);
  EXPECT_EQ(counting.count(), 10);
}

TEST(TryWatchedTest, WhatOthersCatchIsNotTold) {
  const Counting counting;
  try_watched(
      [] {
        try {
          throw std::runtime_error("inside");
        } catch (const std::exception&) {
        }
        try {
          throw 1;
        } catch (...) {
        }
      },
      [] { FAIL(); });
  EXPECT_EQ(counting.count(), 0);
  EXPECT_THROW(try_watched([] { throw 1; }, [] { throw std::logic_error("from the handler"); }),
               std::logic_error);
  EXPECT_EQ(counting.count(), 1);
}

TEST(TryWatchedTest, ARethrowIsAThrow) {
  const Counting counting;
  std::string what;
  try_watched(
      [] {
        try {
          throw std::runtime_error("again");
        } catch (...) {
          throw;
        }
      },
      [&] {
        try {
          throw;
        } catch (const std::runtime_error& e) {
          what = e.what();
        }
      });
  EXPECT_EQ(what, "again");
  EXPECT_EQ(counting.count(), 1);
}

TEST(TryWatchedTest, AnotherThreadsThrowsAreItsOwn) {
  const Counting counting;
  std::thread([] { try_watched([] { throw 1; }, [] {}); }).join();
  EXPECT_EQ(counting.count(), 0);
}

struct Told {
  explicit Told(bool& gone) : gone_(gone) {}
  ~Told() { gone_ = true; }
  Told(const Told&) = delete;
  Told& operator=(const Told&) = delete;

 private:
  bool& gone_;
};

// The C library unwinds a thread's stack with an exception that is nobody's.
TEST(TryWatchedTest, AThreadThatEndsItselfPasses) {
  bool gone = false;
  std::thread([&] {
    const Counting counting;
    try_watched(
        [&] {
          const Told told(gone);
          pthread_exit(nullptr);
        },
        [] { throw; });
  }).join();
  EXPECT_TRUE(gone);
}

[[gnu::noinline]] void throw_text(const std::string& text) {
  if (!text.empty()) throw std::out_of_range(text);
}

std::vector<std::byte> encoded(const std::string& text, std::size_t most = SIZE_MAX) {
  const std::atomic<std::uintptr_t> end{
      reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0))};
  const start::ThrownTrace trace(end);
  std::vector<std::byte> bytes;
  try_watched([&] { throw_text(text); },
              [&] { bytes = pool::encode_current_exception(true, 1, most); });
  return bytes;
}

TEST(EncodedExceptionTest, CarriesTheTraceOfItsThrow) {
  try {
    pool::throw_encoded(encoded("far away"), {});
  } catch (const std::out_of_range& e) {
    EXPECT_STREQ(e.what(), "far away");
    ASSERT_NE(remote_info(e), nullptr);
    const std::string backtrace = remote_info(e)->backtrace;
    EXPECT_EQ(backtrace.empty(), !sys::can_walk_stack());
    if (sys::can_walk_stack()) {
      EXPECT_NE(backtrace.substr(0, backtrace.find('\n')).find("throw_text("), std::string::npos)
          << backtrace;
    }
  }
}

TEST(EncodedExceptionTest, TheTraceIsTheFirstThatIsLeftOut) {
  const std::size_t whole = encoded("far away").size();
  for (std::size_t most = whole; most > whole / 2; --most) {
    const std::vector<std::byte> bytes = encoded("far away", most);
    ASSERT_LE(bytes.size(), most);
    try {
      pool::throw_encoded(bytes, {});
    } catch (const std::out_of_range& e) {
      if (most > 120) {
        EXPECT_STREQ(e.what(), "far away");
      }
      static_cast<void>(remote_info(e)->backtrace.text());
    }
  }
}

TEST(EncodedExceptionTest, AnyBytesAreAnExceptionOrADecodeError) {
  const std::vector<std::byte> whole = encoded("far away");
  std::mt19937 random(5);
  for (int round = 0; round < 5000; ++round) {
    std::vector<std::byte> bytes = whole;
    for (unsigned i = random() % 8; i > 0; --i) {
      bytes[random() % bytes.size()] = static_cast<std::byte>(random());
    }
    if (round % 3 == 0) bytes.resize(random() % bytes.size());
    try {
      pool::throw_encoded(bytes, {});
    } catch (const std::exception& e) {
      const RemoteInfo* info = remote_info(e);
      if (info == nullptr) {
        EXPECT_NE(dynamic_cast<const DecodeError*>(&e), nullptr) << e.what();
        continue;
      }
      EXPECT_LE(std::ranges::count(info->backtrace.text(), '\n'), 32);
    }
  }
}

}  // namespace
}  // namespace brood
