// Operations on a pipe, with a death after each of their instructions: a survivor cleans up a copy
// of the shared memory after every step, as the warden would. Real kills confirm it at a sample.
#include <gtest/gtest.h>

#include <functional>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "support/every_instruction.hpp"
#include "support/pipe_bed.hpp"
#include "support/stepped_pair.hpp"

namespace brood::test {
namespace {

using namespace std::chrono_literals;

constexpr shm::OwnerId kWarden{1, 1};
constexpr shm::OwnerId kVictim{200, 2};
constexpr shm::OwnerId kOtherVictim{201, 2};
constexpr shm::OwnerId kBystander{100, 0xffff};
constexpr shm::OwnerId kDead{300, 3};

constexpr std::uint64_t kVictims = 1000;  // what the victim sends; the bystander's are below

struct Operation {
  const char* name;
  // How many messages of the bystander's wait; every second is large.
  std::uint64_t waiting;
  std::function<void(PipeUser& victim)> run;
  bool receives = false;
  bool buries = false;  // one that was amid both
};

void PrintTo(const Operation& operation, std::ostream* out) { *out << operation.name; }

const Operation kOperations[] = {
    {"pipe: send", 1, [](PipeUser& victim) { victim.send(kVictims); }},
    {"pipe: send the last there is room for", 3, [](PipeUser& victim) { victim.send(kVictims); }},
    {"pipe: send in vain", 4, [](PipeUser& victim) { victim.send(kVictims); }},
    {"pipe: send a frame", 1, [](PipeUser& victim) { victim.send(kVictims, 200); }},
    {"pipe: send a frame in vain", 4, [](PipeUser& victim) { victim.send(kVictims, 200); }},
    {"pipe: receive", 2, [](PipeUser& victim) { victim.receive(); }, true},
    {"pipe: receive two, one in a frame", 3,
     [](PipeUser& victim) {
       victim.receive();
       victim.receive();
     },
     true},
    {"pipe: receive in vain", 0, [](PipeUser& victim) { victim.receive(); }, true},
    {"pipe: bury", 2, [](PipeUser& victim) { victim.objects.bury(kDead, channel::bury_in); }, false,
     true},
};

void prepare(const Operation& operation, PipeBed& bed) {
  bed.make(kBystander, 2);
  const auto bystander = bed.enter(kBystander);
  // Into another lap than the first.
  for (std::uint64_t i = 0; i < 5; ++i) {
    bystander->send(i);
    bystander->receive();
  }
  for (std::uint64_t i = 0; i < operation.waiting; ++i) bystander->send(i, i % 2 == 0 ? 8 : 100);
  for (const shm::OwnerId id : {kVictim, kOtherVictim}) static_cast<void>(bed.enter(id));
  if (operation.buries) {
    const auto dead = bed.enter(kDead);
    static_cast<void>(dead->stream().claim(kDead));
    dead->objects.make_frame(dead->pipe.ref, {}, 500);
    // It was receiving the first large one.
    bystander->receive();
    const channel::Glimpse glimpse = dead->stream().look();
    glimpse.cell->word.store(
        channel::StreamWord{channel::StreamCellState::taken_frame, kDead, 0, glimpse.word.lap}
            .pack());
  }
}

// What the warden does, and what must be so afterwards.
void expect_recovered(const Operation& operation, PipeBed& bed, std::uint64_t victims) {
  const auto warden = bed.enter(kWarden, false);
  for (int i = 0; i < 2; ++i) {
    for (const shm::OwnerId dead : {kDead, kVictim, kOtherVictim}) {
      warden->objects.bury(dead, channel::bury_in);
    }
    warden->objects.collect();
  }
  std::string why;
  ASSERT_TRUE(warden->objects.arena().is_valid(&why)) << why;
  const auto bystander = bed.enter(kBystander);
  std::vector<std::uint64_t> left;
  std::uint64_t sent_by_victims = 0;
  while (const auto number = bystander->receive()) {
    if (*number >= kVictims) {
      ++sent_by_victims;
    } else {
      left.push_back(*number);
    }
  }
  ASSERT_LE(sent_by_victims, victims);
  if (operation.receives) {
    // In their order, from some point on, but for those that the dead were taking.
    for (std::size_t i = 1; i < left.size(); ++i) ASSERT_LT(left[i - 1], left[i]);
    ASSERT_GE(left.size() + 2 * victims, operation.waiting);
  } else {
    const std::uint64_t first = operation.buries ? 2 : 0;
    ASSERT_EQ(left.size(), operation.waiting - first);
    for (std::size_t i = 0; i < left.size(); ++i) ASSERT_EQ(left[i], i + first);
  }
  // And it works as ever.
  for (int lap = 0; lap < 3; ++lap) {
    for (std::uint64_t i = 0; i < 4; ++i) ASSERT_TRUE(bystander->send(i, i == 1 ? 300 : 8));
    ASSERT_FALSE(bystander->send(4));
    for (std::uint64_t i = 0; i < 4; ++i) ASSERT_EQ(bystander->receive(), i);
  }
  ASSERT_EQ(bystander->objects.arena().stats().live_blocks, 1U) << "only the pipe is left";
  ASSERT_EQ(bystander->objects.arena().stats().claims_in_progress, 0U);
}

class PipeStepTest : public testing::TestWithParam<Operation>, protected SteppedPair {
 protected:
  void prepare() override { test::prepare(GetParam(), bed_); }
  void operate(Victim who) override {
    const auto user = bed_.enter(who == Victim::first ? kVictim : kOtherVictim);
    mark();
    GetParam().run(*user);
  }
  // Where nothing has changed, nothing has to be judged anew.
  void judge_copy(bool fresh) override {
    if (!fresh && seen_.equals(bed_)) return;
    seen_.copy_from(bed_);
    copy_.copy_from(bed_);
    expect_recovered(GetParam(), copy_, 1);
  }
  void bury_first() override {
    bed_.enter(kWarden, false)->objects.bury(kVictim, channel::bury_in);
  }
  void judge() override { expect_recovered(GetParam(), bed_, 2); }

 private:
  PipeBed bed_;
  PipeBed copy_;
  PipeBed seen_;
};

TEST_P(PipeStepTest, KilledAfterEveryInstruction) {
  EveryInstruction every(GetParam().name, 200ms);
  sweep(every);
}

INSTANTIATE_TEST_SUITE_P(, PipeStepTest, testing::ValuesIn(kOperations), name_of_case<Operation>);

}  // namespace
}  // namespace brood::test
