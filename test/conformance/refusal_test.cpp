// Closures that point into the caller's memory are refused when they are submitted, and no others
// (P6).
#include <alloca.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "brood/pool.hpp"
#include "support/ledger.hpp"
#include "support/pools.hpp"

namespace brood::test {
namespace {

class RefusalTest : public PoolConformance {};
BROOD_FOR_EACH_START_METHOD(RefusalTest);

int a_global = 1;
int a_zeroed_global;
const int a_constant = 7;
thread_local int a_thread_local = 1;

struct Owner {
  int value = 3;
  auto closure() {
    return [this] { return value; };
  }
};

TEST_P(RefusalTest, PointersIntoPrivateMemoryAreRefusedBeforeAnythingRan) {
  Pool pool(with(1));
  TempFolder folder;
  int local = 1;
  auto heap = std::make_unique<int>(2);
  auto large = std::make_unique<std::array<char, 1'000'000>>();
  Owner owner;
  auto heap_owner = std::make_unique<Owner>();
  int* on_stack = &local;
  int* on_heap = heap.get();
  char* in_mapping = large->data() + 500'000;
  int* global = &a_global;
  int* zeroed = &a_zeroed_global;
  int* of_thread = &a_thread_local;
  EXPECT_THROW(pool.apply([&local] { return local; }), NotSendable);
  EXPECT_THROW(pool.apply([&] { return local + owner.value; }), NotSendable);
  EXPECT_THROW(pool.apply([on_stack] { return *on_stack; }), NotSendable);
  EXPECT_THROW(pool.apply([on_heap] { return *on_heap; }), NotSendable);
  EXPECT_THROW(pool.apply([in_mapping] { return *in_mapping; }), NotSendable);
  EXPECT_THROW(pool.apply([global] { return *global; }), NotSendable);
  EXPECT_THROW(pool.apply([zeroed] { return *zeroed; }), NotSendable);
  EXPECT_THROW(pool.apply([of_thread] { return *of_thread; }), NotSendable);
  EXPECT_THROW(pool.apply(owner.closure()), NotSendable);
  EXPECT_THROW(pool.apply(heap_owner->closure()), NotSendable);
  struct Nested {
    char c;
    struct {
      int n;
      const int* p;
    } inner;
  };
  const Nested nested{'c', {1, on_heap}};
  EXPECT_THROW(pool.apply([nested] { return *nested.inner.p; }), NotSendable);
  EXPECT_THROW(pool.apply(brood::bind_front([on_heap](int) { return *on_heap; }, 1)), NotSendable);
  EXPECT_THROW(pool.map([on_heap](int n) { return n + *on_heap; }, std::vector<int>{1, 2}),
               NotSendable);
  const PoolStats stats = pool.stats();
  EXPECT_EQ(stats.done, 0U);
  EXPECT_EQ(stats.pending, 0U);
  EXPECT_EQ(pool.apply([] { return 1; }), 1);
}

std::string what_refuses(auto&& action) {
  try {
    action();
    return "nothing was thrown";
  } catch (const NotSendable& e) {
    return e.what();
  }
}

TEST_P(RefusalTest, TheRefusalSaysWhatToDo) {
  Pool pool(with(1));
  int local = 1;
  try {
    pool.apply([&local] { return local; });
    FAIL();
  } catch (const NotSendable& e) {
    EXPECT_NE(std::string(e.what()).find("bind_front"), std::string::npos) << e.what();
  }
}

TEST_P(RefusalTest, TheRefusalFitsWhatWasCaptured) {
  Pool pool(with(1));
  const std::string text(100, 'x');
  const std::string_view view = text;
  const std::string own = what_refuses([&] { pool.apply([view] { return view.size(); }); });
  EXPECT_NE(own.find("view (string_view, span) of this process's own memory"), std::string::npos)
      << own;
  EXPECT_NE(own.find("as an argument"), std::string::npos) << own;
  EXPECT_EQ(own.find("keep_failed"), std::string::npos) << own;
  // What would be no trouble in a copy of this process.
  TempFolder folder;
  PoolOptions options = with(1);
  options.keep_failed = folder.path("kept");
  Pool keeping(options);
  const int* constant = &a_constant;
  const std::string kept = what_refuses([&] { keeping.apply([constant] { return *constant; }); });
  EXPECT_NE(kept.find("of this program's constants or code"), std::string::npos) << kept;
  EXPECT_NE(kept.find("PoolOptions::keep_failed"), std::string::npos) << kept;
}

TEST_P(RefusalTest, ANullFunctionIsRefused) {
  Pool pool(with(1));
  int (*none)() = nullptr;
  EXPECT_THROW(static_cast<void>(pool.submit(none)), NotSendable);
}

TEST_P(RefusalTest, NullPointersAndConstantsAreNoPointersIntoPrivateMemory) {
  Pool pool(with(1));
  const int* nothing = nullptr;
  EXPECT_EQ(pool.apply([nothing] { return nothing == nullptr; }), true);
  const int* constant = &a_constant;
  const auto read = [constant] { return *constant; };
  if (GetParam() == StartMethod::spawn) {
    EXPECT_THROW(pool.apply(read), NotSendable) << "a program executed afresh lies elsewhere";
  } else {
    EXPECT_EQ(pool.apply(read), 7);
  }
}

// Leaves addresses all over the stack that the next call will use.
[[gnu::noinline]] void soil_the_stack() {
  constexpr std::size_t kBytes = 4096;
  volatile std::uintptr_t words[kBytes / sizeof(std::uintptr_t)];
  for (auto& word : words) word = reinterpret_cast<std::uintptr_t>(&words);
}

[[gnu::noinline]] long submit_padded(Pool& pool, char c, long n) {
  return pool.apply([c, n] { return c + n; });
}

TEST_P(RefusalTest, PaddingThatLooksLikeAPointerIsNeverRefused) {
  Pool pool(with(1));
  for (int i = 0; i < 10'000; ++i) {
    soil_the_stack();
    ASSERT_EQ(submit_padded(pool, 'a', i), 'a' + i);
  }
}

TEST_P(RefusalTest, NestedPaddingNeither) {
  struct Inner {
    char tag;
    double value;
  };
  struct Outer {
    short s;
    Inner inners[2];
    bool flag;
  };
  Pool pool(with(1));
  for (int i = 0; i < 1000; ++i) {
    alignas(Outer) std::array<std::byte, sizeof(Outer)> soiled;
    const void* address = &soiled;
    for (std::size_t at = 0; at + 8 <= soiled.size(); at += 8) {
      std::memcpy(soiled.data() + at, &address, sizeof address);
    }
    Outer* outer = new (soiled.data()) Outer;
    outer->s = 1;
    outer->flag = true;
    for (Inner& inner : outer->inners) {
      inner.tag = 't';
      inner.value = i;
    }
    ASSERT_EQ(pool.apply([copy = *outer] { return copy.inners[1].value; }), i);
  }
}

TEST_P(RefusalTest, NumbersThatLookLikeAddressesAreAccepted) {
  Pool pool(with(1));
  for (const std::uint64_t number :
       {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{4096}, std::uint64_t{0x400000},
        std::uint64_t{0x10000}, std::uint64_t{1} << 47U, ~std::uint64_t{0}}) {
    EXPECT_EQ(pool.apply([number] { return number; }), number);
  }
  std::mt19937_64 random(1);
  for (int i = 0; i < 10'000; ++i) {
    const std::uint64_t number = random();
    ASSERT_EQ(pool.apply([number] { return number; }), number);
  }
  const double x = 3.14;
  const float f[3] = {1, 2, 3};
  EXPECT_DOUBLE_EQ(pool.apply([x, f] { return x + f[2]; }), 6.14);
}

}  // namespace
}  // namespace brood::test
