// Somebody overwrites a pipe's shared memory with random bytes (P7): whoever uses it gets typed
// errors, or wrong values, in bounded time.
#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <optional>
#include <random>
#include <span>
#include <string>

#include "brood/pipe.hpp"
#include "channel/burial.hpp"
#include "channel/pipe_layout.hpp"
#include "channel/stream.hpp"
#include "shared/object_hold.hpp"
#include "warden/object_space.hpp"

namespace brood::test {
namespace {

using namespace std::chrono_literals;

// Random bytes, or bytes that are wrong in a few places only.
void scribble(std::span<std::byte> bytes, std::mt19937_64& random) {
  if (random() % 2 == 0) {
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
    return;
  }
  for (int i = 0; i < 20; ++i) {
    const std::uint64_t word = random() >> (random() % 64);
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

shm::ObjectPlace the_only_pipe(shm::Objects& objects) {
  shm::ObjectPlace found;
  objects.arena().for_each_block([&](shm::BlockRef ref, shm::OwnerId, std::span<std::byte>) {
    const shm::ObjectPlace place = objects.find(ref);
    if (place && place.kind == shm::ObjectKind::pipe) found = place;
  });
  return found;
}

void use(Connection& one, Connection& other) {
  const std::string large(70'000, 'x');
  for (int i = 0; i < 20; ++i) {
    for (Connection* end : {&one, &other}) {
      attempt([&] { static_cast<void>(end->try_send(i)); });
      attempt([&] { static_cast<void>(end->try_send(large)); });
      attempt([&] { static_cast<void>(end->try_recv<int>()); });
      attempt([&] { static_cast<void>(end->try_recv<std::string>()); });
      if (i % 8 != 0) continue;
      attempt([&] { static_cast<void>(end->send_for(large, 1ms)); });
      attempt([&] { static_cast<void>(end->recv_for<std::string>(1ms)); });
      attempt([&] { static_cast<void>(end->poll(1ms)); });
    }
  }
}

// As one who comes to know the pipe only now.
void use_newly(const shm::ObjectPlace& place, shm::Objects& objects) {
  std::optional<channel::PipeView> view = channel::view_pipe(place.body);
  if (!view) return;
  for (channel::Stream& stream : view->streams) {
    if (!stream) continue;
    for (int i = 0; i < 50; ++i) {
      const channel::Room room = stream.claim(objects.me());
      const std::array<std::byte, 8> bytes{};
      if (room.kind == channel::Room::Kind::claimed) channel::Stream::publish(room, 1, bytes);
      const channel::Glimpse glimpse = stream.look();
      channel::TakenMessage message;
      if (glimpse.kind == channel::Glimpse::Kind::message) {
        static_cast<void>(stream.take(glimpse, place.ref, objects, message));
      }
    }
    static_cast<void>(stream.bytes_waiting(1));
  }
}

TEST(PipeScribbleTest, CostsTypedErrors) {
  for (std::uint64_t seed = 1; seed <= 100; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    auto [one, other] = Pipe({.duplex = seed % 4 != 0, .max_messages = 8});
    for (int i = 0; i < 3; ++i) {
      other.send(i);
      other.send(std::string(500, 'y'));
    }
    EXPECT_EQ(one.recv<int>(), 0);
    if (seed % 3 == 0) {
      EXPECT_GE(one.fileno(), 0);
    }
    shm::Objects& objects = detail::objects_here();
    const shm::ObjectPlace place = the_only_pipe(objects);
    ASSERT_TRUE(place);
    // The description is read once; who comes later reads another one.
    scribble(place.body.subspan(sizeof(channel::PipeHeader)), random);
    use(one, other);
    scribble(place.body, random);
    use_newly(place, objects);
    for (std::uint16_t slot = 5; slot < 8; ++slot) channel::bury_in(place, {slot, 1}, objects);
  }
}

}  // namespace
}  // namespace brood::test
