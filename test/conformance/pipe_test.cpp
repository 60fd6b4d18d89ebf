// Pipes: messages between processes, and what becomes of them when somebody is gone.
#include "brood/pipe.hpp"

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "brood/brood.hpp"
#include "support/ledger.hpp"
#include "support/pools.hpp"
#include "support/processes.hpp"
#include "warden/family.hpp"
#include "warden/object_space.hpp"

namespace brood::test {
namespace {

using Clock = std::chrono::steady_clock;
using Bytes = std::vector<std::byte>;

class PipeTest : public StartMethodTest {
 protected:
  static ProcessOptions options() { return {.start = GetParam()}; }
};
BROOD_FOR_EACH_START_METHOD(PipeTest);

Bytes bytes_of(const std::string& text) {
  const auto view = std::as_bytes(std::span(text));
  return {view.begin(), view.end()};
}
Bytes pattern(std::size_t size, unsigned seed = 1) {
  Bytes bytes(size);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i * 31 + seed + i / 251);
  return bytes;
}
std::size_t blocks() { return warden::ObjectSpace::join().objects().arena().stats().live_blocks; }
bool come_to(std::size_t expected) {
  return wait_until([&] { return blocks() == expected; }, 5s * kSlowness);
}

struct Order {
  std::string what;
  int count = 0;
  friend bool operator==(const Order&, const Order&) = default;
};

// Sends back whatever bytes come, until there are no more.
void echo_bytes(const Connection& mine) {
  auto& end = const_cast<Connection&>(mine);
  try {
    for (;;) end.send_bytes(end.recv_bytes());
  } catch (const Closed&) {
  }
}
void echo_orders(Connection end) {
  for (;;) {
    const auto order = end.recv<Order>();
    if (order.what.empty()) return;
    end.send(order);
  }
}

// ---- test_connection

TEST_P(PipeTest, WhatIsSentComesBackFromAnotherProcess) {
  auto [ours, theirs] = Pipe();
  Process child(options(), echo_orders, std::move(theirs));
  child.start();
  const Order small{"tea", 2};
  const Order large{std::string(100'000, 'x'), 3};
  ours.send(small);
  EXPECT_EQ(ours.recv<Order>(), small);
  ours.send(large);
  EXPECT_EQ(ours.recv<Order>(), large);
  for (int i = 0; i < 200; ++i) ours.send(Order{std::to_string(i), i});
  for (int i = 0; i < 200; ++i) EXPECT_EQ(ours.recv<Order>().count, i);
  ours.send(Order{});
  child.join();
  EXPECT_EQ(child.exit_code(), 0);
  EXPECT_THROW((void)ours.recv<Order>(), Closed);
  EXPECT_THROW(ours.send(small), Closed);
}

TEST_P(PipeTest, BytesKeepTheirBoundariesWhateverTheirSize) {
  auto [ours, theirs] = Pipe();
  Process child(options(), echo_bytes, std::move(theirs));
  child.start();
  for (const std::size_t size :
       {std::size_t{0}, std::size_t{1}, std::size_t{47}, std::size_t{48}, std::size_t{49},
        std::size_t{4096}, std::size_t{65535}, std::size_t{65536}, std::size_t{1} << 20U,
        (std::size_t{16} << 20U) + 3}) {
    const Bytes message = pattern(size);
    ours.send_bytes(message);
    EXPECT_EQ(ours.recv_bytes(), message) << size;
  }
  ours.close();
  child.join();
  EXPECT_EQ(child.exit_code(), 0);
}

TEST_P(PipeTest, BytesAreReceivedIntoRoomOfTheCallers) {
  auto [a, b] = Pipe();
  std::array<std::byte, 10> room{};
  a.send_bytes(bytes_of("hello"));
  EXPECT_EQ(b.recv_bytes_into(room), 5U);
  EXPECT_EQ(std::memcmp(room.data(), "hello\0\0\0\0\0", 10), 0);
  a.send_bytes(bytes_of("there"));
  EXPECT_EQ(b.recv_bytes_into(std::span(room).subspan(5)), 5U);
  EXPECT_EQ(std::memcmp(room.data(), "hellothere", 10), 0);
  // What does not fit is not lost.
  for (const std::size_t size : {std::size_t{11}, std::size_t{100'000}}) {
    a.send_bytes(pattern(size));
    a.send_bytes(bytes_of("next"));
    try {
      (void)b.recv_bytes_into(room);
      ADD_FAILURE() << "no error";
    } catch (const BufferTooShort& e) {
      EXPECT_EQ(e.message(), pattern(size));
    }
    EXPECT_EQ(std::memcmp(room.data(), "hellothere", 10), 0) << "nothing was written there";
    EXPECT_EQ(b.recv_bytes(), bytes_of("next"));
  }
  a.send_bytes(bytes_of("12345"));
  EXPECT_EQ(b.recv_bytes(5), bytes_of("12345"));
  a.send_bytes(bytes_of("123456"));
  EXPECT_THROW((void)b.recv_bytes(5), BufferTooShort);
  a.send_bytes({});
  EXPECT_EQ(b.recv_bytes_into({}), 0U);
}

// test_sendbytes: parts of a buffer
TEST_P(PipeTest, AnyPartOfABufferCanBeSent) {
  auto [a, b] = Pipe();
  const Bytes all = bytes_of("abcdefghijklmnopqrstuvwxyz");
  a.send_bytes(all);
  EXPECT_EQ(b.recv_bytes(), all);
  a.send_bytes(std::span(all).subspan(5));
  EXPECT_EQ(b.recv_bytes(), Bytes(all.begin() + 5, all.end()));
  a.send_bytes(std::span(all).subspan(7, 8));
  EXPECT_EQ(b.recv_bytes(), Bytes(all.begin() + 7, all.begin() + 15));
  a.send_bytes(std::span(all).subspan(26));
  EXPECT_EQ(b.recv_bytes(), Bytes{});
}

TEST_P(PipeTest, PollTellsWhetherThereIsAMessageAndTakesNone) {
  auto [ours, theirs] = Pipe();
  EXPECT_FALSE(ours.poll());
  const auto start = Clock::now();
  EXPECT_FALSE(ours.poll(20ms));
  EXPECT_GE(Clock::now() - start, 20ms);
  EXPECT_FALSE(ours.poll(-1s));
  Process child(options(), echo_bytes, std::move(theirs));
  child.start();
  ours.send_bytes(bytes_of("x"));
  EXPECT_TRUE(ours.poll(kHangGuard));
  EXPECT_TRUE(ours.poll());
  EXPECT_TRUE(ours.poll());
  EXPECT_EQ(ours.recv_bytes(), bytes_of("x"));
  EXPECT_FALSE(ours.poll());
  child.kill();
  EXPECT_TRUE(ours.poll(kHangGuard)) << "nobody will ever send anything";
  EXPECT_THROW((void)ours.recv_bytes(), Closed);
  child.join();
}

// test_duplex_false, test_access
TEST_P(PipeTest, AOneWayPipeHasAReaderAndAWriter) {
  auto [reader, writer] = Pipe({.duplex = false});
  EXPECT_TRUE(reader.readable());
  EXPECT_FALSE(reader.writable());
  EXPECT_FALSE(writer.readable());
  EXPECT_TRUE(writer.writable());
  writer.send(1);
  EXPECT_EQ(reader.recv<int>(), 1);
  const auto says = [](const std::function<void()>& action, const char* part) {
    try {
      action();
      ADD_FAILURE() << "no error: " << part;
    } catch (const Closed&) {
      ADD_FAILURE() << "the wrong error";
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
    }
  };
  says([&] { reader.send(2); }, "only receives");
  says([&] { reader.send(std::string(1000, 'x')); }, "only receives");
  says([&] { reader.send_bytes({}); }, "only receives");
  says([&] { (void)writer.recv<int>(); }, "only sends");
  says([&] { (void)writer.recv_bytes(); }, "only sends");
  says([&] { (void)writer.poll(); }, "only sends");
  says([&] { (void)writer.fileno(); }, "only sends");
  // The ends know their direction in other processes, too.
  Process child(
      options(),
      [](Connection w) {
        if (w.readable() || !w.writable()) _exit(9);
        w.send(std::string("from the child"));
      },
      std::move(writer));
  child.start();
  EXPECT_EQ(reader.recv<std::string>(), "from the child");
  child.join();
  EXPECT_EQ(child.exit_code(), 0);
}

// test_spawn_close: our copy of the child's end is closed before the child can have begun.
TEST_P(PipeTest, TheChildHasItsEndWhenOursIsClosedRightAfterTheStart) {
  auto [ours, theirs] = Pipe();
  Process child(options(), echo_bytes, theirs.share());
  child.start();
  theirs.close();
  ours.send_bytes(bytes_of("hello"));
  EXPECT_EQ(ours.recv_bytes(), bytes_of("hello"));
  ours.close();
  child.join();
  EXPECT_EQ(child.exit_code(), 0);
}

// test_context
TEST_P(PipeTest, AnEndIsClosedWithItsLastHandle) {
  auto [a, b] = Pipe();
  EXPECT_FALSE(a.closed());
  {
    Connection moved = std::move(a);
    EXPECT_TRUE(a.closed());  // NOLINT(bugprone-use-after-move): says so
    EXPECT_FALSE(moved.closed());
    Connection shared = moved.share();
    moved.close();
    moved.close();
    EXPECT_TRUE(moved.closed());
    b.send(1);
    EXPECT_EQ(shared.recv<int>(), 1);
  }
  EXPECT_THROW(b.send(1), Closed);
  EXPECT_THROW((void)b.recv<int>(), Closed);
}

// TestInvalidHandle
TEST_P(PipeTest, AClosedHandleIsATypedError) {
  Connection none;
  EXPECT_TRUE(none.closed());
  auto [a, b] = Pipe();
  a.close();
  for (Connection* c : {&none, &a}) {
    EXPECT_THROW(c->send(1), Closed);
    EXPECT_THROW((void)c->recv<int>(), Closed);
    EXPECT_THROW(c->send_bytes({}), Closed);
    EXPECT_THROW((void)c->recv_bytes(), Closed);
    EXPECT_THROW((void)c->poll(), Closed);
    EXPECT_THROW((void)c->fileno(), Closed);
    EXPECT_THROW((void)c->share(), Closed);
    EXPECT_THROW((void)c->readable(), Closed);
  }
  EXPECT_THROW((void)Pipe({.max_messages = 0}), Error);
  EXPECT_THROW((void)Pipe({.max_messages = std::size_t{1} << 40U}), Error);
}

// ---- types

TEST_P(PipeTest, AMessageOfAnotherTypeIsToldAndRemains) {
  auto [a, b] = Pipe();
  a.send(1);
  a.send(std::string("two"));
  a.send(std::string(100, 'x'));
  a.send_bytes(bytes_of("four"));
  EXPECT_THROW((void)b.recv<std::string>(), TypeMismatch);
  EXPECT_THROW((void)b.recv<unsigned>(), TypeMismatch);
  EXPECT_THROW((void)b.recv_bytes(), TypeMismatch);
  EXPECT_EQ(b.recv<int>(), 1);
  EXPECT_THROW((void)b.recv<int>(), TypeMismatch);
  EXPECT_EQ(b.recv<std::string>(), "two");
  EXPECT_THROW((void)b.recv<Bytes>(), TypeMismatch);
  EXPECT_EQ(b.recv<std::string>(), std::string(100, 'x'));
  EXPECT_THROW((void)b.recv<std::string>(), TypeMismatch);
  EXPECT_EQ(b.recv_bytes(), bytes_of("four"));
}

TEST_P(PipeTest, AVariantTakesWhicheverComes) {
  using Either = std::variant<int, std::string, Order>;
  auto [a, b] = Pipe();
  a.send(1);
  a.send(Order{"tea", 2});
  a.send(Either(std::string("three")));
  a.send(std::string("four"));
  a.send(5.0);
  EXPECT_EQ(b.recv<Either>(), Either(1));
  EXPECT_EQ(b.recv<Either>(), Either(Order{"tea", 2}));
  EXPECT_EQ(b.recv<Either>(), Either(std::string("three")));
  EXPECT_EQ(b.recv<Either>(), Either(std::string("four")));
  EXPECT_THROW((void)b.recv<Either>(), TypeMismatch);
  EXPECT_EQ(b.recv<double>(), 5.0);
}

TEST_P(PipeTest, TimedFormsEndInTimeAndSayWhether) {
  auto [a, b] = Pipe({.max_messages = 2});
  EXPECT_EQ(b.try_recv<int>(), std::nullopt);
  const auto start = Clock::now();
  EXPECT_EQ(b.recv_for<int>(20ms), std::nullopt);
  EXPECT_GE(Clock::now() - start, 20ms);
  EXPECT_TRUE(a.try_send(1));
  EXPECT_TRUE(a.send_for(2, 1h));
  EXPECT_FALSE(a.try_send(3));
  EXPECT_FALSE(a.send_for(std::string(1000, 'x'), 10ms));
  EXPECT_EQ(b.recv_for<int>(1h), 1);
  EXPECT_TRUE(a.try_send(std::string(1000, 'x')));
  EXPECT_EQ(b.try_recv<int>(), 2);
  EXPECT_EQ(b.try_recv<std::string>(), std::string(1000, 'x'));
}

// ---- _TestPoll

TEST_P(PipeTest, AnEmptyStringIsAMessage) {
  auto [a, b] = Pipe();
  EXPECT_FALSE(b.poll());
  a.send_bytes({});
  EXPECT_TRUE(b.poll());
  EXPECT_TRUE(b.poll());
  EXPECT_EQ(b.recv_bytes(), Bytes{});
  EXPECT_FALSE(b.poll());
}

// test_strings, test_boundaries, test_dont_merge: polling between them changes nothing.
TEST_P(PipeTest, MessagesAreNeitherCutNorMergedByPolling) {
  auto [ours, theirs] = Pipe();
  Process child(
      options(),
      [](Connection end) {
        for (const char* text : {"hello", "", "a", "b", "", "bye", "", "lop"}) {
          end.send_bytes(std::as_bytes(std::span(text, std::strlen(text))));
        }
        for (std::size_t size = 1; size < 200'000; size *= 3) end.send_bytes(pattern(size));
      },
      std::move(theirs));
  child.start();
  for (const char* text : {"hello", "", "a", "b", "", "bye", "", "lop"}) {
    ASSERT_TRUE(ours.poll(kHangGuard));
    EXPECT_TRUE(ours.poll());
    EXPECT_EQ(ours.recv_bytes(), bytes_of(text));
  }
  for (std::size_t size = 1; size < 200'000; size *= 3) {
    ASSERT_TRUE(ours.poll(kHangGuard));
    EXPECT_EQ(ours.recv_bytes(), pattern(size));
  }
  child.join();
}

// ---- room

TEST_P(PipeTest, WhoSendsTooMuchWaitsUntilThereIsRoom) {
  auto [reader, writer] = Pipe({.duplex = false, .max_messages = 4, .max_bytes = 1U << 20U});
  Process child(
      options(),
      [](Connection w) {
        for (int i = 0; i < 500; ++i) w.send(i);
        for (unsigned i = 0; i < 10; ++i) w.send_bytes(pattern(700'000, i));
      },
      std::move(writer));
  child.start();
  std::this_thread::sleep_for(10ms);
  for (int i = 0; i < 500; ++i) ASSERT_EQ(reader.recv<int>(), i);
  for (unsigned i = 0; i < 10; ++i) ASSERT_EQ(reader.recv_bytes(), pattern(700'000, i));
  child.join();
  EXPECT_EQ(child.exit_code(), 0);
}

TEST_P(PipeTest, OneMessageOfAnySizeAlwaysMay) {
  auto [a, b] = Pipe({.max_bytes = 1000});
  const std::string large(1U << 20U, 'x');
  EXPECT_TRUE(a.try_send(large));
  EXPECT_FALSE(a.try_send(large));
  EXPECT_TRUE(a.try_send(std::string(1000, 'y'))) << "small ones are only counted";
  EXPECT_EQ(b.recv<std::string>(), large);
  EXPECT_TRUE(a.try_send(large));
}

TEST_P(PipeTest, WhatDoesNotFitIntoMemoryIsATypedErrorAndTheNextMessageGoesThrough) {
  hosts_prepare_for(StartMethod::fork);  // the limit has to come before the family
  const HostRun run = run_host([] {
    warden::Family::limit_objects(std::size_t{8} << 20U);
    auto [a, b] = Pipe();
    for (int i = 0; i < 3; ++i) {
      try {
        a.send_bytes(Bytes(std::size_t{32} << 20U));
        return 1;
      } catch (const ArenaFull&) {
      }
      a.send(i);
      HOST_CHECK(b.recv<int>() == i);
    }
    return 0;
  });
  EXPECT_EQ(run.end, "exit 0");
}

// ---- handles in messages

// _TestPicklingConnections: test_pickling
TEST_P(PipeTest, AnEndCanBeSentToAThirdProcess) {
  auto [ours, theirs] = Pipe();
  Process child(
      options(),
      [](Connection line) {
        auto end = line.recv<Connection>();
        line.send(std::string("got it"));
        end.send(end.recv<int>() * 2);
        auto ends = line.recv<std::vector<Connection>>();
        for (Connection& each : ends) each.send(std::string("through each"));
      },
      std::move(theirs));
  child.start();
  auto [near, far] = Pipe();
  ours.send(far);
  far.close();
  EXPECT_EQ(ours.recv<std::string>(), "got it");
  near.send(21);
  EXPECT_EQ(near.recv<int>(), 42);
  std::vector<Connection> kept;
  std::vector<Connection> sent;
  for (int i = 0; i < 5; ++i) {
    auto [k, s] = Pipe({.duplex = i % 2 == 0});
    if (i % 2 == 0) {
      kept.push_back(std::move(k));
      sent.push_back(std::move(s));
    } else {
      kept.push_back(std::move(k));
      sent.push_back(std::move(s));
    }
  }
  ours.send(sent);
  sent.clear();
  for (Connection& each : kept) EXPECT_EQ(each.recv<std::string>(), "through each");
  child.join();
  EXPECT_EQ(child.exit_code(), 0);
  EXPECT_THROW((void)near.recv<int>(), Closed) << "its other end went with the child";
  for (Connection& each : kept) EXPECT_THROW((void)each.recv<std::string>(), Closed);
}

TEST_P(PipeTest, AnEndOnItsWayIsNoClosedEnd) {
  auto [a, b] = Pipe();
  auto [near, far] = Pipe();
  a.send(far);
  far.close();
  near.send(1);
  std::this_thread::sleep_for(50ms);
  EXPECT_FALSE(near.poll()) << "a message still names the other end";
  auto back = b.recv<Connection>();
  EXPECT_EQ(back.recv<int>(), 1);
  back.close();
  EXPECT_TRUE(near.poll(kHangGuard));
}

TEST_P(PipeTest, AMessageThatNobodyCanReceiveAnyMoreFreesWhatItNames) {
  auto [keeps_the_family, other] = Pipe();
  const std::size_t before = blocks();
  auto [near, far] = Pipe();
  {
    auto [a, b] = Pipe();
    a.send(far);
    a.send(std::string(100'000, 'x'));
    far.close();
  }
  EXPECT_TRUE(near.poll(kHangGuard));
  EXPECT_THROW((void)near.recv<int>(), Closed);
  near.close();
  EXPECT_TRUE(come_to(before));
}

TEST_P(PipeTest, TasksOfPoolsUseThem) {
  Pool pool({.workers = 2, .start = GetParam()});
  auto [a, b] = Pipe();
  auto sum = pool.submit(
      [](Connection end) {
        int total = 0;
        for (int i = 0; i < 100; ++i) total += end.recv<int>();
        return total;
      },
      std::move(b));
  for (int i = 0; i < 100; ++i) a.send(i);
  EXPECT_EQ(sum.get(), 4950);
}

// ---- several at one end

void send_numbers(Connection end, int base, int count) {
  for (int i = 0; i < count; ++i)
    end.send(std::pair(base + i, std::string(static_cast<std::size_t>(i % 97), 'x')));
}

TEST_P(PipeTest, SeveralSendersAndReceiversShareAnEndAndNothingIsTornLostOrDoubled) {
  constexpr int kSenders = 3;
  constexpr int kEach = 400;
  auto [ours, theirs] = Pipe({.max_messages = 16});
  std::vector<Process> senders;
  for (int s = 0; s < kSenders; ++s) {
    senders.emplace_back(options(), send_numbers, theirs.share(), s * 1000, kEach);
    senders.back().start();
  }
  theirs.close();
  std::array<std::vector<int>, 2> got;
  std::array<std::thread, 2> readers;
  for (std::size_t r = 0; r < 2; ++r) {
    readers[r] = std::thread([&, r, end = ours.share()]() mutable {
      try {
        for (;;) {
          const auto [number, text] = end.recv<std::pair<int, std::string>>();
          EXPECT_EQ(text, std::string(static_cast<std::size_t>(number % 1000 % 97), 'x'));
          got[r].push_back(number);
        }
      } catch (const Closed&) {
      }
    });
  }
  for (Process& sender : senders) sender.join();
  for (std::thread& reader : readers) reader.join();
  std::map<int, int> counts;
  for (const std::vector<int>& list : got) {
    std::array<int, kSenders> last{-1, -1, -1};
    for (const int number : list) {
      ++counts[number];
      int& before = last[static_cast<std::size_t>(number / 1000)];
      EXPECT_LT(before, number % 1000) << "a sender's messages keep their order";
      before = number % 1000;
    }
  }
  EXPECT_EQ(counts.size(), std::size_t{kSenders} * kEach);
  for (const auto& [number, count] : counts) EXPECT_EQ(count, 1) << number;
}

// ---- waiting with others (TestWait)

TEST_P(PipeTest, EndsTakePartInWait) {
  auto [a, b] = Pipe();
  auto [c, d] = Pipe();
  EXPECT_EQ(wait({a, c}, 0s), std::vector<std::size_t>{});
  b.send(1);
  EXPECT_EQ(wait({a, c}), std::vector<std::size_t>{0});
  d.send(std::string(1000, 'x'));
  EXPECT_EQ(wait({a, c}), (std::vector<std::size_t>{0, 1}));
  EXPECT_EQ(a.recv<int>(), 1);
  EXPECT_EQ(wait({a, c}), std::vector<std::size_t>{1});
  EXPECT_EQ(c.recv<std::string>().size(), 1000U);
  EXPECT_EQ(wait({a, c}, 10ms), std::vector<std::size_t>{});
  a.send(2);
  EXPECT_EQ(wait({a, b, c, d}, kHangGuard), std::vector<std::size_t>{1});
  d.close();
  EXPECT_EQ(wait({a, c}, kHangGuard), std::vector<std::size_t>{1}) << "at its end it is ready";
}

// test_wait, test_wait_slow
TEST_P(PipeTest, WhatChildrenSendIsSeenAsItComesUntilTheyAreGone) {
  constexpr int kChildren = 3;
  constexpr int kMessages = 10;
  std::vector<Connection> readers;
  std::vector<Process> writers;
  for (int i = 0; i < kChildren; ++i) {
    auto [r, w] = Pipe({.duplex = false});
    readers.push_back(std::move(r));
    writers.emplace_back(
        options(),
        [](Connection end, int which) {
          for (int n = 0; n < kMessages; ++n) {
            std::this_thread::sleep_for(std::chrono::milliseconds((n * 7 + which * 3) % 4));
            end.send(std::pair(which, n));
          }
        },
        std::move(w), i);
    writers.back().start();
  }
  std::map<int, int> next;
  while (!readers.empty()) {
    const auto ready = wait(std::vector<Waitable>(readers.begin(), readers.end()), kHangGuard);
    ASSERT_FALSE(ready.empty());
    std::vector<std::size_t> gone;
    for (const std::size_t place : ready) {
      try {
        const auto [which, n] = readers[place].recv<std::pair<int, int>>();
        EXPECT_EQ(next[which]++, n);
      } catch (const Closed&) {
        gone.push_back(place);
      }
    }
    for (auto place = gone.rbegin(); place != gone.rend(); ++place) {
      readers.erase(readers.begin() + static_cast<std::ptrdiff_t>(*place));
    }
  }
  for (int i = 0; i < kChildren; ++i) EXPECT_EQ(next[i], kMessages);
}

}  // namespace
}  // namespace brood::test
