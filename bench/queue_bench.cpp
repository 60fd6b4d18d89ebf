// Queues from process to process beside their peers: moodycamel's (between threads), Boost's
// message_queue, ZeroMQ over ipc, CPython's. Every value is checked by who receives it.
#include <concurrentqueue/concurrentqueue.h>
#include <zmq.h>
#include <brood/brood.hpp>

#include <array>
#include <boost/interprocess/ipc/message_queue.hpp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "harness.hpp"

namespace {

using bench::Clock;
using Large = std::array<std::int64_t, 8>;
namespace ipc = boost::interprocess;

constexpr std::size_t kRoom = 65536;

void expect(bool right) {
  if (right) return;
  std::puts("a value is wrong");
  std::abort();
}

std::int64_t number_in(std::int64_t item) { return item; }
std::int64_t number_in(const Large& item) { return item[0]; }
template <class T>
T item_of(std::int64_t number) {
  if constexpr (std::is_same_v<T, Large>) {
    return {number, 1, 2, 3, 4, 5, 6, number};
  } else {
    return number;
  }
}

// Items per second from `producers` processes to `consumers`, each of which checks that the items
// of each producer come in their order.
template <class T>
double through_brood(std::size_t limit, int producers, int consumers, std::int64_t count) {
  brood::Queue<T> queue(limit);
  const std::int64_t each = count / producers;
  std::vector<brood::Process> all;
  for (int who = 0; who < producers; ++who) {
    all.emplace_back(brood::forked, [&, who] {
      for (std::int64_t i = 0; i < each; ++i) queue.put(item_of<T>(i * producers + who));
    });
  }
  const auto consume = [&] {
    std::vector<std::int64_t> last(static_cast<std::size_t>(producers), -1);
    for (const T item : queue) {
      const std::int64_t number = number_in(item);
      // A division for each item would be what is measured.
      const std::int64_t who = producers == 1 ? 0 : number % producers;
      std::int64_t& before = last[static_cast<std::size_t>(who)];
      expect(number > before && (consumers > 1 || before < 0 || number == before + producers));
      before = number;
    }
  };
  std::vector<brood::Process> takers;
  for (int i = 1; i < consumers; ++i) takers.emplace_back(brood::forked, consume);
  const auto start = Clock::now();
  for (auto& process : takers) process.start();
  for (auto& process : all) process.start();
  brood::Process last(brood::forked, consume);
  last.start();
  for (auto& process : all) process.join();
  queue.close();
  for (auto& process : takers) process.join();
  last.join();
  expect(last.exit_code() == 0);
  return static_cast<double>(count) / bench::seconds_since(start);
}

double through_moodycamel(std::int64_t count) {
  moodycamel::ConcurrentQueue<std::int64_t> queue;
  const auto start = Clock::now();
  std::thread producer([&] {
    for (std::int64_t i = 0; i < count; ++i) queue.enqueue(i);
  });
  for (std::int64_t i = 0; i < count;) {
    std::int64_t item = 0;
    if (!queue.try_dequeue(item)) continue;
    expect(item == i++);
  }
  producer.join();
  return static_cast<double>(count) / bench::seconds_since(start);
}

template <class T>
double through_boost(std::int64_t count) {
  const std::string name = "brood-bench-" + std::to_string(std::rand());
  ipc::message_queue queue(ipc::create_only, name.c_str(), kRoom, sizeof(T));
  brood::Process producer(brood::forked, [&] {
    for (std::int64_t i = 0; i < count; ++i) {
      const T item = item_of<T>(i);
      queue.send(&item, sizeof item, 0);
    }
  });
  const auto start = Clock::now();
  producer.start();
  for (std::int64_t i = 0; i < count; ++i) {
    T item;
    std::size_t bytes = 0;
    unsigned priority = 0;
    queue.receive(&item, sizeof item, bytes, priority);
    expect(number_in(item) == i);
  }
  const double rate = static_cast<double>(count) / bench::seconds_since(start);
  producer.join();
  ipc::message_queue::remove(name.c_str());
  return rate;
}

double through_zeromq(std::int64_t count) {
  const std::string address = "ipc:///tmp/brood-bench-" + std::to_string(std::rand());
  // Before this process has threads of ZeroMQ's.
  brood::Process producer(brood::forked, [&] {
    void* const context = zmq_ctx_new();
    void* const socket = zmq_socket(context, ZMQ_PUSH);
    zmq_connect(socket, address.c_str());
    for (std::int64_t i = 0; i < count; ++i) {
      const Large item = item_of<Large>(i);
      zmq_send(socket, &item, sizeof item, 0);
    }
    zmq_close(socket);
    zmq_ctx_term(context);
  });
  producer.start();
  void* const context = zmq_ctx_new();
  void* const socket = zmq_socket(context, ZMQ_PULL);
  expect(zmq_bind(socket, address.c_str()) == 0);
  auto start = Clock::now();
  for (std::int64_t i = 0; i < count; ++i) {
    Large item;
    expect(zmq_recv(socket, &item, sizeof item, 0) == sizeof item && number_in(item) == i);
    if (i == 0) start = Clock::now();
  }
  const double rate = static_cast<double>(count) / bench::seconds_since(start);
  zmq_close(socket);
  zmq_ctx_term(context);
  producer.join();
  return rate;
}

double through_cpython(std::int64_t count) {
  const std::string command = std::string(BROOD_BENCH_PYTHON) + " " BROOD_BENCH_DIR +
                              "/cpython_queue.py " + std::to_string(count);
  FILE* pipe = popen(command.c_str(), "r");
  double rate = 0;
  if (pipe != nullptr) {
    expect(std::fscanf(pipe, "%lf", &rate) == 1);
    pclose(pipe);
  }
  return rate;
}

// ---- large messages: GB of payload a second, copied in by one process and out by another

constexpr std::size_t kLargeBytes = std::size_t{64} << 20U;
constexpr int kLargeCount = 8;

double two_copies() {
  const std::vector<char> from(kLargeBytes, 'x');
  std::vector<char> between(kLargeBytes);
  std::vector<char> to(kLargeBytes);
  const auto start = Clock::now();
  for (int i = 0; i < kLargeCount; ++i) {
    std::memcpy(between.data(), from.data(), kLargeBytes);
    asm volatile("" : : "r"(between.data()) : "memory");
    std::memcpy(to.data(), between.data(), kLargeBytes);
    asm volatile("" : : "r"(to.data()) : "memory");
  }
  return kLargeCount * static_cast<double>(kLargeBytes) / bench::seconds_since(start) / 1e9;
}

struct Header {
  std::int64_t number = 0;
};
using Messages = brood::Queue<brood::Message<Header>>;

// One at a time, so that both processors do what two copies in one thread would. From the second
// message on the memory is recycled.
double large_messages() {
  Messages there(1);
  brood::Queue<int> back(1);
  brood::Process producer(brood::forked, [&] {
    std::vector<char> from(kLargeBytes, 'x');
    for (int i = 0; i <= kLargeCount; ++i) {
      from[0] = static_cast<char>(i);
      there.put({i}, std::as_bytes(std::span(from)));
      back.get();
    }
  });
  producer.start();
  std::vector<char> to(kLargeBytes);
  Clock::time_point start;
  for (int i = 0; i <= kLargeCount; ++i) {
    {
      const Messages::View view = there.get_view();
      std::memcpy(to.data(), view.bytes().data(), kLargeBytes);
      expect(view.header().number == i && to[0] == static_cast<char>(i));
    }
    if (i == 0) start = Clock::now();
    back.put(i);
  }
  const double seconds = bench::seconds_since(start);
  producer.join();
  return kLargeCount * static_cast<double>(kLargeBytes) / seconds / 1e9;
}

// Microseconds from loan to the end of the view, in one process: nothing is copied.
double loan_and_view(std::size_t bytes) {
  Messages queue(2);
  constexpr int kCount = 2000;
  const auto start = Clock::now();
  for (int i = 0; i < kCount; ++i) {
    Messages::Loan loan = queue.loan(bytes);
    loan.header() = {i};
    loan.bytes()[bytes - 1] = std::byte{1};
    loan.publish();
    expect(queue.get_view().header().number == i);
  }
  return bench::seconds_since(start) / kCount * 1e6;
}

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 5;
  constexpr std::int64_t kMany = 5'000'000;
  constexpr std::int64_t kFew = 500'000;

  bench::Comparison small("8-byte items, one producer, one consumer", "items/s", true);
  small.add("brood::Queue<int64_t>(65536)",
            [] { return through_brood<std::int64_t>(kRoom, 1, 1, kMany); });
  small.add("brood::Queue<int64_t>()", [] { return through_brood<std::int64_t>(0, 1, 1, kMany); });
  small.add("moodycamel, between threads", [] { return through_moodycamel(kMany); });
  small.add("Boost message_queue", [] { return through_boost<std::int64_t>(kFew); });
  small.add("CPython multiprocessing.Queue", [] { return through_cpython(50'000); });
  small.run(rounds);

  bench::Comparison large("64-byte items, one producer, one consumer", "items/s", true);
  large.add("brood::Queue<array<int64_t, 8>>(65536)",
            [] { return through_brood<Large>(kRoom, 1, 1, kMany); });
  large.add("Boost message_queue", [] { return through_boost<Large>(kFew); });
  large.add("ZeroMQ push/pull over ipc", [] { return through_zeromq(kFew); });
  large.run(rounds);

  bench::Comparison crowd("8-byte items through brood::Queue(65536)", "items/s", true);
  crowd.add("1 producer, 1 consumer",
            [] { return through_brood<std::int64_t>(kRoom, 1, 1, kMany); });
  crowd.add("2 producers, 2 consumers",
            [] { return through_brood<std::int64_t>(kRoom, 2, 2, kMany); });
  crowd.add("4 producers, 4 consumers",
            [] { return through_brood<std::int64_t>(kRoom, 4, 4, kMany); });
  crowd.run(rounds);

  bench::Comparison huge("64 MiB messages, copied in and out", "GB/s", true);
  huge.add("two memcpys in one thread", two_copies);
  huge.add("brood::Queue<Message>, from the second on", large_messages);
  huge.run(rounds);

  bench::Comparison places("loan, publish, view, drop", "us", false);
  places.add("4 KiB", [] { return loan_and_view(4096); });
  places.add("1 MiB", [] { return loan_and_view(std::size_t{1} << 20U); });
  places.add("64 MiB", [] { return loan_and_view(kLargeBytes); });
  places.run(rounds);
}
