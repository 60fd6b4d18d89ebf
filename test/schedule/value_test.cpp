// A wide value: it is read while others change it, die in that, and are buried.
#include <array>
#include <cstring>

#include "schedule/report.hpp"
#include "shm/bell.hpp"
#include "shm/wide_value.hpp"
#include "sys/clock.hpp"

namespace brood::schedule {
namespace {

using shm::OwnerId;
using shm::WideValue;

using Words = std::array<std::uint64_t, 2>;

OwnerId owner(int number) { return {static_cast<std::uint16_t>(number + 2), 1}; }

// Its two words are always the same number: how often it was changed.
struct Shared {
  alignas(64) std::array<std::byte, shm::value_body_bytes(sizeof(Words))> bytes{};
  shm::Bell bell{};
  Data<int> notes;  // of whoever has the claim

  Shared() {
    new (bytes.data() + shm::kValueOffset) shm::ValueBody{};
    for (std::size_t i = 1; i < 4; ++i) {
      new (bytes.data() + shm::kValueWordsOffset + 8 * i) sys::Atomic<std::uint64_t>{};
    }
  }
  [[nodiscard]] WideValue value() { return {bytes, sizeof(Words)}; }
};

// As WideUpdate does, without the looking and the time limits.
void claim(Shared& shared, OwnerId me) {
  WideValue value = shared.value();
  for (;;) {
    if (value.try_claim(me)) return;
    const std::uint32_t seen = shared.bell.listen();
    if (value.try_claim(me)) return;
    sys::futex_wait(&shared.bell.word, seen, INT64_MAX);
  }
}

void increment(Scene& scene, Shared& shared, OwnerId me) {
  claim(shared, me);
  WideValue value = shared.value();
  shared.notes.write(me.slot);
  Words words;
  value.read_claimed(reinterpret_cast<std::byte*>(words.data()));
  scene.require(words[0] == words[1], "the claimer sees half a change");
  ++words[0];
  ++words[1];
  scene.require(value.publish(reinterpret_cast<const std::byte*>(words.data()), me),
                "the claim is lost");
  shared.bell.ring();
}

std::uint64_t read(Scene& scene, Shared& shared) {
  Words words;
  while (!shared.value().try_read(reinterpret_cast<std::byte*>(words.data()))) sys::yield();
  scene.require(words[0] == words[1], "half a change");
  return words[0];
}

void bury(Shared& shared, OwnerId dead) {
  WideValue::bury(shared.bytes, dead);
  shared.bell.ring_for_all();
}

void expect_value(Scene& scene, Shared& shared, std::uint64_t least, std::uint64_t most) {
  const std::uint64_t now = read(scene, shared);
  scene.require(now >= least && now <= most, "changes are lost, or made twice");
  scene.require(!shm::ValueState::unpack(shared.value().state()).claimed, "a claim is left");
}

void reader_and_writer(Scene& scene) {
  Shared shared;
  scene.actor("writer", [&] {
    for (int i = 0; i < 2; ++i) increment(scene, shared, owner(0));
  });
  scene.actor("reader", [&] {
    const std::uint64_t first = read(scene, shared);
    scene.require(read(scene, shared) >= first, "back in time");
  });
  scene.play();
  expect_value(scene, shared, 2, 2);
}

void two_writers(Scene& scene) {
  Shared shared;
  for (int i = 0; i < 2; ++i) {
    scene.actor("writer", [&, i] { increment(scene, shared, owner(i)); });
  }
  scene.actor("reader", [&] { read(scene, shared); });
  scene.play();
  expect_value(scene, shared, 2, 2);
}

// What came before a change is seen by who reads the value.
void handing_over(Scene& scene) {
  Shared shared;
  Data<int> prepared;
  scene.actor("writer", [&] {
    prepared.write(7);
    increment(scene, shared, owner(0));
  });
  scene.actor("reader", [&] {
    if (read(scene, shared) == 1) scene.require(prepared.read() == 7, "not what was prepared");
  });
  scene.play();
}

void giving_up(Scene& scene) {
  Shared shared;
  scene.actor("undecided", [&] {
    claim(shared, owner(0));
    shared.notes.write(1);
    scene.require(shared.value().give_up(owner(0)), "the claim is lost");
    shared.bell.ring();
  });
  scene.actor("writer", [&] { increment(scene, shared, owner(1)); });
  scene.play();
  expect_value(scene, shared, 1, 1);
}

void death_of_a_writer(Scene& scene) {
  Shared shared;
  const int victim = scene.mortal("victim", [&] { increment(scene, shared, owner(0)); });
  scene.actor("writer", [&] { increment(scene, shared, owner(1)); });
  scene.actor("warden", [&] {
    scene.await_end(victim);
    bury(shared, owner(0));
    bury(shared, owner(0));
  });
  scene.play();
  expect_value(scene, shared, scene.died(victim) ? 1 : 2, 2);
}

void death_beside_a_reader(Scene& scene) {
  Shared shared;
  const int victim = scene.mortal("victim", [&] {
    for (int i = 0; i < 2; ++i) increment(scene, shared, owner(0));
  });
  scene.actor("warden", [&] {
    scene.await_end(victim);
    bury(shared, owner(0));
    increment(scene, shared, owner(1));
  });
  scene.actor("reader", [&] { read(scene, shared); });
  scene.play();
  expect_value(scene, shared, 1, 3);
}

// A claim of nobody's, as somebody who scribbles leaves it: whoever wants to change the value takes
// it away.
void strangers_claim(Scene& scene) {
  Shared shared;
  shared.value().try_claim(owner(9));
  for (int i = 0; i < 2; ++i) {
    scene.actor("writer", [&, i] {
      WideValue value = shared.value();
      while (!value.try_claim(owner(i))) {
        const std::uint64_t seen = value.state();
        const shm::ValueState state = shm::ValueState::unpack(seen);
        if (state.claimed && state.claimer == owner(9)) {
          value.unclaim(seen);
        } else {
          sys::yield();
        }
      }
      shared.notes.write(i);
      Words words;
      value.read_claimed(reinterpret_cast<std::byte*>(words.data()));
      for (std::uint64_t& word : words) ++word;
      scene.require(value.publish(reinterpret_cast<const std::byte*>(words.data()), owner(i)),
                    "the claim is lost");
    });
  }
  scene.play();
  expect_value(scene, shared, 2, 2);
}

TEST(ValueScheduleTest, NobodySeesHalfAChange) {
  expect_right_in_all("value: two changes and a reader", reader_and_writer, {.old_reads = 1});
  expect_right_by_seed("value: two writers and a reader", two_writers, 1.0);
  expect_right_in_all("value: what came before a change", handing_over);
}
TEST(ValueScheduleTest, AClaimMayBeGivenUp) {
  expect_right_in_all("value: one gives up, one changes", giving_up);
}
TEST(ValueScheduleTest, TheDeadAreNotWaitedFor) {
  expect_right_by_seed("value: a writer may die beside another", death_of_a_writer, 1.0);
  expect_right_by_seed("value: a writer may die beside a reader", death_beside_a_reader, 1.0);
}

TEST(ValueScheduleTest, StrangersClaimsAreTakenAway) {
  expect_right_by_seed("value: a claim of nobody's", strangers_claim, 0.5);
}

TEST(ValueScheduleTest, EachBreakIsNoticed) {
  expect_breaks_noticed("value", {"wide_value.cpp"},
                        {reader_and_writer, two_writers, handing_over, giving_up, death_of_a_writer,
                         death_beside_a_reader, strangers_claim},
                        {}, 20'000);
}

}  // namespace
}  // namespace brood::schedule
