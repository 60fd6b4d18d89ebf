// Operations on a wide value, with a death after each of their instructions: a burial on a copy
// after every step, and real deaths beside another that stops amid the same operation.
#include <gtest/gtest.h>

#include <array>
#include <functional>
#include <ostream>
#include <string>

#include "shm/wide_value.hpp"
#include "support/every_instruction.hpp"
#include "support/stepped_pair.hpp"

namespace brood::test {
namespace {

using namespace std::chrono_literals;
using shm::OwnerId;
using shm::ValueState;
using shm::WideValue;

using Words = std::array<std::uint64_t, 3>;

constexpr OwnerId kVictim{11, 3};
constexpr OwnerId kOtherVictim{12, 3};
constexpr OwnerId kBystander{13, 3};
constexpr OwnerId kDead{14, 3};

struct Shared {
  alignas(64) std::array<std::byte, shm::value_body_bytes(sizeof(Words))> body;
  [[nodiscard]] WideValue value() { return {body, sizeof(Words)}; }
};

Words all(std::uint64_t number) { return {number, number, number}; }
const std::byte* bytes_of(const Words& words) {
  return reinterpret_cast<const std::byte*>(words.data());
}
std::byte* bytes_of(Words& words) { return reinterpret_cast<std::byte*>(words.data()); }

void increment(WideValue value, OwnerId me) {
  if (!value.try_claim(me)) return;
  Words words;
  value.read_claimed(bytes_of(words));
  words = all(words[0] + 1);
  value.publish(bytes_of(words), me);
}

struct Operation {
  const char* name;
  std::function<void(Shared&, OwnerId me)> run;
  bool dead_claimed = false;  // somebody has died amid a change before
};

void PrintTo(const Operation& operation, std::ostream* out) { *out << operation.name; }

const Operation kOperations[] = {
    {"value: change", [](Shared& shared, OwnerId me) { increment(shared.value(), me); }},
    {"value: change twice",
     [](Shared& shared, OwnerId me) {
       increment(shared.value(), me);
       increment(shared.value(), me);
     }},
    {"value: claim and give up",
     [](Shared& shared, OwnerId me) {
       if (shared.value().try_claim(me)) shared.value().give_up(me);
     }},
    {"value: read",
     [](Shared& shared, OwnerId) {
       Words words;
       static_cast<void>(shared.value().try_read(bytes_of(words)));
     }},
    {"value: claim in vain", [](Shared& shared, OwnerId me) { increment(shared.value(), me); },
     true},
    {"value: bury", [](Shared& shared, OwnerId) { WideValue::bury(shared.body, kDead); }, true},
};

void prepare(const Operation& operation, Shared& shared) {
  std::memset(static_cast<void*>(&shared), 0, sizeof shared);
  shared.value().begin(bytes_of(all(5)));
  if (operation.dead_claimed) shared.value().try_claim(kDead);
}

// What the warden does about the death of all of them, and what others find.
void expect_recovered(Shared& shared) {
  WideValue value = shared.value();
  Words words;
  ASSERT_TRUE(value.try_read(bytes_of(words)));
  ASSERT_EQ(words, all(words[0]));
  ASSERT_GE(words[0], 5U);
  ASSERT_LE(words[0], 9U);
  for (const OwnerId dead : {kVictim, kOtherVictim, kDead, kVictim}) {
    WideValue::bury(shared.body, dead);
  }
  ASSERT_FALSE(ValueState::unpack(value.state()).claimed);
  Words after;
  ASSERT_TRUE(value.try_read(bytes_of(after)));
  ASSERT_EQ(after, words);
  increment(value, kBystander);
  ASSERT_TRUE(value.try_read(bytes_of(after)));
  ASSERT_EQ(after, all(words[0] + 1));
  // Who lives is not robbed.
  ASSERT_TRUE(value.try_claim(kBystander));
  for (const OwnerId dead : {kVictim, kDead}) WideValue::bury(shared.body, dead);
  ASSERT_TRUE(value.give_up(kBystander));
}

class ValueStepTest : public testing::TestWithParam<Operation>, protected SteppedPair {
 protected:
  void prepare() override { test::prepare(GetParam(), values_.real()); }
  void operate(Victim who) override {
    mark();
    GetParam().run(values_.real(), who == Victim::first ? kVictim : kOtherVictim);
  }
  void judge_copy(bool /*fresh*/) override { expect_recovered(values_.copy_of_real()); }
  void bury_first() override { WideValue::bury(values_.real().body, kVictim); }
  void judge() override { expect_recovered(values_.real()); }

 private:
  RealAndCopy<Shared> values_;
};

TEST_P(ValueStepTest, KilledAfterEveryInstruction) {
  EveryInstruction every(GetParam().name, 100ms);
  sweep(every);
}

INSTANTIATE_TEST_SUITE_P(, ValueStepTest, testing::ValuesIn(kOperations), name_of_case<Operation>);

}  // namespace
}  // namespace brood::test
