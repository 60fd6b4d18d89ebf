// Messages between two processes: brood::Pipe beside socketpair, CPython's Pipe and ZeroMQ's ipc.
// Every value that comes back is compared with what was sent.
#include <brood/brood.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <sys/socket.h>
#include <unistd.h>
#include <zmq.h>

#include "harness.hpp"

namespace {

using bench::Clock;
using bench::seconds_since;
using namespace std::chrono_literals;

constexpr int kHot = 20'000;
constexpr int kAsleep = 200;
constexpr std::size_t kLargeBytes = std::size_t{64} << 20U;
constexpr int kLarge = 4;

void check(bool right) {
  if (right) return;
  std::fprintf(stderr, "a wrong value came back\n");
  std::abort();
}

// Microseconds per round trip; the peer sends back what it gets plus one.
template <class RoundTrip>
double per_round_trip(int count, bool asleep, RoundTrip&& round_trip) {
  double spent = 0;
  std::int64_t value = 0;
  if (!asleep) {
    const auto start = Clock::now();
    for (int i = 0; i < count; ++i) value = round_trip(value);
    spent = seconds_since(start);
  }
  for (int i = 0; asleep && i < count; ++i) {
    std::this_thread::sleep_for(1ms);  // so that the peer sleeps, too
    const auto start = Clock::now();
    value = round_trip(value);
    spent += seconds_since(start);
  }
  check(value == count);
  return spent / count * 1e6;
}

void answer(brood::Connection end) {
  try {
    for (;;) end.send(end.recv<std::int64_t>() + 1);
  } catch (const brood::Closed&) {
  }
}

double brood_round_trip(int count, bool asleep) {
  auto [ours, theirs] = brood::Pipe();
  brood::Process child({.start = brood::StartMethod::fork}, answer, std::move(theirs));
  child.start();
  const double result = per_round_trip(count, asleep, [&to = ours](std::int64_t value) {
    to.send(value);
    return to.recv<std::int64_t>();
  });
  ours.close();
  return result;
}

void must_read(int fd, void* to, std::size_t bytes) {
  for (std::size_t done = 0; done < bytes;) {
    const ssize_t got = ::read(fd, static_cast<char*>(to) + done, bytes - done);
    check(got > 0);
    done += static_cast<std::size_t>(got);
  }
}
void must_write(int fd, const void* from, std::size_t bytes) {
  for (std::size_t done = 0; done < bytes;) {
    const ssize_t put = ::write(fd, static_cast<const char*>(from) + done, bytes - done);
    check(put > 0);
    done += static_cast<std::size_t>(put);
  }
}

double socket_round_trip(int count, bool asleep) {
  int ends[2];
  check(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
  brood::Process child(brood::forked, [ends] {
    ::close(ends[0]);
    std::int64_t value = 0;
    while (::read(ends[1], &value, sizeof value) == sizeof value) {
      ++value;
      must_write(ends[1], &value, sizeof value);
    }
  });
  child.start();
  ::close(ends[1]);
  const double result = per_round_trip(count, asleep, [&](std::int64_t value) {
    must_write(ends[0], &value, sizeof value);
    must_read(ends[0], &value, sizeof value);
    return value;
  });
  ::close(ends[0]);
  return result;
}

double python(const char* job, int count, std::size_t bytes) {
  const std::string command = std::string(BROOD_BENCH_PYTHON) + " " + BROOD_BENCH_DIR +
                              "/cpython_pipe.py " + job + " " + std::to_string(count) + " " +
                              std::to_string(bytes);
  std::FILE* output = ::popen(command.c_str(), "r");
  check(output != nullptr);
  double value = 0;
  check(std::fscanf(output, "%lf", &value) == 1);
  ::pclose(output);
  return value;
}

double zmq_round_trip(int count, bool asleep) {
  const std::string address = "ipc:///tmp/brood-bench-" + std::to_string(::getpid());
  brood::Process child(brood::forked, [address, count] {
    void* context = zmq_ctx_new();
    void* socket = zmq_socket(context, ZMQ_PAIR);
    zmq_bind(socket, address.c_str());
    for (int i = 0; i < count; ++i) {
      std::int64_t value = 0;
      zmq_recv(socket, &value, sizeof value, 0);
      ++value;
      zmq_send(socket, &value, sizeof value, 0);
    }
    zmq_close(socket);
    zmq_ctx_term(context);
  });
  child.start();
  void* context = zmq_ctx_new();
  void* socket = zmq_socket(context, ZMQ_PAIR);
  zmq_connect(socket, address.c_str());
  const double result = per_round_trip(count, asleep, [&](std::int64_t value) {
    zmq_send(socket, &value, sizeof value, 0);
    zmq_recv(socket, &value, sizeof value, 0);
    return value;
  });
  zmq_close(socket);
  zmq_ctx_term(context);
  return result;
}

// ---- large messages: seconds for one, copied in and out, from the second on

std::vector<std::byte> large_message() {
  std::vector<std::byte> bytes(kLargeBytes);
  for (std::size_t i = 0; i < bytes.size(); i += 4096) bytes[i] = static_cast<std::byte>(i >> 12U);
  return bytes;
}

void swallow(brood::Connection end, int count) {
  const std::vector<std::byte> expected = large_message();
  std::vector<std::byte> room(kLargeBytes, std::byte{1});
  for (int i = 0; i < count; ++i) {
    end.send(end.recv_bytes_into(room));
    check(i != 0 || room == expected);
  }
}

double brood_large() {
  auto [ours, theirs] = brood::Pipe();
  brood::Process child({.start = brood::StartMethod::fork}, swallow, std::move(theirs), kLarge + 1);
  child.start();
  const std::vector<std::byte> message = large_message();
  ours.send_bytes(message);
  check(ours.recv<std::size_t>() == kLargeBytes);
  const auto start = Clock::now();
  for (int i = 0; i < kLarge; ++i) {
    ours.send_bytes(message);
    check(ours.recv<std::size_t>() == kLargeBytes);
  }
  return seconds_since(start) / kLarge * 1e3;
}

double two_copies() {
  const std::vector<std::byte> message = large_message();
  std::vector<std::byte> shared(kLargeBytes, std::byte{1});
  std::vector<std::byte> room(kLargeBytes, std::byte{1});
  const auto start = Clock::now();
  for (int i = 0; i < kLarge; ++i) {
    std::memcpy(shared.data(), message.data(), kLargeBytes);
    asm volatile("" : : "r"(shared.data()) : "memory");
    std::memcpy(room.data(), shared.data(), kLargeBytes);
    asm volatile("" : : "r"(room.data()) : "memory");
  }
  const double result = seconds_since(start) / kLarge * 1e3;
  check(room == message);
  return result;
}

double socket_large() {
  int ends[2];
  check(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
  brood::Process child(brood::forked, [ends] {
    std::vector<std::byte> room(kLargeBytes, std::byte{1});
    for (int i = 0; i < kLarge + 1; ++i) {
      must_read(ends[1], room.data(), kLargeBytes);
      must_write(ends[1], &i, sizeof i);
    }
    check(room == large_message());
  });
  child.start();
  const std::vector<std::byte> message = large_message();
  Clock::time_point start;
  for (int i = 0; i < kLarge + 1; ++i) {
    if (i == 1) start = Clock::now();
    int answer = 0;
    must_write(ends[0], message.data(), kLargeBytes);
    must_read(ends[0], &answer, sizeof answer);
    check(answer == i);
  }
  const double result = seconds_since(start) / kLarge * 1e3;
  ::close(ends[0]);
  ::close(ends[1]);
  return result;
}

// ---- a stream of small messages, per second

double brood_stream() {
  constexpr int kCount = 1'000'000;
  auto [reader, writer] = brood::Pipe({.duplex = false});
  brood::Process child(
      {.start = brood::StartMethod::fork},
      [](brood::Connection end, int count) {
        for (std::int64_t i = 0; i < count; ++i) end.send(i);
      },
      std::move(writer), kCount);
  child.start();
  check(reader.recv<std::int64_t>() == 0);
  const auto start = Clock::now();
  for (std::int64_t i = 1; i < kCount; ++i) check(reader.recv<std::int64_t>() == i);
  return kCount / seconds_since(start);
}

double socket_stream() {
  constexpr int kCount = 200'000;
  int ends[2];
  check(::socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) == 0);
  brood::Process child(brood::forked, [ends] {
    for (std::int64_t i = 0; i < kCount; ++i) must_write(ends[1], &i, sizeof i);
  });
  child.start();
  const auto start = Clock::now();
  for (std::int64_t i = 0; i < kCount; ++i) {
    std::int64_t value = 0;
    must_read(ends[0], &value, sizeof value);
    check(value == i);
  }
  const double result = kCount / seconds_since(start);
  ::close(ends[0]);
  ::close(ends[1]);
  return result;
}

}  // namespace

int main() {
  bench::Comparison hot("8 bytes there and back, hot", "us", false);
  bench::Comparison asleep("8 bytes there and back, each time asleep for 1 ms", "us", false);
  for (auto [table, count, sleeps] : {std::tuple(&hot, kHot, false), {&asleep, kAsleep, true}}) {
    table->add("brood::Pipe", [=] { return brood_round_trip(count, sleeps); });
    table->add("socketpair", [=] { return socket_round_trip(count, sleeps); });
    table->add("CPython Pipe", [=] { return python(sleeps ? "asleep" : "hot", count, 8); });
    table->add("ZeroMQ ipc", [=] { return zmq_round_trip(count, sleeps); });
    table->run(5);
  }
  bench::Comparison stream("8-byte messages one way", "per second", true);
  stream.add("brood::Pipe", brood_stream);
  stream.add("socketpair (packets)", socket_stream);
  stream.run(5);
  bench::Comparison large("64 MiB, copied in and out, from the second on", "ms", false);
  large.add("brood::Pipe, recv_bytes_into", brood_large);
  large.add("two memcpys", two_copies);
  large.add("socketpair", socket_large);
  large.add("CPython Pipe", [] { return python("large", kLarge, kLargeBytes) * 1e3; });
  large.run(3);
}
