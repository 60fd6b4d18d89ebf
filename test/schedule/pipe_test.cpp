// One direction of a pipe: messages in every order of their senders, receivers and deaths.
#include <array>
#include <cstdint>
#include <cstring>
#include <optional>
#include <vector>

#include "channel/stream.hpp"
#include "schedule/report.hpp"
#include "shm/bell.hpp"
#include "sys/futex.hpp"

namespace brood::schedule {
namespace {

using channel::Glimpse;
using channel::Room;
using channel::Stream;

constexpr std::uint64_t kType = 5;

// A ring of so many cells, with the bells of both sides, as a body has them.
template <std::uint32_t log>
struct Ring {
  channel::StreamHints hints{};
  std::array<channel::StreamCell, std::size_t{1} << log> cells{};
  shm::Bell messages{};
  shm::Bell room{};
  // What a sender did before it sent message n.
  std::array<Data<int>, 4> done;
  Stream stream{hints, cells.data(), log};
};

// A member, as far as messages without frames need one.
struct Member {
  explicit Member(std::uint16_t slot) { objects.attach({}, {slot, 1}); }
  shm::Objects objects;
};

template <class Done>
void wait(shm::Bell& bell, Done&& done) {
  while (!done()) {
    const std::uint32_t value = bell.listen();
    if (done()) return;
    sys::futex_wait(&bell.word, value, sys::kForever);
  }
}

template <class R>
void send(R& ring, Member& me, std::uint64_t number) {
  ring.done[number].write(1);
  Room room;
  wait(ring.room, [&] {
    room = ring.stream.claim(me.objects.me());
    return room.kind == Room::Kind::claimed;
  });
  Stream::publish(room, kType, std::as_bytes(std::span(&number, 1)));
  ring.messages.ring();
}

// Nothing: there is none now.
template <class R>
std::optional<std::uint64_t> receive(Scene& scene, R& ring, Member& me) {
  for (;;) {
    const Glimpse glimpse = ring.stream.look();
    scene.require(glimpse.kind != Glimpse::Kind::corrupt, "corrupt");
    if (glimpse.kind == Glimpse::Kind::nothing) return std::nullopt;
    scene.require(glimpse.type == kType, "a type of no message");
    channel::TakenMessage message;
    const auto took = ring.stream.take(glimpse, {}, me.objects, message);
    if (took == Stream::Took::nothing) continue;
    ring.room.ring();
    scene.require(took == Stream::Took::message && message.size == 8, "torn");
    std::uint64_t number = 0;
    std::memcpy(&number, message.bytes.data(), sizeof number);
    scene.require(number < 4, "no message");
    scene.require(ring.done[number].read() == 1, "what came before the message is not seen");
    return number;
  }
}

template <class R>
std::uint64_t wait_and_receive(Scene& scene, R& ring, Member& me) {
  std::optional<std::uint64_t> number;
  wait(ring.messages, [&] {
    number = receive(scene, ring, me);
    return number.has_value();
  });
  return *number;
}

void one_message(Scene& scene) {
  Ring<0> ring;
  Member sender(2);
  Member receiver(3);
  scene.actor("sender", [&] { send(ring, sender, 0); });
  scene.actor("receiver",
              [&] { scene.require(wait_and_receive(scene, ring, receiver) == 0, "order"); });
  scene.play();
}

// One cell: each waits for the other in turn.
void through_one_cell(Scene& scene) {
  Ring<0> ring;
  Member sender(2);
  Member receiver(3);
  scene.actor("sender", [&] {
    for (std::uint64_t i = 0; i < 2; ++i) send(ring, sender, i);
  });
  scene.actor("receiver", [&] {
    for (std::uint64_t i = 0; i < 2; ++i) {
      scene.require(wait_and_receive(scene, ring, receiver) == i, "order");
    }
  });
  scene.play();
}

void one_sends_two(Scene& scene) {
  Ring<1> ring;
  Member sender(2);
  Member receiver(3);
  scene.actor("sender", [&] {
    for (std::uint64_t i = 0; i < 2; ++i) send(ring, sender, i);
  });
  scene.actor("receiver", [&] {
    for (std::uint64_t i = 0; i < 2; ++i) {
      scene.require(wait_and_receive(scene, ring, receiver) == i, "order");
    }
  });
  scene.play();
}

void two_senders(Scene& scene) {
  Ring<1> ring;
  Member first(2);
  Member second(3);
  Member receiver(4);
  scene.actor("first", [&] { send(ring, first, 0); });
  scene.actor("second", [&] { send(ring, second, 1); });
  scene.actor("receiver", [&] {
    const std::uint64_t one = wait_and_receive(scene, ring, receiver);
    scene.require(wait_and_receive(scene, ring, receiver) == 1 - one, "doubled");
  });
  scene.play();
}

// One of them sends two messages, which must not come in the other order.
void two_senders_in_order(Scene& scene) {
  Ring<2> ring;
  Member first(2);
  Member second(3);
  Member receiver(4);
  scene.actor("first", [&] {
    send(ring, first, 0);
    send(ring, first, 1);
  });
  scene.actor("second", [&] { send(ring, second, 2); });
  scene.actor("receiver", [&] {
    bool had_first = false;
    for (int i = 0; i < 2; ++i) {
      const auto number = receive(scene, ring, receiver);
      if (number == 0U) had_first = true;
      scene.require(number != 1U || had_first, "order");
    }
  });
  scene.play();
}

void two_receivers(Scene& scene) {
  Ring<1> ring;
  Member sender(2);
  std::array<Member, 2> receivers{Member(3), Member(4)};
  std::array<std::uint64_t, 2> got{};
  scene.actor("sender", [&] {
    for (std::uint64_t i = 0; i < 2; ++i) send(ring, sender, i);
  });
  for (std::size_t i = 0; i < 2; ++i) {
    scene.actor("receiver", [&, i] { got[i] = wait_and_receive(scene, ring, receivers[i]); });
  }
  scene.play();
  scene.require(got[0] + got[1] == 1, "doubled");
}

void bury(Scene& scene, Ring<1>& ring, Member& warden, int who, shm::OwnerId dead) {
  scene.await_end(who);
  ring.stream.bury(dead, {}, warden.objects);
  ring.messages.ring_for_the_dead();
  ring.room.ring_for_the_dead();
}

// The survivor's message comes, whatever became of the other's.
void a_sender_may_die(Scene& scene) {
  Ring<1> ring;
  Member mortal(2);
  Member other(3);
  Member receiver(4);
  Member warden(1);
  const int who = scene.mortal("mortal", [&] { send(ring, mortal, 0); });
  scene.actor("other", [&] { send(ring, other, 1); });
  scene.actor("warden", [&] { bury(scene, ring, warden, who, mortal.objects.me()); });
  scene.actor("receiver", [&] {
    while (wait_and_receive(scene, ring, receiver) != 1) {
    }
  });
  scene.play();
  // Nothing is in the way of what comes next.
  static_cast<void>(receive(scene, ring, receiver));
  for (int i = 0; i < 2; ++i) {
    scene.require(ring.stream.claim(other.objects.me()).kind == Room::Kind::claimed, "no room");
  }
}

// At most the message that the dead was taking is gone.
void a_receiver_may_die(Scene& scene) {
  Ring<1> ring;
  Member sender(2);
  Member mortal(3);
  Member warden(1);
  const int who = scene.mortal("mortal", [&] { static_cast<void>(receive(scene, ring, mortal)); });
  scene.actor("sender", [&] {
    for (std::uint64_t i = 0; i < 3; ++i) send(ring, sender, i);
  });
  int got = 0;
  scene.actor("warden", [&] {
    bury(scene, ring, warden, who, mortal.objects.me());
    std::uint64_t last = 0;
    do {
      last = wait_and_receive(scene, ring, warden);
      ++got;
    } while (last != 2);
  });
  scene.play();
  scene.require(got >= 2, "more than one message is gone");
}

// A process that is stopped amid a send keeps nobody's message from coming.
void a_sender_stands_still(Scene& scene) {
  Ring<1> ring;
  Member still(2);
  Member sender(3);
  Member receiver(4);
  scene.actor("stands still", [&] {
    scene.require(ring.stream.claim(still.objects.me()).kind == Room::Kind::claimed, "no room");
  });
  scene.actor("sender", [&] { send(ring, sender, 0); });
  scene.actor("receiver",
              [&] { scene.require(wait_and_receive(scene, ring, receiver) == 0, "order"); });
  scene.play();
}

// Words are changed in one order for all; only a store that were seen before the word that its
// writer had changed earlier could mislead, and the explorer lets none overtake another.
constexpr const char* kOvertaking = "beyond the explorer: a store that overtakes the word's";

TEST(PipeScheduleTest, MessagesComeInOrderAndNobodySleepsOn) {
  expect_right_in_all("one message", one_message, {.old_reads = 1});
  expect_right_by_seed("one cell, two messages", through_one_cell, 2);
  expect_right_by_seed("two cells, two messages", one_sends_two, 2);
}
TEST(PipeScheduleTest, SeveralAtAnEnd) {
  expect_right_by_seed("two senders", two_senders, 2);
  expect_right_by_seed("two senders, one sends twice", two_senders_in_order, 2);
  expect_right_by_seed("two receivers", two_receivers, 2);
  expect_right_by_seed("a sender stands still", a_sender_stands_still, 1);
}
TEST(PipeScheduleTest, TheDeadTakeAtMostTheirOwnMessageAlong) {
  expect_right_by_seed("a sender may die", a_sender_may_die, 2);
  expect_right_by_seed("a receiver may die", a_receiver_may_die, 2);
}

TEST(PipeScheduleTest, EachBreakIsNoticed) {
  expect_breaks_noticed(
      "pipe", {"stream.cpp", "stream.hpp"},
      {one_message, through_one_cell, one_sends_two, two_senders, two_senders_in_order,
       two_receivers, a_sender_stands_still, a_sender_may_die, a_receiver_may_die},
      {{"stream.cpp", "tail.load(", Damage::relax, kOvertaking},
       {"stream.cpp", "head.load(", Damage::relax, kOvertaking},
       {"stream.cpp", "hints_->tail.store(", Damage::relax, kOvertaking},
       {"stream.cpp", "hints_->head.store(", Damage::relax, kOvertaking},
       {"stream.cpp", "hints_->tail.store(", Damage::drop, "a hint"},
       {"stream.cpp", "hints_->head.store(", Damage::drop, "a hint"},
       {"stream.cpp", "type.store(", Damage::relax, kOvertaking},
       {"stream.cpp", "type.load(", Damage::relax, kOvertaking}},
      10'000);
}

}  // namespace
}  // namespace brood::schedule
