// Somebody overwrites a queue's shared memory with random bytes (P7): whoever uses it gets typed
// errors, or wrong values, in bounded time.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <cstring>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "brood/queue.hpp"
#include "channel/burial.hpp"
#include "channel/queue_ring.hpp"
#include "shared/object_hold.hpp"
#include "support/time.hpp"
#include "warden/object_space.hpp"

namespace brood::test {
namespace {

using namespace std::chrono_literals;

struct Fields {
  bool flag = false;
  int number = 0;
};

// Random bytes, or bytes that are wrong in a few places only.
void scribble(std::span<std::byte> bytes, std::mt19937_64& random) {
  if (random() % 2 == 0) {
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
    return;
  }
  for (int i = 0; i < 20; ++i) {
    std::uint64_t word = random() >> (random() % 64);
    const std::size_t at = random() % (bytes.size() / 8) * 8;
    std::memcpy(bytes.data() + at, &word, sizeof word);
  }
}

template <class Action>
void attempt(Action&& action) {
  try {
    action();
  } catch (const Error&) {
  }
}

template <class T, class Q>
void use_after(std::uint64_t seed, const QueueOptions& options, const T& item) {
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  Q queue(options);
  const int fd = seed % 3 == 0 ? queue.fileno() : -1;
  EXPECT_GE(fd, -1);
  for (int i = 0; i < 5; ++i) queue.put(item);
  queue.get();
  const shm::ObjectPlace place = queue.object_handle().hold()->use();
  // The description is read once; whoever comes to know the queue later reads another one.
  scribble(place.body.subspan(sizeof(channel::QueueShape)), random);
  for (int i = 0; i < 40; ++i) {
    attempt([&] { queue.try_put(item); });
    attempt([&] { queue.try_get(); });
    attempt([&] { static_cast<void>(queue.size()); });
    attempt([&] { static_cast<void>(queue.full() || queue.empty()); });
    if (i % 16 == 0) attempt([&] { queue.put_for(item, 1ms); });
    if (i % 16 == 0) attempt([&] { queue.get_for(1ms); });
  }
  if constexpr (requires { queue.task_done(); }) {
    attempt([&] { queue.task_done(); });
    attempt([&] { queue.join_for(1ms); });
  }
  attempt([&] { queue.close(); });
  shm::Objects& objects = detail::objects_here();
  scribble(place.body, random);
  channel::QueueRing newcomer;
  if (newcomer.attach(place, objects)) {
    channel::Position at;
    for (int i = 0; i < 100; ++i) {
      if (newcomer.claim(at, objects.me()) == channel::Attempt::done) {
        newcomer.publish(at, objects.me());
      }
      if (newcomer.take(at, objects.me()) == channel::Attempt::done) {
        newcomer.clear(at, objects.me());
      }
    }
    static_cast<void>(newcomer.size());
  }
  for (std::uint16_t slot = 5; slot < 8; ++slot) channel::bury_in(place, {slot, 1}, objects);
}

TEST(QueueScribbleTest, CostsTypedErrors) {
  for (std::uint64_t seed = 1; seed <= 100; ++seed) {
    switch (seed % 4) {
      case 0:
        use_after<Fields, Queue<Fields>>(seed, {.max_items = 10}, {true, 1});
        break;
      case 1:
        use_after<Fields, JoinableQueue<Fields>>(seed, {}, {true, 1});
        break;
      case 2:
        use_after<std::string, Queue<std::string>>(seed, {.max_bytes = 10'000}, "text");
        break;
      default:
        use_after<std::string, JoinableQueue<std::string>>(
            seed, {.max_items = 6, .on_full = OnFull::drop_oldest}, "text");
    }
  }
}

}  // namespace
}  // namespace brood::test
