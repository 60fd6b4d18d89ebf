// A member dies after each instruction of what it does with objects and frames, a warden after each
// of what it does for the dead; the next warden leaves nothing of it, and to everybody else all
// that was theirs.
#include <gtest/gtest.h>

#include <array>
#include <functional>
#include <ostream>
#include <string>

#include "shm/objects.hpp"
#include "support/every_instruction.hpp"
#include "support/object_region.hpp"
#include "support/stepped_child.hpp"
#include "support/stepper.hpp"

namespace brood::test {
namespace {

using namespace std::chrono_literals;
using shm::BlockRef;
using shm::FramePlace;
using shm::ObjectKind;
using shm::ObjectPlace;
using shm::Objects;
using shm::OwnerId;
using shm::SentRef;

constexpr OwnerId kWarden{1, 1};
constexpr OwnerId kVictim{2, 1};
constexpr OwnerId kSurvivor{100, 3};
constexpr OwnerId kDead{300, 1};  // whom the victim buries
// A page has few such blocks: walks are short.
constexpr std::size_t kLarge = 12'000;

// What there is before the operation: all of it survives, but for what only the victim holds.
struct Scene {
  explicit Scene(const ObjectRegion& region) : survivor(region, kSurvivor) {
    queue = survivor.made(ObjectKind::queue, kLarge);
    object = survivor.made(ObjectKind::value, kLarge);
    pipe = survivor.made(ObjectKind::pipe, kLarge);
    victims = Member(region, kVictim).made(ObjectKind::pipe, kLarge);
    survivor.hold(object, 0, kVictim.slot);
    survivor.hold(pipe, 1, kVictim.slot);
    survivor.hold(object, 0, kDead.slot);
    // Somebody who is dead was in the middle of everything.
    Member dead(region, kDead);
    dead.made(ObjectKind::value, kLarge);
    dead.make(ObjectKind::value, 1, kLarge);
    dead.make_frame(queue.ref, {}, kLarge);
    const std::array refs = {SentRef{object.ref, 0}};
    frame = survivor.make_frame(queue.ref, refs, kLarge).ref;
    survivor.give_frame(frame);
  }
  Member survivor;
  ObjectPlace queue, object, pipe, victims;
  BlockRef frame;
};

struct Operation {
  const char* name;
  std::function<void(Objects&, const Scene&)> run;
};

const Operation kOperations[] = {
    {"objects: make and publish",
     [](Objects& me, const Scene&) { me.publish(me.make(ObjectKind::queue, 1, 500)); }},
    {"objects: hold", [](Objects& me, const Scene& s) { me.hold(s.queue, 0, kVictim.slot); }},
    {"objects: release of one of several",
     [](Objects& me, const Scene& s) { me.release(s.object, 0, kVictim.slot); }},
    {"objects: release of the last",
     [](Objects& me, const Scene& s) {
       me.release(s.victims, 1, kVictim.slot);
       me.release(s.victims, 0, kVictim.slot);
     }},
    {"objects: send a frame",
     [](Objects& me, const Scene& s) {
       const std::array refs = {SentRef{s.object.ref, 0}, SentRef{s.victims.ref, 0}};
       me.give_frame(me.make_frame(s.queue.ref, refs, kLarge).ref);
     }},
    {"objects: take a frame",
     [](Objects& me, const Scene& s) {
       if (!me.take_frame(s.frame)) return;
       const FramePlace taken = me.find_frame(s.frame);
       me.hold(me.find(taken.refs[0].object), taken.refs[0].side, kVictim.slot);
       me.free_block(s.frame);
     }},
    {"objects: bury a dead member",
     [](Objects& me, const Scene&) { me.bury(kDead, bury_nothing); }},
    {"objects: collect",
     [](Objects& me, const Scene& s) {
       me.release(s.victims, 0, kVictim.slot);
       me.collect();
     }},
};

void PrintTo(const Operation& operation, std::ostream* out) { *out << operation.name; }

class ObjectsStepTest : public testing::TestWithParam<Operation> {
 private:
  OnOneProcessor here_;
};

void expect_recovered(const ObjectRegion& region, Scene& scene) {
  Member warden(region, kWarden);
  for (int again = 0; again < 2; ++again) {
    warden.bury(kVictim, bury_nothing);
    warden.bury(kDead, bury_nothing);
    warden.collect();
  }
  std::string why;
  ASSERT_TRUE(warden.arena().is_valid(&why)) << why;
  Member& survivor = scene.survivor;
  for (const ObjectPlace* object : {&scene.queue, &scene.object, &scene.pipe}) {
    ASSERT_TRUE(survivor.find(object->ref));
    ASSERT_TRUE(survivor.hold(*object, 0, kSurvivor.slot));
    ASSERT_FALSE(Objects::has_ended(*object, 0));
  }
  survivor.release(scene.queue, 0, kSurvivor.slot);
  survivor.release(scene.object, 0, kSurvivor.slot);
  survivor.release(scene.pipe, 0, kSurvivor.slot);
  survivor.release(scene.pipe, 1, kSurvivor.slot);
  warden.collect();
  warden.collect();
  ASSERT_EQ(warden.arena().stats().live_blocks, 0U);
  ASSERT_EQ(warden.arena().stats().claims_in_progress, 0U);
}

TEST_P(ObjectsStepTest, KilledAfterEveryInstruction) {
  const Operation& operation = GetParam();
  {
    // What is first called is looked up first: it is not to be part of the operation.
    ObjectRegion region;
    const Scene scene(region);
    Member me(region, kVictim);
    operation.run(me, scene);
  }
  EveryInstruction every(operation.name, 400ms);
  Path path;
  every.sweep([&](long n) {
    ObjectRegion region;
    Scene scene(region);
    SteppedChild victim([&] {
      Member me(region, kVictim);
      mark();
      operation.run(me, scene);
    });
    const EveryInstruction::Run run = victim.go(path, n);
    victim.kill();
    expect_recovered(region, scene);
    return run;
  });
}

INSTANTIATE_TEST_SUITE_P(, ObjectsStepTest, testing::ValuesIn(kOperations),
                         name_of_case<Operation>);

}  // namespace
}  // namespace brood::test
