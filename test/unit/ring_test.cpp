// Rings of record names: one writes, all read, and what readers tell each other is only a hint.
#include "pool/protocol/ring.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "support/time.hpp"
#include "sys/clock.hpp"

namespace brood::pool {
namespace {

using shm::RingEntry;

constexpr std::uint64_t kNonsense = UINT64_MAX;

// A reader whose claims only say whether they took the entry.
class TestReader {
 public:
  explicit TestReader(RingReader reader) : reader_(reader) {}
  bool maybe_pending() { return reader_.maybe_pending(); }
  template <class Claim>
  bool take(Claim&& claim) {
    return reader_.take([&](RingEntry entry) {
      return claim(entry) ? RingReader::Offer::taken : RingReader::Offer::gone;
    });
  }

 private:
  RingReader reader_;
};

// The memory of a ring that may grow to 2^kMaxLog entries.
template <std::uint32_t MaxLog>
struct Ring {
  shm::RingHeader header{};
  std::unique_ptr<std::atomic<std::uint64_t>[]> cells =
      std::make_unique<std::atomic<std::uint64_t>[]>(std::size_t{2} << MaxLog);
  std::atomic<std::uint64_t> hint{0};
  std::atomic<std::uint32_t> epoch{0};
  RingWriter writer{header, cells.get()};

  explicit Ring(std::uint32_t log) { writer.start(log); }
  TestReader reader() { return TestReader({header, cells.get(), MaxLog, hint, epoch}); }
};

// Honours claims as records do: each index is taken once.
class Claims {
 public:
  explicit Claims(std::size_t count) : taken_(count) {}
  bool operator()(RingEntry entry) {
    if (entry.index >= taken_.size()) {
      ++strangers_;
      return false;
    }
    return taken_[entry.index].fetch_add(1) == 0;
  }
  // How many were taken, each of them once.
  [[nodiscard]] std::size_t count() const {
    return static_cast<std::size_t>(
        std::ranges::count_if(taken_, [](const auto& n) { return n.load() != 0; }));
  }
  [[nodiscard]] std::size_t strangers() const { return strangers_.load(); }

 private:
  std::deque<std::atomic<std::uint32_t>> taken_;
  std::atomic<std::size_t> strangers_{0};
};

template <class Reader>
std::vector<std::uint32_t> take_all(Reader& reader) {
  std::vector<std::uint32_t> taken;
  while (reader.take([&](RingEntry entry) {
    taken.push_back(entry.index);
    return true;
  })) {
  }
  return taken;
}

TEST(RingTest, EntriesPackAndUnpack) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 10'000; ++i) {
    const std::uint64_t bits = random();
    ASSERT_EQ(RingEntry::unpack(bits).pack(), bits);
  }
}

TEST(RingTest, ANewRingIsEmpty) {
  Ring<4> ring(2);
  TestReader reader = ring.reader();
  EXPECT_FALSE(reader.maybe_pending());
  EXPECT_FALSE(reader.take([](RingEntry) { return true; }));
}

TEST(RingTest, EntriesComeInTheOrderInWhichTheyWerePushed) {
  Ring<4> ring(3);
  TestReader reader = ring.reader();
  for (std::uint32_t round = 0; round < 10; ++round) {
    for (std::uint32_t i = 0; i < 8; ++i) ring.writer.push({round * 8 + i, 1});
    EXPECT_TRUE(reader.maybe_pending());
    std::vector<std::uint32_t> expected(8);
    for (std::uint32_t i = 0; i < 8; ++i) expected[i] = round * 8 + i;
    EXPECT_EQ(take_all(reader), expected);
    EXPECT_FALSE(reader.maybe_pending());
  }
}

TEST(RingTest, OneCallTakesOneEntry) {
  Ring<4> ring(3);
  TestReader reader = ring.reader();
  for (std::uint32_t i = 0; i < 5; ++i) ring.writer.push({i, 1});
  std::vector<std::uint32_t> offered;
  const bool took = reader.take([&](RingEntry entry) {
    offered.push_back(entry.index);
    return entry.index == 2;
  });
  EXPECT_TRUE(took);
  EXPECT_EQ(offered, (std::vector<std::uint32_t>{0, 1, 2}));
  EXPECT_EQ(take_all(reader), (std::vector<std::uint32_t>{3, 4}))
      << "what was refused belongs to somebody";
}

TEST(RingTest, AReaderSkipsWhatOthersHaveTaken) {
  Ring<6> ring(6);
  for (std::uint32_t i = 0; i < 40; ++i) ring.writer.push({i, 1});
  TestReader first = ring.reader();
  EXPECT_EQ(take_all(first).size(), 40U);
  TestReader late = ring.reader();
  EXPECT_FALSE(late.maybe_pending());
  EXPECT_TRUE(take_all(late).empty());
}

TEST(RingTest, ARingGrowsWhileReadersAreBehind) {
  Ring<10> ring(2);
  TestReader early = ring.reader();
  std::uint32_t next = 0;
  std::vector<std::uint32_t> expected;
  for (std::uint32_t log = 2; log < 10; ++log) {
    while (next < (1U << log)) {
      expected.push_back(next);
      ring.writer.push({next++, 1});
    }
    ring.writer.grow();
    EXPECT_EQ(ring.writer.capacity_log(), log + 1);
  }
  EXPECT_EQ(take_all(early), expected);
}

TEST(RingTest, ARingThatGrowsKeepsOldEntriesInPlaceWhereverItStood) {
  for (std::uint32_t already = 0; already < 40; ++already) {
    Ring<5> ring(3);
    TestReader reader = ring.reader();
    for (std::uint32_t i = 0; i < already; ++i) {
      ring.writer.push({1000 + i, 1});
      ASSERT_TRUE(reader.take([](RingEntry) { return true; }));
    }
    std::vector<std::uint32_t> expected;
    for (std::uint32_t i = 0; i < 8; ++i) {
      ring.writer.push({i, 1});
      expected.push_back(i);
    }
    ring.writer.grow();
    for (std::uint32_t i = 8; i < 16; ++i) {
      ring.writer.push({i, 1});
      expected.push_back(i);
    }
    EXPECT_EQ(take_all(reader), expected) << "after " << already << " entries";
  }
}

TEST(RingTest, ACapacityThatNobodyWroteIsBounded) {
  Ring<4> ring(4);
  TestReader reader = ring.reader();
  ring.writer.push({3, 1});
  ring.header.capacity_log.store(31);
  EXPECT_EQ(take_all(reader), std::vector<std::uint32_t>{3});
}

// A worker is held up between looking at the tail and looking at an entry. Meanwhile the ring goes
// round, so that it finds, and takes, a later entry there. Whoever is given room by that must not
// overwrite what is still waiting.
TEST(RingTest, AReaderThatWasHeldUpCostsNobodyAnEntry) {
  constexpr std::uint32_t kCapacity = 8;
  Ring<4> ring(3);
  Claims claims(100);
  TestReader held_up = ring.reader();
  TestReader other = ring.reader();
  std::uint32_t next = 0;
  // As a pool does: as many unclaimed entries as the ring has room for, and no more.
  const auto fill = [&] {
    while (next - claims.count() < kCapacity) ring.writer.push({next++, 1});
  };
  ring.writer.push({next++, 1});
  ring.writer.push({next++, 1});
  held_up.take([&](RingEntry entry) {
    if (entry.index == 0) {
      EXPECT_TRUE(other.take(std::ref(claims)) && other.take(std::ref(claims)));
      fill();
    }
    return claims(entry);
  });
  fill();
  for (TestReader* reader : {&held_up, &other}) {
    while (reader->take(std::ref(claims))) {
    }
  }
  EXPECT_EQ(claims.count(), next);
}

// ---- hints that somebody overwrote

// Readers of a ring whose hint is overwritten before every call.
std::size_t found_with_hints(const std::vector<std::uint64_t>& hints, std::uint64_t* offered) {
  constexpr std::uint32_t kEntries = 512;
  Ring<6> ring(6);
  Claims claims(kEntries);
  std::vector<TestReader> readers(3, ring.reader());
  std::mt19937 random(4);
  std::uint32_t pushed = 0;
  std::uint64_t calls = 0;
  while (claims.count() < kEntries && calls < 100'000) {
    // As a pool does: never more unclaimed entries than the ring has room for.
    while (pushed < kEntries && pushed - claims.count() < 32) ring.writer.push({pushed++, 1});
    ring.hint.store(hints[random() % hints.size()]);
    readers[random() % readers.size()].take([&](RingEntry entry) {
      ++*offered;
      return claims(entry);
    });
    ++calls;
  }
  EXPECT_EQ(claims.strangers(), 0U);
  return claims.count();
}

TEST(RingTest, AHintOfZeroCostsAtMostARingsLengthOfLooking) {
  std::uint64_t offered = 0;
  EXPECT_EQ(found_with_hints({0}, &offered), 512U);
  EXPECT_LE(offered, 512U * 64);
}

TEST(RingTest, AHintBeyondTheTailIsDisbelievedAndPutRight) {
  std::uint64_t offered = 0;
  EXPECT_EQ(found_with_hints({kNonsense, kNonsense / 2, 100'000}, &offered), 512U);
  EXPECT_EQ(found_with_hints({0, kNonsense}, &offered), 512U);

  Ring<6> ring(6);
  ring.hint.store(kNonsense);
  TestReader reader = ring.reader();
  ring.writer.push({1, 1});
  EXPECT_TRUE(reader.maybe_pending());
  EXPECT_TRUE(reader.take([](RingEntry) { return true; }));
  EXPECT_EQ(ring.hint.load(), 1U);
}

// Written by a worker that overwrites what it can reach, and believed by all others: entries below
// it are then nobody's.
TEST(RingTest, AHintBetweenHeadAndTailHidesNoEntry) {
  for (std::uint64_t hint = 0; hint <= 20; ++hint) {
    Ring<6> ring(6);
    Claims claims(20);
    for (std::uint32_t i = 0; i < 20; ++i) ring.writer.push({i, 1});
    ring.hint.store(hint);
    std::vector<TestReader> readers(2, ring.reader());
    EXPECT_LE(claims.count(), 20U);
    for (TestReader& reader : readers) reader.take(std::ref(claims));
    // The supervisor's answer to a death: nobody believes what was written before.
    ++ring.epoch;
    for (TestReader& reader : readers) {
      while (reader.take(std::ref(claims))) {
      }
    }
    EXPECT_EQ(claims.count(), 20U) << "with a hint of " << hint;
  }
}

// ---- several readers at once

struct Traffic {
  static constexpr std::uint32_t kRecords = 1024;
  std::uint32_t entries = 0;
  Ring<12> ring{4};  // grows on the way
  // Record i holds the number of the entry that waits for a reader, 0: it is free.
  std::vector<std::atomic<std::uint32_t>> waiting =
      std::vector<std::atomic<std::uint32_t>>(kRecords);
  std::vector<std::atomic<std::uint8_t>> taken;
  std::atomic<std::uint32_t> done{0};
  std::atomic<std::uint32_t> doubles{0};

  explicit Traffic(std::uint32_t count) : entries(count), taken(count + 1) {}

  bool claim(RingEntry entry) {
    std::uint32_t expected = entry.generation;
    if (!waiting[entry.index].compare_exchange_strong(expected, 0)) return false;
    if (taken[entry.generation].fetch_add(1) != 0) doubles.fetch_add(1);
    done.fetch_add(1);
    return true;
  }

  void write() {
    std::uint32_t records = 16;
    std::uint32_t number = 1;
    const test::Deadline hang(test::kHangGuard);
    while (number <= entries && !hang.passed()) {
      bool found = false;
      for (std::uint32_t i = 0; i < records && number <= entries; ++i) {
        if (waiting[i].load() != 0) continue;
        waiting[i].store(number);
        ring.writer.push({i, number++});
        found = true;
      }
      if (!found && records < kRecords) {
        ring.writer.grow();
        records *= 2;
      } else if (!found) {
        sys::yield();
      }
    }
  }

  void read() {
    TestReader reader = ring.reader();
    const test::Deadline hang(test::kHangGuard);
    while (done.load() < entries && !hang.passed()) {
      if (!reader.take([&](RingEntry entry) { return claim(entry); })) sys::yield();
    }
  }
};

TEST(RingTest, SeveralReadersTakeAMillionEntriesOnceEach) {
  const auto traffic = std::make_unique<Traffic>(1'000'000);
  std::vector<std::thread> readers;
  for (int i = 0; i < 3; ++i) readers.emplace_back([&] { traffic->read(); });
  traffic->write();
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(traffic->done.load(), traffic->entries);
  EXPECT_EQ(traffic->doubles.load(), 0U);
}

TEST(RingTest, SeveralReadersFindEverythingAlthoughHintsLieAtBothEnds) {
  const auto traffic = std::make_unique<Traffic>(100'000);
  std::vector<std::thread> readers;
  for (int i = 0; i < 2; ++i) readers.emplace_back([&] { traffic->read(); });
  std::thread liar([&] {
    for (std::uint64_t lie = 0; traffic->done.load() < traffic->entries; ++lie) {
      traffic->ring.hint.store(lie % 2 == 0 ? 0 : kNonsense);
      sys::yield();
    }
  });
  traffic->write();
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(traffic->done.load(), traffic->entries);
  traffic->done.store(traffic->entries);
  liar.join();
  EXPECT_EQ(traffic->doubles.load(), 0U);
}

}  // namespace
}  // namespace brood::pool
