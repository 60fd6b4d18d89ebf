// Operations on a wide value, with a death after each of their instructions: a burial on a copy
// after every step, and real deaths beside another that stops amid the same operation.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <array>
#include <cstring>
#include <functional>
#include <new>
#include <ostream>
#include <string>

#include "shm/wide_value.hpp"
#include "support/every_instruction.hpp"
#include "support/stepped_child.hpp"

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

// Two values that children share.
class Values {
 public:
  Values()
      : memory_(mmap(nullptr, 2 * sizeof(Shared), PROT_READ | PROT_WRITE,
                     MAP_SHARED | MAP_ANONYMOUS, -1, 0)) {}
  ~Values() { munmap(memory_, 2 * sizeof(Shared)); }
  Values(const Values&) = delete;
  Values& operator=(const Values&) = delete;
  [[nodiscard]] Shared& real() { return static_cast<Shared*>(memory_)[0]; }
  [[nodiscard]] Shared& copy() { return static_cast<Shared*>(memory_)[1]; }

 private:
  void* memory_;
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

class ValueStepTest : public testing::TestWithParam<Operation> {
 protected:
  // All n in one pass, on copies.
  void watch_every_instruction(EveryInstruction& every) {
    prepare(GetParam(), values_.real());
    const auto judge = [&](long n) {
      SCOPED_TRACE(every.how_to_repeat(n));
      std::memcpy(static_cast<void*>(&values_.copy()), &values_.real(), sizeof(Shared));
      expect_recovered(values_.copy());
      every.count_kill();
    };
    judge(0);
    SteppedChild victim([&] { operate(kVictim); });
    every.set_length(victim.step_through(path_, judge));
  }

  // For real; the other stops amid the same operation, and goes on after the first one's death.
  void kill_beside(EveryInstruction& every, long n, long m) {
    SCOPED_TRACE(every.how_to_repeat(n) + " BROOD_STEP_BESIDE=" + std::to_string(m));
    prepare(GetParam(), values_.real());
    SteppedChild first([&] { operate(kVictim); });
    SteppedChild other([&] { operate(kOtherVictim); });
    other.go(path_, m);
    first.go(path_, n);
    first.kill();
    WideValue::bury(values_.real().body, kVictim);
    ASSERT_TRUE(other.go_on());
    other.kill();
    expect_recovered(values_.real());
  }

 private:
  void operate(OwnerId me) {
    mark();
    GetParam().run(values_.real(), me);
  }

  Values values_;
  Path path_;
  OnOneProcessor here_;
};

TEST_P(ValueStepTest, KilledAfterEveryInstruction) {
  EveryInstruction every(GetParam().name, 100ms);
  if (EveryInstruction::only() >= 0) {
    kill_beside(every, EveryInstruction::only(), EveryInstruction::beside());
    return;
  }
  watch_every_instruction(every);
  int pairs = 0;
  for (; pairs < 1000 && !HasFailure() && !every.time_is_up(); ++pairs) {
    const long n = every.random_instruction();
    kill_beside(every, n, every.random_instruction());
  }
  every.note(", beside another at " + std::to_string(pairs));
}

INSTANTIATE_TEST_SUITE_P(, ValueStepTest, testing::ValuesIn(kOperations), name_of_case<Operation>);

}  // namespace
}  // namespace brood::test
