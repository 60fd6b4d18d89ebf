// Callables as values: which closures are refused, sealed functions, the table of thunks.
#include "brood/detail/callable.hpp"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "brood/codec.hpp"
#include "brood/error.hpp"
#include "sys/memory.hpp"

namespace brood::detail {
namespace {

int mutable_global = 1;
constexpr int kConstantGlobal = 2;
thread_local int of_this_thread = 3;

template <class F>
bool is_refused(const F& f) {
  require_callable<F>();
  try {
    CallableCodec<F>::check(f, Addresses::of_a_copy);
    return false;
  } catch (const NotSendable&) {
    return true;
  }
}

// ---- what is refused

TEST(CallableTest, PointersToStackHeapAndGlobalsAreRefused) {
  int local = 1;
  const auto on_heap = std::make_unique<int>(2);
  const auto large = std::make_unique<std::array<int, 1 << 20>>();  // a mapping of its own
  static int of_function = 3;
  int* const pointers[] = {&local,       on_heap.get(),   large->data() + 5,
                           &of_function, &mutable_global, &of_this_thread};
  for (int* const pointer : pointers) {
    EXPECT_TRUE(is_refused([pointer] { return *pointer; }));
    EXPECT_TRUE(is_refused([number = 1L, pointer] { return number + *pointer; }));
  }
}

TEST(CallableTest, ReferencesAreRefusedLikePointers) {
  int local = 1;
  std::string text = "on the heap or the stack, who knows";
  EXPECT_TRUE(is_refused([&local] { return local; }));
  EXPECT_TRUE(is_refused([&] { return local + static_cast<int>(text.size()); }));
  EXPECT_TRUE(is_refused([data = text.data()] { return *data; }));
  EXPECT_TRUE(is_refused([view = std::string_view(text)] { return view.size(); }));
}

struct Machine {
  int number = 1;
  [[nodiscard]] bool refuses_this() const {
    return is_refused([this] { return number; });
  }
};

TEST(CallableTest, ThisIsRefusedWhereverTheObjectIs) {
  static const Machine constant_but_initialised_in_writable_memory;
  const Machine local;
  const auto on_heap = std::make_unique<Machine>();
  EXPECT_TRUE(local.refuses_this());
  EXPECT_TRUE(on_heap->refuses_this());
  EXPECT_FALSE(constant_but_initialised_in_writable_memory.refuses_this())
      << "constants are the same in all processes of the program";
}

TEST(CallableTest, MemoryThatWasMappedAMomentAgoIsKnown) {
  for (int round = 0; round < 3; ++round) {
    auto* page = static_cast<int*>(sys::map_private(sys::kPageBytes));
    ASSERT_NE(page, nullptr);
    EXPECT_TRUE(is_refused([page] { return *page; }));
    sys::unmap(page, sys::kPageBytes);
  }
}

TEST(CallableTest, StacksOfOtherThreadsAreRefused) {
  std::atomic<int*> address{nullptr};
  std::atomic<bool> over{false};
  std::thread other([&] {
    int local = 1;
    address.store(&local);
    while (!over.load()) std::this_thread::yield();
  });
  while (address.load() == nullptr) std::this_thread::yield();
  EXPECT_TRUE(is_refused([pointer = address.load()] { return *pointer; }));
  over.store(true);
  other.join();
}

TEST(CallableTest, TheReasonNamesTheCallableAndThePlace) {
  int local = 1;
  const auto closure = [number = 7L, pointer = &local] { return number + *pointer; };
  try {
    CallableCodec<std::decay_t<decltype(closure)>>::check(closure, Addresses::of_a_copy);
    ADD_FAILURE() << "it was accepted";
  } catch (const NotSendable& e) {
    const std::string text = e.what();
    EXPECT_NE(text.find("at byte 8"), std::string::npos) << text;
    // Compilers call a lambda by its function, or by its file and line.
    const bool is_named = text.find("TheReasonNamesTheCallableAndThePlace") != std::string::npos ||
                          text.find("callable_test.cpp:") != std::string::npos;
    EXPECT_TRUE(is_named) << text;
    EXPECT_NE(text.find("bind_front"), std::string::npos) << text;
  }
}

// ---- what is accepted

TEST(CallableTest, PointersToConstantsAndCodeAreAccepted) {
  const char* literal = "literal";
  void (*function)() = [] {};
  EXPECT_FALSE(is_refused([literal] { return literal[0]; }));
  EXPECT_FALSE(is_refused([pointer = &kConstantGlobal] { return *pointer; }));
  EXPECT_FALSE(is_refused([function] { function(); }));
  EXPECT_FALSE(is_refused([null = static_cast<int*>(nullptr)] { return null == nullptr; }));
}

TEST(CallableTest, NumbersAreAcceptedWhateverTheirBits) {
  std::mt19937_64 random(1);
  int refused = 0;
  for (int i = 0; i < 20'000; ++i) {
    const std::uint64_t bits = random();
    double real = 0;
    std::memcpy(&real, &bits, sizeof real);
    refused += is_refused([bits] { return bits; }) ? 1 : 0;
    refused += is_refused([real, bits] { return real > 0 || bits != 0; }) ? 1 : 0;
  }
  EXPECT_EQ(refused, 0);
  for (const double real :
       {0.0, 1.0, -1.0, 3.14159, std::numeric_limits<double>::max(),
        std::numeric_limits<double>::denorm_min(), std::numeric_limits<double>::quiet_NaN()}) {
    EXPECT_FALSE(is_refused([real] { return real; }));
  }
  for (const std::int64_t number : {std::int64_t{-1}, INT64_MIN, INT64_MAX, std::int64_t{4096}}) {
    EXPECT_FALSE(is_refused([number] { return number; }));
  }
}

// A padded closure made on memory that is full of pointers to the stack.
template <class Make>
bool refused_on_dirty_memory(Make make) {
  using F = decltype(make());
  alignas(F) std::array<std::byte, sizeof(F) + sizeof(void*)> memory;
  const void* self = &memory;
  for (std::size_t at = 0; at + sizeof self <= memory.size(); at += sizeof self) {
    std::memcpy(memory.data() + at, &self, sizeof self);
  }
  const F* f = new (memory.data()) F(make());
  return is_refused(*f);
}

TEST(CallableTest, PaddingNeverMatters) {
  char c = 'c';
  double d = 0.5;
  std::uint8_t small = 3;
  EXPECT_FALSE(refused_on_dirty_memory([=] { return [c, d] { return c + d; }; }));
  EXPECT_FALSE(refused_on_dirty_memory([=] { return [d, c] { return c + d; }; }));
  EXPECT_FALSE(refused_on_dirty_memory([=] { return [small, d, c] { return small + c + d; }; }));
}

TEST(CallableTest, ClosuresSmallerThanAPointerHaveNothingToHide) {
  int number = 5;
  const std::array<char, 7> seven{};
  EXPECT_FALSE(is_refused([number] { return number; }));
  EXPECT_FALSE(is_refused([seven] { return seven[0]; }));
  EXPECT_FALSE(is_refused([] { return 0; }));
}

TEST(CallableTest, RawBytesAreLookedThroughWordByWord) {
  int local = 0;
  const auto address = reinterpret_cast<std::uintptr_t>(&local);
  std::vector<std::byte> bytes(64);
  EXPECT_NO_THROW(refuse_private_pointers(bytes, "bytes"));
  EXPECT_NO_THROW(refuse_private_pointers({}, "nothing"));
  for (std::size_t at = 0; at < bytes.size(); at += 8) {
    std::memset(bytes.data(), 0, bytes.size());
    std::memcpy(bytes.data() + at, &address, sizeof address);
    EXPECT_THROW(refuse_private_pointers(bytes, "bytes"), NotSendable) << at;
  }
}

// ---- functions and their seal

int function_of_test() { return 42; }
void other_function() {}

TEST(SealedFunctionTest, ASealedFunctionOpensToItself) {
  const SealedFunction sealed = seal_function(reinterpret_cast<void (*)()>(function_of_test));
  EXPECT_EQ(reinterpret_cast<int (*)()>(open_function(sealed))(), 42);
}

TEST(SealedFunctionTest, AWrongSealIsRefused) {
  const SealedFunction one = seal_function(reinterpret_cast<void (*)()>(function_of_test));
  const SealedFunction other = seal_function(other_function);
  EXPECT_THROW(open_function({one.address, other.seal}), DecodeError);
  EXPECT_THROW(open_function({one.address, 0}), DecodeError);
  EXPECT_THROW(open_function({0, one.seal}), DecodeError);
  EXPECT_THROW(open_function({0, 0}), DecodeError);
  EXPECT_THROW(open_function(seal_function(nullptr)), DecodeError);
  for (int bit = 0; bit < 64; ++bit) {
    const std::uint64_t flip = std::uint64_t{1} << static_cast<unsigned>(bit);
    EXPECT_THROW(open_function({one.address ^ flip, one.seal}), DecodeError);
    EXPECT_THROW(open_function({one.address, one.seal ^ flip}), DecodeError);
  }
}

TEST(SealedFunctionTest, RandomBytesAreRefused) {
  std::mt19937_64 random(5);
  for (int i = 0; i < 10'000; ++i) {
    const SealedFunction sealed{random(), random()};
    EXPECT_THROW(open_function(sealed), DecodeError);
  }
}

TEST(CallableTest, ANullFunctionIsRefusedBeforeItIsSent) {
  void (*function)() = nullptr;
  EXPECT_THROW(CallableCodec<void (*)()>::check(function, Addresses::of_a_copy), NotSendable);
  EXPECT_NO_THROW(CallableCodec<void (*)()>::check(other_function, Addresses::of_a_copy));
}

// ---- thunks

TEST(ThunkTest, NumbersOutsideTheTableFindNothing) {
  const ThunkId count = thunk_count();
  for (const ThunkId id : {ThunkId{0}, count + 1, count + 1000, ThunkId{1} << 20U,
                           std::numeric_limits<ThunkId>::max()}) {
    EXPECT_EQ(find_thunk(id).run, nullptr) << id;
    EXPECT_TRUE(find_thunk(id).name.empty());
  }
}

void first_thunk(TaskFrame& /*frame*/) {}
void second_thunk(TaskFrame& /*frame*/) {}

TEST(ThunkTest, WhatIsRegisteredIsFoundUnderItsNumber) {
  const ThunkId before = thunk_count();
  const ThunkId first = register_thunk({first_thunk, "first"});
  const ThunkId second = register_thunk({second_thunk, "second"});
  EXPECT_EQ(thunk_count(), before + 2);
  EXPECT_NE(first, 0U);
  EXPECT_EQ(find_thunk(first).run, first_thunk);
  EXPECT_EQ(find_thunk(second).run, second_thunk);
  EXPECT_EQ(find_thunk(second).name, "second");
}

TEST(ThunkTest, ThreadsMayRegisterAndFindAtOnce) {
  constexpr int kEach = 2000;  // more than one part of the table
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([t] {
      const ThunkFn mine = t % 2 == 0 ? first_thunk : second_thunk;
      for (int i = 0; i < kEach; ++i) {
        const ThunkId id = register_thunk({mine, "concurrent"});
        EXPECT_EQ(find_thunk(id).run, mine);
        EXPECT_NE(find_thunk(thunk_count()).run, nullptr);
      }
    });
  }
  const ThunkId before = thunk_count();
  for (std::thread& thread : threads) thread.join();
  EXPECT_LE(thunk_count() - before, 4U * kEach);
}

// ---- bound values

TEST(BoundBlobTest, EveryBlobHasANumberOfItsOwnAndCopiesShareIt) {
  const auto first = brood::bind_front(function_of_test);
  const auto second = brood::bind_front([](int a, int b) { return a + b; }, 1);
  const auto copy = second;
  EXPECT_NE(first.blob()->id(), second.blob()->id());
  EXPECT_EQ(copy.blob()->id(), second.blob()->id());
  EXPECT_EQ(copy(2), 3);
}

TEST(BoundBlobTest, APoolsCopyIsMadeOnceAndFreedWithTheLastBlob) {
  int made = 0;
  std::vector<std::uint64_t> freed;
  {
    const BoundBlob blob(3, [](std::span<std::byte>) {});
    const auto block_for = [&](std::uint64_t pool) {
      return blob.block_for(
          pool, [&] { return std::uint64_t(100 + ++made); },
          [&](std::uint64_t block) { freed.push_back(block); });
    };
    EXPECT_EQ(block_for(1), 101U);
    EXPECT_EQ(block_for(1), 101U);
    EXPECT_EQ(block_for(2), 102U);
    EXPECT_TRUE(freed.empty());
  }
  EXPECT_EQ(made, 2);
  EXPECT_EQ(freed, (std::vector<std::uint64_t>{101, 102}));
}

}  // namespace
}  // namespace brood::detail
